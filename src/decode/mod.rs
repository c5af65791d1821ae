//! Translation with trained models: beam search or sampling over packed batches with cached decoder states, ensembles, and
//! log-probabilities of given translations.
//!
//! | file | owns |
//! |---|---|
//! | `alignment` | which source token each token of a translation was read from |
//! | `distribution` | next-token distributions from decoder states, and the mean of several models' |
//! | `hypothesis` | a finished translation and the score by which translations of different lengths are compared |
//! | `likelihood` | log-probabilities of given translations, for rescoring n-best lists |
//! | `pairs` | pairs of given source and target ids, cut into batches |
//! | `sampling` | translations that are drawn, not searched for |
//! | `search` | beam search for one sentence, under one length penalty or several, without tensors |
//! | `sentence` | what is decoded of one sentence, step by step, whatever way its tokens are chosen |
//! | `table_model` | a model for tests whose next-token distribution is a table lookup by source and last token |
//! | `translate` | many sentences: sorted by length |
//! | `workers` | batches shared by threads |

mod alignment;
mod distribution;
mod hypothesis;
mod likelihood;
mod pairs;
mod sampling;
mod search;
mod sentence;
#[cfg(test)]
mod table_model;
mod translate;
mod workers;

pub use alignment::alignments;
pub use hypothesis::{Hypothesis, Penalty};
pub use likelihood::log_likelihoods;
pub use sampling::Sampling;
pub use translate::{translate, translate_under};

use crate::config::DecodeConfig;
use crate::model::Model;
use crate::tokenizer::{self, Tokenizer};

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Hypotheses kept a step; 1 = greedy.
    pub beam_size: usize,
    pub penalty: Penalty,
    /// No sequence of so many tokens comes twice in a translation that is searched for; 0 = off.
    pub no_repeat_ngram_size: usize,
    /// Longest translation: this × source tokens + 10 tokens, `</s>` included.
    pub max_length_factor: f64,
    /// Source tokens × `beam_size` decoded together at most; a longer sentence goes alone.
    pub batch_size: usize,
    /// Hypotheses returned a sentence, `beam_size` at most; the best does not depend on it. Of samples, how many are drawn.
    pub n_best: usize,
    /// Draws translations instead of searching.
    pub sampling: Option<Sampling>,
    /// `</s>` of the target vocabulary.
    pub eos: u32,
    /// What the decoder reads first: `<pad>` of the target vocabulary.
    pub start: u32,
}

impl Options {
    /// The configured search for the one best translation, or the one sample.
    pub fn new(config: &DecodeConfig, eos: u32, start: u32) -> Self {
        Options {
            beam_size: config.beam_size,
            penalty: Penalty { kind: config.length_penalty_type, exponent: config.length_penalty },
            no_repeat_ngram_size: config.no_repeat_ngram_size,
            max_length_factor: config.max_length_factor,
            batch_size: config.batch_size,
            n_best: 1,
            sampling: config.sampling.then_some(Sampling {
                top_k: config.top_k,
                top_p: config.top_p,
                temperature: config.temperature,
                seed: config.seed,
                first_line: 0,
            }),
            eos,
            start,
        }
    }

    /// Rows of decoder states of one sentence, at most.
    fn rows(&self) -> usize {
        match self.sampling {
            Some(_) => self.n_best.max(1),
            None => self.beam_size.max(1),
        }
    }

    /// The longest translation of a source of this many tokens, in tokens with `</s>`; at least 1.
    fn max_length(&self, source_tokens: usize) -> usize {
        ((self.max_length_factor.max(0.0) * source_tokens as f64) as usize).saturating_add(10)
    }
}

/// Why there are no translations or scores.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("decoding was stopped")]
    Stopped,
    #[error("decoding needs at least one model")]
    NoModels,
    #[error(
        "models of an ensemble need one target vocabulary: model 1 has {first} tokens, model {number} has {other}"
    )]
    Vocabularies { first: usize, number: usize, other: usize },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result of decoding.
pub type Result<T> = std::result::Result<T, DecodeError>;

/// The best translation of each source as a line of text: what is printed, written and scored.
///
/// # Errors
/// When the tokenizer can not decode.
pub fn best_lines(found: &[Vec<Hypothesis>], target: &Tokenizer) -> tokenizer::Result<Vec<String>> {
    let best = |hypotheses: &Vec<Hypothesis>| target.decode_line(hypotheses.first().map_or(&[], |best| &best.ids));
    found.iter().map(best).collect()
}

fn check_ensemble(models: &[&dyn Model]) -> Result<()> {
    let mut sizes = Vec::with_capacity(models.len());
    for model in models {
        sizes.push(model.output().table.dim(0)?);
    }
    let first = *sizes.first().ok_or(DecodeError::NoModels)?;
    match sizes.iter().position(|&size| size != first) {
        Some(i) => Err(DecodeError::Vocabularies { first, number: i + 1, other: sizes[i] }),
        None => Ok(()),
    }
}
