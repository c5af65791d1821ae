//! The cache file: header, tokens, offsets, line numbers, a description; written in one pass and checksummed.
//!
//! ```text
//! 64 bytes   magic, version, bytes a token, pairs, tokens, bytes of the description, checksum of the body, bytes of
//!            spellings, checksum of the header
//! body       tokens          u16 or u32; pair after pair, source then target
//!            (to 8 bytes)    zeros
//!            offsets         u64 × (2·pairs + 1); source i begins at offset 2i, target i at 2i + 1
//!            lines           u32 × pairs; 1-based line of each pair in its file
//!            ends            u64 × 2·pairs and spellings, one after the other in the same order: what training text that is
//!                            cut anew in each epoch is made of; only where it is
//!            description     JSON, see [`Description`]
//! ```
//! All numbers are little-endian.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use xxhash_rust::xxh3::{xxh3_64, Xxh3};

use super::filter::Dropped;
use super::joined::Joined;
use super::Error;

/// Changes whenever old files must not be read.
pub(super) const VERSION: u32 = 4;
pub(super) const HEADER: usize = 64;
const MAGIC: [u8; 8] = *b"NMTPAIRS";

/// What is known of the corpora besides tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    /// Of the text; see [`super::Dataset::fingerprint`].
    pub(super) fingerprint: String,
    /// Pairs read.
    pub(super) read: u64,
    /// Kept pairs of each corpus; they lie one corpus after the other.
    pub(super) kept: Vec<u32>,
    pub(super) dropped: Vec<Dropped>,
    pub(super) joined: Option<Joined>,
    /// How often each id is in the sources and in the targets.
    pub(super) counts: [Vec<u64>; 2],
}

/// A side of a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    /// Empty where the side is always cut in the same way.
    pub(super) spelling: Vec<u8>,
}

/// Where the parts of a file are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes a token: 2 or 4.
    pub(super) width: usize,
    pub(super) pairs: usize,
    tokens: usize,
    /// Bytes of spellings; 0 without them.
    spellings: usize,
    description: usize,
}

impl Layout {
    pub(super) fn offsets(&self) -> usize {
        (HEADER + self.tokens * self.width).next_multiple_of(8)
    }

    pub(super) fn lines(&self) -> usize {
        self.offsets() + 8 * (2 * self.pairs + 1)
    }

    /// Where spelling `i` ends among them, 8 bytes each.
    pub(super) fn ends(&self) -> usize {
        self.lines() + 4 * self.pairs
    }

    pub(super) fn spellings(&self) -> usize {
        self.ends() + if self.has_spellings() { 16 * self.pairs } else { 0 }
    }

    pub(super) fn has_spellings(&self) -> bool {
        self.spellings > 0
    }

    pub(super) fn description(&self) -> usize {
        self.spellings() + self.spellings
    }

    pub(super) fn end(&self) -> usize {
        self.description() + self.description
    }

    fn to_header(self, body_checksum: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(self.width as u32).to_le_bytes());
        for (i, number) in [self.pairs, self.tokens, self.description].into_iter().enumerate() {
            header[16 + 8 * i..24 + 8 * i].copy_from_slice(&(number as u64).to_le_bytes());
        }
        header[40..48].copy_from_slice(&body_checksum.to_le_bytes());
        // 0 in files of before there were any
        header[48..56].copy_from_slice(&(self.spellings as u64).to_le_bytes());
        let checksum = xxh3_64(&header[..56]);
        header[56..].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    /// The layout and the checksum of the body, if the header is whole.
    fn from_header(header: &[u8; HEADER]) -> Option<(Self, u64)> {
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let whole = header[..8] == MAGIC && u32_at(8) == VERSION && u64_at(56) == xxh3_64(&header[..56]);
        let layout = Layout {
            width: u32_at(12) as usize,
            pairs: u64_at(16) as usize,
            tokens: u64_at(24) as usize,
            spellings: u64_at(48) as usize,
            description: u64_at(32) as usize,
        };
        whole.then_some((layout, u64_at(40)))
    }
}

