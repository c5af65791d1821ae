//! Names of a text by its content: of what the cache has of it, and of the text in checkpoints. Times of files are not trusted.

use std::io::Read;

use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, Xxh3};

use super::fields::Columns;
use super::format::VERSION;
use super::lines::{locate, open_bytes};
use super::source::Format;
use super::unzip::{Unzip, MAGIC};
use super::{Error, Prepare};
use crate::config::{Column, Corpus, DataConfig, TokenizerConfig};

/// End of the fingerprint of a text that the first version would encode otherwise.
const CHANGED: &str = "-2";

/// The files of a training text by content.
#[derive(Debug)]
pub struct Contents {
    /// Of each file of each corpus.
    files: Vec<Vec<File>>,
}

#[derive(Debug)]
struct File {
    zipped: bool,
    /// Hash of the bytes as they lie.
    bytes: u128,
    /// The name says that it is zipped.
    called_zipped: bool,
}

impl Contents {
    /// Reads all files of `data.train`, several at a time.
    ///
    /// # Errors
    /// Those of a file that can not be read.
    pub fn read(data: &DataConfig) -> Result<Self, Error> {
        let file = |name: &String| {
            let (bytes, zipped) = hash(name, open_bytes(name, &locate(name)?)?)?;
            Ok(File { zipped, bytes, called_zipped: name.ends_with(".gz") })
        };
        let all: Vec<&String> = data.train.0.iter().flat_map(|corpus| &corpus.files).collect();
        let read: Vec<Result<File, Error>> = all.into_par_iter().map(file).collect();
        let mut read = read.into_iter();
        let corpus = |corpus: &Corpus| read.by_ref().take(corpus.files.len()).collect();
        Ok(Contents { files: data.train.0.iter().map(corpus).collect::<Result<_, Error>>()? })
    }

    /// Name in the cache of the tokenizer that is trained on this text; `version`: of what trains it.
    ///
    /// # Errors
    /// Corpora of no known format.
    pub fn tokenizer(&self, data: &DataConfig, settings: &TokenizerConfig, version: &str) -> Result<String, Error> {
        let TokenizerConfig { kind, vocab_size, joint, normalization, lowercase, .. } = settings;
        let mut parts = vec![format!("{version} {kind:?} {vocab_size} {joint} {normalization:?} {lowercase}")];
        parts.extend(text(data, |corpus, file| Ok(self.bytes(corpus, file)))?);
        Ok(format!("tokenizer-{:032x}", digest(&parts)))
    }

    fn bytes(&self, corpus: usize, file: usize) -> String {
        format!("{:032x}", self.files[corpus][file].bytes)
    }

    /// Name of the cache file, without its ending. Known without unzipping.
    pub(super) fn cache(&self, job: &Prepare) -> Result<String, Error> {
        let name = name(job, VERSION, |corpus, file| Ok(self.bytes(corpus, file)))?;
        Ok(match job.spelled {
            [false, false] => name,
            [true, false] => format!("{name}-spelled-source"),
            [false, true] => format!("{name}-spelled-target"),
            [true, true] => format!("{name}-spelled"),
        })
    }

    /// The fingerprint: a zipped file is its text. Number and form of the first version stay, for they are in
    /// checkpoints; `changed`: some of this text is encoded otherwise than by that version.
    pub(super) fn text(&self, job: &Prepare, changed: bool) -> Result<String, Error> {
        let text = |corpus: usize, file: usize| {
            let known = &self.files[corpus][file];
            let hash = match known.zipped {
                true => {
                    let name = &job.data.train.0[corpus].files[file];
                    hash(name, Unzip::new(open_bytes(name, &locate(name)?)?))?.0
                }
                false => known.bytes,
            };
            Ok(format!("false {hash:032x}"))
        };
        Ok(format!("{}{}", name(job, 1, text)?, if changed { CHANGED } else { "" }))
    }

    /// The fingerprint that the first version gave where this one gives `text`, if it encoded the same.
    pub(super) fn former(&self, job: &Prepare, text: &str) -> Result<Option<String>, Error> {
        if text.ends_with(CHANGED) {
            return Ok(None);
        }
        let former = |corpus: usize, file: usize| {
            let File { bytes, called_zipped, .. } = self.files[corpus][file];
            Ok(format!("{called_zipped} {bytes:032x}"))
        };
        name(job, 1, former).map(Some)
    }
}

/// A hash of all that the encoded pairs depend on; `file` gives what counts of a file of a corpus.
fn name(job: &Prepare, version: u32, file: impl Fn(usize, usize) -> Result<String, Error>) -> Result<String, Error> {
    let data = job.data;
    let mut parts = vec![
        format!(
            "version {version}, tokenizer {:016x}, vocabulary {}",
            xxh3_64(job.fingerprint.as_bytes()),
            job.vocab_size
        ),
        format!("filters {} {} {}", data.min_length, data.max_length, data.max_length_ratio.to_bits()),
    ];
    parts.extend(text(data, file)?);
    Ok(format!("pairs-{:032x}", digest(&parts)))
}

/// What the text depends on, before any tokenizer; `file` as above.
fn text(data: &DataConfig, file: impl Fn(usize, usize) -> Result<String, Error>) -> Result<Vec<String>, Error> {
    let mut parts = Vec::new();
    for (index, corpus) in data.train.0.iter().enumerate() {
        let format = Format::of(corpus)?;
        parts.push(format!("{format:?}"));
        match (format, Columns::named(corpus, data)) {
            (Format::JsonLines, _) => parts.push(format!("{:?}", (&data.source_language, &data.target_language))),
            (Format::TwoFiles, _) | (_, [] | [Column::Number(1), Column::Number(2)]) => {}
            (Format::Tsv, columns) => parts.push(format!("columns {columns:?}")),
        }
        if !corpus.tag.is_empty() {
            parts.push(format!("tag {:?}", corpus.tag));
        }
        for i in 0..corpus.files.len() {
            parts.push(file(index, i)?);
        }
    }
    Ok(parts)
}

fn digest(parts: &[String]) -> u128 {
    let mut key = Xxh3::new();
    key.update(parts.join("\n").as_bytes());
    key.digest128()
}

/// Hash of all bytes, and whether they begin as gzip does.
fn hash(name: &str, mut input: impl Read) -> Result<(u128, bool), Error> {
    let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 18]);
    let mut first = Vec::new();
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok((hash.digest128(), first == MAGIC)),
            Ok(n) => {
                first.extend_from_slice(&buffer[..n.min(MAGIC.len() - first.len())]);
                hash.update(&buffer[..n]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { file: name.to_string(), line: 1, source }),
        }
    }
}
