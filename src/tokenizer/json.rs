//! The engine of tokenizers that are a `tokenizer.json`: the tokenizers crate, and words remembered where its rules allow.

use std::sync::Mutex;

use tokenizers::tokenizer::PreTokenizer;
use tokenizers::{OffsetReferential, OffsetType, Tokenizer as Inner};

use super::sampling::spelling::{self, Word};
use super::scheme::Scheme;
use super::words::{self, WordCache};
use super::{library, round_trip, Result};

/// See the module.
pub(super) struct Json {
    pub(super) inner: Inner,
    scheme: Scheme,
    /// Whether the rules allow to take a line word by word.
    is_word_by_word: bool,
    ids: Caches<u32>,
    spellings: Caches<u8>,
}

/// Remembered words, one map for each thread at work.
type Caches<T> = Mutex<Vec<WordCache<T>>>;

impl Json {
    pub(super) fn new(inner: Inner) -> Self {
        let is_word_by_word = words::is_word_by_word(&inner);
        let scheme = Scheme::of(&inner);
        Json { inner, scheme, is_word_by_word, ids: Caches::default(), spellings: Caches::default() }
    }

    /// Ids of each line, without `</s>`.
    ///
    /// # Errors
    /// When a tokenizer of others can not encode the text, say for want of an unknown token.
    pub(super) fn encode_chunk(&self, lines: &[&str]) -> Result<Vec<Vec<u32>>> {
        self.by_words(lines, &self.ids, |text| self.encode(text))
    }

    /// Each line as it is before the model cuts it, see [`spelling`].
    ///
    /// # Errors
    /// When a rule fails.
    pub(super) fn spell_chunk(&self, lines: &[&str]) -> Result<Vec<Vec<u8>>> {
        self.by_words(lines, &self.spellings, |text| self.spell(text))
    }

    /// What each line becomes, taken word by word where that is the same.
    fn by_words<T: Copy>(
        &self,
        lines: &[&str],
        caches: &Caches<T>,
        become_of: impl Fn(&str) -> Result<Vec<T>>,
    ) -> Result<Vec<Vec<T>>> {
        if !self.is_word_by_word {
            return lines.iter().map(|line| become_of(line)).collect();
        }
        let mut cache = caches.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
        let stand_alone = |word: &str| words::stand_alone(&self.inner, word);
        let found = lines.iter().map(|line| cache.encode(line, &become_of, stand_alone)).collect();
        if let Ok(mut free) = caches.lock() {
            free.push(cache);
        }
        found
    }

    /// Tokens of the file are found, the rest is normalized and cut into words.
    fn spell(&self, text: &str) -> Result<Vec<u8>> {
        let mut cut = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(rules) = self.inner.get_pre_tokenizer() {
            rules.pre_tokenize(&mut cut).map_err(library)?;
        }
        let mut line = Vec::with_capacity(text.len() * 5 / 4);
        for (text, _, tokens) in cut.get_splits(OffsetReferential::Original, OffsetType::None) {
            match tokens {
                Some(tokens) => tokens.iter().for_each(|token| spelling::push(Word::Token(token.id), &mut line)),
                None => spelling::push(Word::Text(text.as_bytes()), &mut line),
            }
        }
        Ok(line)
    }

    /// As [`Json::encode_chunk`] for one line.
    ///
    /// # Errors
    /// As there.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(library)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// # Errors
    /// When the decoder of a tokenizer of others fails.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        round_trip::decode(&self.inner, ids).map_err(library)
    }

    /// See [`Scheme::word`].
    pub(super) fn word(&self, token: &str, text: &str) -> Option<String> {
        self.scheme.word(token, text)
    }

    /// # Errors
    /// When the library can not write it.
    pub(super) fn to_json(&self) -> Result<String> {
        self.inner.to_string(false).map_err(library)
    }
}
