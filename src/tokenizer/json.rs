//! The engine of tokenizers that are a `tokenizer.json`: the tokenizers crate, and words remembered where its rules allow.

use std::sync::Mutex;

use tokenizers::Tokenizer as Inner;

use super::scheme::Scheme;
use super::words::{self, WordCache};
use super::{library, round_trip, Result};

/// See the module.
pub(super) struct Json {
    pub(super) inner: Inner,
    scheme: Scheme,
    /// Remembered words, where the rules allow to encode word by word; one map for each thread at work.
    caches: Option<Mutex<Vec<WordCache>>>,
}

impl Json {
    pub(super) fn new(inner: Inner) -> Self {
        let caches = words::is_word_by_word(&inner).then(Mutex::default);
        let scheme = Scheme::of(&inner);
        Json { inner, scheme, caches }
    }

    /// Ids of each line, without `</s>`.
    ///
    /// # Errors
    /// When a tokenizer of others can not encode the text, say for want of an unknown token.
    pub(super) fn encode_chunk(&self, lines: &[&str]) -> Result<Vec<Vec<u32>>> {
        let Some(caches) = &self.caches else {
            return lines.iter().map(|line| self.encode(line)).collect();
        };
        let take = |caches: &Mutex<Vec<WordCache>>| caches.lock().ok().and_then(|mut free| free.pop());
        let mut cache = take(caches).unwrap_or_default();
        let stand_alone = |word: &str| words::stand_alone(&self.inner, word);
        let ids = lines.iter().map(|line| cache.encode(line, |text| self.encode(text), stand_alone)).collect();
        if let Ok(mut free) = caches.lock() {
            free.push(cache);
        }
        ids
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
