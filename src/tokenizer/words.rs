//! Words between spaces: counting them for training, remembering their ids for encoding.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer as Inner;

use super::round_trip::normalized;
use super::{template, Result};

/// Different words kept while counting; twice as many are held for a moment.
const MAX_WORDS: usize = 1 << 20;

/// Counts words between spaces, without those that became too rare to keep in a very large text. Sorted by word. A
/// pure function of the lines and their order.
pub(super) fn count(lines: impl Iterator<Item = String>) -> Vec<(String, u64)> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut rare = 0;
    for line in lines {
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(word.to_string(), 1);
                }
            }
        }
        while counts.len() > 2 * MAX_WORDS {
            rare += 1;
            counts.retain(|_, count| *count > rare);
        }
    }
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_unstable();
    words
}

/// The `limit` most frequent entries, the smaller word first among equals; sorted by word.
pub(super) fn most_frequent(mut words: Vec<(String, u64)>, limit: usize) -> Vec<(String, u64)> {
    if words.len() > limit {
        words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        words.truncate(limit);
        words.sort_unstable();
    }
    words
}

/// Most frequent words only.
pub(super) fn limited(words: Vec<(String, u64)>) -> Vec<(String, u64)> {
    most_frequent(words, MAX_WORDS)
}

/// Whether a line's ids are those of its words, one after the other, which holds for the rules of
/// [`template::pre_tokenizer`]: no normalization reaches over a space, and no token of its own contains one. The words
/// must also [`stand_alone`].
pub(super) fn is_word_by_word(inner: &Inner) -> bool {
    let json = |part: Option<serde_json::Result<Value>>| part.and_then(|value| value.ok()).unwrap_or(Value::Null);
    let pre_tokenizer = json(inner.get_pre_tokenizer().map(serde_json::to_value));
    let normalizer = json(inner.get_normalizer().map(serde_json::to_value));
    let plain = |step: &Value| {
        let name = step["type"].as_str().unwrap_or_default();
        step.is_null() || ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"].contains(&name)
    };
    let normalizes_within_words = match normalizer["normalizers"].as_array() {
        Some(steps) => steps.iter().all(plain),
        None => plain(&normalizer),
    };
    let only_special = inner.get_added_tokens_decoder().values().all(|token| token.special);
    pre_tokenizer == template::pre_tokenizer() && normalizes_within_words && only_special
}

/// Whether a word has the same ids at the start of a line and behind a space. One whose normal form begins with a
/// space (U+00A0, U+00B4, …) has not: the mark of words is put only where there is none yet.
pub(super) fn stand_alone(inner: &Inner, word: &str) -> bool {
    // nothing composes with an ASCII character to a space
    let is_plain = word.bytes().next().is_some_and(|first| first.is_ascii() && first != b' ');
    is_plain || !normalized(inner, word).starts_with([' ', '▁'])
}

/// What words seen before became: ids, or bytes.
pub(super) struct WordCache<T> {
    /// Start and end in `all`; `None` for a word that does not stand alone.
    spans: HashMap<Box<str>, Option<(u32, u32)>>,
    all: Vec<T>,
}

impl<T> Default for WordCache<T> {
    fn default() -> Self {
        WordCache { spans: HashMap::new(), all: Vec::new() }
    }
}

/// Words remembered before starting afresh.
const MAX_CACHED: usize = 1 << 18;
/// Bytes of a word worth remembering.
const MAX_LENGTH: usize = 64;

impl<T: Copy> WordCache<T> {
    /// What a line becomes; `encode` gives that of a word or line that is new, `stand_alone` is the function above.
    ///
    /// # Errors
    /// Those of `encode`.
    pub(super) fn encode(
        &mut self,
        line: &str,
        encode: impl Fn(&str) -> Result<Vec<T>>,
        stand_alone: impl Fn(&str) -> bool,
    ) -> Result<Vec<T>> {
        // spaces at the ends and in a row are tokens of their own
        if line.starts_with(' ') || line.ends_with(' ') || line.contains("  ") || line.contains('▁') {
            return encode(line);
        }
        let mut found = Vec::with_capacity(line.len() / 3);
        for word in line.split(' ') {
            match self.spans.get(word) {
                Some(&Some((start, end))) => {
                    found.extend_from_slice(&self.all[start as usize..end as usize]);
                    continue;
                }
                Some(None) => return encode(line),
                None => (),
            }
            let new = if stand_alone(word) { Some(encode(word)?) } else { None };
            if word.len() <= MAX_LENGTH {
                self.remember(word, new.as_deref());
            }
            match new {
                Some(new) => found.extend(new),
                None => return encode(line),
            }
        }
        Ok(found)
    }

    fn remember(&mut self, word: &str, new: Option<&[T]>) {
        if self.spans.len() >= MAX_CACHED {
            *self = Self::default();
        }
        let start = self.all.len() as u32;
        let span = new.map(|new| {
            self.all.extend_from_slice(new);
            (start, self.all.len() as u32)
        });
        self.spans.insert(word.into(), span);
    }
}
