//! The bytes of a checkpoint: safetensors files and the manifest that vouches for them.

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor, Var};
use memmap2::{Mmap, MmapOptions};
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo, View};
use safetensors::SafeTensorError;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{xxh3_64, Xxh3};

use super::seal::holds;
use super::{Error, Result};
use crate::fsio;

/// Version of the folder's layout; raised when older programs could misread it.
pub const FORMAT_VERSION: u64 = 1;

pub(super) const MANIFEST: &str = "manifest.json";

/// `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format_version: u64,
    /// Program that wrote it, for people.
    pub(super) program: String,
    pub(super) step: u64,
    pub(super) files: Vec<FileEntry>,
    /// Its own checksum, which is checked as text (`seal`); manifests of before have none.
    #[serde(rename = "manifest_xxh3", default, skip_serializing)]
    pub(super) _seal: IgnoredAny,
}

/// Size and checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// XXH3, 64 bits, hexadecimal.
    pub(super) xxh3: String,
}

impl FileEntry {
    /// What is wrong with these bytes, if anything.
    pub(super) fn fault(&self, content: &[u8]) -> Option<String> {
        if content.len() as u64 != self.bytes {
            return Some(size_fault(content.len() as u64, self.bytes));
        }
        (hex(xxh3_64(content)) != self.xxh3).then(|| CHANGED.to_string())
    }
}

const CHANGED: &str = "its checksum differs from the manifest's: the file was changed or damaged";

pub(super) fn size_fault(found: u64, expected: u64) -> String {
    format!("{found} bytes instead of {expected}: the file was cut off or replaced")
}

impl Manifest {
    /// Reads the manifest of a checkpoint folder.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            let what = "missing; the folder is no checkpoint, or not a whole one".to_string();
            return Err(Error::Damaged { path, what });
        }
        // The version first: a newer format may have other fields.
        #[derive(Deserialize)]
        struct Version {
            format_version: u64,
        }
        let text = crate::fsio::read_to_string(&path)?;
        let damaged = |e: serde_json::Error| Error::Damaged { path: path.clone(), what: format!("not readable: {e}") };
        let Version { format_version } = serde_json::from_str(&text).map_err(damaged)?;
        match holds(&text) {
            Some(true) if format_version > FORMAT_VERSION => {
                return Err(Error::TooNew { path, found: format_version });
            }
            Some(true) => {}
            None if format_version <= FORMAT_VERSION => {}
            _ => {
                return Err(Error::Damaged { path, what: "its own checksum differs: it was changed or damaged".into() })
            }
        }
        serde_json::from_str(&text).map_err(damaged)
    }
}

/// Passes bytes on and describes them for the manifest.
pub(super) struct Hashing<'a> {
    out: &'a mut dyn Write,
    hash: Xxh3,
    bytes: u64,
}

