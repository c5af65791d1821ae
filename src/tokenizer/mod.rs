//! Text to token ids and back: loads a `tokenizer.json` or a SentencePiece model, or trains BPE or Unigram subwords.
//!
//! Every tokenizer, loaded or trained, ends up in one shape: dense ids, `</s>` (by whatever name) at the end of each
//! encoded line, and a padding token as the last id, whose embedding row the model keeps at zero.
//!
//! | file | owns |
//! |---|---|
//! | `bpe` | learns byte-pair merges |
//! | `converted` | SentencePiece models as `tokenizer.json`, for export |
//! | `huggingface` | the files that Hugging Face programs read |
//! | `json` | the engine of tokenizers that are a `tokenizer.json` |
//! | `kinds` | files that lie beside a `tokenizer.json` or are mistaken for one |
//! | `lines` | lines of text as ids, and ids as lines |
//! | `load` | reads a `tokenizer.json` and gives it the shape that training needs |
//! | `round_trip` | what becomes of text that is made into ids and back: all that a perfect model could say |
//! | `sampling` | training text cut anew each time it is read |
//! | `scheme` | how the pieces of a tokenizer spell words |
//! | `sides` | the tokenizers of both sides, and their files in the folder of a run |
//! | `spm` | the engine of tokenizers that are a SentencePiece model with a vocabulary |
//! | `spm_files` | tokenizers from SentencePiece files, those of opus-mt among them |
//! | `template` | the parts of a trained `tokenizer.json` that are the same for every vocabulary |
//! | `train` | trains a tokenizer on text |
//! | `unigram` | trains a Unigram model (Kudo 2018) with the crate's trainer, made deterministic |
//! | `vocabulary` | the tokens of a SentencePiece tokenizer by id |
//! | `words` | words between spaces: counting them for training, remembering their ids for encoding |

mod bpe;
mod converted;
mod huggingface;
mod json;
mod kinds;
mod lines;
mod load;
mod round_trip;
mod sampling;
mod scheme;
mod sides;
mod spm;
mod spm_files;
mod template;
mod train;
mod unigram;
mod vocabulary;
mod words;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::AddedToken;

use crate::config::TokenizerConfig;
use crate::fsio;
pub use crate::sentencepiece::{Sampling, Scratch};
pub use huggingface::HuggingFace;
use json::Json;
pub use lines::is_blank;
pub use round_trip::RoundTrip;
pub use sampling::Sampler;
pub use sides::{Tokenizers, FILES};
use spm::Spm;
pub use spm_files::MarianFiles;

