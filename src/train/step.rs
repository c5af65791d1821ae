//! One update: forward, backward, finite check, clip, optimizer, average.

use anyhow::Result;

use crate::batch::Batch;
use crate::model::{Forward, Model};
use crate::objective;
use crate::ops;
use crate::optim::{self, Accumulator, Ema, Gradients, Optimizer, StepContext};

/// What one update did.
pub enum Update {
    Done(UpdateStats),
    /// The gradient of this parameter was not finite; nothing was changed.
    NonFinite {
        parameter: String,
    },
}

/// Sums over the micro-batches of one update.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdateStats {
    pub loss: f64,
    pub nll: f64,
    pub tokens: u64,
    pub source_tokens: u64,
    pub grad_norm: f64,
    pub clipped: bool,
}

/// The parts an update works on.
pub struct Stepper<'a> {
    pub model: &'a dyn Model,
    pub optimizer: &'a mut dyn Optimizer,
    pub ema: Option<&'a mut Ema>,
    pub label_smoothing: f64,
    /// Largest norm of the gradient, if there is a limit.
    pub clip_norm: Option<f64>,
}

impl Stepper<'_> {
    /// One update on `micro_batches`; the loss is the mean over all their target tokens. `first_micro_batch` names the
    /// dropout masks.
    pub fn update(&mut self, micro_batches: &[Batch], first_micro_batch: u64, context: &StepContext) -> Result<Update> {
        // on a thread of the pool: from outside, every parallel loop would wake a worker and sleep until it is done
        rayon::scope(|_| self.compute(micro_batches, first_micro_batch, context))
    }

    fn compute(&mut self, micro_batches: &[Batch], first_micro_batch: u64, context: &StepContext) -> Result<Update> {
        let params = self.model.params();
        let tokens: usize = micro_batches.iter().map(|batch| batch.target.tokens()).sum();
        let mut stats = UpdateStats { tokens: tokens as u64, ..Default::default() };
        let mut sum = Accumulator::default();
        for (batch, micro_batch) in micro_batches.iter().zip(first_micro_batch..) {
            let forward = Forward::train(context.seed, micro_batch);
            let (loss, tape) =
                ops::record(|| objective::loss(self.model, batch, &forward, self.label_smoothing, tokens))?;
            stats.loss += loss.loss_sum;
            stats.nll += loss.nll_sum;
            stats.source_tokens += batch.source.tokens() as u64;
            sum.add(Gradients::collect(params, &mut tape.backward(&loss.loss)?)?)?;
        }
        let Some(gradients) = sum.take(1.0)? else { return Ok(Update::Done(stats)) };
        stats.grad_norm = match optim::global_norm(params, &gradients) {
            Err(optim::Error::NonFinite { parameter }) => return Ok(Update::NonFinite { parameter }),
            norm => norm?,
        };
        if let Some(max_norm) = self.clip_norm {
            stats.clipped = optim::clip(&gradients, stats.grad_norm, max_norm)?;
        }
        self.optimizer.step(params, &gradients, context)?;
        if let Some(ema) = self.ema.as_deref_mut() {
            ema.update(params)?;
        }
        Ok(Update::Done(stats))
    }
}
