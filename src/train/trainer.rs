//! The hands of a run: everything that computes and writes while the ledger is driven on.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Error, Result};

use crate::config::{Config, InForce};
use crate::data::Epoch;
use crate::events::Event;
use crate::fsio::fault;
use crate::model::Model;
use crate::objective::EmbeddingDistance;
use crate::optim::{Ema, Optimizer, Schedule, StepContext};
use crate::params::ParamSet;
use crate::run::{Judged, Ledger, Record, Rules, StopReason, Taken, UpdateStats, Updated, Validation, Work};
use crate::symptoms::Symptom;
use crate::world::World;

use super::distance;
use super::progress::Pace;
use super::ranks::Mates;
use super::resources::{Resources, Vectors};
use super::shares::Sharing;
use super::step::{self, Stepper, Update};
use super::stop::Limits;
use super::validator::Evaluation;

/// See the module.
pub(super) struct Trainer {
    pub(super) config: Config,
    pub(super) rules: Rules,
    pub(super) record: Record,
    pub(super) resources: Resources,
    pub(super) model: Box<dyn Model>,
    /// What is trained, sharing its values with the model.
    pub(super) params: ParamSet,
    pub(super) optimizer: Box<dyn Optimizer>,
    /// What the phases said for the last update.
    pub(super) in_force: InForce,
    /// For the phases that use it.
    pub(super) distance: Option<EmbeddingDistance>,
    pub(super) schedule: Schedule,
    pub(super) ema: Option<Ema>,
    pub(super) limits: Limits,
    pub(super) world: World,
    /// What the ranks said of themselves.
    pub(super) mates: Mates,
    pub(super) sharing: Sharing,
    /// Seconds of exchanges between ranks in updates since the last row of metrics.jsonl.
    pub(super) exchanging: f64,
    pub(super) pace: Pace,
    pub(super) threads: usize,
    /// What the weights were at the start, where they were not drawn, for the pre-flight table.
    pub(super) begins: Option<String>,
    /// Pretrained vectors, for the pre-flight table.
    pub(super) pretrained: Vec<Vectors>,
    /// The symptoms of which was said that something went wrong.
    pub(super) told: BTreeSet<Symptom>,
    /// The epoch that batches are taken from, by number.
    pub(super) epoch: Option<(u64, Epoch)>,
}

impl Trainer {
    /// The rate of the update after those the ledger counts.
    pub(super) fn rate(&self, ledger: &Ledger) -> f64 {
        self.schedule.rate(ledger.step, self.in_force.optimizer.lr, ledger.schedule.scale)
    }

    /// The parts of one update, and what it needs to know.
    fn stepper(&mut self, ledger: &Ledger) -> (Stepper<'_>, StepContext<'static>) {
        let context = StepContext {
            embedding_lr_scale: self.in_force.optimizer.embedding_lr_scale(),
            ..StepContext::new(self.rate(ledger), ledger.step, self.config.seed)
        };
        let distance = distance::update(self.distance.as_ref(), &self.config, &self.in_force, ledger);
        let stepper = Stepper {
            model: self.model.as_ref(),
            params: &self.params,
            optimizer: self.optimizer.as_mut(),
            ema: self.ema.as_mut(),
            criterion: step::criterion(&self.config.train),
            clip_norm: self.in_force.optimizer.clip_norm(self.config.train.clip_grad_norm),
            distance,
            world: &self.world,
            sharing: &mut self.sharing,
        };
        (stepper, context)
    }

    /// Exchanges trained and averaged weights; twice = nothing.
    pub(super) fn swap_average(&mut self) -> Result<()> {
        match &mut self.ema {
            Some(ema) => ema.swap(self.model.params())?,
            None => self.optimizer.swap_averages(self.model.params())?,
        }
        Ok(())
    }
}

impl Work for Trainer {
    type Error = Error;
    type Translations = Evaluation;

    fn batches(&mut self, epoch: u64) -> u64 {
        if self.epoch.as_ref().is_none_or(|(number, _)| *number != epoch) {
            self.epoch = Some((epoch, self.resources.epoch(epoch)));
        }
        self.epoch.as_ref().map_or(0, |(_, batches)| batches.len() as u64)
    }

    fn interrupted(&self) -> Option<StopReason> {
        self.limits.interrupted()
    }

    fn validate(&mut self, ledger: &Ledger) -> Result<Option<Validation<Evaluation>>> {
        self.score_validation_set(ledger)
    }

    fn tell(&mut self, ledger: &Ledger, found: Validation<Evaluation>, judged: Judged) -> Result<()> {
        self.tell_validation(ledger, found, judged)
    }

    fn save(&mut self, ledger: &mut Ledger) -> Result<()> {
        self.sharing.collect(&self.world, self.optimizer.as_mut())?;
        let tensors = self.tensors()?;
        self.record.save(ledger, &self.rules, tensors)
    }

    fn enter(&mut self, ledger: &mut Ledger) -> Result<()> {
        self.enter_phase(ledger.step)?;
        self.watch_tables(ledger)
    }

    fn update(&mut self, ledger: &mut Ledger, taken: Taken) -> Result<Updated> {
        let clock = Instant::now();
        fault::rank(self.world.rank(), taken.first_micro_batch);
        let Some((_, epoch)) = &self.epoch else { anyhow::bail!("an update outside of an epoch") };
        let own: BTreeSet<usize> = self.world.share(taken.batches.clone().count()).collect();
        // the distance looks at all of them
        let all = self.distance.is_some();
        let wanted = |i: usize| all || own.contains(&i);
        let batch = |(i, number): (usize, u64)| wanted(i).then(|| self.resources.batch(epoch, number as usize));
        let batches: Vec<Option<_>> = taken.batches.enumerate().map(batch).collect();
        let before = self.world.seconds();
        let (mut stepper, context) = self.stepper(ledger);
        let update = match fault::gradient(taken.first_micro_batch) {
            true => Update::NonFinite { parameter: "a test".to_string() },
            false => stepper.update(&batches, taken.first_micro_batch, &context)?,
        };
        self.limits.agree()?;
        self.exchanging += self.world.seconds() - before;
        let seconds = clock.elapsed().as_secs_f64();
        match update {
            Update::Done(stats) => Ok(Updated::Done(UpdateStats { seconds, ..stats })),
            Update::NonFinite { parameter } => {
                let message = format!("the gradient of {parameter} is not finite; update skipped{}", self.health());
                self.record.warn(ledger.step, message);
                Ok(Updated::NonFinite { seconds })
            }
        }
    }

    fn account(&mut self, ledger: &mut Ledger, done: &UpdateStats, log: bool) -> Result<()> {
        self.emit_progress(ledger, done);
        if log {
            self.emit_train_point(ledger, done.lr);
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<Ledger> {
        self.return_to_newest()
    }

    fn returned(&mut self, ledger: &Ledger) -> Result<()> {
        self.record.returned(ledger, &self.rules)?;
        self.pace = Pace::new(ledger.step, self.pace.total_updates);
        let scale = ledger.schedule.scale;
        self.record.emit(&Event::Warning {
            step: ledger.step,
            message: format!("rolled back to this update; the learning rate is now {scale} of the schedule's"),
        });
        Ok(())
    }
}
