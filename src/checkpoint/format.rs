//! The bytes of a checkpoint: safetensors files and the manifest that vouches for them.

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo, View};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::path::Path;
use xxhash_rust::xxh3::{xxh3_64, Xxh3};

use super::{Error, Result};

/// Version of the folder's layout; raised when older programs could misread it.
pub const FORMAT_VERSION: u64 = 1;

pub(super) const MANIFEST: &str = "manifest.json";

/// `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format_version: u64,
    /// Program that wrote it, for people.
    pub(super) program: String,
    pub(super) step: u64,
    pub(super) files: Vec<FileEntry>,
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
        (hex(xxh3_64(content)) != self.xxh3)
            .then(|| "its checksum differs from the manifest's: the file was changed or damaged".to_string())
    }
}

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
        if format_version > FORMAT_VERSION {
            return Err(Error::TooNew { path, found: format_version });
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
    let damaged = |e| Error::Damaged { path: path.to_path_buf(), what: format!("not a safetensors file: {e}") };
    let mut views = SafeTensors::deserialize(bytes).map_err(damaged)?.tensors();
    views.sort_by(|(a, _), (b, _)| a.cmp(b));
    views.into_iter().map(|(name, view)| Ok((name, view.load(device)?))).collect()
}