/// Opens and verifies a cache file: `Ok(Err(what))` if it is damaged.
pub(super) fn open(path: &Path) -> io::Result<Result<(File, Layout), &'static str>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut header = [0; HEADER];
    let mut reader = BufReader::with_capacity(1 << 20, &file);
    if length < HEADER as u64 {
        return Ok(Err("it is shorter than its header"));
    }
    reader.read_exact(&mut header)?;
    let Some((layout, body)) = Layout::from_header(&header) else {
        return Ok(Err("its header is damaged"));
    };
    if layout.end() as u64 != length {
        return Ok(Err("it is truncated"));
    }
    // Read, not mapped: pages of a mapping would count as resident memory of this process.
    let mut hash = HashWriter { inner: io::sink(), hash: Xxh3::new() };
    io::copy(&mut reader, &mut hash)?;
    if hash.hash.digest() != body {
        return Ok(Err("its checksum is wrong"));
    }
    Ok(Ok((file, layout)))
}

struct HashWriter<W> {
    inner: W,
    hash: Xxh3,
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a cache file beside its place and moves it there when whole; nothing but buffers is in memory.
pub(super) struct Writer {
    path: PathBuf,
    body: HashWriter<BufWriter<NamedTempFile>>,
    offsets: BufWriter<File>,
    lines: BufWriter<File>,
    ends: BufWriter<File>,
    spellings: BufWriter<File>,
    layout: Layout,
    /// Tokens of one pair as they are written.
    bytes: Vec<u8>,
}

impl Writer {
    /// `vocab_size` decides whether a token takes 2 or 4 bytes.
    pub(super) fn create(path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let at = |source| Error::Write { path: path.to_path_buf(), source };
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(at)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".encoding-");
        // The folder may be shared, so the usual permissions instead of a private temporary file's.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let main = builder.tempfile_in(folder).map_err(at)?;
        let mut body = HashWriter { inner: BufWriter::with_capacity(1 << 20, main), hash: Xxh3::new() };
        body.inner.write_all(&[0; HEADER]).map_err(at)?;
        let side_file = || tempfile::tempfile_in(folder).map(|file| BufWriter::with_capacity(1 << 18, file));
        let mut offsets = side_file().map_err(at)?;
        offsets.write_all(&0u64.to_le_bytes()).map_err(at)?;
        let width = if vocab_size <= 1 << 16 { 2 } else { 4 };
        Ok(Writer {
            path: path.to_path_buf(),
            body,
            offsets,
            lines: side_file().map_err(at)?,
            ends: side_file().map_err(at)?,
            spellings: side_file().map_err(at)?,
            layout: Layout { width, pairs: 0, tokens: 0, spellings: 0, description: 0 },
            bytes: Vec::new(),
        })
    }

    /// Appends a pair; ids must be below the vocabulary's size. Spellings are those of all pairs or of none.
    pub(super) fn push(&mut self, sides: [&Encoded; 2], line: u64) -> Result<(), Error> {
        self.try_push(sides, line).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn try_push(&mut self, sides: [&Encoded; 2], line: u64) -> io::Result<()> {
        self.bytes.clear();
        for side in sides {
            for id in &side.ids {
                self.bytes.extend_from_slice(&id.to_le_bytes()[..self.layout.width]);
            }
            self.layout.tokens += side.ids.len();
            self.offsets.write_all(&(self.layout.tokens as u64).to_le_bytes())?;
            self.layout.spellings += side.spelling.len();
            self.ends.write_all(&(self.layout.spellings as u64).to_le_bytes())?;
            self.spellings.write_all(&side.spelling)?;
        }
        self.body.write_all(&self.bytes)?;
        self.layout.pairs += 1;
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        self.lines.write_all(&line.to_le_bytes())
    }

    /// Adds the description and moves the file to its place.
    pub(super) fn finish(self, description: &Description) -> Result<(), Error> {
        let path = self.path.clone();
        self.try_finish(description).map_err(|source| Error::Write { path, source })
    }

    fn try_finish(mut self, description: &Description) -> io::Result<()> {
        let written = HEADER + self.layout.tokens * self.layout.width;
        self.body.write_all(&[0; 8][..self.layout.offsets() - written])?;
        let spellings = [self.ends, self.spellings].into_iter().filter(|_| self.layout.has_spellings());
        for part in [self.offsets, self.lines].into_iter().chain(spellings) {
            let mut file = part.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            io::copy(&mut file, &mut self.body)?;
        }
        let json = serde_json::to_vec(description)?;
        self.layout.description = json.len();
        self.body.write_all(&json)?;
        let checksum = self.body.hash.digest();
        let mut file = self.body.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        file.write_all(&self.layout.to_header(checksum))?;
        file.persist(&self.path)?;
        Ok(())
    }
}
