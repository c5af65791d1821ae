//! Parallel text as a stream of sentence pairs, whatever the files' format.

use serde_json::Value;

use super::lines::Lines;
use super::{Error, Side};
use crate::config::{Corpora, Corpus, DataConfig};

/// One sentence pair as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub source: String,
    pub target: String,
    /// 1-based line in its file or files.
    pub line: u64,
}

/// How the files of a corpus hold pairs, known from their endings (`.gz` aside).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    TwoFiles,
    /// `source<TAB>target`, more columns ignored.
    Tsv,
    /// `{"translation": {"en": …, "de": …}}` or `{"en": …, "de": …}`, one object a line.
    JsonLines,
}

impl Format {
    /// Errors: not one or two files, endings that are not read.
    pub(super) fn of(corpus: &Corpus) -> Result<Self, Error> {
        let wrong = |file: &str, cure| Err(Error::Ending { file: file.to_string(), cure });
        for file in &corpus.files {
            if [".zst", ".bz2", ".xz", ".zip", ".tar", ".parquet", ".arrow"].iter().any(|end| file.ends_with(end)) {
                return wrong(file, "plain text, .tsv and .jsonl are read, each also as .gz; convert it first");
            }
        }
        let both_sides = |file: &str| {
            let name = file.strip_suffix(".gz").unwrap_or(file);
            match name.rsplit_once('.').map(|(_, ending)| ending) {
                Some("tsv") => Some(Format::Tsv),
                Some("jsonl" | "json" | "ndjson") => Some(Format::JsonLines),
                _ => None,
            }
        };
        match corpus.files.as_slice() {
            [file] => match both_sides(file) {
                Some(format) => Ok(format),
                None => wrong(
                    file,
                    "a single file must be .tsv or .jsonl (also .gz) and hold both sides, otherwise give two files",
                ),
            },
            [a, b] => match [a, b].into_iter().find(|file| both_sides(file).is_some()) {
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
    started: bool,
    ended: bool,
}

enum Reader {
    Two(Lines, Lines),
    Tsv(Lines),
    Json(Lines),
}

impl Pairs {
    /// Opens the files (paths or `hf://`); `data` names the fields of JSON lines.
    pub fn open(corpus: &Corpus, data: &DataConfig) -> Result<Self, Error> {
        let format = Format::of(corpus)?;
        let open = |i: usize| Lines::open(&corpus.files[i]);
        let reader = match format {
            Format::TwoFiles => Reader::Two(open(0)?, open(1)?),
            Format::Tsv => Reader::Tsv(open(0)?),
            Format::JsonLines => Reader::Json(open(0)?),
        };
        let languages = [data.source_language.clone(), data.target_language.clone()];
        Ok(Pairs { reader, languages, started: false, ended: false })
    }

    fn read(&mut self) -> Result<Option<Pair>, Error> {
        let pair = match &mut self.reader {
            Reader::Two(a, b) => match (a.next()?, b.next()?) {
                (Some(source), Some(target)) => Some(Pair { source, target, line: a.line }),
                (None, None) => None,
                (one, _) => return Err(unequal(a, b, one.is_some())?),
            },
            Reader::Tsv(file) => match file.next()? {
                Some(text) => Some(tsv(&text, file)?),
                None => None,
            },
            Reader::Json(file) => loop {
                match file.next()? {
                    Some(text) if text.trim().is_empty() => {}
                    Some(text) => break Some(json(&text, &self.languages, file)?),
                    None => break None,
                }
            },
        };
        if pair.is_none() && !self.started {
            let (Reader::Two(first, _) | Reader::Tsv(first) | Reader::Json(first)) = &self.reader;
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

/// The error of two files of which one ended; `Err` if the longer one can not be read to its end.
fn unequal(a: &mut Lines, b: &mut Lines, a_is_longer: bool) -> Result<Error, Error> {
    let longer = if a_is_longer { &mut *a } else { &mut *b };
    let (name, first) = (longer.name.clone(), longer.line);
    longer.count_rest()?;
    Ok(Error::Unequal {
        source_file: a.name.clone(),
        source_lines: a.line,
        target_file: b.name.clone(),
        target_lines: b.line,
        longer: name,
        first,
    })
}

fn tsv(text: &str, file: &Lines) -> Result<Pair, Error> {
    let mut columns = text.split('\t');
    match (columns.next(), columns.next()) {
        (Some(source), Some(target)) => {
            Ok(Pair { source: source.to_string(), target: target.to_string(), line: file.line })
        }
        _ => Err(Error::NoTab { file: file.name.clone(), line: file.line }),
    }
}

fn json(text: &str, languages: &[String; 2], file: &Lines) -> Result<Pair, Error> {
    let not_object = |what: String| Error::Json { file: file.name.clone(), line: file.line, what };
    let value: Value = serde_json::from_str(text).map_err(|e| match text.trim_start().starts_with('[') {
        true => not_object("it begins an array; one object a line is needed".to_string()),
        false => not_object(e.to_string()),
    })?;
    let Value::Object(mut object) = value else {
        return Err(not_object("one object a line is needed".to_string()));
    };
    if let Some(Value::Object(inner)) = object.get_mut("translation") {
        object = std::mem::take(inner);
    }
    let mut field = |language: &String| match object.get_mut(language) {
        Some(Value::String(text)) => Ok(std::mem::take(text)),
        found => {
            let what = match found {
                None => {
                    let there: Vec<&str> = object.keys().map(String::as_str).collect();
                    format!("no field \"{language}\" (there: {})", there.join(", "))
                }
                Some(_) => format!("the field \"{language}\" is not a string"),
            };
            Err(Error::Field { file: file.name.clone(), line: file.line, what })
        }
    };
    Ok(Pair { source: field(&languages[0])?, target: field(&languages[1])?, line: file.line })
}

/// All pairs of validation or test text, unfiltered and in order; `corpora` may be empty, a named corpus may not.
pub fn raw_pairs(corpora: &Corpora, data: &DataConfig) -> Result<Vec<(String, String)>, Error> {
    let mut all = Vec::new();
    for corpus in &corpora.0 {
        for pair in Pairs::open(corpus, data)? {
            let pair = pair?;
            all.push((pair.source, pair.target));
        }
    }
    Ok(all)
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
