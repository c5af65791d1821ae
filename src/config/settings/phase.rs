//! `[[phase]]`: what changes at given updates, and what is in force at any update, a pure function of its number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Checks, Config, DistanceForm, OptimizerConfig, OptimizerName, ScheduleKind};

/// A part of the run; what it does not name stays as it was before. Another optimizer, or other parameters to train,
/// begin with a fresh state of the optimizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseConfig {
    /// Updates done when it begins. Above 0 and above that of the phase before.
    pub from_update: u64,
    /// The optimizer; its own settings are in `[optimizer.NAME]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerName>,
    /// Rate at the top of the schedule in place of optimizer.lr; the schedule goes on where it is. Above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// "nll" (the likelihood), "joint" (and the embedding distance) or "distance" (that alone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<PhaseObjective>,
    /// "all", "embeddings" (the source and the target table) or "layers" (all but these).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<Trainable>,
}

choices! {
    /// What is minimized.
    pub enum PhaseObjective {
        /// Negative log-likelihood.
        Nll = "nll",
        /// The same and the weighted embedding distance.
        Joint = "joint",
        /// The embedding distance alone, with weight 1.
        Distance = "distance",
    }
}

impl PhaseObjective {
    /// Whether the embedding distance is part of it.
    pub fn has_distance(self) -> bool {
        self != PhaseObjective::Nll
    }
}

choices! {
    /// Which parameters are trained.
    pub enum Trainable {
        All = "all",
        /// The source and the target table.
        Embeddings = "embeddings",
        /// All but these tables.
        Layers = "layers",
    }
}

/// What is in force at an update.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// Phases begun: 0 = none.
    pub phase: usize,
    /// `[optimizer]` with the name and rate of the phase.
    pub optimizer: OptimizerConfig,
    /// What is minimized.
    pub objective: PhaseObjective,
    /// What moves.
    pub trainable: Trainable,
    /// Update at which the optimizer's state began fresh.
    pub optimizer_since: u64,
    /// Update at which the embedding distance came in; meaningless while it is not part of the objective.
    pub distance_since: u64,
}

impl Config {
    /// What is in force after `step` updates.
    pub fn in_force(&self, step: u64) -> InForce {
        let on = self.embedding_distance.form != DistanceForm::Off;
        let named = self.phase.iter().any(|phase| phase.objective.is_some());
        let mut now = InForce {
            phase: 0,
            optimizer: self.optimizer.clone(),
            objective: if on && !named { PhaseObjective::Joint } else { PhaseObjective::Nll },
            trainable: self.train.trainable,
            optimizer_since: 0,
            distance_since: 0,
        };
        for phase in self.phase.iter().take_while(|phase| phase.from_update <= step) {
            let before = now.clone();
            now.phase += 1;
            now.optimizer.name = phase.optimizer.unwrap_or(before.optimizer.name);
            now.optimizer.lr = phase.lr.unwrap_or(before.optimizer.lr);
            now.objective = phase.objective.unwrap_or(before.objective);
            now.trainable = phase.trainable.unwrap_or(before.trainable);
            if (now.optimizer.name, now.trainable) != (before.optimizer.name, before.trainable) {
                now.optimizer_since = phase.from_update;
            }
            if now.objective.has_distance() && !before.objective.has_distance() {
                now.distance_since = phase.from_update;
            }
        }
        now
    }

    /// Whether the embedding distance is part of the objective at any update.
    pub fn uses_distance(&self) -> bool {
        let begins = std::iter::once(0).chain(self.phase.iter().map(|phase| phase.from_update));
        begins.into_iter().any(|step| self.in_force(step).objective.has_distance())
    }
}

/// Each finding names its phase, counted from 1.
pub(super) fn rules(check: &mut Checks, config: &Config) {
    let mut fault = |i: usize, keys: &[&'static str], text: String| {
        check.fault([&["phase"], keys].concat(), format!("phase {} {text}", i + 1));
    };
    for (i, phase) in config.phase.iter().enumerate() {
        let from = phase.from_update;
        if from == 0 {
            fault(i, &[], "must have from_update above 0; what holds from the start has its own keys".to_string());
        }
        if let Some(before) = i.checked_sub(1).map(|before| config.phase[before].from_update) {
            if from > 0 && from <= before {
                let text = format!("must begin after phase {i}: from_update = {from} is not above {before}");
                fault(i, &[], text);
            }
        }
        let Some(lr) = phase.lr else { continue };
        if !(lr > 0.0 && lr.is_finite()) {
            fault(i, &[], format!("must have lr above 0, not {lr:?}"));
        } else if lr < config.schedule.min_lr && config.schedule.kind != ScheduleKind::Noam {
            let text = format!("must not have lr = {lr:?} below schedule.min_lr = {:?}", config.schedule.min_lr);
            fault(i, &["schedule.min_lr"], text);
        }
    }
    if config.phase.windows(2).any(|two| two[1].from_update <= two[0].from_update) {
        return;
    }
    for (i, phase) in config.phase.iter().enumerate() {
        let now = config.in_force(phase.from_update);
        if phase.objective.is_some_and(PhaseObjective::has_distance)
            && config.embedding_distance.form == DistanceForm::Off
        {
            fault(
                i,
                &["embedding_distance.form"],
                "must come with embedding_distance.form = \"bridge\" or another than \"off\" for this objective"
                    .to_string(),
            );
        }
        if now.objective == PhaseObjective::Distance && now.trainable != Trainable::Embeddings {
            let text =
                "must have trainable = \"embeddings\" with objective = \"distance\": nothing else has a gradient";
            fault(i, &[], text.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_change_what_they_name_and_leave_the_rest() {
        let mut config = Config::default();
        config.embedding_distance.form = DistanceForm::Bridge;
        assert_eq!(config.in_force(7).objective, PhaseObjective::Joint);
        config.phase = vec![
            PhaseConfig {
                from_update: 10,
                lr: Some(0.5),
                objective: Some(PhaseObjective::Joint),
                ..Default::default()
            },
            PhaseConfig { from_update: 20, optimizer: Some(OptimizerName::Sgd), ..Default::default() },
            PhaseConfig { from_update: 30, trainable: Some(Trainable::Embeddings), ..Default::default() },
        ];
        assert!(config.uses_distance());
        let before = config.in_force(9);
        assert_eq!((before.phase, before.objective, before.optimizer.lr), (0, PhaseObjective::Nll, 1e-3));
        let first = config.in_force(10);
        assert_eq!((first.phase, first.objective, first.distance_since), (1, PhaseObjective::Joint, 10));
        assert_eq!((first.optimizer.name, first.optimizer.lr, first.optimizer_since), (OptimizerName::Adam, 0.5, 0));
        let second = config.in_force(29);
        assert_eq!((second.optimizer.name, second.optimizer.lr), (OptimizerName::Sgd, 0.5));
        assert_eq!((second.optimizer_since, second.distance_since, second.trainable), (20, 10, Trainable::All));
        let third = config.in_force(1000);
        assert_eq!((third.phase, third.optimizer_since, third.trainable), (3, 30, Trainable::Embeddings));
        config.phase[0].objective = Some(PhaseObjective::Nll);
        assert!(!config.uses_distance());
    }
}
