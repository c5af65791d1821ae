//! Lines of one text file, plain or gzip, checked for UTF-8 and counted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{hub, Error};

const BUFFER: usize = 1 << 17;

/// The local file behind a path or an `hf://` name; it must be a regular file.
pub(super) fn locate(name: &str) -> Result<PathBuf, Error> {
    let path = hub::resolve(name)?;
    let metadata = std::fs::metadata(&path).map_err(|source| open_error(name, source))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile { file: name.to_string() });
    }
    Ok(path)
}

/// Opens the raw bytes of `path`, which the user calls `name`.
pub(super) fn open_bytes(name: &str, path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| open_error(name, source))
}

fn open_error(name: &str, source: io::Error) -> Error {
    let place = match std::env::current_dir() {
        Ok(folder) if Path::new(name).is_relative() && !name.starts_with("hf://") => {
            format!(" (looked for in {})", folder.display())
        }
        _ => String::new(),
    };
    Error::Open { file: name.to_string(), source, place }
}

/// All lines of a file (a path or an `hf://` name, also `.gz`), in memory.
///
/// # Errors
/// A file that can not be read; invalid UTF-8, with its line.
pub fn read_lines(name: &str) -> Result<Vec<String>, Error> {
    let mut lines = Lines::open(name)?;
    let mut all = Vec::new();
    while let Some(line) = lines.next()? {
        all.push(line);
    }
    Ok(all)
}

/// A line ends at `\n` only, so U+2028, U+0085, form feeds and NUL stay inside it; one `\r` before the `\n` and a byte
/// order mark at the start of the file are removed.
pub(super) struct Lines {
    pub(super) name: String,
    /// Lines returned so far, so also the 1-based number of the last one.
    pub(super) line: u64,
    reader: Box<dyn BufRead + Send>,
}

impl Lines {
    /// Opens a path or an `hf://` name.
    pub(super) fn open(name: &str) -> Result<Self, Error> {
        let file = open_bytes(name, &locate(name)?)?;
        let reader: Box<dyn Read + Send> =
            if name.ends_with(".gz") { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(file) };
        Ok(Lines { name: name.to_string(), line: 0, reader: Box::new(BufReader::with_capacity(BUFFER, reader)) })
    }

    /// The next line without its end, or `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        if self.reader.read_until(b'\n', &mut bytes).map_err(|e| self.read_error(e))? == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(e) => {
                Err(Error::Utf8 { file: self.name.clone(), line: self.line, byte: e.utf8_error().valid_up_to() + 1 })
            }
        }
    }

    /// Reads to the end of the file to know its number of lines.
    pub(super) fn count_rest(&mut self) -> Result<u64, Error> {
        let mut bytes = Vec::new();
        while self.reader.read_until(b'\n', &mut bytes).map_err(|e| self.read_error(e))? > 0 {
            self.line += 1;
            bytes.clear();
        }
        Ok(self.line)
    }

    fn read_error(&self, source: io::Error) -> Error {
        let source = match source.kind() {
            ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                io::Error::new(source.kind(), format!("not a whole gzip file ({source})"))
            }
            _ => source,
        };
        Error::Read { file: self.name.clone(), line: self.line + 1, source }
    }
}
