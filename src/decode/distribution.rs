//! Next-token distributions from decoder states: log p = log softmax(states · tableᵀ + bias), `<pad>` excluded, and
//! the mean of the probabilities of several models.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::model::Output;

/// Logits held at a time, in numbers: 64 MiB.
const CHUNK: usize = 16 << 20;

/// A continuation: token id and log-probability.
pub(super) type Candidate = (u32, f64);

/// The `k` most probable next tokens of each row, best first, equal ones by id; fewer when the vocabulary is smaller.
///
/// `states`: decoder states `[rows, d]` of each model, `outputs`: their output projections. Tokens of probability zero,
/// and of a distribution that is not finite, are left out.
pub(super) fn best_tokens(outputs: &[Output], states: &[Tensor], k: usize) -> Result<Vec<Vec<Candidate>>> {
    let mut best = Vec::new();
    for_each_chunk(outputs, states, |logits, vocabulary| {
        let rows = logits[0].len() / vocabulary;
        best.par_extend((0..rows).into_par_iter().map(|row| {
            let row: Vec<&[f32]> = logits.iter().map(|l| &l[row * vocabulary..(row + 1) * vocabulary]).collect();
            best_of_row(&row, k)
        }));
    })?;
    Ok(best)
}

/// The log-probability of token `labels[i]` in row `i`; arguments as for [`best_tokens`].
pub(super) fn token_scores(outputs: &[Output], states: &[Tensor], labels: &[u32]) -> Result<Vec<f64>> {
    let mut scores = Vec::with_capacity(labels.len());
    for_each_chunk(outputs, states, |logits, vocabulary| {
        let labels = &labels[scores.len()..scores.len() + logits[0].len() / vocabulary];
        scores.par_extend(labels.par_iter().enumerate().map(|(row, label)| {
            let log_probabilities = logits.iter().map(|l| {
                let row = &l[row * vocabulary..(row + 1) * vocabulary];
                f64::from(row[*label as usize]) - log_sum_exp(row)
            });
            log_mean_exp(&log_probabilities.collect::<Vec<_>>())
        }));
    })?;
    Ok(scores)
}

/// Calls `work` with the logits `[rows, V]` of each model for successive ranges of rows, few enough for the memory.
fn for_each_chunk(outputs: &[Output], states: &[Tensor], mut work: impl FnMut(&[Vec<f32>], usize)) -> Result<()> {
    let (rows, vocabulary) = (states[0].dim(0)?, outputs[0].table.dim(0)?);
    let step = (CHUNK / vocabulary / states.len()).max(1);
    for start in (0..rows).step_by(step) {
        let length = step.min(rows - start);
        let chunk: Result<Vec<Vec<f32>>> = outputs
            .iter()
            .zip(states)
            .map(|(output, states)| masked_logits(output, &states.narrow(0, start, length)?))
            .collect();
        work(&chunk?, vocabulary);
    }
    Ok(())
}

/// `[rows, V]` logits on the host, −∞ for the masked token.
fn masked_logits(output: &Output, states: &Tensor) -> Result<Vec<f32>> {
    let mut logits = states.detach().matmul(&output.table.detach().t()?)?;
    if let Some(bias) = &output.bias {
        logits = logits.broadcast_add(&bias.detach())?;
    }
    let vocabulary = logits.dim(1)?;
    let mut logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    logits.chunks_mut(vocabulary).for_each(|row| row[output.masked as usize] = f32::NEG_INFINITY);
    Ok(logits)
}

fn best_of_row(models: &[&[f32]], k: usize) -> Vec<Candidate> {
    if let [logits] = models {
        // Logits and log-probabilities have the same order.
        let normalizer = log_sum_exp(logits);
        let best = top(logits.iter().copied(), k);
        return finite(best.into_iter().map(|(id, logit)| (id, f64::from(logit) - normalizer)));
    }
    let mut mean = vec![0.0f32; models[0].len()];
    for logits in models {
        let normalizer = log_sum_exp(logits) as f32;
        mean.iter_mut().zip(*logits).for_each(|(mean, logit)| *mean += (logit - normalizer).exp());
    }
    let count = models.len() as f64;
    finite(top(mean.into_iter(), k).into_iter().map(|(id, sum)| (id, (f64::from(sum) / count).ln())))
}

