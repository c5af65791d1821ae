//! One update: forward, backward, finite check, clip, optimizer, average.

use anyhow::Result;

use crate::batch::Batch;
use crate::config::TrainConfig;
use crate::model::{Forward, Model};
use crate::objective::{self, DistanceContext, DistanceStats, EmbeddingDistance};
use crate::ops::{self, Criterion, LinearInput, Losses};
use crate::optim::{self, Ema, Gradients, Optimizer, StepContext};
use crate::params::ParamSet;
use crate::run::UpdateStats;
use crate::world::World;

use super::shares::{self, Sharing, Sum};

/// What one update did.
pub enum Update {
    Done(UpdateStats),
    /// The gradient of this parameter was not finite; nothing was changed.
    NonFinite {
        parameter: String,
    },
}

/// What the likelihood's part minimizes.
pub(super) fn criterion(config: &TrainConfig) -> Criterion {
    Criterion { label_smoothing: config.label_smoothing, r_drop_alpha: config.r_drop_alpha }
}

/// The embedding distance in one update.
#[derive(Clone, Copy)]
pub struct DistanceUpdate<'a> {
    pub objective: &'a EmbeddingDistance,
    pub context: DistanceContext,
    /// Without the likelihood, which is then measured only, without dropout and smoothing.
    pub alone: bool,
}

/// The parts an update works on.
pub struct Stepper<'a> {
    pub model: &'a dyn Model,
    /// What is trained: the model's parameters or some of them.
    pub params: &'a ParamSet,
    pub optimizer: &'a mut dyn Optimizer,
    pub ema: Option<&'a mut Ema>,
    pub criterion: Criterion,
    /// Largest norm of the gradient, if there is a limit.
    pub clip_norm: Option<f64>,
    /// `None`: the likelihood alone.
    pub distance: Option<DistanceUpdate<'a>>,
    /// Who works on the micro-batches.
    pub world: &'a World,
    /// Whether they share the optimizer's work.
    pub sharing: &'a mut Sharing,
}

impl Stepper<'_> {
    /// One update on `micro_batches`; the loss is the mean over all their target tokens. `first_micro_batch` names the
    /// dropout masks. A rank hands over those that are its share of the world's, and all where there is a distance.
    pub fn update(
        &mut self,
        micro_batches: &[Option<Batch>],
        first_micro_batch: u64,
        context: &StepContext<'_>,
    ) -> Result<Update> {
        // on a thread of the pool: from outside, every parallel loop would wake a worker and sleep until it is done
        rayon::scope(|_| self.compute(micro_batches, first_micro_batch, context))
    }

    fn compute(
        &mut self,
        micro_batches: &[Option<Batch>],
        first_micro_batch: u64,
        context: &StepContext<'_>,
    ) -> Result<Update> {
        let (model, params, criterion, distance) = (self.model, self.params, self.criterion, self.distance);
        let (seed, world) = (context.seed, self.world);
        let forward =
            ForwardAndBackward { model, params, criterion, distance, micro_batches, first_micro_batch, seed, world };
        let mut stats = UpdateStats { lr: context.lr, ..UpdateStats::default() };
        let mut inputs = Vec::new();
        let wanted = self.optimizer.needs_inputs(context.step).then_some(&mut inputs);
        let mut losses = Vec::new();
        let Some(gradients) = forward.run(&mut stats, &mut losses, wanted)? else { return Ok(Update::Done(stats)) };
        // On a GPU the host waits here, once an update: everything before was only asked for.
        stats.grad_norm = match optim::global_norm(params, &gradients) {
            Err(optim::Error::NonFinite { parameter }) => return Ok(Update::NonFinite { parameter }),
            norm => norm?,
        };
        let own: Vec<[f64; 4]> = losses
            .into_iter()
            .map(|(losses, source_tokens)| {
                let [loss, nll, r_drop_kl] = losses.sums()?;
                Ok([loss, nll, r_drop_kl, source_tokens as f64])
            })
            .collect::<Result<_>>()?;
        // without the likelihood there are none
        let all = match self.distance.is_some_and(|distance| distance.alone) {
            true => Vec::new(),
            false => shares::all_in_order(self.world, &own, micro_batches.len())?,
        };
        for [loss, nll, r_drop_kl, source_tokens] in all {
            stats.loss += loss;
            stats.nll += nll;
            stats.source_tokens += source_tokens as u64;
            if self.criterion.r_drop_alpha > 0.0 {
                *stats.r_drop_kl.get_or_insert_default() += r_drop_kl;
            }
        }
        if let Some(max_norm) = self.clip_norm {
            stats.clipped = optim::clip(&gradients, stats.grad_norm, max_norm)? < 1.0;
        }
        let context = StepContext { inputs: &inputs, ..*context };
        self.sharing.step(self.world, self.optimizer, params, &gradients, context)?;
        if let Some(ema) = self.ema.as_deref_mut() {
            ema.update(model.params())?;
        }
        Ok(Update::Done(stats))
    }
}

