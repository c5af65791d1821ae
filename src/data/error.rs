//! What can be wrong with parallel text, each message naming the place and the cure.

use std::io;
use std::path::PathBuf;

use super::hub::HubError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can not open {file}: {source}{place}")]
    Open {
        file: String,
        source: io::Error,
        /// Where a relative path was looked for, else empty.
        place: String,
    },
    #[error("{file} is not a regular file; text is read twice (to find its cache, then to encode; held-out text again on resume), so pipes can not be used")]
    NotAFile { file: String },
    #[error("{file} is a folder; name a file in it")]
    Folder { file: String },
    #[error("{file}: unsupported ending; {cure}")]
    Ending { file: String, cure: &'static str },
    #[error("a corpus is one file with both sides or two line-aligned files, not {0} files; several corpora are a list of {{ files = [...] }}")]
    FileCount(usize),
    #[error("{file}:{line}: can not read: {source}")]
    Read { file: String, line: u64, source: io::Error },
    #[error(
        "{file}:{line}: invalid UTF-8 at byte {byte} of the line; convert the file, for example with iconv -t UTF-8"
    )]
    Utf8 { file: String, line: u64, byte: usize },
    #[error("{file}: not UTF-8 text but {kind}; {cure}")]
    NotText { file: String, kind: &'static str, cure: &'static str },
    #[error(
        "{file}: markup is not read; extract the sentences first, one a line, for example with \
         sed -n 's/.*<seg[^>]*>\\(.*\\)<\\/seg>.*/\\1/p', \
         or with grep -v '^ *<' where only lines between sentences are marked up"
    )]
    Markup { file: String },
    #[error("the text of this run is not where it was: {files}{place}; if it moved, name it anew: {cure}")]
    Moved { files: String, place: String, cure: String },
    #[error(
        "{source_file} has {source_lines} lines, {target_file} has {target_lines}: the files must be line-aligned; \
         the first line without a partner is {longer}:{first}"
    )]
    Unequal {
        source_file: String,
        source_lines: u64,
        target_file: String,
        target_lines: u64,
        longer: String,
        first: u64,
    },
    #[error("{file}: one line with {returns} carriage returns in it, the line ends of old Macs; convert it with tr '\\r' '\\n'")]
    Returns { file: String, returns: usize },
    #[error("{file} is empty: no line of text in it")]
    Empty { file: String },
    #[error("{file}:{line}: no tab; a line is source<TAB>target")]
    NoTab { file: String, line: u64 },
    #[error("{file}:{line}: {there} columns, column {wanted} is needed")]
    FewColumns { file: String, line: u64, there: usize, wanted: usize },
    #[error("{file}:1: no column \"{name}\" (there: {there}); data.columns names them as the first line does")]
    NoColumn { file: String, name: String, there: String },
    #[error("{place}: not a JSON object: {what}")]
    Json {
        /// `file:line`, and `:column` where it is known.
        place: String,
        what: String,
    },
    #[error("{file}:{line}: {what}; the fields are named by data.source_language and data.target_language")]
    Field { file: String, line: u64, what: String },
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("no training text: data.train is empty")]
    NoCorpora,
    #[error("all {read} pairs were dropped: {reasons}")]
    AllDropped { read: u64, reasons: String },
    #[error("{read} pairs are more than the {} that one data set can hold", u32::MAX)]
    TooMany { read: u64 },
    #[error("can not encode {file} from line {line} on: {what}")]
    Encode { file: String, line: u64, what: String },
    #[error("can not write the encoded text to {path}: {source}; data.cache_dir chooses another folder", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("can not read the encoded text in {path}: {what}; the file is safe to delete", path = path.display())]
    Cache { path: PathBuf, what: String },
}

impl Error {
    /// Of two files that must have as many lines, by name and number of lines.
    pub fn unequal(source: (&str, u64), target: (&str, u64)) -> Self {
        let longer = if source.1 > target.1 { source.0 } else { target.0 };
        Error::Unequal {
            source_file: source.0.to_string(),
            source_lines: source.1,
            target_file: target.0.to_string(),
            target_lines: target.1,
            longer: longer.to_string(),
            first: source.1.min(target.1) + 1,
        }
    }
}
