//! Parallel text as a stream of sentence pairs, whatever the files' format.

use super::fields::{self, Columns, Fields};
use super::joined::Joined;
use super::lines::{locate, read_lines, Lines};
use super::{Error, Side};
use crate::config::{ending, BothSides, Corpora, Corpus, DataConfig};

/// One sentence pair as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub source: String,
    pub target: String,
    /// 1-based line in its file or files.
    pub line: u64,
    /// Sides with line breaks inside, which are spaces now: 0, 1 or 2.
    pub joined: u64,
}

/// How the files of a corpus hold pairs, known from their endings (`.gz` aside).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    TwoFiles,
    Tsv,
    JsonLines,
}

/// Not "rar": it is a language.
const PACKED: [&str; 13] =
    ["zst", "bz2", "xz", "zip", "tar", "tgz", "7z", "lz4", "parquet", "arrow", "pdf", "docx", "xlsx"];
const MARKED_UP: [&str; 8] = ["xml", "sgm", "sgml", "tmx", "xlf", "xliff", "html", "htm"];

impl Format {
    /// Errors: not one or two files, endings that are not read.
    pub(super) fn of(corpus: &Corpus) -> Result<Self, Error> {
        let wrong = |file: &str, cure| Err(Error::Ending { file: file.to_string(), cure });
        for file in &corpus.files {
            let ending = ending(file);
            if PACKED.contains(&ending.as_str()) {
                return wrong(file, "plain text, .tsv and .jsonl are read, each also as .gz; convert it first");
            }
            if MARKED_UP.contains(&ending.as_str()) {
                return Err(Error::Markup { file: file.clone() });
            }
        }
        match corpus.files.as_slice() {
            [file] => match BothSides::of(file) {
                Some(BothSides::Tsv) => Ok(Format::Tsv),
                Some(BothSides::JsonLines) => Ok(Format::JsonLines),
                None => wrong(
                    file,
                    "a single file must be .tsv or .jsonl (also .gz) and hold both sides, otherwise give two files",
                ),
            },
            [a, b] => match [a, b].into_iter().find(|file| BothSides::of(file).is_some()) {
                None => Ok(Format::TwoFiles),
                Some(file) => wrong(
                    file,
                    "two files are plain text, one a side; several .tsv or .jsonl corpora are a list of { files = [...] }",
                ),
            },
            files => Err(Error::FileCount(files.len())),
        }
    }
}

/// The pairs of one corpus in file order, one in memory at a time. The first error ends the stream; so do unequal line
/// counts and a corpus without a line.
pub struct Pairs {
    reader: Reader,
    languages: [String; 2],
    /// Carriage returns inside the first source.
    returns: usize,
    started: bool,
    ended: bool,
}

enum Reader {
    Two(Lines, Lines),
    Tsv(Lines, Columns),
    Json(Lines),
}

impl Pairs {
    /// Opens the files (paths or `hf://`); `data` names the fields of JSON lines and the columns of TSV. The text of a
    /// run is read again, at least when it is resumed, so it lies in files.
    ///
    /// # Errors
    /// Files that can not be opened, pipes; a header without the columns that are named.
    pub fn open(corpus: &Corpus, data: &DataConfig) -> Result<Self, Error> {
        let format = Format::of(corpus)?;
        let open = |i: usize| {
            locate(&corpus.files[i])?;
            Lines::open(&corpus.files[i])
        };
        let reader = match format {
            Format::TwoFiles => Reader::Two(open(0)?, open(1)?),
            Format::Tsv => {
                let mut file = open(0)?;
                let columns = Columns::find(Columns::named(corpus, data), &mut file)?;
                Reader::Tsv(file, columns)
            }
            Format::JsonLines => Reader::Json(open(0)?),
        };
        let languages = [data.source_language.clone(), data.target_language.clone()];
        Ok(Pairs { reader, languages, returns: 0, started: false, ended: false })
    }

    fn read(&mut self) -> Result<Option<Pair>, Error> {
        let pair = |([source, target], joined): Fields, line| Some(Pair { source, target, line, joined });
        let pair = match &mut self.reader {
            Reader::Two(a, b) => match (a.next()?, b.next()?) {
                (Some(source), Some(target)) => {
                    if a.line == 1 {
                        not_markup(a, &source)?;
                        not_markup(b, &target)?;
                        self.returns = source.matches('\r').count();
                    }
                    pair(([source, target], 0), a.line)
                }
                (None, None) if a.line == 1 && self.returns > 1 => {
                    return Err(Error::Returns { file: a.name.clone(), returns: self.returns });
                }
                (None, None) => None,
                (one, _) => return Err(unequal(a, b, one.is_some())?),
            },
            Reader::Tsv(file, columns) => match file.next()? {
                Some(text) => pair(columns.fields(&text, file)?, file.line),
                None => None,
            },
            Reader::Json(file) => loop {
                match file.next()? {
                    Some(text) if text.trim().is_empty() => {}
                    Some(text) => break pair(fields::json(&text, &self.languages, file)?, file.line),
                    None => break None,
                }
            },
        };
        if pair.is_none() && !self.started {
            let (Reader::Two(first, _) | Reader::Tsv(first, _) | Reader::Json(first)) = &self.reader;
            return Err(Error::Empty { file: first.name.clone() });
        }
        self.started = true;
        Ok(pair)
    }
}

