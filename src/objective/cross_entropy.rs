//! Cross-entropy of a model's predictions, with label smoothing and R-Drop for training, without for measurement.

use candle_core::{Result, Tensor};

use crate::batch::Batch;
use crate::model::{Forward, Model};
use crate::ops::{linear_cross_entropy, token_nll, Criterion, Losses, Targets};

/// The training loss of one micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// Scalar on the tape: what the tokens cost, summed, divided by the tokens of the whole update, so that the
    /// gradients of its micro-batches add up to the gradient of the mean.
    pub loss: Tensor,
    /// The losses of the tokens, smoothed and not, and what R-Drop compared; on a GPU, reading them waits for it.
    pub losses: Losses,
    /// Target tokens, `</s>` included.
    pub tokens: usize,
}

/// Encodes, decodes and compares with the labels. `tokens_in_update`: target tokens of all micro-batches of the update.
///
/// With R-Drop the batch passes the model twice, as one batch of twice its sentences: dropout masks go by the place of a token
/// in the batch, so both have their own.
///
/// # Errors
/// Shape or memory errors of candle, ids outside the vocabulary.
pub fn loss(
    model: &dyn Model,
    batch: &Batch,
    forward: &Forward,
    criterion: Criterion,
    tokens_in_update: usize,
) -> Result<Loss> {
    let output = model.output();
    let [source, target] = [&batch.source, &batch.target].map(|side| side.repeated(criterion.passes()));
    let memory = model.encode(&source, forward)?;
    let states = model.decode(&memory, &target.shifted_right(output.pad), forward)?;
    let targets = Targets { labels: &batch.target.ids, masked: Some(output.pad) };
    let scale = 1.0 / tokens_in_update.max(1) as f64;
    let result = linear_cross_entropy(&states, &output.table, output.bias.as_ref(), targets, criterion, scale)?;
    Ok(Loss { loss: result.loss, losses: result.losses, tokens: batch.target.tokens() })
}

/// Negative log-likelihood of each target sentence (Σ over its tokens); no dropout, no smoothing, no gradients.
///
/// # Errors
/// As [`loss`].
pub fn pair_nlls(model: &dyn Model, batch: &Batch) -> Result<Vec<f64>> {
    let nll = token_nlls(model, batch)?;
    Ok((0..batch.target.len()).map(|i| nll[batch.target.range(i)].iter().sum()).collect())
}

/// The same of each target token, one sentence after the other.
///
/// # Errors
/// As [`loss`].
pub fn token_nlls(model: &dyn Model, batch: &Batch) -> Result<Vec<f64>> {
    let (output, forward) = (model.output(), Forward::eval());
    let memory = model.encode(&batch.source, &forward)?;
    let states = model.decode(&memory, &batch.target.shifted_right(output.pad), &forward)?;
    let targets = Targets { labels: &batch.target.ids, masked: Some(output.pad) };
    token_nll(&states, &output.table, &output.prepacked, output.bias.as_ref(), targets)
}
