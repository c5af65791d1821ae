//! Training text cut anew each time it is read: BPE-dropout (Provilkov et al. 2020) and subword regularization of unigram
//! models (Kudo 2018). Whoever writes or scores text uses the tokenizer itself, which cuts it in one way.
//!
//! A line is spelled once (normalized, cut into the words that the model sees) and drawn from its spelling as often as
//! wanted.
//!
//! | file | owns |
//! |---|---|
//! | `bpe` | pieces drawn from the merges of a `tokenizer.json` |
//! | `spelling` | a line as it is before a model cuts it into pieces, in bytes |
//! | `unigram` | pieces drawn from the Unigram model of a `tokenizer.json` |

mod bpe;
pub(super) mod spelling;
mod unigram;

use std::collections::HashMap;
use std::sync::Arc;

use tokenizers::ModelWrapper;

use super::{Engine, Error, Result, Tokenizer};
use crate::rng::Stream;
use crate::sentencepiece::{ModelType, Sampling, Scratch};
use bpe::Bpe;
use spelling::Word;
use unigram::Unigram;

/// Draws the pieces of lines.
pub struct Sampler {
    tokenizer: Arc<Tokenizer>,
    sampling: Sampling,
    model: Model,
}

/// What draws.
enum Model {
    Bpe(Box<Bpe>),
    Unigram(Box<Unigram>),
    /// The SentencePiece model of the tokenizer.
    Spm,
}

impl Tokenizer {
    /// What kind of model it is, by the name of its paper.
    pub fn model_name(&self) -> &'static str {
        match &self.engine {
            Engine::Json(json) => match json.inner.get_model() {
                ModelWrapper::BPE(_) => "BPE",
                ModelWrapper::Unigram(_) => "Unigram",
                ModelWrapper::WordPiece(_) => "WordPiece",
                ModelWrapper::WordLevel(_) => "WordLevel",
            },
            Engine::Spm(spm) => match spm.model.model_type() {
                ModelType::Bpe => "BPE",
                ModelType::Unigram => "Unigram",
                ModelType::Word => "word",
                ModelType::Char => "character",
            },
        }
    }
}

impl Sampler {
    /// # Errors
    /// A model that can not draw in this way.
    pub fn new(tokenizer: Arc<Tokenizer>, sampling: Sampling) -> Result<Self> {
        let model = match &tokenizer.engine {
            Engine::Spm(spm) => spm.model.can(sampling).then_some(Model::Spm),
            Engine::Json(json) => match (json.inner.get_model(), sampling) {
                (ModelWrapper::BPE(model), Sampling::BpeDropout(_)) => Some(Model::Bpe(Box::new(Bpe::of(model)?))),
                (ModelWrapper::Unigram(model), Sampling::Unigram(_)) => {
                    Some(Model::Unigram(Box::new(Unigram::of(model)?)))
                }
                _ => None,
            },
        };
        match model {
            Some(model) => Ok(Sampler { tokenizer, sampling, model }),
            None => Err(Error::NotSampled { model: tokenizer.model_name() }),
        }
    }

    /// What is drawn, and how.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// What [`Sampler::sample`] reads, of each line.
    ///
    /// # Errors
    /// When a rule of a tokenizer of others fails.
    pub fn spell(&self, lines: &[&str]) -> Result<Vec<Vec<u8>>> {
        match &self.tokenizer.engine {
            Engine::Json(json) => json.spell_chunk(lines),
            Engine::Spm(spm) => Ok(lines.iter().map(|line| spm.spell(line)).collect()),
        }
    }

    /// Adds ids of a spelled line, `</s>` last.
    pub fn sample(&self, spelling: &[u8], scratch: &mut Scratch, rng: &mut Stream, ids: &mut Vec<u32>) {
        for word in spelling::words(spelling) {
            match (word, &self.model, &self.tokenizer.engine) {
                (Word::Token(id), ..) => ids.push(id),
                (Word::Text(text), Model::Spm, Engine::Spm(spm)) => {
                    spm.sample(text, self.sampling, scratch, rng, ids);
                }
                (Word::Text(text), Model::Bpe(bpe), _) => bpe.sample(text, self.strength(), scratch, rng, ids),
                (Word::Text(text), Model::Unigram(unigram), _) => {
                    unigram.sample(text, self.strength(), scratch, rng, ids);
                }
                // a sampler has the model of its tokenizer
                (Word::Text(_), Model::Spm, Engine::Json(_)) => (),
            }
        }
        ids.push(self.tokenizer.eos);
    }

    /// The probability or power.
    fn strength(&self) -> f64 {
        let (Sampling::BpeDropout(strength) | Sampling::Unigram(strength)) = self.sampling;
        strength
    }
}

/// Ids of the tokens that spell unknown text in bytes, by byte, as far as there are.
struct Bytes(Vec<Option<u32>>);

impl Bytes {
    /// `ids` of a vocabulary; of none if unknown text is not spelled.
    fn of(ids: &HashMap<&str, u32>, spells: bool) -> Self {
        let id = |byte: u8| ids.get(format!("<0x{byte:02X}>").as_str()).copied();
        Bytes((0..=255).filter(|_| spells).map(id).collect())
    }

    /// The bytes of a text, if there is a token for each.
    fn spell<'a>(&'a self, text: &'a str) -> Option<impl Iterator<Item = u32> + 'a> {
        let ids = || text.bytes().map(|byte| self.0.get(usize::from(byte)).copied().flatten());
        ids().all(|id| id.is_some()).then(|| ids().flatten())
    }
}
