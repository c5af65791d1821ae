//! `[[phase]]`: puts into force what the number of the update says.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::config::{Config, InForce, OptimizerName, PhaseObjective, ScheduleKind, Trainable};
use crate::events::Event;
use crate::exit::InputError;
use crate::optim;
use crate::params::ParamSet;
use crate::units;

use super::preflight::name;
use super::session::Session;
use super::state::TrainState;

/// What the saved state of an optimizer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trained {
    pub optimizer: OptimizerName,
    pub trainable: Trainable,
}

impl Trained {
    pub(super) fn of(now: &InForce) -> Self {
        Trained { optimizer: now.optimizer.name, trainable: now.trainable }
    }
}

/// The parameters that are trained, sharing their values with the model's.
pub(super) fn trained_params(params: &ParamSet, trainable: Trainable) -> ParamSet {
    let tables: Vec<String> = params.embeddings().into_iter().flatten().map(|table| table.name.clone()).collect();
    params.subset(|param| trainable == Trainable::All || tables.contains(&param.name))
}

/// Refuses a checkpoint whose optimizer is another than the phases say for its update.
pub(super) fn check_same_phase(state: &TrainState, now: &InForce) -> Result<()> {
    let Some(saved) = state.trained.filter(|saved| *saved != Trained::of(now) && !begins_fresh(state.step, now)) else {
        return Ok(());
    };
    let words = |trained: Trained| format!("{} training {}", name(trained.optimizer), name(trained.trainable));
    let (was, is, step) = (words(saved), words(Trained::of(now)), state.step);
    Err(InputError::new(format!(
        "the checkpoint of update {step} was made by {was}, the phases now say {is} at this update; let the change begin \
         at update {step} or later, or start a new run with another run_dir"
    ))
    .into())
}

/// Whether the optimizer's state is fresh by definition, so that what a checkpoint holds does not matter.
pub(super) fn begins_fresh(step: u64, now: &InForce) -> bool {
    step == now.optimizer_since
}

impl Session {
    /// At the top of each update: begins the phase that is due.
    pub(super) fn enter_phase(&mut self) {
        let next = self.config.in_force(self.state.step);
        if next.phase == self.in_force.phase {
            return;
        }
        let text = format!("phase {} begins: {}", next.phase, describe(&self.config, next.phase));
        let is_fresh = next.optimizer_since != self.in_force.optimizer_since;
        self.put_in_force(next, is_fresh);
        self.sinks.emit(&Event::Note(text));
    }

    /// Before a checkpoint of `step` is restored, whose phase may be an earlier one.
    pub(super) fn return_to_phase_of(&mut self, step: u64) {
        let then = self.config.in_force(step);
        if then.phase != self.in_force.phase {
            self.put_in_force(then, true);
        }
    }

    fn put_in_force(&mut self, now: InForce, fresh_optimizer: bool) {
        if fresh_optimizer {
            self.params = trained_params(self.model.params(), now.trainable);
            self.optimizer = optim::build(&now.optimizer, self.params.dtype(), self.params.device());
        }
        self.schedule.set_peak(now.optimizer.lr);
        self.in_force = now;
    }
}

/// What a phase, counted from 1, puts into force, for the pre-flight table and its note.
pub(super) fn describe(config: &Config, phase: usize) -> String {
    let Some(entry) = phase.checked_sub(1).and_then(|i| config.phase.get(i)) else { return String::new() };
    let now = config.in_force(entry.from_update);
    let lr = match config.schedule.kind {
        ScheduleKind::Constant => format!("lr {}", now.optimizer.lr),
        _ => format!("peak lr {}", now.optimizer.lr),
    };
    let objective = match now.objective {
        PhaseObjective::Nll => "likelihood",
        PhaseObjective::Joint => "likelihood and embedding distance",
        PhaseObjective::Distance => "embedding distance alone",
    };
    let trained = match now.trainable {
        Trainable::All => "all parameters",
        Trainable::Embeddings => "embedding tables only",
    };
    let fresh = if now.optimizer_since == entry.from_update { " (fresh state)" } else { "" };
    let from = units::count(entry.from_update);
    format!("from update {from}: {}{fresh}, {lr}, {objective}, {trained}", name(now.optimizer.name))
}