impl<'a> Hashing<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Hashing { out, hash: Xxh3::new(), bytes: 0 }
    }

    pub(super) fn entry(self, name: &str) -> FileEntry {
        FileEntry { name: name.to_string(), bytes: self.bytes, xxh3: hex(self.hash.digest()) }
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Writes tensors as safetensors with `{"format": "pt"}`, which the loaders of Hugging Face ask for. Sorted as the
/// format's own writer does (wide numbers first, then names), so that every tensor is aligned.
///
/// # Errors
/// Two tensors of one name; what `out` meets.
pub fn write_tensors(out: &mut dyn Write, tensors: &[(String, Tensor)]) -> io::Result<()> {
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by(|(a, x), (b, y)| View::dtype(y).cmp(&View::dtype(x)).then(a.cmp(b)));
    let mut infos = Vec::with_capacity(sorted.len());
    let mut end = 0;
    let mut names = BTreeSet::new();
    for (name, tensor) in &sorted {
        if !names.insert(name) {
            return Err(io::Error::other(format!("two tensors are called {name}")));
        }
        let start = end;
        end += View::data_len(tensor);
        let shape = tensor.dims().to_vec();
        infos.push((name.clone(), TensorInfo { dtype: View::dtype(tensor), shape, data_offsets: (start, end) }));
    }
    let pt = HashMap::from([("format".to_string(), "pt".to_string())]);
    let header = Metadata::new(Some(pt), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (_, tensor) in sorted {
        let on_cpu = tensor.to_device(&Device::Cpu).map_err(io::Error::other)?;
        out.write_all(&View::data(&on_cpu))?;
    }
    Ok(())
}

/// Tensors of a safetensors file, sorted by name. `path` is for the error only.
pub(super) fn read_tensors(path: &Path, bytes: &[u8], device: &Device) -> Result<Vec<(String, Tensor)>> {
    let damaged = |e| Error::Damaged { path: path.to_path_buf(), what: no_safetensors(&e) };
    let mut views = SafeTensors::deserialize(bytes).map_err(damaged)?.tensors();
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    views.into_iter().map(|(name, view)| Ok((name, view.load(device)?))).collect()
}

fn no_safetensors(error: &SafeTensorError) -> String {
    format!("not a safetensors file: {error}")
}

/// Bytes of a file in memory at a time.
const PIECE: usize = 4 << 20;

/// A safetensors file whose tensors are read one by one, in pieces: beside what they are read into little memory is needed.
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    /// Where the data of the first tensor begins.
    start: u64,
    metadata: Metadata,
}

impl TensorFile {
    /// Opens a file, and compares it with its entry in a manifest where there is one.
    pub(super) fn open(path: &Path, entry: Option<&FileEntry>) -> Result<Self> {
        let damaged = |what| Error::Damaged { path: path.to_path_buf(), what };
        let file = File::open(path).map_err(|e| fsio::Error::io("read", path, e))?;
        if let Some(entry) = entry {
            let mut hash = Xxh3::new();
            let mut pieces = io::BufReader::with_capacity(PIECE, &file);
            loop {
                let piece = pieces.fill_buf().map_err(|e| fsio::Error::io("read", path, e))?;
                if piece.is_empty() {
                    break;
                }
                hash.update(piece);
                let bytes = piece.len();
                pieces.consume(bytes);
            }
            if hex(hash.digest()) != entry.xxh3 {
                return Err(damaged(CHANGED.to_string()));
            }
        }
        let bytes = file.metadata().map_err(|e| fsio::Error::io("read", path, e))?.len();
        // the header alone is looked at
        let map = map(&file, 0, bytes).map_err(|e| fsio::Error::io("read", path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| damaged(no_safetensors(&e)))?;
        Ok(TensorFile { path: path.to_path_buf(), file, start: header as u64 + 8, metadata })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Shapes of all tensors by name.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.shape.clone())).collect()
    }

    /// Copies a tensor of this name to a variable of its shape, converting numbers.
    pub(super) fn read_into(&self, name: &str, var: &Var) -> Result<()> {
        let Some(info) = self.metadata.info(name) else {
            return Err(Error::Damaged { path: self.path.clone(), what: format!("{name} is missing") });
        };
        let dtype = DType::try_from(info.dtype).map_err(candle_core::Error::wrap)?;
        let (rows, total) = (var.dims().first().map_or(1, |&rows| rows), info.data_offsets.1 - info.data_offsets.0);
        let row = total / rows.max(1);
        let at_once = if var.device().is_cpu() { (PIECE / row.max(1)).max(1) } else { rows.max(1) };
        for first in (0..rows).step_by(at_once) {
            let some = at_once.min(rows - first);
            let start = self.start + (info.data_offsets.0 + first * row) as u64;
            let bytes = map(&self.file, start, (some * row) as u64);
            let bytes = bytes.map_err(|e| fsio::Error::io("read", &self.path, e))?;
            let mut shape = var.dims().to_vec();
            shape.first_mut().into_iter().for_each(|rows| *rows = some);
            let piece = Tensor::from_raw_buffer(&bytes, dtype, &shape, &Device::Cpu)?.to_dtype(var.dtype())?;
            let piece = piece.to_device(var.device())?;
            match some == rows {
                true => var.set(&piece)?,
                false => var.slice_set(&piece, 0, first)?,
            }
        }
        Ok(())
    }
}

/// A part of a file as memory that is gone with it.
fn map(file: &File, start: u64, bytes: u64) -> io::Result<Mmap> {
    let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: files of weights appear whole under their names and are never written to again.
    #[expect(unsafe_code, reason = "a map of a file is as safe as the file is left alone")]
    unsafe {
        MmapOptions::new().offset(start).len(bytes).map(file)
    }
}
