//! Log-probabilities of given translations, for rescoring n-best lists.

use candle_core::Tensor;

use super::distribution::token_scores;
use super::workers::{self, Watch};
use super::{check_ensemble, pairs, DecodeError, Result};
use crate::batch::Sequences;
use crate::model::{Forward, Model, Output};

/// log P(target | source) of each `(source, target)` pair: the sum over target tokens; both sides end with `</s>`, but a
/// blank source has no ids at all.
///
/// `start`: what the decoder reads first. `batch_size`: target tokens scored together, see [`pairs::batches`]. A pair with
/// an empty source scores 0 when its target has no words either (what [`super::translate`] gives), else −∞. Several models
/// score with the mean of their probabilities of each token.
///
/// # Errors
/// [`DecodeError::Stopped`] when `stop` said so; no models, or models of different vocabularies; errors of candle.
pub fn log_likelihoods(
    models: &[&dyn Model],
    pairs: &[(Vec<u32>, Vec<u32>)],
    start: u32,
    batch_size: usize,
    on_progress: &mut dyn FnMut(usize),
    stop: &dyn Fn() -> bool,
) -> Result<Vec<f64>> {
    check_ensemble(models)?;
    let outputs: Vec<Output> = models.iter().map(|model| model.output()).collect();
    let mut scores: Vec<f64> =
        pairs.iter().map(|(_, target)| if target.len() <= 1 { 0.0 } else { f64::NEG_INFINITY }).collect();
    let batches = pairs::batches(pairs, batch_size);
    let blank = pairs.len() - batches.iter().map(Vec::len).sum::<usize>();
    let compute = |i: usize, watch: &dyn Watch| {
        if watch.stopped() {
            return Err(DecodeError::Stopped);
        }
        let [source, target] = pairs::pack(pairs, &batches[i]);
        let tokens = token_scores(&outputs, &decode(models, &source, &target, start)?, &target.ids)?;
        watch.done(batches[i].len());
        Ok((0..batches[i].len()).map(|n| tokens[target.range(n)].iter().sum()).collect::<Vec<f64>>())
    };
    let found = workers::run(models, batches.len(), blank, compute, on_progress, stop)?;
    batches.iter().flatten().zip(found.iter().flatten()).for_each(|(&i, &score)| scores[i] = score);
    Ok(scores)
}

/// Decoder states of each model at every target position.
fn decode(models: &[&dyn Model], source: &Sequences, target: &Sequences, start: u32) -> Result<Vec<Tensor>> {
    let input = target.shifted_right(start);
    let mut states = Vec::with_capacity(models.len());
    for model in models {
        let memory = model.encode(source, &Forward::eval())?;
        states.push(model.decode(&memory, &input, &Forward::eval())?);
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::super::table_model::TableModel;
    use super::*;

    #[test]
    fn pairs_are_scored_token_by_token_in_any_batch() -> Result<()> {
        let model = TableModel::new(1, 7);
        let pairs = [
            (vec![3, 1], vec![2, 4, 1]),
            (vec![], vec![2, 1]),
            (vec![], vec![1]),
            (vec![5, 2, 1], vec![1]),
            (vec![1], vec![3, 3, 3, 3, 1]),
        ];
        let by_hand = |(source, target): &(Vec<u32>, Vec<u32>)| -> f64 {
            let inputs = std::iter::once(model.pad()).chain(target.iter().copied());
            inputs.zip(target).map(|(last, &token)| model.log_probabilities(source, last)[token as usize]).sum()
        };
        for batch_size in [0, 4, 100] {
            let scores = log_likelihoods(&[&model], &pairs, model.pad(), batch_size, &mut |_| (), &|| false)?;
            assert_eq!(scores[1..3], [f64::NEG_INFINITY, 0.0]);
            for i in [0, 3, 4] {
                assert!((scores[i] - by_hand(&pairs[i])).abs() < 1e-5, "{i}: {} {}", scores[i], by_hand(&pairs[i]));
            }
        }
        Ok(())
    }

    #[test]
    fn a_stop_is_honoured() {
        let model = TableModel::new(1, 7);
        let result = log_likelihoods(&[&model], &[(vec![1], vec![1])], model.pad(), 10, &mut |_| (), &|| true);
        assert!(matches!(result, Err(DecodeError::Stopped)));
    }
}
