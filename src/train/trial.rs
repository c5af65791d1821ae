//! A step that is tried and thrown away: forward and backward over the batch with the most work of an epoch, or over a few
//! pairs in f32 and in bf16.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::batch::{Batch, Sequences};
use crate::config::Config;
use crate::data::Epoch;
use crate::kinds::Precision;
use crate::machine;
use crate::model::{Forward, Model};
use crate::objective;
use crate::ops;
use crate::optim::{self, Gradients};

use super::resources::Resources;
use super::step::criterion;

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
    step(config, model, &resources.batch(epoch, epoch.largest()))
}

/// Target tokens of the batch that [`speed_of_bf16`] tries.
const FEW_TOKENS: usize = 512;

/// Fewest and most tries of [`speed_of_bf16`], of which the quickest counts.
const ROUNDS: [usize; 2] = [3, 8];

/// No more than the fewest after this.
const PATIENCE: Duration = Duration::from_millis(300);

/// How many times as fast forward and backward are with bf16 products as in f32, by the clock, over a few pairs; `None` on a
/// GPU, in bf16, and on a CPU without units for it. To be called while nothing else computes.
///
/// # Errors
/// Errors of the computation.
pub(super) fn speed_of_bf16(
    config: &Config,
    resources: &Resources,
    model: &dyn Model,
    epoch: &Epoch,
) -> Result<Option<f64>> {
    let device = model.params().device();
    let would_do = device.is_cpu() && machine::precision_of(device) == Precision::F32 && ops::bf16_units().is_some();
    if !would_do || epoch.is_empty() {
        return Ok(None);
    }
    let batch = few(&resources.batch(epoch, 0));
    let seconds = |precision| {
        ops::set_cpu_precision(precision);
        step(config, model, &batch).map(|trial| trial.seconds)
    };
    let measured = (|| {
        let clock = Instant::now();
        // the first one fetches memory from the system
        seconds(Precision::F32)?;
        let (mut f32, mut bf16) = (f64::INFINITY, f64::INFINITY);
        for round in 0..ROUNDS[1] {
            if round >= ROUNDS[0] && clock.elapsed() > PATIENCE {
                break;
            }
            bf16 = bf16.min(seconds(Precision::Bf16)?);
            f32 = f32.min(seconds(Precision::F32)?);
        }
        Ok(Some(f32 / bf16))
    })();
    ops::set_cpu_precision(Precision::F32);
    measured
}

/// Its first pairs.
fn few(batch: &Batch) -> Batch {
    let pairs = batch.target.offsets.iter().skip(1).take_while(|&&end| end <= FEW_TOKENS).count();
    let pairs = pairs.clamp(1, batch.pairs.len().max(1));
    let first = |side: &Sequences| Sequences::pack((0..pairs).map(|i| side.get(i)));
    Batch { source: first(&batch.source), target: first(&batch.target), pairs: batch.pairs[..pairs].to_vec() }
}

fn step(config: &Config, model: &dyn Model, batch: &Batch) -> Result<Trial> {
    let clock = Instant::now();
    let forward = Forward::train(config.seed, 0);
    let (criterion, target_tokens) = (criterion(&config.train), batch.target.tokens());
    let (loss, tape) = ops::record(|| objective::loss(model, batch, &forward, criterion, target_tokens))?;
    let gradients = Gradients::collect(model.params(), &mut tape.backward(&loss.loss)?)?;
    let gradient_norm = optim::global_norm(model.params(), &gradients)?;
    let [loss_sum, ..] = loss.losses.sums()?;
    Ok(Trial {
        pairs: batch.pairs.len(),
        source_tokens: batch.source.tokens(),
        target_tokens,
        loss: loss_sum / target_tokens as f64,
        gradient_norm,
        seconds: clock.elapsed().as_secs_f64(),
    })
}
