//! Pairs of words from the model's own attention (Kuang et al. 2018): each target token with the source token that it
//! attends to most, if it does so decidedly.

use candle_core::Result;

use crate::batch::Batch;
use crate::model::{Forward, Model};
use crate::objective::lexicon::WordPair;

/// The pairs of some batches, sorted, each once: ω is the mean weight of its tokens, at least `min_attention`. `</s>` of
/// either side pairs with nothing. One forward pass without dropout; no gradient goes through the weights.
pub(super) fn attended_pairs(model: &dyn Model, batches: &[&Batch], min_attention: f64) -> Result<Vec<WordPair>> {
    let mut found: Vec<WordPair> = Vec::new();
    for Batch { source, target, .. } in batches {
        let memory = model.encode(source, &Forward::eval())?;
        let strongest = model.alignment(&memory, &target.shifted_right(model.output().pad))?;
        for i in 0..target.len() {
            let (own, source_end) = (target.range(i), source.range(i).end.saturating_sub(1));
            // the last of each side is </s>
            let words = target.ids[own.clone()].iter().zip(&strongest[own.clone()]).take(own.len().saturating_sub(1));
            for (&word, best) in words {
                if best.weight >= min_attention && best.row < source_end {
                    found.push(WordPair { source: source.ids[best.row], target: word, weight: best.weight });
                }
            }
        }
    }
    found.sort_by_key(|pair| (pair.source, pair.target));
    let same = |a: &WordPair, b: &WordPair| (a.source, a.target) == (b.source, b.target);
    let mean = |pairs: &[WordPair]| {
        let weight = pairs.iter().map(|pair| pair.weight).sum::<f64>() / pairs.len() as f64;
        WordPair { weight, ..pairs[0] }
    };
    Ok(found.chunk_by(same).map(mean).collect())
}