impl Iterator for Pairs {
    type Item = Result<Pair, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let pair = self.read().transpose();
        self.ended = !matches!(pair, Some(Ok(_)));
        pair
    }
}

/// A document whose first line says that it is markup, whatever the file is called.
fn not_markup(file: &Lines, text: &str) -> Result<(), Error> {
    const STARTS: [&str; 12] = [
        "<?xml",
        "<!doctype",
        "<tmx",
        "<srcset",
        "<refset",
        "<tstset",
        "<mteval",
        "<xliff",
        "<html",
        "<doc>",
        "<doc ",
        "<url>",
    ];
    let start = text.trim_start().chars().take(16).collect::<String>().to_ascii_lowercase();
    match STARTS.iter().any(|known| start.starts_with(known)) {
        true => Err(Error::Markup { file: file.name.clone() }),
        false => Ok(()),
    }
}

/// The error of two files of which one ended; `Err` if the longer one can not be read to its end.
fn unequal(a: &mut Lines, b: &mut Lines, a_is_longer: bool) -> Result<Error, Error> {
    let longer = if a_is_longer { &mut *a } else { &mut *b };
    longer.count_rest()?;
    Ok(Error::unequal((&a.name, a.line), (&b.name, b.line)))
}

/// Validation or test text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldOut {
    /// All pairs, unfiltered and in order.
    pub pairs: Vec<(String, String)>,
    pub joined: Option<Joined>,
}

/// Reads held-out text; `corpora` may be empty, a named corpus may not.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn held_out(corpora: &Corpora, data: &DataConfig) -> Result<HeldOut, Error> {
    let mut all = HeldOut::default();
    for (index, corpus) in corpora.0.iter().enumerate() {
        for pair in Pairs::open(corpus, data)? {
            let pair = pair?;
            Joined::add(&mut all.joined, pair.joined, index, pair.line);
            all.pairs.push((pair.source, pair.target));
        }
    }
    Ok(all)
}

/// Further references of `pairs` pairs of held-out text, one stream a file.
///
/// # Errors
/// A file that can not be read twice, or has another number of lines.
pub fn further_references(files: &[String], corpora: &Corpora, pairs: usize) -> Result<Vec<Vec<String>>, Error> {
    let read = |file: &String| {
        locate(file)?;
        let lines = read_lines(file)?;
        if lines.len() != pairs {
            let names: Vec<&str> = corpora.0.iter().filter_map(|corpus| Some(corpus.files.last()?.as_str())).collect();
            return Err(Error::unequal((&names.join(" + "), pairs as u64), (file, lines.len() as u64)));
        }
        Ok(lines)
    };
    files.iter().map(read).collect()
}

/// Every line of `side` (`None` = both sides, alternating) of all corpora, streaming, for training a tokenizer.
/// Weights do not count here. Ends after the first error.
pub fn text_lines<'a>(corpora: &'a Corpora, data: &'a DataConfig, side: Option<Side>) -> TextLines<'a> {
    TextLines { corpora: corpora.0.iter(), data, side, pairs: None, waiting: None }
}

/// See [`text_lines`].
pub struct TextLines<'a> {
    corpora: std::slice::Iter<'a, Corpus>,
    data: &'a DataConfig,
    side: Option<Side>,
    pairs: Option<Pairs>,
    waiting: Option<String>,
}

impl TextLines<'_> {
    fn read(&mut self) -> Result<Option<String>, Error> {
        if let Some(text) = self.waiting.take() {
            return Ok(Some(text));
        }
        loop {
            if let Some(pair) = self.pairs.as_mut().and_then(Iterator::next) {
                let pair = pair?;
                return Ok(Some(match self.side {
                    Some(Side::Source) => pair.source,
                    Some(Side::Target) => pair.target,
                    None => {
                        self.waiting = Some(pair.target);
                        pair.source
                    }
                }));
            }
            match self.corpora.next() {
                Some(corpus) => self.pairs = Some(Pairs::open(corpus, self.data)?),
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for TextLines<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.read().transpose();
        if matches!(line, Some(Err(_))) {
            self.corpora = [].iter();
            self.pairs = None;
        }
        line
    }
}