/// What can be wrong with a tokenizer or the text it is trained on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] fsio::Error),
    #[error("{path}: not JSON ({reason}); a tokenizer.json of the Hugging Face tokenizers library is needed")]
    NotJson { path: PathBuf, reason: String },
    #[error("{path}: not a tokenizer.json of the Hugging Face tokenizers library: {reason}")]
    NotATokenizer { path: PathBuf, reason: String },
    #[error(
        "{path}: ids with holes: {count} tokens, but the largest id is {largest} and id {hole} has no token; renumber \
         the vocabulary so that its ids are 0 to {}", .count - 1
    )]
    Holes { path: PathBuf, count: usize, largest: u32, hole: u32 },
    #[error(
        "tokenizer.vocab_size = {vocab_size} is too small: the text has {characters} different characters; {needed} \
         is the least that can hold them"
    )]
    VocabTooSmall { vocab_size: usize, characters: usize, needed: usize },
    #[error("{path}: not a SentencePiece model: {reason}")]
    NotAModel { path: PathBuf, reason: String },
    #[error("{path}: not a vocabulary that can be used: {reason}")]
    Vocabulary { path: PathBuf, reason: String },
    #[error(
        "a tokenizer.json holds one tokenizer, and this model has two{why}: Hugging Face can not have it. CTranslate2 can: \
         nmt-train export --format ctranslate2"
    )]
    TwoTokenizers { why: String },
    #[error(
        "a SentencePiece model of whole words, of characters or with spaces behind words can not be a tokenizer.json"
    )]
    Inexpressible,
    #[error("a {model} model does not draw pieces in this way")]
    NotSampled { model: &'static str },
    #[error("the training text has no words to train a tokenizer on")]
    NoText,
    #[error("tokenization failed: {0}")]
    Library(String),
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the library, whose type says nothing.
fn library(error: tokenizers::Error) -> Error {
    Error::Library(error.to_string())
}

/// Names what trains tokenizers, for those that are kept: another number when the same text gives another tokenizer.
pub const TRAINER: &str = "trainer 1";

/// One vocabulary with its rules.
pub struct Tokenizer {
    engine: Engine,
    unk: u32,
    eos: u32,
    pad: u32,
    added: Vec<String>,
    fingerprint: String,
}

/// What turns text into ids and back. Neither knows that lines end with `</s>`.
enum Engine {
    Json(Box<Json>),
    Spm(Box<Spm>),
}

/// Lines that one thread encodes at a time; also how long a cache is held.
const CHUNK: usize = 256;

impl Tokenizer {
    /// Reads a `tokenizer.json` or a SentencePiece model, gzipped or not; a run's `tokenizer.spm` with the vocabulary
    /// beside it. Missing special tokens are added, see [`Tokenizer::added`].
    ///
    /// # Errors
    /// When it can not be read, is no such file, or its ids have holes.
    pub fn load(path: &Path) -> Result<Self> {
        load::load(path, load::Origin::Foreign)
    }

    /// Trains on lines of text. The same lines in the same order give the same tokenizer, on any number of threads. `tags`:
    /// tokens that no text has, each once.
    ///
    /// # Errors
    /// Text without words, a vocabulary too small for its characters, an unknown normalization.
    pub fn train(config: &TokenizerConfig, tags: &[String], lines: impl Iterator<Item = String>) -> Result<Self> {
        train::train(config, tags, lines)
    }

    /// Ids of each line, `</s>` last and only there: the names of special tokens within a line are ordinary text.
    /// Uses all threads.
    ///
    /// # Errors
    /// When a tokenizer of others can not encode the text, say for want of an unknown token.
    pub fn encode_batch(&self, lines: &[&str]) -> Result<Vec<Vec<u32>>> {
        let chunks: Result<Vec<Vec<Vec<u32>>>> =
            lines.par_chunks(CHUNK).map(|chunk| self.encode_chunk(chunk)).collect();
        Ok(chunks?.into_iter().flatten().collect())
    }

    /// As [`Tokenizer::encode_batch`] for one line.
    ///
    /// # Errors
    /// As there.
    pub fn encode(&self, line: &str) -> Result<Vec<u32>> {
        let ids = match &self.engine {
            Engine::Json(json) => json.encode(line)?,
            Engine::Spm(spm) => spm.encode(line),
        };
        Ok(self.ended(ids))
    }

    fn encode_chunk(&self, lines: &[&str]) -> Result<Vec<Vec<u32>>> {
        let ids = match &self.engine {
            Engine::Json(json) => json.encode_chunk(lines)?,
            Engine::Spm(spm) => lines.iter().map(|line| spm.encode(line)).collect(),
        };
        Ok(ids.into_iter().map(|ids| self.ended(ids)).collect())
    }

    fn ended(&self, mut ids: Vec<u32>) -> Vec<u32> {
        ids.push(self.eos);
        ids
    }

    /// Text of ids; special tokens are left out, the unknown one too.
    ///
    /// # Errors
    /// When the decoder of a tokenizer of others fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.engine {
            Engine::Json(json) => json.decode(ids),
            Engine::Spm(spm) => Ok(spm.decode(ids)),
        }
    }

    /// Number of ids, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.pad as usize + 1
    }

    /// The id of unknown text.
    pub fn unk_id(&self) -> u32 {
        self.unk
    }

    /// The id that ends each line.
    pub fn eos_id(&self) -> u32 {
        self.eos
    }

    /// The last id; never in encoded text.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// The text of an id as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.engine {
            Engine::Json(json) => json.inner.id_to_token(id),
            Engine::Spm(spm) => spm.token(id),
        }
    }

    /// The word that a piece stands for or begins, whatever marks words in this tokenizer; `None` for parts of words
    /// and special tokens.
    pub fn word(&self, id: u32) -> Option<String> {
        let (token, text) = (self.token(id)?, self.decode(&[id]).ok()?);
        match &self.engine {
            Engine::Json(json) => json.word(&token, &text),
            Engine::Spm(spm) => spm.word(&token, &text),
        }
    }

    /// All tokens by id.
    pub fn tokens(&self) -> Vec<String> {
        (0..=self.pad).map(|id| self.token(id).unwrap_or_default()).collect()
    }

    /// One sentence for each special token that the file lacked, and for what of it was not taken over.
    pub fn added(&self) -> &[String] {
        &self.added
    }

    /// The `tokenizer.json`, which other tools turn into the same ids; but where a text holds the name of a special
    /// token they take it for the token, unless told `encode_special_tokens`, which the file can not hold. That of a
    /// SentencePiece model comes close: see `converted`.
    ///
    /// # Errors
    /// When the library can not write it, a SentencePiece model that it can not express.
    pub fn to_json(&self) -> Result<String> {
        match &self.engine {
            Engine::Json(json) => json.to_json(),
            Engine::Spm(spm) => spm.to_json(),
        }
    }

    /// The SentencePiece engine, if it is that.
    fn spm(&self) -> Option<&Spm> {
        match &self.engine {
            Engine::Json(_) => None,
            Engine::Spm(spm) => Some(spm),
        }
    }

    /// Hash of everything that decides about ids, 32 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// A special token of that name.
fn special(name: &str) -> AddedToken {
    AddedToken::from(name, true)
}
