//! Files that are whole or absent: atomic writes and folders, append-only logs, the lock of a run folder.
//!
//! Everything the program writes goes through here. A file or folder appears under its name only when all its bytes are
//! on the disk; what a crash leaves behind is named `.tmp-…` and can be deleted by anyone ([`clean_leftovers`]).

pub mod fault;
mod folder;
mod lock;
mod log;

pub use folder::{remove_folder, NewFolder};
pub use lock::{Holder, RunLock};
pub use log::AppendLog;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What can go wrong with a file; every message names it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can not {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} for {}: free some space there (or write to another disk) and run again; what was saved before is whole",
        if *quota { "the disk quota is used up, no space is left" } else { "no space left on the disk" },
        path.display()
    )]
    Full { path: PathBuf, quota: bool },
    #[error("{} has more than {} MiB, or no end", path.display(), most >> 20)]
    TooLarge { path: PathBuf, most: u64 },
    #[error("{}:{line}: not valid UTF-8; convert the file, for example with iconv -t UTF-8", path.display())]
    Utf8 { path: PathBuf, line: usize },
    #[error(
        "{} is in use by {holder}; wait for that process, stop it, or choose another run_dir",
        path.display()
    )]
    Locked { path: PathBuf, holder: Holder },
    #[error(
        "{} says that {holder} uses this folder, and this file system has no file locks to check it; \
         if that process is gone, delete the file `lock`",
        path.display()
    )]
    MaybeLocked { path: PathBuf, holder: Holder },
    #[error("the run folder {} was deleted or moved while this run was writing into it; nothing more is written", path.display())]
    Gone { path: PathBuf },
}

/// Result of a file operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the disk (or the quota) is full: worth keeping on training and trying again later.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Full { .. })
    }

    /// From an operation (an infinitive: "read") on a path; a full disk becomes [`Error::Full`].
    pub fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            kind @ (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Error::Full { path, quota: kind == io::ErrorKind::QuotaExceeded }
            }
            _ => Error::Io { doing, path, source },
        }
    }
}

/// All bytes of a file.
///
/// # Errors
/// When it can not be read; names it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => read_at_most(MOST_STREAMED, path),
        _ => fs::read(path).map_err(|e| Error::io("read", path, e)),
    }
}

/// Most bytes of what is no file, which may have no end.
const MOST_STREAMED: u64 = 1 << 28;

/// Most bytes of a text that a person writes: a config, a sweep file.
const MOST_WRITTEN: u64 = 1 << 20;

/// All text of a file that a person wrote, or something like `/dev/zero` is named in its place.
///
/// # Errors
/// When it can not be read, is not UTF-8, or has no end; names it.
pub fn read_written(path: &Path) -> Result<String> {
    text(path, read_at_most(MOST_WRITTEN, path)?)
}

fn read_at_most(most: u64, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    match bytes.len() as u64 > most {
        true => Err(Error::TooLarge { path: path.to_path_buf(), most }),
        false => Ok(bytes),
    }
}

/// Bytes of the longest line with its end.
const LONGEST_LINE: u64 = 1 << 21;

/// Adds a line with its end to `line`; false at the end of the text.
///
/// # Errors
/// When it can not be read, or has more than 2 MiB: that is no text in lines, and may have no end.
pub fn read_line(reader: &mut (impl BufRead + ?Sized), line: &mut Vec<u8>) -> io::Result<bool> {
    let read = reader.take(LONGEST_LINE + 1).read_until(b'\n', line)?;
    match read as u64 > LONGEST_LINE {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "a line of more than 2 MiB")),
        false => Ok(read > 0),
    }
}

/// All text of a file.
///
/// # Errors
/// When it can not be read or is not UTF-8; names it and the line.
pub fn read_to_string(path: &Path) -> Result<String> {
    text(path, read(path)?)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        Error::Utf8 { path: path.to_path_buf(), line: 1 + good.iter().filter(|&&b| b == b'\n').count() }
    })
}

/// Creates a folder and those above it.
///
/// # Errors
/// When it can not be made; names it.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create the folder", path, e))
}

/// Opens or creates a file that only grows, for another process to write to.
///
/// # Errors
/// When it can not be opened; names it.
pub fn open_to_append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).open(path).map_err(|e| Error::io("open", path, e))
}

/// Replaces a file so that any reader, and any crash, sees the old bytes or the new ones.
///
/// # Errors
/// When it can not be written; the old file is then still there. [`Error::Full`] on a full disk.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// As [`write_atomic`], for content that is produced piece by piece.
///
/// # Errors
/// Those of [`write_atomic`] and of `content`.
pub fn write_atomic_with(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let temp = temp_sibling(path);
    let written = write_synced(&temp, content)
        .and_then(|()| fs::rename(&temp, path))
        .map_err(|e| Error::io("write", path, e))
        .and_then(|()| sync_parent(path));
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written
}

/// Gives a file that is on the disk another name on the same disk; one that has the name is replaced.
///
/// # Errors
/// When that can not be done; the file then keeps its name.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io("write", to, e)).and_then(|()| sync_parent(to))
}

/// Deletes what interrupted writes left in a folder (`.tmp-…`); returns what was deleted. Call it only while holding
/// the lock of the run, else the half-written files of a live process would go.
///
/// # Errors
/// When the folder can not be read or something in it can not be deleted.
pub fn clean_leftovers(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut deleted = Vec::new();
    for entry in list(dir)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with(TEMP_PREFIX) {
            continue;
        }
        let removed = if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
        removed.map_err(|e| Error::io("delete", &entry, e))?;
        deleted.push(entry);
    }
    Ok(deleted)
}

/// Paths in a folder, sorted by name; empty when it does not exist.
///
/// # Errors
/// When it can not be read; names it.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io("list", dir, e))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|e| Error::io("list", dir, e))?.path());
    }
    paths.sort();
    Ok(paths)
}

const TEMP_PREFIX: &str = ".tmp-";

/// A name beside `path` that no other writer of this or another process uses.
fn temp_sibling(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!("{TEMP_PREFIX}{name}-{}-{unique}", std::process::id()))
}

/// Creates `path`, writes, and waits until the bytes are on the disk.
fn write_synced(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let mut out = BufWriter::with_capacity(1 << 18, fault::Guarded(file));
    content(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.0.sync_all()
}

/// Makes a rename in the parent folder of `path` last through a power cut.
fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync the folder", parent, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("best");
        write_atomic(&path, b"old").unwrap();
        for (kind, says) in
            [(io::ErrorKind::StorageFull, "no space left"), (io::ErrorKind::QuotaExceeded, "quota is used up")]
        {
            let error = write_atomic_with(&path, |out| {
                out.write_all(b"ne")?;
                Err(kind.into())
            })
            .unwrap_err();
            assert!(error.is_full());
            assert!(error.to_string().contains("best") && error.to_string().contains("free some space"), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(list(dir.path()).unwrap(), std::slice::from_ref(&path));
        write_atomic(&path, b"new").unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        assert!(read(&path).unwrap_err().to_string().contains("can not read"));
        write_atomic(&path, b"a\nb\n\xff\n").unwrap();
        assert!(read_to_string(&path).unwrap_err().to_string().contains("text:3: not valid UTF-8"));
    }

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(".tmp-step-1-9-0/x")).unwrap();
        write_atomic(&dir.path().join("keep"), b"").unwrap();
        assert_eq!(clean_leftovers(dir.path()).unwrap().len(), 1);
        assert_eq!(list(dir.path()).unwrap(), [dir.path().join("keep")]);
        assert!(clean_leftovers(&dir.path().join("absent")).unwrap().is_empty());
    }
}
