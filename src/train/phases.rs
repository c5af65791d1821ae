//! `[[phase]]`: puts into force what the number of the update says.

use anyhow::Result;

use crate::config::{Config, InForce, PhaseObjective, ScheduleKind, Trainable};
use crate::exit::InputError;
use crate::optim;
use crate::params::ParamSet;
use crate::run::{Ledger, Trained};
use crate::units;

use super::preflight::name;
use super::shares::Sharing;
use super::trainer::Trainer;

/// The parameters that are trained, sharing their values with the model's.
pub(super) fn trained_params(params: &ParamSet, trainable: Trainable) -> ParamSet {
    let tables: Vec<String> = params.embeddings().into_iter().flatten().map(|table| table.name.clone()).collect();
    params.subset(|param| match trainable {
        Trainable::All => true,
        Trainable::Embeddings => tables.contains(&param.name),
        Trainable::Layers => !tables.contains(&param.name),
    })
}

/// Refuses a checkpoint whose optimizer is another than the phases say for its update.
pub(super) fn check_same_phase(ledger: &Ledger, now: &InForce) -> Result<(), InputError> {
    let other = |saved: &Trained| *saved != Trained::of(now) && !ledger.begins_fresh(now);
    let Some(saved) = ledger.trained.filter(other) else { return Ok(()) };
    let words = |trained: Trained| format!("{} training {}", name(trained.optimizer), name(trained.trainable));
    let (was, is, step) = (words(saved), words(Trained::of(now)), ledger.step);
    Err(InputError::new(format!(
        "the checkpoint of update {step} was made by {was}, the phases now say {is} at this update; let the change begin \
         at update {step} or later, or start a new run with another run_dir"
    )))
}

impl Trainer {
    /// Right before an update: begins the phase that is due. Validation and saving of the weights before it are done,
    /// with the optimizer they were trained by.
    pub(super) fn enter_phase(&mut self, step: u64) -> Result<()> {
        let next = self.config.in_force(step);
        if next.phase == self.in_force.phase {
            return Ok(());
        }
        let text = format!("phase {} begins: {}", next.phase, describe(&self.config, next.phase));
        if next.optimizer_since != self.in_force.optimizer_since {
            // An optimizer that averages hands over the weights it was for, not the ones it trained at.
            self.optimizer.swap_averages(self.model.params())?;
            self.use_optimizer_of(&next);
        }
        self.in_force = next;
        self.record.note(text);
        Ok(())
    }

    /// Before a checkpoint is restored, whose phase may be an earlier one.
    pub(super) fn return_to_phase_of(&mut self, ledger: &Ledger) {
        let then = ledger.in_force(&self.config);
        if then.phase != self.in_force.phase {
            self.use_optimizer_of(&then);
            self.in_force = then;
        }
    }

    fn use_optimizer_of(&mut self, now: &InForce) {
        self.params = trained_params(self.model.params(), now.trainable);
        self.sharing = Sharing::wanted(&self.world, self.config.train.share_optimizer);
        self.optimizer = optim::build(&now.optimizer, self.params.dtype(), self.params.device());
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
        Trainable::Layers => "all but the embedding tables",
    };
    let fresh = if now.optimizer_since == entry.from_update { " (fresh state)" } else { "" };
    let from = units::count(entry.from_update);
    format!("from update {from}: {}{fresh}, {lr}, {objective}, {trained}", name(now.optimizer.name))
}
