//! Encoded pairs in memory-mapped files: a corpus costs address space, not memory.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::filter::Dropped;
use super::format::{self, Description, Layout, HEADER};
use super::joined::Joined;
use super::{Error, Side};
use crate::config::Corpora;

/// A corpus within a data set: indices of its pairs, and expected passes over them in one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub pairs: Range<u32>,
    pub weight: f64,
}

/// What batching needs to know of a data set.
pub trait Lengths: Sync {
    /// Source and target tokens of pair `i`, `</s>` included.
    fn lengths(&self, i: usize) -> (usize, usize);
    /// The corpora; together they hold every pair once.
    fn spans(&self) -> &[Span];
}

/// Training pairs as token ids, each side ending with `</s>`.
#[derive(Debug)]
pub struct Dataset {
    map: Mmap,
    layout: Layout,
    /// Kept pairs of each corpus and its weight.
    spans: Vec<Span>,
    /// Of each corpus the token before its source lines.
    pub(super) tags: Vec<Option<u32>>,
    /// Hash of all that the encoded pairs depend on: text, tokenizer, filters. Files may move and be zipped.
    pub fingerprint: String,
    /// What versions that hashed zipped files as they lie said instead.
    pub(super) former: Option<String>,
    /// Pairs in the text.
    pub read: u64,
    /// Pairs left, `len()`.
    pub kept: u64,
    /// The others, by reason.
    pub dropped: Vec<Dropped>,
    /// Fields whose line breaks became spaces.
    pub joined: Option<Joined>,
    /// How often each id is in the sources and in the targets.
    pub counts: [Vec<u64>; 2],
    /// True if an earlier run had encoded this text.
    pub reused: bool,
    /// Why a cache file that was found had to be made again.
    pub damaged: Option<&'static str>,
}

impl Dataset {
    /// Maps the cache file at `path`: `Ok(None)` if there is none, `Ok(Some(Err(what)))` if it is damaged.
    pub(super) fn open(path: &Path, corpora: &Corpora) -> Result<Option<Result<Self, &'static str>>, Error> {
        let unreadable = |e: &dyn std::fmt::Display| Error::Cache { path: path.to_path_buf(), what: e.to_string() };
        let (file, layout) = match format::open(path) {
            Ok(Ok(whole)) => whole,
            Ok(Err(damage)) => return Ok(Some(Err(damage))),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(unreadable(&e)),
        };
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: cache files are written under another name and moved into place, never changed afterwards, so the
        // mapped bytes stay constant; removing the file leaves the mapping intact.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| unreadable(&e))?;
        let description: Description =
            serde_json::from_slice(&map[layout.description()..layout.end()]).map_err(|e| unreadable(&e))?;
        let mut start = 0;
        let spans = description.kept.iter().zip(&corpora.0).map(|(&kept, corpus)| {
            let pairs = start..start + kept;
            start = pairs.end;
            Span { pairs, weight: corpus.weight }
        });
        Ok(Some(Ok(Dataset {
            spans: spans.collect(),
            tags: Vec::new(),
            fingerprint: description.fingerprint,
            former: None,
            read: description.read,
            kept: layout.pairs as u64,
            dropped: description.dropped,
            joined: description.joined,
            counts: description.counts,
            reused: true,
            damaged: None,
            map,
            layout,
        })))
    }

    /// Whether a fingerprint from a checkpoint, perhaps of an earlier version, means these pairs.
    pub fn is_of(&self, fingerprint: &str) -> bool {
        self.fingerprint == fingerprint || self.former.as_deref() == Some(fingerprint)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.layout.pairs
    }

    /// Never true of a data set that [`super::prepare`] made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Source of pair `i` < `len()`.
    pub fn source(&self, i: usize) -> Tokens<'_> {
        self.tokens_between(2 * i)
    }

    /// Target of pair `i` < `len()`.
    pub fn target(&self, i: usize) -> Tokens<'_> {
        self.tokens_between(2 * i + 1)
    }

    /// The token that the source of pair `i` < `len()` begins with before its text, if its corpus has one.
    pub fn tag(&self, i: usize) -> Option<u32> {
        let corpus = self.spans.iter().position(|span| span.pairs.contains(&(i as u32)))?;
        self.tags.get(corpus).copied().flatten()
    }

    /// What a side of pair `i` < `len()` is drawn from, as the tokenizer spelled it; empty if it is not drawn.
    pub fn spelling(&self, side: Side, i: usize) -> &[u8] {
        if !self.layout.has_spellings() {
            return &[];
        }
        let i = 2 * i + usize::from(side == Side::Target);
        let end = |i: usize| u64::from_le_bytes(self.bytes_at(self.layout.ends() + 8 * i)) as usize;
        let start = i.checked_sub(1).map_or(0, end);
        let all = self.layout.spellings();
        &self.map[all + start..all + end(i)]
    }

    /// Tells pair `i` < `len()` apart from others; see [`Dataset::hash_of`].
    pub fn hash(&self, i: usize) -> u64 {
        let [start, middle, end] = [0, 1, 2].map(|side| HEADER + self.offset(2 * i + side) * self.layout.width);
        xxh3_64_with_seed(&self.map[start..end], (middle - start) as u64)
    }

    /// What [`Dataset::hash`] would be of a pair with these ids.
    pub fn hash_of(&self, source: &[u32], target: &[u32]) -> u64 {
        let width = self.layout.width;
        let bytes: Vec<u8> =
            source.iter().chain(target).flat_map(|id| id.to_le_bytes().into_iter().take(width)).collect();
        xxh3_64_with_seed(&bytes, (source.len() * width) as u64)
    }

    /// Source and target tokens of all pairs, `</s>` included.
    pub fn tokens(&self) -> (u64, u64) {
        let [source, target] = &self.counts;
        (source.iter().sum(), target.iter().sum())
    }

    /// Where pair `i` comes from: index of its corpus in `data.train` and 1-based line in the file.
    pub fn origin(&self, i: usize) -> (usize, u64) {
        let at = self.layout.lines() + 4 * i;
        let line = u32::from_le_bytes(self.bytes_at(at));
        (self.spans.iter().position(|span| span.pairs.contains(&(i as u32))).unwrap_or(0), u64::from(line))
    }

    fn bytes_at<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.map[at..at + N]);
        bytes
    }

    fn offset(&self, i: usize) -> usize {
        u64::from_le_bytes(self.bytes_at(self.layout.offsets() + 8 * i)) as usize
    }

    fn tokens_between(&self, i: usize) -> Tokens<'_> {
        let (start, end, width) = (self.offset(i), self.offset(i + 1), self.layout.width);
        Tokens { bytes: &self.map[HEADER + start * width..HEADER + end * width], width }
    }
}

impl Lengths for Dataset {
    fn lengths(&self, i: usize) -> (usize, usize) {
        let middle = self.offset(2 * i + 1);
        (middle - self.offset(2 * i), self.offset(2 * i + 2) - middle)
    }

    fn spans(&self) -> &[Span] {
        &self.spans
    }
}

/// Token ids of one sentence, in 2 or 4 bytes each.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl Tokens<'_> {
    pub fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends the ids to `ids`.
    pub fn extend(&self, ids: &mut Vec<u32>) {
        if self.width == 2 {
            ids.extend(self.bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
        } else {
            ids.extend(self.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
    }

    pub fn to_vec(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.len());
        self.extend(&mut ids);
        ids
    }
}
