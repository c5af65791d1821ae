//! A step that is tried and thrown away: forward and backward over the batch with the most work of an epoch.

use std::time::Instant;

use anyhow::Result;

use crate::config::Config;
use crate::data::Epoch;
use crate::model::{Forward, Model};
use crate::objective;
use crate::ops;
use crate::optim::{self, Gradients};

use super::resources::Resources;

/// What came of it.
pub(super) struct Trial {
    pub(super) pairs: usize,
    pub(super) source_tokens: usize,
    pub(super) target_tokens: usize,
    /// A target token.
    pub(super) loss: f64,
    pub(super) gradient_norm: f64,
    pub(super) seconds: f64,
}

/// Tries the step; the GPU has done it when this returns.
///
/// # Errors
/// Errors of the computation, want of memory among them.
pub(super) fn largest_batch(config: &Config, resources: &Resources, model: &dyn Model, epoch: &Epoch) -> Result<Trial> {
    let batch = epoch.batch(&resources.train, epoch.largest());
    let clock = Instant::now();
    let forward = Forward::train(config.seed, 0);
    let (smoothing, target_tokens) = (config.train.label_smoothing, batch.target.tokens());
    let (loss, tape) = ops::record(|| objective::loss(model, &batch, &forward, smoothing, target_tokens))?;
    let gradients = Gradients::collect(model.params(), &mut tape.backward(&loss.loss)?)?;
    let gradient_norm = optim::global_norm(model.params(), &gradients)?;
    let [loss_sum, _] = loss.losses.sums()?;
    Ok(Trial {
        pairs: batch.pairs.len(),
        source_tokens: batch.source.tokens(),
        target_tokens,
        loss: loss_sum / target_tokens as f64,
        gradient_norm,
        seconds: clock.elapsed().as_secs_f64(),
    })
}
