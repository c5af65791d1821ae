//! Checkpoints of a run: written, found again, restored.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::checkpoint::{self, Snapshot, Store};
use crate::config::InForce;
use crate::data::Dataset;
use crate::events::sinks::Sinks;
use crate::events::Event;
use crate::exit::InputError;
use crate::optim::{Ema, Optimizer};
use crate::params::ParamSet;

use super::phases::{begins_fresh, Trained};
use super::session::Session;
use super::state::TrainState;

/// Counter of the moving average, kept among the scalars of the optimizer.
const AVERAGED_UPDATES: &str = "ema.t";

impl Session {
    /// Writes a checkpoint of the current step unless it is on disk already, and deletes those that are not kept.
    pub(super) fn save(&mut self) -> Result<()> {
        if self.saved_at == Some(self.state.step) {
            return Ok(());
        }
        let clock = Instant::now();
        self.state.metrics_bytes = self.metrics_bytes();
        self.state.schedule = self.schedule.state().clone();
        self.state.trained = Some(Trained::of(&self.in_force));
        let path = self.store.save(&self.snapshot()?)?;
        let metric = self.config.validation.early_stopping_metric;
        let keep = &self.config.checkpoint;
        let scored = &self.state.scored;
        self.store.retain(metric.name(), metric.lower_is_better(), scored, keep.keep_last, keep.keep_best)?;
        let seconds_save = clock.elapsed().as_secs_f64();
        self.state.seconds_save += seconds_save;
        self.saved_at = Some(self.state.step);
        self.sinks.emit(&Event::Checkpoint { step: self.state.step, path, seconds_save });
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let params = self.model.params();
        let trained: Vec<(String, Tensor)> =
            params.iter().map(|param| (param.name.clone(), param.var.as_detached_tensor())).collect();
        let mut optimizer = self.optimizer.state()?;
        let (weights, raw_weights) = match (&self.ema, self.optimizer.averages(params)?) {
            (Some(ema), _) => {
                optimizer.scalars.push((AVERAGED_UPDATES.to_string(), ema.updates() as f64));
                (ema.tensors(params), Some(trained))
            }
            (None, Some(averages)) => (averages, Some(trained)),
            (None, None) => (trained, None),
        };
        let state = serde_json::to_value(&self.state)?;
        Ok(Snapshot { step: self.state.step, weights, raw_weights, optimizer, state })
    }

    /// Returns to the newest checkpoint after non-finite gradients, at half the rate, with fresh batches.
    pub(super) fn roll_back(&mut self) -> Result<()> {
        let found = newest(&self.store, self.folder.root(), &mut self.sinks)?;
        let path = self.store.path(found.step);
        self.return_to_phase_of(found.step);
        let (params, optimizer) = ([self.model.params(), &self.params], self.optimizer.as_mut());
        let good = restore(&path, found, params, &self.in_force, optimizer, self.ema.as_mut())?;
        // an optimizer that averages loses its averages with its state: they become the new start
        self.optimizer.swap_averages(&self.params)?;
        self.optimizer.reset();
        self.state.schedule = self.schedule.state().clone();
        self.state.roll_back_to(good);
        self.schedule.load_state(self.state.schedule.clone());
        self.store.forget_after(self.state.step)?;
        let scale = self.state.schedule.scale;
        self.warn(format!("rolled back to this update; the learning rate is now {scale} of the schedule's"));
        Ok(())
    }

    /// Puts the weights to test into the model: those of the best validation, else the last ones, averaged if an
    /// average is kept.
    pub(super) fn load_best(&mut self) -> Result<()> {
        self.swap_average()?;
        let best = self.state.best.as_ref().map(|best| self.store.path(best.step)).filter(|path| path.exists());
        if let Some(path) = best {
            checkpoint::load_weights(&path, self.model.params())?;
        }
        Ok(())
    }
}

/// The newest whole checkpoint; damaged newer ones become warnings.
pub(super) fn newest(store: &Store, run: &Path, sinks: &mut Sinks) -> Result<Snapshot> {
    let Some(found) = store.load_newest(&Device::Cpu)? else {
        let run = run.display();
        return Err(InputError::new(format!(
            "{run} has no checkpoint to continue from; start over with `nmt-train --config {run}/config.toml --force`"
        ))
        .into());
    };
    let step = found.snapshot.step;
    for problem in found.problems {
        sinks.emit(&Event::Warning { step, message: format!("{problem}; the checkpoint of update {step} is used") });
    }
    Ok(found.snapshot)
}

/// The counters of a checkpoint.
pub(super) fn state(path: &Path, found: &Snapshot) -> Result<TrainState> {
    TrainState::deserialize(&found.state).with_context(|| format!("read {}/state.json", path.display()))
}

/// Puts a checkpoint into the parts of a run; returns its counters. `params`: all, and those that are trained.
pub(super) fn restore(
    path: &Path,
    found: Snapshot,
    [params, trained]: [&ParamSet; 2],
    now: &InForce,
    optimizer: &mut dyn Optimizer,
    ema: Option<&mut Ema>,
) -> Result<TrainState> {
    let state = state(path, &found)?;
    let Snapshot { weights, raw_weights, optimizer: mut saved, .. } = found;
    let counter = saved.scalars.iter().position(|(name, _)| name == AVERAGED_UPDATES).map(|i| saved.scalars.remove(i));
    match (ema, counter) {
        (Some(ema), Some((_, updates))) => ema.restore(params, &weights, updates as u64)?,
        // Averaging was switched on by this resume: it begins at the weights of the checkpoint.
        (Some(ema), None) => {
            checkpoint::fill(path, weights.clone(), params)?;
            ema.restart(params)?;
        }
        (None, _) => (),
    }
    checkpoint::fill(path, raw_weights.unwrap_or(weights), params)?;
    if !begins_fresh(state.step, now) {
        optimizer.load_state(trained, saved)?;
    }
    Ok(state)
}

/// Refuses to continue on other text or another vocabulary: batches and ids would mean something else.
pub(super) fn check_same_data(saved: &TrainState, now: &TrainState, text: &Dataset) -> Result<()> {
    let what = if saved.tokenizer_fingerprint != now.tokenizer_fingerprint {
        "the tokenizer in the run folder is not the one this run was started with"
    } else if !text.is_of(&saved.data_fingerprint) {
        "the training text has changed since this run was started"
    } else {
        return Ok(());
    };
    Err(InputError::new(format!("{what}; restore it, or start a new run with another run_dir")).into())
}