/// The gradients of one update's micro-batches at the present weights.
struct ForwardAndBackward<'a> {
    model: &'a dyn Model,
    params: &'a ParamSet,
    criterion: Criterion,
    distance: Option<DistanceUpdate<'a>>,
    micro_batches: &'a [Option<Batch>],
    first_micro_batch: u64,
    seed: u64,
    world: &'a World,
}

impl ForwardAndBackward<'_> {
    /// The micro-batches that this rank works on, by number.
    fn own(&self) -> impl Iterator<Item = (usize, &Batch)> {
        let all = self.micro_batches;
        self.world.share(all.len()).filter_map(|i| Some((i, all[i].as_ref()?)))
    }

    /// Adds to `stats` and `losses`; fills `inputs`, if wanted, with those of the last micro-batch. `None` without
    /// batches.
    fn run(
        &self,
        stats: &mut UpdateStats,
        losses: &mut Vec<(Losses, usize)>,
        inputs: Option<&mut Vec<LinearInput>>,
    ) -> Result<Option<Gradients>> {
        let total = self.micro_batches.len();
        let own: Vec<[f64; 1]> = self.own().map(|(_, batch)| [batch.target.tokens() as f64]).collect();
        let tokens: f64 = shares::all_in_order(self.world, &own, total)?.iter().flatten().sum();
        let tokens = tokens as usize;
        stats.tokens = tokens as u64;
        if let Some(distance) = self.distance.filter(|distance| distance.alone) {
            return self.distance_alone(stats, &distance);
        }
        if total == 0 {
            return Ok(None);
        }
        let mut last_inputs = Vec::new();
        let mut sum = Sum::new(self.world, self.params);
        for first in (0..total).step_by(self.world.size()) {
            let batch = self.micro_batches.get(first + self.world.rank()).and_then(Option::as_ref);
            let own = match batch {
                Some(batch) => {
                    let micro_batch = self.first_micro_batch + (first + self.world.rank()) as u64;
                    let forward = Forward::train(self.seed, micro_batch);
                    let (loss, tape) =
                        ops::record(|| objective::loss(self.model, batch, &forward, self.criterion, tokens))?;
                    losses.push((loss.losses, batch.source.tokens()));
                    if inputs.is_some() {
                        last_inputs = tape.linear_inputs();
                    }
                    Some(Gradients::collect(self.params, &mut tape.backward(&loss.loss)?)?)
                }
                None => None,
            };
            sum.round(own, self.world.size().min(total - first))?;
        }
        if let Some(inputs) = inputs {
            *inputs = shares::last_inputs(self.world, self.params, last_inputs, total)?;
        }
        let gradients = sum.take()?;
        if let (Some(gradients), Some(distance)) = (&gradients, &self.distance) {
            stats.distance = Some(self.add_distance(gradients, distance)?);
        }
        Ok(gradients)
    }

    fn add_distance(&self, gradients: &Gradients, distance: &DistanceUpdate<'_>) -> Result<DistanceStats> {
        let DistanceUpdate { objective, context, .. } = distance;
        let all: Vec<&Batch> = self.micro_batches.iter().flatten().collect();
        let pairs = objective.pairs_in(self.model, &all, context)?;
        Ok(objective.add_gradients(self.params, gradients, &pairs, context)?)
    }

    /// The gradients of the distance and no others; the loss is the distance for every token.
    fn distance_alone(&self, stats: &mut UpdateStats, distance: &DistanceUpdate<'_>) -> Result<Option<Gradients>> {
        for batch in self.micro_batches.iter().flatten() {
            stats.nll += objective::pair_nlls(self.model, batch)?.iter().sum::<f64>();
            stats.source_tokens += batch.source.tokens() as u64;
        }
        let zeros = self.params.iter().map(|param| param.var.zeros_like()).collect::<candle_core::Result<_>>()?;
        let gradients = Gradients { tensors: zeros };
        let found = self.add_distance(&gradients, distance)?;
        stats.loss = found.loss * stats.tokens as f64;
        stats.distance = Some(found);
        Ok(Some(gradients))
    }
}
