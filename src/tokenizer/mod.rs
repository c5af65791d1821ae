//! Text to token ids and back: loads a `tokenizer.json`, or trains BPE or Unigram subwords.
//!
//! Every tokenizer, loaded or trained, ends up in one shape: dense ids, `</s>` (by whatever name) at the end of each
//! encoded line, and a padding token as the last id, whose embedding row the model keeps at zero.
//!
//! | file | owns |
//! |---|---|
//! | `bpe` | learns byte-pair merges |
//! | `kinds` | files that lie beside a `tokenizer.json` or are mistaken for one |
//! | `lines` | lines of text as ids, and ids as lines |
//! | `load` | reads a `tokenizer.json` and gives it the shape that training needs |
//! | `round_trip` | what becomes of text that is made into ids and back: all that a perfect model could say |
//! | `scheme` | how the pieces of a tokenizer spell words |
//! | `sentencepiece` | reads SentencePiece models |
//! | `template` | the parts of a trained `tokenizer.json` that are the same for every vocabulary |
//! | `train` | trains a tokenizer on text |
//! | `unigram` | trains a Unigram model (Kudo 2018) with the crate's trainer, made deterministic |
//! | `words` | words between spaces: counting them for training, remembering their ids for encoding |

mod bpe;
mod kinds;
mod lines;
mod load;
mod round_trip;
mod scheme;
mod sentencepiece;
mod template;
mod train;
mod unigram;
mod words;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::config::TokenizerConfig;
use crate::fsio;
pub use lines::is_blank;
pub use round_trip::RoundTrip;
use scheme::Scheme;
use words::WordCache;

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

/// One vocabulary with its rules.
pub struct Tokenizer {
    inner: Inner,
    unk: u32,
    eos: u32,
    pad: u32,
    added: Vec<String>,
    fingerprint: String,
    scheme: Scheme,
    /// Remembered words, where the rules allow to encode word by word; one map for each thread at work.
    caches: Option<Mutex<Vec<WordCache>>>,
}

/// Whose file a `tokenizer.json` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Anybody's, for a new run.
    Foreign,
    /// A run's, which knows it by its fingerprint.
    Run,
}

/// Lines that one thread encodes at a time; also how long a cache is held.
const CHUNK: usize = 256;

impl Tokenizer {
    /// Reads a `tokenizer.json` or a Unigram model of SentencePiece, gzipped or not. Missing special tokens are added, see [`Tokenizer::added`].
    ///
    /// # Errors
    /// When it can not be read, is no such file, or its ids have holes.
    pub fn load(path: &Path) -> Result<Self> {
        load::load(path, Origin::Foreign)
    }

    /// Reads the `tokenizer.json` of a run. Its [`Tokenizer::fingerprint`] is that of the file as it is.
    ///
    /// # Errors
    /// Those of [`Tokenizer::load`].
    pub fn load_saved(path: &Path) -> Result<Self> {
        load::load(path, Origin::Run)
    }

    /// Trains on lines of text. The same lines in the same order give the same tokenizer, on any number of threads.
    ///
    /// # Errors
    /// Text without words, a vocabulary too small for its characters, an unknown normalization.
    pub fn train(config: &TokenizerConfig, lines: impl Iterator<Item = String>) -> Result<Self> {
        train::train(config, lines)
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
        self.encode_plain(line).map(|ids| self.ended(ids))
    }

    fn encode_chunk(&self, lines: &[&str]) -> Result<Vec<Vec<u32>>> {
        let Some(caches) = &self.caches else {
            return lines.iter().map(|line| self.encode(line)).collect();
        };
        let take = |caches: &Mutex<Vec<WordCache>>| caches.lock().ok().and_then(|mut free| free.pop());
        let mut cache = take(caches).unwrap_or_default();
        let ids = lines.iter().map(|line| {
            let stand_alone = |word: &str| words::stand_alone(&self.inner, word);
            let ids = cache.encode(line, |text| self.encode_plain(text), stand_alone)?;
            Ok(self.ended(ids))
        });
        let ids = ids.collect();
        if let Ok(mut free) = caches.lock() {
            free.push(cache);
        }
        ids
    }

    /// Without `</s>`.
    fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(library)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn ended(&self, mut ids: Vec<u32>) -> Vec<u32> {
        ids.push(self.eos);
        ids
    }

