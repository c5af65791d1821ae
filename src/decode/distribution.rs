//! Next-token distributions from decoder states, `<pad>` excluded, and the mean of the probabilities of several models.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::model::Output;
use crate::ops::{self, Targets};

/// Log-probabilities held at a time, in numbers: 64 MiB.
const CHUNK: usize = 16 << 20;

/// A continuation: token id and log-probability.
pub(super) type Candidate = (u32, f64);

/// The `k` most probable next tokens of each row, best first, equal ones by id; fewer when the vocabulary is smaller.
///
/// `states`: decoder states `[rows, d]` of each model, `outputs`: their output projections. Tokens of probability zero,
/// and of a distribution that is not finite, are left out.
pub(super) fn best_tokens(outputs: &[Output], states: &[Tensor], k: usize) -> Result<Vec<Vec<Candidate>>> {
    if let ([output], [states]) = (outputs, states) {
        return ops::top_log_probabilities(
            states,
            &output.table,
            &output.prepacked,
            output.bias.as_ref(),
            Some(output.pad),
            k,
        );
    }
    over_vocabulary(outputs, states, |_, log_p| {
        let best = ops::top(log_p, k).into_iter().map(|(id, log_p)| (id, f64::from(log_p)));
        best.filter(|(_, log_p)| log_p.is_finite()).collect()
    })
}

/// `of_row(row, log-probabilities)` of each row; arguments as for [`best_tokens`]. The log-probabilities `[V]` are −∞ for
/// `<pad>`; they exist for a part of the rows at a time.
pub(super) fn over_vocabulary<R: Send>(
    outputs: &[Output],
    states: &[Tensor],
    of_row: impl Fn(usize, &[f32]) -> R + Sync,
) -> Result<Vec<R>> {
    let (rows, vocabulary) = (states[0].dim(0)?, outputs[0].table.dim(0)?);
    let step = (CHUNK / vocabulary / states.len()).max(1);
    let mut found = Vec::with_capacity(rows);
    for start in (0..rows).step_by(step) {
        let length = step.min(rows - start);
        let chunk: Result<Vec<Vec<f32>>> = outputs
            .iter()
            .zip(states)
            .map(|(output, states)| log_probabilities(output, &states.narrow(0, start, length)?))
            .collect();
        let chunk = chunk?;
        found.par_extend((0..length).into_par_iter().map(|row| {
            let models: Vec<&[f32]> = chunk.iter().map(|l| &l[row * vocabulary..(row + 1) * vocabulary]).collect();
            match models.as_slice() {
                [alone] => of_row(start + row, alone),
                models => of_row(start + row, &log_mean(models)),
            }
        }));
    }
    Ok(found)
}

/// The log-probability of token `labels[i]` in row `i`; arguments as for [`best_tokens`].
///
/// # Errors
/// A label outside the vocabulary, or `<pad>`.
pub(super) fn token_scores(outputs: &[Output], states: &[Tensor], labels: &[u32]) -> Result<Vec<f64>> {
    let of_model = |(output, states): (&Output, &Tensor)| {
        let targets = Targets { labels, masked: Some(output.pad) };
        ops::token_nll(states, &output.table, &output.prepacked, output.bias.as_ref(), targets)
    };
    let nll = outputs.iter().zip(states).map(of_model).collect::<Result<Vec<_>>>()?;
    Ok((0..labels.len()).map(|i| log_mean_exp(&nll.iter().map(|nll| -nll[i]).collect::<Vec<_>>())).collect())
}

/// `[rows, V]` on the host, −∞ for the masked token.
fn log_probabilities(output: &Output, states: &Tensor) -> Result<Vec<f32>> {
    ops::log_probabilities(states, &output.table, &output.prepacked, output.bias.as_ref(), Some(output.pad))?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()
}

/// log of the mean of the models' probabilities of each token.
fn log_mean(models: &[&[f32]]) -> Vec<f32> {
    let mut mean = vec![0.0f32; models[0].len()];
    for log_p in models {
        mean.iter_mut().zip(*log_p).for_each(|(mean, log_p)| *mean += log_p.exp());
    }
    let count = models.len() as f32;
    mean.iter_mut().for_each(|mean| *mean = (*mean / count).ln());
    mean
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
    use std::sync::Arc;

    fn output(pad: u32) -> Result<Output> {
        let table = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]], &Device::Cpu)?;
        let bias = Some(Tensor::new(&[0f32, 0.0, 0.0, 9.0], &Device::Cpu)?);
        Ok(Output { table, prepacked: Arc::default(), bias, pad })
    }

    #[test]
    fn the_padding_token_has_no_probability_and_the_others_sum_to_one() -> Result<()> {
        let states = Tensor::new(&[[1f32, 2.0], [-1.0, 0.0]], &Device::Cpu)?;
        let best = best_tokens(&[output(3)?], std::slice::from_ref(&states), 9)?;
        assert_eq!(best[0].iter().map(|c| c.0).collect::<Vec<_>>(), [2, 1, 0]);
        for row in &best {
            assert!((row.iter().map(|c| c.1.exp()).sum::<f64>() - 1.0).abs() < 1e-6);
        }
        let scores = token_scores(&[output(3)?], std::slice::from_ref(&states), &[1, 0])?;
        assert!((scores[0] - best[0][1].1).abs() < 1e-6);
        assert!(token_scores(&[output(3)?], &[states], &[1, 3]).is_err());
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
