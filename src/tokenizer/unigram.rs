//! Trains a Unigram model (Kudo 2018) with the crate's trainer, made deterministic.

use std::collections::HashMap;

use rayon::ThreadPoolBuilder;
use serde_json::{json, Value};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};

use super::{library, special, words, Error, Result};

/// Words the model is trained on; the trainer's memory grows with their characters.
const MAX_WORDS: usize = 300_000;
/// The step by which the trainer lowers the score of each character that its model lost.
const LOST_STEP: f64 = 1e-4;

/// The model's part of `tokenizer.json` and the number of its pieces: `first` (special tokens, the unknown one at 0)
/// and at most `size` in all.
///
/// The crate's trainer depends on the order of hash maps (order of words, order of lost characters) and on the number
/// of threads (order of sums). Sorted words, one thread and a rewritten order of characters remove all three.
///
/// # Errors
/// Those of the trainer.
pub(super) fn learn(first: &[&str], words: Vec<(String, u64)>, size: usize) -> Result<(Value, usize)> {
    let sentences: Vec<(String, u32)> = words::most_frequent(words, MAX_WORDS)
        .into_iter()
        .map(|(word, count)| (word, u32::try_from(count).unwrap_or(u32::MAX)))
        .collect();
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size(size as u32)
        .special_tokens(first.iter().map(|name| special(name)).collect())
        .unk_token(Some(first[0].to_string()))
        .build()
        .map_err(|e| Error::Library(e.to_string()))?;
    let one_thread = ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| Error::Library(e.to_string()))?;
    let mut model = Unigram::default();
    one_thread.install(|| trainer.do_train(sentences, &mut model)).map_err(library)?;
    let pieces: Vec<(String, f64)> = model.iter().cloned().collect();
    let (specials, learnt) = pieces.split_at(first.len());
    let vocabulary: Vec<Value> =
        specials.iter().cloned().chain(ordered(learnt.to_vec())).map(|(piece, score)| json!([piece, score])).collect();
    let count = vocabulary.len();
    Ok((json!({"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": false}), count))
}

/// Characters that no longer were pieces came back with the lowest scores in random order: rewrite these scores in
/// the order of characters. The best piece first, the smaller text first among equals.
fn ordered(mut pieces: Vec<(String, f64)>) -> Vec<(String, f64)> {
    let is_character = |piece: &str| piece.chars().count() == 1;
    let lowest = pieces.iter().filter(|(piece, _)| is_character(piece)).map(|(_, score)| *score).fold(0.0, f64::min);
    let characters = pieces.iter().filter(|(piece, _)| is_character(piece)).count();
    let lost_below = lowest + LOST_STEP * (characters + 1) as f64;
    let mut lost: Vec<String> =
        pieces.iter().filter(|(p, score)| is_character(p) && *score <= lost_below).map(|(p, _)| p.clone()).collect();
    lost.sort_unstable();
    let scores: HashMap<String, f64> =
        lost.into_iter().enumerate().map(|(i, piece)| (piece, lowest + LOST_STEP * i as f64)).collect();
    for (piece, score) in &mut pieces {
        *score = scores.get(piece).copied().unwrap_or(*score);
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    pieces
}
