//! Checkpoints of a run: written, found again, restored.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::checkpoint::{Loaded, Snapshot, Store};
use crate::events::sinks::Sinks;
use crate::events::Event;
use crate::exit::InputError;
use crate::optim::{Ema, Optimizer};
use crate::params::ParamSet;

use super::session::Session;
use super::state::TrainState;

impl Session {
    /// Writes a checkpoint of the current step unless it is on disk already.
    pub(super) fn save(&mut self) -> Result<()> {
        if self.saved_at == Some(self.state.step) {
            return Ok(());
        }
        let clock = Instant::now();
        self.state.metrics_bytes = self.metrics_bytes();
        self.state.schedule = self.schedule.state().clone();
        let params = self.model.params();
        let best = self.state.best.as_ref().filter(|best| best.step == self.state.step);
        let snapshot = Snapshot {
            step: self.state.step,
            params,
            average: self.ema.as_ref().map(|ema| ema.state(params)),
            optimizer: self.optimizer.state()?,
            state: serde_json::to_value(&self.state)?,
            score: best.map(|best| best.value),
        };
        let path = self.store.save(&snapshot)?;
        let seconds_save = clock.elapsed().as_secs_f64();
        self.state.seconds_save += seconds_save;
        self.saved_at = Some(self.state.step);
        self.sinks.emit(&Event::Checkpoint { step: self.state.step, path, seconds_save });
        Ok(())
    }

    /// Returns to the newest checkpoint after non-finite gradients, at half the rate, with fresh batches.
    pub(super) fn roll_back(&mut self) -> Result<()> {
        let Some(found) = newest(&self.store, self.folder.root(), &mut self.sinks)? else { return Ok(()) };
        let good = restore(found, self.model.params(), self.optimizer.as_mut(), self.ema.as_mut())?;
        self.optimizer.reset();
        self.state.schedule = self.schedule.state().clone();
        self.state.roll_back_to(good);
        self.schedule.load_state(self.state.schedule.clone());
        let step = self.state.step;
        self.warn(format!("rolled back to the checkpoint of update {step}; the learning rate is halved"));
        Ok(())
    }

    /// Puts the best validated weights into the model, for the test. Without validation the last ones stay.
    pub(super) fn load_best(&mut self) -> Result<()> {
        self.swap_average()?;
        let best = self.state.best.as_ref().map(|best| best.step).filter(|&step| step != self.state.step);
        if let Some(step) = best.filter(|&step| self.store.has(step)) {
            self.store.load_weights(step, self.model.params())?;
        }
        Ok(())
    }
}

/// The newest whole checkpoint; damaged newer ones become warnings.
pub(super) fn newest(store: &Store, run: &Path, sinks: &mut Sinks) -> Result<Option<Loaded>> {
    let found = store.load_newest()?;
    for damage in &found.damaged {
        sinks.emit(&Event::Warning { step: 0, message: format!("{damage}; the checkpoint before it is used") });
    }
    if found.checkpoint.is_none() {
        let run = run.display();
        return Err(InputError::new(format!(
            "{run} has no whole checkpoint to continue from; start over with `nmt-train --config {run}/config.toml --force`"
        ))
        .into());
    }
    Ok(found.checkpoint)
}

/// Puts a checkpoint into the parts of a run; returns its counters.
pub(super) fn restore(
    found: Loaded,
    params: &ParamSet,
    optimizer: &mut dyn Optimizer,
    ema: Option<&mut Ema>,
) -> Result<TrainState> {
    let state = serde_json::from_value(found.state).context("read state.json")?;
    found.raw_weights.load_into(params)?;
    optimizer.load_state(params, found.optimizer)?;
    if let Some(ema) = ema {
        ema.load_state(params, found.average)?;
    }
    Ok(state)
}

/// Refuses to continue on other text or another vocabulary: batches and ids would mean something else.
pub(super) fn check_same_data(saved: &TrainState, now: &TrainState) -> Result<()> {
    let what = if saved.tokenizer_fingerprint != now.tokenizer_fingerprint {
        "tokenizer.json in the run folder is not the one this run was started with"
    } else if saved.data_fingerprint != now.data_fingerprint {
        "the training text has changed since this run was started"
    } else {
        return Ok(());
    };
    Err(InputError::new(format!("{what}; restore it, or start a new run with another run_dir")).into())
}
