//! From text to a [`Dataset`]: finds the cache by content, else reads, encodes on all cores, filters and writes it.

use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, Xxh3};

use super::cache::Dataset;
use super::filter::{all_dropped, Filter};
use super::format::{Description, Writer, VERSION};
use super::lines::{locate, open_bytes};
use super::source::{Format, Pair, Pairs};
use super::{Error, Side};
use crate::config::{Corpus, DataConfig};

/// Encodes lines of one side; each result ends with `</s>`, and is empty for a blank line. Called from several threads at once.
pub type Encode<'a> = dyn Fn(Side, &[&str]) -> Result<Vec<Vec<u32>>, String> + Sync + 'a;

/// What to prepare; everything here but the folder and the weights decides which cache file fits.
#[derive(Clone, Copy, Debug)]
pub struct Prepare<'a> {
    /// `train`, languages and filters.
    pub data: &'a DataConfig,
    /// Names the tokenizers by content, both if there are two.
    pub fingerprint: &'a str,
    /// Size of the larger vocabulary; ids are below it.
    pub vocab_size: usize,
    /// Folder of cache files; created if absent.
    pub cache_dir: &'a Path,
}

/// Pairs and bytes of text in memory at once (twice: one block is read while the other is encoded).
const BLOCK_PAIRS: usize = 1 << 14;
const BLOCK_BYTES: usize = 1 << 23;
/// Lines in one call of the encoder.
const CALL: usize = 256;

/// Opens the cache of this text, tokenizer and filters, or makes it. `progress` gets the number of pairs read so far.
///
/// Errors: everything wrong with the text, no corpus, or no pair left after filtering.
pub fn prepare(job: &Prepare, encode: &Encode, progress: &mut dyn FnMut(u64)) -> Result<Dataset, Error> {
    if job.data.train.0.is_empty() {
        return Err(Error::NoCorpora);
    }
    let path = cache_path(job)?;
    let damaged = match Dataset::open(&path, &job.data.train)? {
        Some(Ok(dataset)) => return Ok(dataset),
        Some(Err(what)) => Some(what),
        None => None,
    };
    build(job, &path, encode, progress)?;
    match Dataset::open(&path, &job.data.train)? {
        Some(Ok(mut dataset)) => {
            (dataset.reused, dataset.damaged) = (false, damaged);
            Ok(dataset)
        }
        Some(Err(what)) => Err(Error::Cache { path, what: format!("it was just written, and {what}") }),
        None => Err(Error::Cache { path, what: "it was just written, and is gone".to_string() }),
    }
}

/// The name of the cache file is a hash of all that its content depends on; times of files are not trusted.
fn cache_path(job: &Prepare) -> Result<PathBuf, Error> {
    let data = job.data;
    let mut parts = vec![
        format!(
            "version {VERSION}, tokenizer {:016x}, vocabulary {}",
            xxh3_64(job.fingerprint.as_bytes()),
            job.vocab_size
        ),
        format!("filters {} {} {}", data.min_length, data.max_length, data.max_length_ratio.to_bits()),
    ];
    for corpus in &data.train.0 {
        let format = Format::of(corpus)?;
        parts.push(format!("{format:?}"));
        if format == Format::JsonLines {
            parts.push(format!("{:?}", (&data.source_language, &data.target_language)));
        }
        for file in &corpus.files {
            let zipped = file.ends_with(".gz");
            parts.push(format!("{zipped} {:032x}", content_hash(file)?));
        }
    }
    let mut key = Xxh3::new();
    key.update(parts.join("\n").as_bytes());
    Ok(job.cache_dir.join(format!("pairs-{:032x}.bin", key.digest128())))
}

fn content_hash(name: &str) -> Result<u128, Error> {
    let mut file = open_bytes(name, &locate(name)?)?;
    let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.digest128()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { file: name.to_string(), line: 1, source }),
        }
    }
}

fn build(job: &Prepare, path: &Path, encode: &Encode, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
    let mut filter = Filter::new(job.data);
    let mut writer = Writer::create(path, job.vocab_size)?;
    let mut description =
        Description { read: 0, kept: Vec::new(), dropped: Vec::new(), source_tokens: 0, target_tokens: 0 };
    for (index, corpus) in job.data.train.0.iter().enumerate() {
        let mut kept = 0;
        let mut pairs = Pairs::open(corpus, job.data)?;
        let mut block = read_block(&mut pairs)?;
        while !block.is_empty() {
            let (next, encoded) = rayon::join(|| read_block(&mut pairs), || encode_block(job, corpus, &block, encode));
            for (pair, (source, target)) in block.iter().zip(encoded?) {
                if filter.keep(source.len(), target.len(), index, pair.line) {
                    writer.push(&source, &target, pair.line)?;
                    kept += 1;
                    description.source_tokens += source.len() as u64;
                    description.target_tokens += target.len() as u64;
                }
            }
            description.read += block.len() as u64;
            if description.read > u64::from(u32::MAX) {
                return Err(Error::TooMany { read: description.read });
            }
            progress(description.read);
            block = next?;
        }
        description.kept.push(kept);
    }
    description.dropped = filter.into_dropped();
    if description.kept.iter().all(|&kept| kept == 0) {
        return Err(all_dropped(description.read, &description.dropped, job.data));
    }
    writer.finish(&description)
}

fn read_block(pairs: &mut Pairs) -> Result<Vec<Pair>, Error> {
    let (mut block, mut bytes) = (Vec::new(), 0);
    while block.len() < BLOCK_PAIRS && bytes < BLOCK_BYTES {
        let Some(pair) = pairs.next() else { break };
        let pair = pair?;
        bytes += pair.source.len() + pair.target.len();
        block.push(pair);
    }
    Ok(block)
}

type EncodedPair = (Vec<u32>, Vec<u32>);

fn encode_block(job: &Prepare, corpus: &Corpus, block: &[Pair], encode: &Encode) -> Result<Vec<EncodedPair>, Error> {
    let calls: Vec<Vec<EncodedPair>> = block
        .par_chunks(CALL)
        .map(|pairs| {
            let side = |side, text: fn(&Pair) -> &str, file: Option<&String>| {
                let lines: Vec<&str> = pairs.iter().map(text).collect();
                encode_lines(side, &lines, job.vocab_size, encode).map_err(|what| Error::Encode {
                    file: file.cloned().unwrap_or_default(),
                    line: pairs[0].line,
                    what,
                })
            };
            let source = side(Side::Source, |pair| &pair.source, corpus.files.first())?;
            let target = side(Side::Target, |pair| &pair.target, corpus.files.last())?;
            Ok(source.into_iter().zip(target).collect())
        })
        .collect::<Result<_, Error>>()?;
    Ok(calls.into_iter().flatten().collect())
}

fn encode_lines(side: Side, lines: &[&str], vocab_size: usize, encode: &Encode) -> Result<Vec<Vec<u32>>, String> {
    let encoded = encode(side, lines)?;
    if encoded.len() != lines.len() {
        return Err(format!("the tokenizer returned {} results for {} lines", encoded.len(), lines.len()));
    }
    for ids in &encoded {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(format!("the tokenizer returned id {id}, outside its vocabulary of {vocab_size}"));
        }
    }
    Ok(encoded)
}
