//! What becomes of text that is made into ids and back: all that a perfect model could say.

use tokenizers::{NormalizedString, Normalizer, Tokenizer as Inner};

use super::{Engine, Result, Tokenizer};

/// The way of a line to ids and back. Spaces do not count but where there were none: metrics do not see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundTrip {
    Same,
    /// Changed by the tokenizer's own normalization only, into this.
    Normalized(String),
    /// Part of the line is unknown.
    Unknown,
    /// Comes back as this.
    Different(String),
}

impl Tokenizer {
    /// Compares a line with what its `ids` are decoded to.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn round_trip(&self, line: &str, ids: &[u32]) -> Result<RoundTrip> {
        let back = self.decode_line(ids)?;
        Ok(match () {
            () if tidy(&back) == tidy(line) => RoundTrip::Same,
            () if ids.contains(&self.unk_id()) => RoundTrip::Unknown,
            () if self.is_normalized(line, &back) => RoundTrip::Normalized(back),
            () => RoundTrip::Different(back),
        })
    }

    /// Whether both are the same text to the tokenizer.
    fn is_normalized(&self, line: &str, back: &str) -> bool {
        match &self.engine {
            Engine::Json(json) => is_normalized(&json.inner, line, back),
            Engine::Spm(spm) => tidy(&spm.normalized(line)) == tidy(&spm.normalized(back)),
        }
    }
}

/// Text of ids without special tokens.
pub(super) fn decode(inner: &Inner, ids: &[u32]) -> tokenizers::Result<String> {
    let is_special = |id: &u32| {
        let token = inner.id_to_token(*id);
        token.is_none_or(|token| inner.get_added_vocabulary().is_special_token(&token))
    };
    // some of the library's decoders panic when there is nothing to decode
    match ids.iter().all(is_special) {
        true => Ok(String::new()),
        false => inner.decode(ids, true),
    }
}

/// The number of `lines` that come back.
pub(super) fn round_trips(inner: &Inner, lines: &[String]) -> usize {
    let back = |line: &str| {
        let ids = inner.encode_fast(line, false).ok()?.get_ids().to_vec();
        decode(inner, &ids).ok()
    };
    lines.iter().filter(|line| back(line).is_some_and(|back| is_normalized(inner, line, &back))).count()
}

/// Whether both are the same text to the tokenizer.
fn is_normalized(inner: &Inner, line: &str, back: &str) -> bool {
    tidy(&normalized(inner, line)) == tidy(&normalized(inner, back))
}

fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text as the model of the tokenizer sees it.
pub(super) fn normalized(inner: &Inner, text: &str) -> String {
    let mut string = NormalizedString::from(text);
    match inner.get_normalizer().map(|normalizer| normalizer.normalize(&mut string)) {
        Some(Err(_)) => text.to_string(),
        _ => string.get().to_string(),
    }
}
