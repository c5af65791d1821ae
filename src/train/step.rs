//! One update: forward, backward, finite check, clip, optimizer, average.

use anyhow::Result;

use crate::batch::Batch;
use crate::model::{Forward, Model};
use crate::objective;
use crate::optim::{self, Accumulator, Ema, Optimizer, StepContext};

/// What one update did.
pub(super) enum Update {
    Done(UpdateStats),
    /// The gradient of this parameter was not finite; nothing was changed.
    NonFinite { parameter: String },
}

/// Sums over the micro-batches of one update.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UpdateStats {
    pub loss: f64,
    pub nll: f64,
    pub tokens: u64,
    pub source_tokens: u64,
    pub grad_norm: f64,
    pub clipped: bool,
}

/// The parts an update works on.
pub(super) struct Stepper<'a> {
    pub model: &'a dyn Model,
    pub optimizer: &'a mut dyn Optimizer,
    pub ema: Option<&'a mut Ema>,
    pub label_smoothing: f64,
    /// Largest norm; 0 = off.
    pub clip_norm: f64,
    pub seed: u64,
}

impl Stepper<'_> {
    /// One update on the sum of `micro_batches`; the loss is the mean over all their target tokens.
    /// `first_micro_batch` names the dropout masks, `step` counts the updates done before, `lr` includes the schedule.
    pub(super) fn update(&mut self, micro_batches: &[Batch], first_micro_batch: u64, step: u64, lr: f64) -> Result<Update> {
        let params = self.model.params();
        let tokens: usize = micro_batches.iter().map(|batch| batch.target.tokens()).sum();
        let mut stats = UpdateStats { tokens: tokens as u64, ..Default::default() };
        let mut accumulator = Accumulator::new(params);
        for (batch, micro) in micro_batches.iter().zip(first_micro_batch..) {
            let forward = Forward::train(self.seed, micro);
            let loss = objective::loss(self.model, batch, &forward, self.label_smoothing, tokens)?;
            stats.loss += loss.loss_sum;
            stats.nll += loss.nll_sum;
            stats.source_tokens += batch.source.tokens() as u64;
            accumulator.add(params, &loss.loss.backward()?)?;
        }
        let mut gradients = accumulator.finish(params)?;
        stats.grad_norm = optim::global_norm(&gradients)?;
        if !stats.grad_norm.is_finite() || !stats.loss.is_finite() {
            let parameter = optim::first_non_finite(params, &gradients)?.unwrap_or_else(|| "the loss".to_string());
            return Ok(Update::NonFinite { parameter });
        }
        if self.clip_norm > 0.0 {
            stats.clipped = stats.grad_norm > self.clip_norm;
            optim::clip(&mut gradients, stats.grad_norm, self.clip_norm)?;
        }
        self.optimizer.step(params, &gradients, &StepContext { lr, step, seed: self.seed })?;
        if let Some(ema) = self.ema.as_deref_mut() {
            ema.update(params)?;
        }
        Ok(Update::Done(stats))
    }
}
