//! Pairs of words from the model's own attention (Kuang et al. 2018): each target token with the source token that it
//! attends to most, if it does so decidedly.

use candle_core::Result;

use crate::batch::Batch;
use crate::model::{Forward, Model};
use crate::objective::lexicon::WordPair;

/// The pairs of some batches, sorted, each once: ω is the mean weight of its tokens, at least `min_attention`. `</s>` of
/// either side pairs with nothing. One forward pass without dropout; no gradient goes through the weights.
pub(super) fn attended_pairs(model: &dyn Model, batches: &[Batch], min_attention: f64) -> Result<Vec<WordPair>> {
    let mut found: Vec<WordPair> = Vec::new();
    for Batch { source, target, .. } in batches {
        let memory = model.encode(source, &Forward::eval())?;
        let strongest = model.alignment(&memory, &target.shifted_right(model.output().masked))?;
        for i in 0..target.len() {
            let ends = [source.range(i).end, target.range(i).end].map(|end| end.saturating_sub(1));
            for j in target.range(i).start..ends[1] {
                let best = strongest[j];
                if best.weight >= min_attention && best.row < ends[0] {
                    found.push(WordPair { source: source.ids[best.row], target: target.ids[j], weight: best.weight });
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
