//! What is due next, decided from the ledger alone, so that a resumed run does what the uninterrupted one would have
//! done.

use super::ledger::Ledger;
use crate::config::{Config, Every, ScheduleKind};
use crate::scores::Metric;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    MaxUpdates,
    MaxEpochs,
    EarlyStopping,
    /// `train.max_hours`: saved, to be resumed.
    MaxHours,
    /// SIGINT, SIGTERM or SIGUSR1: saved, to be resumed.
    Signal,
    /// Non-finite gradients beyond what roll-backs could mend.
    Diverged,
}

impl StopReason {
    /// Word in `--final-json`.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::MaxUpdates => "max_updates",
            StopReason::MaxEpochs => "max_epochs",
            StopReason::EarlyStopping => "early_stopping",
            StopReason::MaxHours => "max_hours",
            StopReason::Signal => "signal",
            StopReason::Diverged => "diverged",
        }
    }

    /// Whether training is complete, as opposed to interrupted.
    pub fn is_finished(self) -> bool {
        matches!(self, StopReason::MaxUpdates | StopReason::MaxEpochs | StopReason::EarlyStopping)
    }
}

/// What the config says about the course of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// 0 = no limit, likewise the next.
    pub max_updates: u64,
    pub max_epochs: u64,
    /// Validations without improvement after which training ends; 0 = never.
    pub early_stopping: u32,
    /// Whether there is held-out text to validate on.
    pub validates: bool,
    pub valid_freq: Every,
    pub save_freq: Every,
    pub keep_last: usize,
    pub keep_best: usize,
    /// Validations whose weights are averaged at the end; 0 = none.
    pub average_last: usize,
    /// `validation.early_stopping_metric`.
    pub metric: Metric,
    /// Factor and patience of the plateau schedule, if it is the one in use.
    pub plateau: Option<(f64, u32)>,
    pub log_freq: u64,
    /// Micro-batches of an update.
    pub accumulation: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules::of(&Config::default())
    }
}

impl Rules {
    pub fn of(config: &Config) -> Self {
        let Config { train, validation, checkpoint, schedule, .. } = config;
        let waits = schedule.kind == ScheduleKind::Plateau;
        Rules {
            max_updates: train.max_updates,
            max_epochs: train.max_epochs,
            early_stopping: validation.early_stopping,
            validates: !config.data.valid.0.is_empty(),
            valid_freq: validation.valid_freq,
            save_freq: checkpoint.save_freq,
            keep_last: checkpoint.keep_last,
            keep_best: checkpoint.keep_best,
            average_last: checkpoint.average_last,
            metric: validation.early_stopping_metric,
            plateau: waits.then_some((schedule.plateau_factor, schedule.plateau_patience)),
            log_freq: train.log_freq,
            accumulation: train.gradient_accumulation_steps as u64,
        }
    }

    /// Updates in the whole run, as far as limits tell; 0 = unknown.
    pub fn total_updates(&self, updates_per_epoch: u64) -> u64 {
        let by_epochs = self.max_epochs * updates_per_epoch;
        match (self.max_updates, by_epochs) {
            (0, n) | (n, 0) => n,
            (a, b) => a.min(b),
        }
    }
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Validate,
    Save,
    /// Save what is unsaved, and end.
    Stop(StopReason),
    Update,
}

impl Ledger {
    /// Validation before anything else: it may be what ends the run, and a checkpoint should know it. `interrupted`: a
    /// signal, or the time is up.
    pub fn due(&self, rules: &Rules, interrupted: Option<StopReason>) -> Due {
        let finished = self.finished(rules);
        let validation_is_due = rules.validates && (self.falls_on(rules.valid_freq) || finished.is_some());
        if validation_is_due && self.validated_at != Some(self.step) {
            return Due::Validate;
        }
        if let Some(finished) = finished {
            return Due::Stop(finished);
        }
        if self.falls_on(rules.save_freq) && self.saved_at() != Some(self.step) {
            return Due::Save;
        }
        interrupted.map_or(Due::Update, Due::Stop)
    }

    /// Whether the limits are reached. Patience counts what was validated so far.
    pub fn finished(&self, rules: &Rules) -> Option<StopReason> {
        if rules.max_updates > 0 && self.step >= rules.max_updates {
            return Some(StopReason::MaxUpdates);
        }
        if rules.max_epochs > 0 && self.epoch >= rules.max_epochs {
            return Some(StopReason::MaxEpochs);
        }
        (rules.early_stopping > 0 && self.validations_without_improvement() >= rules.early_stopping)
            .then_some(StopReason::EarlyStopping)
    }

    /// Whether something that happens `every` so often falls on this update.
    fn falls_on(&self, every: Every) -> bool {
        match every {
            Every::AtEnd => false,
            Every::Updates(n) => self.step > 0 && self.step.is_multiple_of(n),
            Every::Epochs(n) => self.batch == 0 && self.epoch > 0 && self.epoch.is_multiple_of(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::{Scored, Unit};
    use super::super::ledger::UpdateStats;
    use super::*;

    fn ledger(steps: u64, epochs: u64, nll: &[f64]) -> Ledger {
        let mut ledger = Ledger::new(String::new(), String::new());
        let unit = Unit { metric: Metric::Nll, text: String::new(), translation: String::new() };
        ledger.measured_by(unit.clone(), &unit);
        (0..epochs).for_each(|_| assert!(ledger.turn_epoch(0)));
        for step in 0..steps {
            ledger.updated(&UpdateStats::default());
            if let Some(&nll) = nll.get(step as usize) {
                ledger.validated(Scored::new(ledger.step, |_| Some(nll)), 0.0, &Rules::default());
            }
        }
        ledger
    }

    #[test]
    fn each_limit_stops_and_none_stops_early() {
        let ledger = ledger(10, 2, &[1.0, 2.0, 2.0, 2.0]);
        let finished = |change: fn(&mut Rules)| {
            let mut rules = Rules::default();
            change(&mut rules);
            ledger.finished(&rules)
        };
        assert_eq!(finished(|r| r.max_updates = 10), Some(StopReason::MaxUpdates));
        assert_eq!(finished(|r| r.max_updates = 11), None);
        assert_eq!(finished(|r| r.max_epochs = 2), Some(StopReason::MaxEpochs));
        assert_eq!(finished(|r| r.early_stopping = 3), Some(StopReason::EarlyStopping));
        assert_eq!(finished(|r| r.early_stopping = 4), None);
    }

    #[test]
    fn the_last_weights_are_validated_before_they_are_saved_and_the_run_ends() {
        let mut rules = Rules { max_updates: 2, validates: true, ..Rules::default() };
        rules.save_freq = Every::Updates(2);
        let mut now = ledger(2, 0, &[]);
        assert_eq!(now.due(&rules, Some(StopReason::Signal)), Due::Validate);
        now.validated(Scored::new(2, |_| None), 0.0, &rules);
        assert_eq!(now.due(&rules, None), Due::Stop(StopReason::MaxUpdates));
        rules.max_updates = 3;
        assert_eq!(now.due(&rules, Some(StopReason::Signal)), Due::Save);
        now.saved(0.0);
        assert_eq!(now.due(&rules, Some(StopReason::Signal)), Due::Stop(StopReason::Signal));
        assert_eq!(now.due(&rules, None), Due::Update);
    }

    #[test]
    fn the_smaller_of_two_limits_gives_the_length_of_the_run() {
        let both = Rules { max_updates: 100, max_epochs: 3, ..Rules::default() };
        assert_eq!((both.total_updates(20), both.total_updates(50)), (60, 100));
        assert_eq!(Rules::default().total_updates(50), 0);
    }
}
