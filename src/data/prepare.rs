//! From text to a [`Dataset`]: finds the cache by content, else reads, encodes on all cores, filters and writes it.

use std::path::Path;

use rayon::prelude::*;

use super::cache::Dataset;
use super::filter::{all_dropped, Filter};
use super::fingerprint::Contents;
use super::format::{Description, Encoded, Writer};
use super::joined::Joined;
use super::source::{Pair, Pairs};
use super::{Error, Side};
use crate::config::{Corpus, DataConfig};

/// Encodes lines of one side; each result ends with `</s>`, and is empty for a blank line. Called from several threads at once.
pub type Encode<'a> = dyn Fn(Side, &[&str]) -> Result<Vec<Vec<u32>>, String> + Sync + 'a;

/// As the tokenizer spells lines of one side that are cut anew in each epoch, see [`Dataset::spelling`].
pub type Spell<'a> = dyn Fn(Side, &[&str]) -> Result<Vec<Vec<u8>>, String> + Sync + 'a;

/// What to prepare; everything here but the folder and the weights decides which cache file fits.
#[derive(Clone, Copy, Debug)]
pub struct Prepare<'a> {
    /// `train`, languages and filters.
    pub data: &'a DataConfig,
    /// The files of `data.train`.
    pub contents: &'a Contents,
    /// Names the tokenizers by content, both if there are two.
    pub fingerprint: &'a str,
    /// Size of the larger vocabulary; ids are below it.
    pub vocab_size: usize,
    /// Whether source and target are cut anew in each epoch, and so to be spelled.
    pub spelled: [bool; 2],
    /// Of each corpus the token before its source lines.
    pub tags: &'a [Option<u32>],
    /// Folder of cache files; created if absent.
    pub cache_dir: &'a Path,
    /// Whether the encoder is asked for whole blocks of lines, one after the other, as one that has others work too.
    pub whole_blocks: bool,
}

/// Pairs and bytes of text in memory at once (twice: one block is read while the other is encoded).
const BLOCK_PAIRS: usize = 1 << 14;
const BLOCK_BYTES: usize = 1 << 23;
/// Lines in one call of the encoder.
const CALL: usize = 256;

/// Opens the cache of this text, tokenizer and filters, or makes it. `progress` gets the number of pairs read so far.
///
/// Errors: everything wrong with the text, no corpus, or no pair left after filtering.
pub fn prepare(job: &Prepare, encode: &Encode, spell: &Spell, progress: &mut dyn FnMut(u64)) -> Result<Dataset, Error> {
    if job.data.train.0.is_empty() {
        return Err(Error::NoCorpora);
    }
    let contents = job.contents;
    let path = job.cache_dir.join(format!("{}.bin", contents.cache(job)?));
    let mut damaged = None;
    let mut found = Dataset::open(&path, &job.data.train)?;
    let reused = matches!(found, Some(Ok(_)));
    if !reused {
        damaged = found.and_then(Result::err);
        build(job, &path, (encode, spell), progress)?;
        found = Dataset::open(&path, &job.data.train)?;
    }
    match found {
        Some(Ok(mut dataset)) => {
            (dataset.reused, dataset.damaged) = (reused, damaged);
            dataset.tags = job.tags.to_vec();
            dataset.former = contents.former(job, &dataset.fingerprint)?;
            Ok(dataset)
        }
        Some(Err(what)) => Err(Error::Cache { path, what: format!("it was just written, and {what}") }),
        None => Err(Error::Cache { path, what: "it was just written, and is gone".to_string() }),
    }
}

fn build(job: &Prepare, path: &Path, tokenizer: (&Encode, &Spell), progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
    let mut filter = Filter::new(job.data);
    let mut writer = Writer::create(path, job.vocab_size)?;
    let mut description = Description { counts: [0, 1].map(|_| vec![0; job.vocab_size]), ..Description::default() };
    // the first version called a line blank only if it is white space
    let newly_blank = |text: &str, side: &Encoded| side.ids.is_empty() && !text.trim().is_empty();
    let mut changed = false;
    for (index, corpus) in job.data.train.0.iter().enumerate() {
        let tag = job.tags.get(index).copied().flatten();
        let mut kept = 0;
        let mut pairs = Pairs::open(corpus, job.data)?;
        let mut block = read_block(&mut pairs)?;
        while !block.is_empty() {
            let (next, encoded) =
                rayon::join(|| read_block(&mut pairs), || encode_block(job, corpus, &block, tokenizer));
            for (pair, (mut source, target)) in block.iter().zip(encoded?) {
                Joined::add(&mut description.joined, pair.joined, index, pair.line);
                changed |= newly_blank(&pair.source, &source) || newly_blank(&pair.target, &target);
                // a line without tokens of its own stays one, and is dropped as such
                source.ids.splice(..0, tag.filter(|_| source.ids.len() > 1));
                if filter.keep(source.ids.len(), target.ids.len(), index, pair.line) {
                    writer.push([&source, &target], pair.line)?;
                    kept += 1;
                    for (counts, side) in description.counts.iter_mut().zip([&source, &target]) {
                        side.ids.iter().for_each(|&id| counts[id as usize] += 1);
                    }
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
    description.fingerprint = job.contents.text(job, changed || description.joined.is_some())?;
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

type EncodedPair = (Encoded, Encoded);

fn encode_block(
    job: &Prepare,
    corpus: &Corpus,
    block: &[Pair],
    (encode, spell): (&Encode, &Spell),
) -> Result<Vec<EncodedPair>, Error> {
    let calls: Vec<Vec<EncodedPair>> = block
        .par_chunks(if job.whole_blocks { BLOCK_PAIRS } else { CALL })
        .map(|pairs| {
            let side = |side: Side, text: fn(&Pair) -> &str, file: Option<&String>| {
                let lines: Vec<&str> = pairs.iter().map(text).collect();
                let ids = encode_lines(side, &lines, job.vocab_size, encode);
                let spellings = match job.spelled[usize::from(side == Side::Target)] {
                    true => spell(side, &lines).and_then(|spellings| for_each(spellings, &lines)),
                    false => Ok(vec![Vec::new(); lines.len()]),
                };
                let encoded = ids.and_then(|ids| Ok(ids.into_iter().zip(spellings?)));
                let encoded = encoded.map_err(|what| Error::Encode {
                    file: file.cloned().unwrap_or_default(),
                    line: pairs[0].line,
                    what,
                })?;
                Ok::<_, Error>(encoded.map(|(ids, spelling)| Encoded { ids, spelling }).collect::<Vec<_>>())
            };
            let source = side(Side::Source, |pair| &pair.source, corpus.files.first())?;
            let target = side(Side::Target, |pair| &pair.target, corpus.files.last())?;
            Ok(source.into_iter().zip(target).collect())
        })
        .collect::<Result<_, Error>>()?;
    Ok(calls.into_iter().flatten().collect())
}

fn encode_lines(side: Side, lines: &[&str], vocab_size: usize, encode: &Encode) -> Result<Vec<Vec<u32>>, String> {
    let encoded = for_each(encode(side, lines)?, lines)?;
    for ids in &encoded {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(format!("the tokenizer returned id {id}, outside its vocabulary of {vocab_size}"));
        }
    }
    Ok(encoded)
}

/// The results, if there is one for each line.
fn for_each<T>(results: Vec<T>, lines: &[&str]) -> Result<Vec<T>, String> {
    match results.len() == lines.len() {
        true => Ok(results),
        false => Err(format!("the tokenizer returned {} results for {} lines", results.len(), lines.len())),
    }
}
