//! What a run reads: tokenizers, encoded training pairs, held-out text.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::batch::Batch;
use crate::config::{Config, TiedEmbeddings};
use crate::data::{self, Batching, Contents, Dataset, Epoch, Joined, Prepare};
use crate::exit::InputError;
use crate::metrics::BleuTokenizer;
use crate::model::{pretrained, Model, Vocabulary};
use crate::params::Param;
use crate::ranks::Ranks;
use crate::run::vocabulary;
use crate::scores::Metric;
use crate::tokenizer::{Tokenizer, Tokenizers};
use crate::units;

use super::ranks::{self, Helpers};
use super::segmentation::Segmentation;
use super::survey::Survey;
use super::tokenizers::obtain_tokenizers;
use super::validator::Validator;

/// Inputs of a run.
pub struct Resources {
    pub tokenizers: Tokenizers,
    /// Where the tokenizers came from, for the pre-flight table.
    pub tokenizer_note: String,
    pub train: Dataset,
    pub valid: Option<Validator>,
    pub test: Option<Validator>,
    /// Fields of validation and test text whose line breaks became spaces.
    pub joined: [Option<Joined>; 2],
    /// Warnings about columns of `.tsv` files.
    pub(super) doubtful: Vec<String>,
    pub vocabulary: Vocabulary,
    pub(super) survey: Survey,
    pub(super) segmentation: Segmentation,
    batching: Batching,
    seed: u64,
}

impl Resources {
    /// Reads everything the config names. `known`: tokenizers that are there already, and whose they are; without them
    /// they are those of the config. `note` gets lines for the user.
    ///
    /// # Errors
    /// Everything that is wrong with the text or the tokenizer.
    pub fn load(
        config: &Config,
        known: Option<(Tokenizers, String)>,
        cache_dir: &Path,
        note: &mut dyn FnMut(String),
    ) -> Result<Self> {
        Self::load_with(None, config, known, cache_dir, note)
    }

    /// As [`Resources::load`], with ranks that encode too.
    pub(super) fn load_with(
        helpers: Option<&Helpers>,
        config: &Config,
        known: Option<(Tokenizers, String)>,
        cache_dir: &Path,
        note: &mut dyn FnMut(String),
    ) -> Result<Self> {
        // Held-out text first: it is small, and its faults should show before minutes go into the training text.
        let (wanted, language) = (&config.validation.tokenize, &config.data.target_language);
        let bleu_tokenizer =
            BleuTokenizer::wanted(wanted, language, |file| Ok::<_, anyhow::Error>(data::resolve(file)?))?;
        let valid = data::held_out(&config.data.valid, &config.data)?;
        let test = data::held_out(&config.data.test, &config.data)?;
        let further = |files, corpora, set: &data::HeldOut| data::further_references(files, corpora, set.pairs.len());
        let (validation, text) = (&config.validation, &config.data);
        let valid_references = further(&validation.references, &text.valid, &valid)?;
        let test_references = further(&validation.test_references, &text.test, &test)?;
        let joined = [valid.joined, test.joined];
        let (doubtful, plain): (Vec<_>, Vec<_>) = data::look(&config.data)?.into_iter().partition(|r| r.warning);
        plain.into_iter().for_each(|remark| note(remark.text));
        let doubtful = doubtful.into_iter().map(|remark| remark.text).collect();
        let contents = Contents::read(&config.data)?;
        let (tokenizers, tokenizer_note) = match known {
            Some(known) => known,
            None => obtain_tokenizers(config, Some((&contents, cache_dir)), note)?,
        };
        if config.model.tied_embeddings == TiedEmbeddings::All && !tokenizers.share_vocabulary() {
            return Err(InputError::new(
                "model.tied_embeddings = \"all\" needs one vocabulary for both sides, those of the tokenizers differ; set it \
                 to \"decoder\" or \"none\", or use one tokenizer for both",
            )
            .into());
        }
        let mut segmentation = Segmentation::new(config, &tokenizers)?;
        if let Some(helpers) = helpers {
            helpers.begin(&tokenizers)?;
        }
        let text = (&contents, cache_dir);
        let train = encode_training_text(config, &tokenizers, &segmentation, text, helpers, note)?;
        segmentation.measure(&train);
        let held_out = |text: Vec<(String, String)>, references| -> Result<Option<Validator>> {
            match text.is_empty() {
                true => Ok(None),
                false => Validator::new(text, references, &tokenizers, bleu_tokenizer.clone()).map(Some),
            }
        };
        let mut valid = held_out(valid.pairs, valid_references)?;
        if let Some(valid) = valid.as_mut().filter(|_| config.validation.metrics.contains(&Metric::Nll)) {
            valid.set_ranks(Ranks::of(&train.counts[1][..tokenizers.target.vocab_size()]));
        }
        let test = held_out(test.pairs, test_references)?;
        let sets = [("data.valid", valid.as_ref()), ("data.test", test.as_ref())];
        let survey = Survey::of(&config.data, &tokenizers, &train, sets)?;
        if let Some(set) = survey.held_out.iter().find(|set| set.blank == set.pairs) {
            return Err(InputError::new(format!("{}: no pair has text on both sides", set.name)).into());
        }
        let vocabulary = vocabulary(&tokenizers);
        let batching = Batching { size: config.train.batch_size.or(1), kind: config.train.batch_type };
        let seed = config.seed;
        Ok(Resources {
            tokenizers,
            tokenizer_note,
            train,
            valid,
            test,
            joined,
            doubtful,
            vocabulary,
            survey,
            segmentation,
            batching,
            seed,
        })
    }

