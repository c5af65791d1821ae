//! When a run ends: limits, patience, signals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;

use super::state::TrainState;

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

/// SIGINT, SIGTERM and SIGUSR1 as one flag; the second signal ends the process at once.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    raised: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> std::io::Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGUSR1] {
            // Order matters: the shutdown looks at the flag before this very signal sets it.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&raised))?;
            signal_hook::flag::register(signal, Arc::clone(&raised))?;
        }
        Ok(Signals { raised })
    }

    /// Whether a signal came.
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

/// Limits of one process of a run.
pub(super) struct Limits {
    max_updates: u64,
    max_epochs: u64,
    max_hours: f64,
    early_stopping: u32,
    started: Instant,
    signals: Signals,
}

impl Limits {
    pub(super) fn new(config: &Config, signals: Signals) -> Self {
        Limits {
            max_updates: config.train.max_updates,
            max_epochs: config.train.max_epochs,
            max_hours: config.train.max_hours,
            early_stopping: config.validation.early_stopping,
            started: Instant::now(),
            signals,
        }
    }

    /// Counts `max_hours` from now.
    pub(super) fn begin(self) -> Self {
        Limits { started: Instant::now(), ..self }
    }

    /// Whether a long phase (validation, decoding) should give up now.
    pub(super) fn interrupted(&self) -> Option<StopReason> {
        if self.signals.raised() {
            return Some(StopReason::Signal);
        }
        let hours = self.started.elapsed().as_secs_f64() / 3600.0;
        (self.max_hours > 0.0 && hours >= self.max_hours).then_some(StopReason::MaxHours)
    }

    /// Whether the run is complete. Asked after validation, so that the last one counts.
    pub(super) fn finished(&self, state: &TrainState) -> Option<StopReason> {
        if self.max_updates > 0 && state.step >= self.max_updates {
            return Some(StopReason::MaxUpdates);
        }
        if self.max_epochs > 0 && state.epoch >= self.max_epochs {
            return Some(StopReason::MaxEpochs);
        }
        (self.early_stopping > 0 && state.validations_without_improvement >= self.early_stopping)
            .then_some(StopReason::EarlyStopping)
    }

    /// Updates in the whole run, as far as limits tell; 0 = unknown.
    pub(super) fn total_updates(&self, updates_per_epoch: u64) -> u64 {
        let by_epochs = self.max_epochs * updates_per_epoch;
        match (self.max_updates, by_epochs) {
            (0, n) | (n, 0) => n,
            (a, b) => a.min(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(change: impl Fn(&mut Config)) -> Limits {
        let mut config = Config::default();
        change(&mut config);
        Limits::new(&config, Signals::default())
    }

    #[test]
    fn each_limit_stops_and_none_stops_early() {
        let state = TrainState { step: 10, epoch: 2, validations_without_improvement: 3, ..Default::default() };
        assert_eq!(limits(|c| c.train.max_updates = 10).finished(&state), Some(StopReason::MaxUpdates));
        assert_eq!(limits(|c| c.train.max_updates = 11).finished(&state), None);
        assert_eq!(limits(|c| c.train.max_epochs = 2).finished(&state), Some(StopReason::MaxEpochs));
        assert_eq!(limits(|c| c.validation.early_stopping = 3).finished(&state), Some(StopReason::EarlyStopping));
        assert_eq!(limits(|c| c.validation.early_stopping = 4).finished(&state), None);
        assert_eq!(limits(|c| c.train.max_hours = 1e-12).interrupted(), Some(StopReason::MaxHours));
    }

    #[test]
    fn the_smaller_of_two_limits_gives_the_length_of_the_run() {
        let both = limits(|c| (c.train.max_updates, c.train.max_epochs) = (100, 3));
        assert_eq!(both.total_updates(20), 60);
        assert_eq!(both.total_updates(50), 100);
        assert_eq!(limits(|_| ()).total_updates(50), 0);
    }
}
