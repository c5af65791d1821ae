//! Append-only files of lines that survive a crash and a resume (metrics.jsonl).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{fault, Error, Result};

/// A file of lines, only ever appended to.
#[derive(Debug)]
pub struct AppendLog {
    file: File,
    path: PathBuf,
    len: u64,
}

impl AppendLog {
    /// Opens or creates the file and cuts it to at most `keep` bytes: 0 starts anew, the length stored in a checkpoint
    /// forgets what came after it, `u64::MAX` keeps all. A last line without its end (a crash) is cut off too.
    ///
    /// # Errors
    /// When the file can not be opened, read or cut.
    pub fn open(path: &Path, keep: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        let (len, file) = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .and_then(|mut file| Ok((cut(&mut file, keep)?, file)))
            .map_err(|e| Error::io("open", path, e))?;
        Ok(AppendLog { file, path: path.to_path_buf(), len })
    }

    /// Adds a line; `line` without its `\n`. The line reaches the system in one write, the disk with [`Self::sync`].
    ///
    /// # Errors
    /// When it can not be written; half a line is taken back.
    pub fn append(&mut self, line: &str) -> Result<()> {
        let bytes = [line.as_bytes(), b"\n"].concat();
        if let Err(e) = fault::append(bytes.len()).and_then(|()| self.file.write_all(&bytes)) {
            let _ = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
            return Err(Error::io("write", &self.path, e));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Cuts the file as [`Self::open`] does.
    ///
    /// # Errors
    /// When it can not be cut.
    pub fn cut(&mut self, keep: u64) -> Result<()> {
        self.len = cut(&mut self.file, keep).map_err(|e| Error::io("cut", &self.path, e))?;
        Ok(())
    }

    /// Waits until all lines are on the disk: before a checkpoint stores [`Self::len`].
    ///
    /// # Errors
    /// When the disk reports one.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Cuts the file behind its last whole line within the first `keep` bytes and goes there; returns that place.
fn cut(file: &mut File, keep: u64) -> io::Result<u64> {
    let end = last_line_end(file, keep)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))
}

/// The end of the last whole line within the first `keep` bytes.
fn last_line_end(file: &mut File, keep: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len().min(keep);
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(i) = part.iter().rposition(|&b| b == b'\n') {
            return Ok(start + i as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::{read_to_string, write_atomic};
    use super::*;

    #[test]
    fn resume_cuts_to_the_stored_length_and_drops_half_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = AppendLog::open(&path, u64::MAX).unwrap();
        log.append("one").unwrap();
        let kept = log.len();
        log.append("two").unwrap();
        let mut log = AppendLog::open(&path, kept).unwrap();
        log.append("three").unwrap();
        log.sync().unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "one\nthree\n");
        log.cut(kept).unwrap();
        log.append("four").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "one\nfour\n");
        write_atomic(&path, format!("one\n{}", "x".repeat(9000)).as_bytes()).unwrap();
        assert_eq!(AppendLog::open(&path, u64::MAX).unwrap().len(), 4);
        assert!(AppendLog::open(&path, 0).unwrap().is_empty());
        assert_eq!(read_to_string(&path).unwrap(), "");
    }
}
