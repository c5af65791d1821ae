//! The one reader of text: lines of a file, a pipe or stdin, plain or gzip, checked for UTF-8 and counted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::foreign::foreign;
use super::unzip::{Unzip, BUFFER};
use super::{hub, Error};
use crate::fsio;

/// Names stdin where a file is asked for.
const STDIN: &str = "-";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The local file behind a path or an `hf://` name that is read more than once.
///
/// # Errors
/// A file that is not there, a folder, a pipe.
pub(super) fn locate(name: &str) -> Result<PathBuf, Error> {
    let path = hub::resolve(name)?;
    if name == STDIN || !metadata(name, &path)?.is_file() {
        return Err(Error::NotAFile { file: name.to_string() });
    }
    Ok(path)
}

/// Errors: a file that is not there, a folder.
fn metadata(name: &str, path: &Path) -> Result<std::fs::Metadata, Error> {
    let metadata = std::fs::metadata(path).map_err(|source| open_error(name, source))?;
    if metadata.is_dir() {
        return Err(Error::Folder { file: name.to_string() });
    }
    Ok(metadata)
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

/// All lines of a text, in memory; names as for [`Lines::open`].
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

/// Number of lines of a text; names as for [`Lines::open`].
///
/// # Errors
/// A file that can not be read.
pub fn count_lines(name: &str) -> Result<u64, Error> {
    Lines::open(name)?.count_rest()
}

/// A line ends at `\n` only, so U+2028, U+0085, form feeds and NUL stay inside it; one `\r` before the `\n` and a byte
/// order mark at the start of the text are removed. gzip is known by its first bytes. A line is there as soon as its end
/// was written, also through a pipe.
pub struct Lines {
    /// As the user calls the text, for messages.
    pub name: String,
    /// Lines returned so far, so also the 1-based number of the last one.
    pub line: u64,
    reader: Box<dyn BufRead + Send>,
}

impl Lines {
    /// Opens a path (a file, a pipe, a device), an `hf://` name, or stdin as `-`.
    ///
    /// # Errors
    /// Nothing there that can be opened; a folder.
    pub fn open(name: &str) -> Result<Self, Error> {
        if name == STDIN {
            return Ok(Self::reading("stdin", io::stdin()));
        }
        let path = hub::resolve(name)?;
        metadata(name, &path)?;
        Ok(Self::reading(name, open_bytes(name, &path)?))
    }

    /// Lines of anything that gives bytes; nothing is read yet. `name` is for messages.
    pub fn reading(name: &str, input: impl Read + Send + 'static) -> Self {
        let reader = Box::new(BufReader::with_capacity(BUFFER, Unzip::new(input)));
        Lines { name: name.to_string(), line: 0, reader }
    }

    /// The next line without its end, or `None` after the last.
    ///
    /// # Errors
    /// Bytes that can not be read, a gzip file that is not whole, invalid UTF-8; each with the line.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        if !self.read(&mut bytes)? {
            return Ok(None);
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if let Some((kind, cure)) = (self.line == 1).then(|| foreign(&bytes)).flatten() {
            return Err(Error::NotText { file: self.name.clone(), kind, cure });
        }
        let mark = if self.line == 1 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        bytes.drain(..mark);
        String::from_utf8(bytes).map(Some).map_err(|e| {
            let byte = mark + e.utf8_error().valid_up_to() + 1;
            Error::Utf8 { file: self.name.clone(), line: self.line, byte }
        })
    }

    /// Reads to the end of the text to know its number of lines.
    pub(super) fn count_rest(&mut self) -> Result<u64, Error> {
        let mut bytes = Vec::new();
        while self.read(&mut bytes)? {
            bytes.clear();
        }
        Ok(self.line)
    }

    /// Adds a line with its end to `bytes` and counts it; false at the end of the text.
    fn read(&mut self, bytes: &mut Vec<u8>) -> Result<bool, Error> {
        let more = fsio::read_line(&mut self.reader, bytes).map_err(|e| self.read_error(e))?;
        self.line += u64::from(more);
        Ok(more)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_line_of_a_pipe_is_there_as_soon_as_it_ends() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::reading("stdin", reader);
        writer.write_all(b"\xEF").unwrap();
        writer.write_all(b"\xBB\xBFone\r\n").unwrap();
        assert_eq!(lines.next().unwrap().as_deref(), Some("one"));
        writer.write_all(b"\n\x1Ftwo\nthr").unwrap();
        assert_eq!(lines.next().unwrap().as_deref(), Some(""));
        assert_eq!(lines.next().unwrap().as_deref(), Some("\x1Ftwo"));
        writer.write_all(b"ee").unwrap();
        drop(writer);
        assert_eq!(lines.next().unwrap().as_deref(), Some("three"));
        assert_eq!((lines.next().unwrap(), lines.line), (None, 4));
    }

    #[test]
    fn a_line_without_an_end_is_an_error_before_the_memory_ends() {
        let endless = |read: fn(&mut Lines) -> Result<(), Error>| {
            let mut lines = Lines::reading("stdin", (&b"one\n"[..]).chain(io::repeat(0)));
            lines.next().unwrap();
            read(&mut lines).unwrap_err().to_string()
        };
        let told = "stdin:2: can not read: a line of more than 2 MiB";
        assert_eq!(endless(|lines| lines.next().map(|_| ())), told);
        assert_eq!(endless(|lines| lines.count_rest().map(|_| ())), told);
        let longest = "a".repeat(1 << 21);
        let mut lines = Lines::reading("stdin", io::Cursor::new(longest.clone()).chain(&b"\nb"[..]));
        assert!(lines.next().is_err(), "with its end it is one byte too long");
        let mut lines = Lines::reading("stdin", io::Cursor::new(longest[1..].to_string()).chain(&b"\nb"[..]));
        assert_eq!(lines.next().unwrap().map(|line| line.len()), Some(longest.len() - 1));
        assert_eq!(lines.next().unwrap().as_deref(), Some("b"));
    }

    #[test]
    fn the_place_of_invalid_text_counts_the_byte_order_mark() {
        let mut lines = Lines::reading("stdin", &b"\xEF\xBB\xBFab\xFF\n"[..]);
        assert!(lines.next().unwrap_err().to_string().starts_with("stdin:1: invalid UTF-8 at byte 6 of the line"));
    }
}
