//! One update: forward, backward, finite check, clip, optimizer, average.

use anyhow::Result;

use crate::batch::Batch;
use crate::model::{Forward, Model};
use crate::objective;
use crate::ops::{self, LinearInput};
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
    pub fn update(
        &mut self,
        micro_batches: &[Batch],
        first_micro_batch: u64,
        context: &StepContext<'_>,
    ) -> Result<Update> {
        // on a thread of the pool: from outside, every parallel loop would wake a worker and sleep until it is done
        rayon::scope(|_| self.compute(micro_batches, first_micro_batch, context))
    }

    fn compute(
        &mut self,
        micro_batches: &[Batch],
        first_micro_batch: u64,
        context: &StepContext<'_>,
    ) -> Result<Update> {
        let (model, label_smoothing) = (self.model, self.label_smoothing);
        let params = model.params();
        let forward =
            ForwardAndBackward { model, label_smoothing, micro_batches, first_micro_batch, seed: context.seed };
        let mut stats = UpdateStats::default();
        let mut inputs = Vec::new();
        let wanted = self.optimizer.needs_inputs(context.step).then_some(&mut inputs);
        let Some(gradients) = forward.run(&mut stats, wanted)? else { return Ok(Update::Done(stats)) };
        stats.grad_norm = match optim::global_norm(params, &gradients) {
            Err(optim::Error::NonFinite { parameter }) => return Ok(Update::NonFinite { parameter }),
            norm => norm?,
        };
        let mut factor = 1.0;
        if let Some(max_norm) = self.clip_norm {
            factor = optim::clip(&gradients, stats.grad_norm, max_norm)?;
            stats.clipped = factor < 1.0;
        }
        let again = || {
            let gradients = forward.run(&mut UpdateStats::default(), None).map_err(candle_core::Error::wrap)?;
            let Some(gradients) = gradients else { candle_core::bail!("no batch to compute gradients on") };
            gradients.scale(factor)?;
            Ok(gradients)
        };
        self.optimizer.step(params, &gradients, &StepContext { inputs: &inputs, again: Some(&again), ..*context })?;
        if let Some(ema) = self.ema.as_deref_mut() {
            ema.update(params)?;
        }
        Ok(Update::Done(stats))
    }
}

/// The gradients of one update's micro-batches at the present weights.
struct ForwardAndBackward<'a> {
    model: &'a dyn Model,
    label_smoothing: f64,
    micro_batches: &'a [Batch],
    first_micro_batch: u64,
    seed: u64,
}

impl ForwardAndBackward<'_> {
    /// Adds to `stats`; fills `inputs`, if wanted, with those of the last micro-batch. `None` without batches.
    fn run(&self, stats: &mut UpdateStats, inputs: Option<&mut Vec<LinearInput>>) -> Result<Option<Gradients>> {
        let tokens: usize = self.micro_batches.iter().map(|batch| batch.target.tokens()).sum();
        stats.tokens = tokens as u64;
        let mut last_inputs = Vec::new();
        let mut sum = Accumulator::default();
        for (batch, micro_batch) in self.micro_batches.iter().zip(self.first_micro_batch..) {
            let forward = Forward::train(self.seed, micro_batch);
            let (loss, tape) =
                ops::record(|| objective::loss(self.model, batch, &forward, self.label_smoothing, tokens))?;
            stats.loss += loss.loss_sum;
            stats.nll += loss.nll_sum;
            stats.source_tokens += batch.source.tokens() as u64;
            if inputs.is_some() {
                last_inputs = tape.linear_inputs();
            }
            sum.add(Gradients::collect(self.model.params(), &mut tape.backward(&loss.loss)?)?)?;
        }
        if let Some(inputs) = inputs {
            *inputs = last_inputs;
        }
        Ok(sum.take(1.0)?)
    }
}
