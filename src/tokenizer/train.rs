//! Trains a tokenizer on text.

use std::collections::HashMap;

use rayon::prelude::*;
use serde_json::{json, Map, Value};
use tokenizers::tokenizer::{NormalizedString, Normalizer, PreTokenizedString, PreTokenizer};
use tokenizers::{NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizerWrapper};

use super::{bpe, library, load, template, unigram, words, Error, Result, Tokenizer};
use crate::config::{TokenizerConfig, TokenizerKind};

/// A character seen less than once in so many is left unknown.
const RARE: u64 = 10_000_000;
/// Share of the text's characters that the vocabulary must know.
const COVERAGE: f64 = 0.9995;

pub(super) fn train(
    config: &TokenizerConfig,
    tags: &[String],
    lines: impl Iterator<Item = String>,
) -> Result<Tokenizer> {
    let tags: Vec<&str> = tags.iter().map(String::as_str).filter(|tag| !template::is_special(tag)).collect();
    let vocab_size = config.vocab_size.saturating_sub(tags.len());
    let normalizer = template::normalizer(config.normalization, config.lowercase);
    let words = cut(words::count(lines), &normalizer)?;
    let alphabet = alphabet(&words, vocab_size)?;
    let words = words::limited(known(words, &alphabet));
    // the last id is for padding
    let size = vocab_size - 1;
    let (model, size) = match config.kind {
        TokenizerKind::Bpe => bpe_model(&alphabet, &words, size),
        TokenizerKind::Unigram => unigram::learn(&template::SPECIALS, words, size)?,
    };
    load::finish(template::file(model, size, &tags, normalizer), load::Origin::Foreign)
        .map_err(|reason| Error::Library(reason.to_string()))
}

fn bpe_model(alphabet: &[char], words: &[(String, u64)], size: usize) -> (Value, usize) {
    let learnt = bpe::learn(&template::SPECIALS, alphabet, words, size);
    let size = learnt.pieces.len();
    let vocab: Map<String, Value> = learnt.pieces.into_iter().zip(0u32..).map(|(p, id)| (p, id.into())).collect();
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": template::SPECIALS[0],
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": learnt.merges,
    });
    (model, size)
}

/// Words as the model will see them: normalized, cut at digits and punctuation. Sorted.
fn cut(words: Vec<(String, u64)>, normalizer: &Value) -> Result<Vec<(String, u64)>> {
    let broken = |e: serde_json::Error| Error::Library(e.to_string());
    let normalizer: Option<NormalizerWrapper> = serde_json::from_value(normalizer.clone()).map_err(broken)?;
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(template::pre_tokenizer()).map_err(broken)?;
    let parts = |(word, count): &(String, u64)| {
        let mut normalized = NormalizedString::from(word.as_str());
        if let Some(normalizer) = &normalizer {
            normalizer.normalize(&mut normalized).map_err(library)?;
        }
        let mut cut = PreTokenizedString::from(normalized);
        pre_tokenizer.pre_tokenize(&mut cut).map_err(library)?;
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::None);
        Ok(splits.into_iter().map(|(part, _, _)| (part.to_string(), *count)).collect())
    };
    let mut merged: HashMap<String, u64> = HashMap::new();
    // parts of a few words at a time: of all they are several times as large as the words
    for words in words.chunks(1 << 16) {
        let parts: Result<Vec<Vec<(String, u64)>>> = words.par_iter().map(parts).collect();
        for (part, count) in parts?.into_iter().flatten() {
            *merged.entry(part).or_insert(0) += count;
        }
    }
    let mut merged: Vec<(String, u64)> = merged.into_iter().collect();
    merged.sort_unstable();
    Ok(merged)
}

/// The characters that become pieces, by code point.
fn alphabet(words: &[(String, u64)], vocab_size: usize) -> Result<Vec<char>> {
    let mut counts: HashMap<char, u64> = HashMap::new();
    for (word, count) in words {
        for character in word.chars() {
            *counts.entry(character).or_insert(0) += count;
        }
    }
    let mut counts: Vec<(char, u64)> = counts.into_iter().collect();
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return Err(Error::NoText);
    }
    counts.retain(|(_, count)| count * RARE >= total);
    // a quarter at least is left for pieces of several characters
    let room = (vocab_size * 3 / 4).saturating_sub(template::SPECIALS.len() + 1);
    let covered: u64 = counts.iter().take(room).map(|(_, count)| count).sum();
    if (covered as f64) < COVERAGE * total as f64 {
        let needed = (counts.len() + template::SPECIALS.len() + 1) * 4 / 3 + 2;
        return Err(Error::VocabTooSmall { vocab_size, characters: counts.len(), needed });
    }
    let mut alphabet: Vec<char> = counts.into_iter().take(room).map(|(character, _)| character).collect();
    alphabet.sort_unstable();
    Ok(alphabet)
}

/// Words cut at characters that are not in the alphabet. Sorted.
fn known(words: Vec<(String, u64)>, alphabet: &[char]) -> Vec<(String, u64)> {
    let is_known = |c: char| alphabet.binary_search(&c).is_ok();
    let mut parts: Vec<(String, u64)> = Vec::with_capacity(words.len());
    for (word, count) in words {
        if word.chars().all(is_known) {
            parts.push((word, count));
            continue;
        }
        let known = word.split(|c| !is_known(c)).filter(|part| !part.is_empty());
        parts.extend(known.map(|part| (part.to_string(), count)));
    }
    parts.sort_unstable();
    parts.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            kept.1 += later.1;
        }
        same
    });
    parts
}