    /// Batches of another size from here on.
    pub(super) fn set_batch_size(&mut self, size: usize) {
        self.batching.size = size;
    }

    /// The batches of an epoch.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        Epoch::new(&self.segmentation.expected(&self.train), self.seed, epoch, self.batching)
    }

    /// Batch `i` of an epoch.
    pub fn batch(&self, epoch: &Epoch, i: usize) -> Batch {
        self.segmentation.batch(&self.train, epoch, i)
    }
}

fn encode_training_text(
    config: &Config,
    tokenizers: &Tokenizers,
    segmentation: &Segmentation,
    (contents, cache_dir): (&Contents, &Path),
    helpers: Option<&Helpers>,
    note: &mut dyn FnMut(String),
) -> Result<Dataset> {
    let tags = tags(config, &tokenizers.source)?;
    let job = Prepare {
        data: &config.data,
        contents,
        fingerprint: &tokenizers.fingerprint(),
        vocab_size: tokenizers.source.vocab_size().max(tokenizers.target.vocab_size()),
        spelled: segmentation.sides(),
        tags: &tags,
        cache_dir,
        whole_blocks: helpers.is_some(),
    };
    let encode = |side, lines: &[&str]| match helpers {
        Some(helpers) => helpers.encode(tokenizers, side, lines),
        None => ranks::encoded(tokenizers, side, lines),
    };
    let mut told = 0;
    let mut progress = |pairs: u64| {
        if pairs / 500_000 > told {
            told = pairs / 500_000;
            note(format!("encoding the training text: {} pairs", units::count(pairs)));
        }
    };
    let spell = |side, lines: &[&str]| segmentation.spell(side, lines);
    let dataset = data::prepare(&job, &encode, &spell, &mut progress)?;
    if let Some(damage) = dataset.damaged {
        note(format!("the cached encoding of the training text was made again: {damage}"));
    }
    Ok(dataset)
}

/// The ids of the tags of all corpora.
///
/// # Errors
/// A tag that is no token of the vocabulary, or has another meaning.
fn tags(config: &Config, source: &Tokenizer) -> Result<Vec<Option<u32>>> {
    let refused = |tag: &str, what: &str| {
        Err(InputError(format!(
            "data.train: tag = \"{tag}\" {what}; a tokenizer that is trained with this corpus would have it: leave \
             tokenizer.path empty, or name a token of the one that is given which no text has, as <s>"
        ))
        .into())
    };
    let own = [source.unk_id(), source.eos_id(), source.pad_id()];
    let tokens = if config.data.train.tags().is_empty() { Vec::new() } else { source.tokens() };
    let id = |tag: &str| match tokens.iter().position(|token| token == tag) {
        _ if tag.is_empty() => Ok(None),
        None => refused(tag, "is no token of the source's vocabulary"),
        Some(id) if own.contains(&(id as u32)) => refused(tag, "has a meaning of its own"),
        Some(id) => Ok(Some(id as u32)),
    };
    config.data.train.0.iter().map(|corpus| id(&corpus.tag)).collect()
}

/// Folder of encoded corpora for a run.
pub(super) fn cache_dir(config: &Config, run: &Path) -> PathBuf {
    match config.data.cache_dir.as_str() {
        "" => run.parent().unwrap_or(Path::new(".")).join("cache"),
        folder => PathBuf::from(folder),
    }
}

/// A file of word vectors and what was used of it.
pub(super) struct Vectors {
    pub(super) file: String,
    pub(super) report: pretrained::Report,
}

impl std::fmt::Display for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.report)
    }
}

/// Fills embedding tables with the word vectors that the config names.
///
/// # Errors
/// Unreadable files, vectors of another width.
pub(super) fn fill_pretrained(config: &Config, tokenizers: &Tokenizers, model: &dyn Model) -> Result<Vec<Vectors>> {
    let tables: Option<[&Param; 2]> = model.params().embeddings();
    let files = [
        (&config.model.pretrained_embeddings, tables.map(|tables| tables[0]), &tokenizers.source),
        (&config.model.pretrained_target_embeddings, tables.map(|tables| tables[1]), &tokenizers.target),
    ];
    let mut used = Vec::new();
    for (file, table, tokenizer) in files.into_iter().filter(|(file, ..)| !file.is_empty()) {
        let Some(table) = table else { continue };
        let report = pretrained::fill(table, &data::resolve(file)?, &|id| tokenizer.word(id))?;
        used.push(Vectors { file: file.clone(), report });
    }
    Ok(used)
}