    /// Text of ids; special tokens are left out.
    ///
    /// # Errors
    /// When the decoder of a tokenizer of others fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        round_trip::decode(&self.inner, ids).map_err(library)
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
        self.inner.id_to_token(id)
    }

    /// The word that a piece stands for or begins, whatever marks words in this tokenizer; `None` for parts of words
    /// and special tokens.
    pub fn word(&self, id: u32) -> Option<String> {
        let (token, text) = (self.token(id)?, self.decode(&[id]).ok()?);
        self.scheme.word(&token, &text)
    }

    /// All tokens by id.
    pub fn tokens(&self) -> Vec<String> {
        (0..=self.pad).map(|id| self.token(id).unwrap_or_default()).collect()
    }

    /// One sentence for each special token that the file lacked.
    pub fn added(&self) -> &[String] {
        &self.added
    }

    /// The `tokenizer.json`, which other tools turn into the same ids; but where a text holds the name of a special
    /// token they take it for the token, unless told `encode_special_tokens`, which the file can not hold.
    ///
    /// # Errors
    /// When the library can not write it.
    pub fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(library)
    }

    /// Hash of everything that decides about ids, 32 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// The tokenizers of both sides; with a joint vocabulary they are the same.
#[derive(Clone)]
pub struct Tokenizers {
    pub source: Arc<Tokenizer>,
    pub target: Arc<Tokenizer>,
}

/// The source's or the joint tokenizer in the folder of a run.
pub const FILE: &str = "tokenizer.json";
/// The target's, where it is another.
pub const TARGET_FILE: &str = "tokenizer.target.json";

impl Tokenizers {
    /// One for both sides.
    pub fn joint(tokenizer: Tokenizer) -> Self {
        let tokenizer = Arc::new(tokenizer);
        Tokenizers { source: Arc::clone(&tokenizer), target: tokenizer }
    }

    /// One for each side.
    pub fn separate(source: Tokenizer, target: Tokenizer) -> Self {
        Tokenizers { source: Arc::new(source), target: Arc::new(target) }
    }

    /// Loads the source's and, unless it is the same, the target's file.
    ///
    /// # Errors
    /// Those of [`Tokenizer::load`].
    pub fn load(source: &Path, target: Option<&Path>) -> Result<Self> {
        Self::load_each(source, target, Tokenizer::load)
    }

    /// Loads what [`Tokenizers::save`] wrote.
    ///
    /// # Errors
    /// Those of [`Tokenizer::load`].
    pub fn load_saved(folder: &Path) -> Result<Self> {
        let target = folder.join(TARGET_FILE);
        Self::load_each(&folder.join(FILE), target.exists().then_some(target.as_path()), Tokenizer::load_saved)
    }

    fn load_each(source: &Path, target: Option<&Path>, load: fn(&Path) -> Result<Tokenizer>) -> Result<Self> {
        let first = load(source)?;
        match target {
            Some(target) if target != source => Ok(Self::separate(first, load(target)?)),
            _ => Ok(Self::joint(first)),
        }
    }

    /// Writes `tokenizer.json`, and `tokenizer.target.json` when the sides differ.
    ///
    /// # Errors
    /// When a file can not be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fsio::write_atomic(&folder.join(FILE), self.source.to_json()?.as_bytes())?;
        if !self.is_joint() {
            fsio::write_atomic(&folder.join(TARGET_FILE), self.target.to_json()?.as_bytes())?;
        }
        Ok(())
    }

    /// Whether both sides share one vocabulary.
    pub fn is_joint(&self) -> bool {
        Arc::ptr_eq(&self.source, &self.target)
    }

    /// What was added to loaded files, one sentence each.
    pub fn added(&self) -> Vec<String> {
        let sides: &[&Arc<Tokenizer>] = if self.is_joint() { &[&self.source] } else { &[&self.source, &self.target] };
        sides.iter().flat_map(|side| side.added().to_vec()).collect()
    }

    /// Hash of both sides.
    pub fn fingerprint(&self) -> String {
        match self.is_joint() {
            true => self.source.fingerprint().to_string(),
            false => format!("{}-{}", self.source.fingerprint(), self.target.fingerprint()),
        }
    }
}

/// A special token of that name.
fn special(name: &str) -> AddedToken {
    AddedToken::from(name, true)
}