fn finite(candidates: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
    candidates.filter(|(_, log_probability)| log_probability.is_finite()).collect()
}

/// The `k` largest values with their positions, largest first, equal ones in order of position.
fn top(values: impl Iterator<Item = f32>, k: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    let mut least = f32::NEG_INFINITY;
    for (id, value) in (0u32..).zip(values) {
        if value > least {
            let place = best.partition_point(|&(_, other)| other >= value);
            best.insert(place, (id, value));
            if best.len() > k {
                best.pop();
            }
            if best.len() == k {
                least = best[k - 1].1;
            }
        }
    }
    best
}

/// log Σ eˣ; partial sums in a fixed order, so the result is the same on every machine width.
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.chunks(64).map(|chunk| f64::from(chunk.iter().map(|x| (x - max).exp()).sum::<f32>())).sum();
    f64::from(max) + sum.ln()
}

/// log of the mean of eˣ.
fn log_mean_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() == 1 || !max.is_finite() {
        return max;
    }
    max + (values.iter().map(|x| (x - max).exp()).sum::<f64>() / values.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn output(masked: u32) -> Result<Output> {
        let table = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]], &Device::Cpu)?;
        Ok(Output { table, bias: Some(Tensor::new(&[0f32, 0.0, 0.0, 9.0], &Device::Cpu)?), masked })
    }

    #[test]
    fn equal_values_come_in_order_of_id() {
        assert_eq!(top([1.0, 3.0, 3.0, 2.0, 3.0].into_iter(), 3), [(1, 3.0), (2, 3.0), (4, 3.0)]);
        assert_eq!(top([1.0, 2.0].into_iter(), 5), [(1, 2.0), (0, 1.0)]);
    }

    #[test]
    fn the_masked_token_has_no_probability_and_the_others_sum_to_one() -> Result<()> {
        let states = Tensor::new(&[[1f32, 2.0], [-1.0, 0.0]], &Device::Cpu)?;
        let best = best_tokens(&[output(3)?], &[states.clone()], 9)?;
        assert_eq!(best[0].iter().map(|c| c.0).collect::<Vec<_>>(), [2, 1, 0]);
        for row in &best {
            assert!((row.iter().map(|c| c.1.exp()).sum::<f64>() - 1.0).abs() < 1e-6);
        }
        let scores = token_scores(&[output(3)?], &[states], &[1, 3])?;
        assert!((scores[0] - best[0][1].1).abs() < 1e-6);
        assert_eq!(scores[1], f64::NEG_INFINITY);
        Ok(())
    }

    #[test]
    fn ensembles_average_probabilities() -> Result<()> {
        let states = [Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?, Tensor::new(&[[3f32, -1.0]], &Device::Cpu)?];
        let outputs = [output(3)?, output(3)?];
        let alone = |i: usize| token_scores(&outputs[i..=i], &states[i..=i], &[2]);
        let mean = (alone(0)?[0].exp() + alone(1)?[0].exp()) / 2.0;
        let together = token_scores(&outputs, &states, &[2])?[0];
        assert!((together.exp() - mean).abs() < 1e-6);
        let best = best_tokens(&outputs, &states, 3)?;
        let found = best[0].iter().find(|c| c.0 == 2).map(|c| c.1);
        assert!(found.is_some_and(|score| (score - together).abs() < 1e-6), "{best:?}");
        Ok(())
    }

    #[test]
    fn a_distribution_that_is_not_finite_offers_nothing() -> Result<()> {
        let states = Tensor::new(&[[f32::NAN, 2.0]], &Device::Cpu)?;
        assert!(best_tokens(&[output(3)?], &[states], 2)?[0].is_empty());
        Ok(())
    }
}
