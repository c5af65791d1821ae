//! What stops a process of a run from outside: signals, and the end of its time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;

use crate::run::StopReason;
use crate::world::World;

use super::shares;

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
    max_hours: f64,
    started: Instant,
    signals: Signals,
    world: World,
    /// What the ranks last agreed on.
    agreed: Option<StopReason>,
}

impl Limits {
    /// `max_hours` count from now; 0 = no limit.
    pub(super) fn begin(max_hours: f64, signals: Signals, world: World) -> Self {
        Limits { max_hours, started: Instant::now(), signals, world, agreed: None }
    }

    /// Whether something from outside asks to stop, and all ranks know it.
    pub(super) fn interrupted(&self) -> Option<StopReason> {
        if self.world.is_alone() {
            self.asked()
        } else {
            self.agreed
        }
    }

    /// A signal in one rank is one in all from here on; all of them come here.
    pub(super) fn agree(&mut self) -> Result<()> {
        if !self.world.is_alone() {
            self.agreed = shares::agreed(&self.world, self.asked())?;
        }
        Ok(())
    }

    /// Whether something from outside asks this process to stop; long phases (validation, decoding) give up then.
    pub(super) fn asked(&self) -> Option<StopReason> {
        if self.signals.raised() {
            return Some(StopReason::Signal);
        }
        let hours = self.started.elapsed().as_secs_f64() / 3600.0;
        (self.max_hours > 0.0 && hours >= self.max_hours).then_some(StopReason::MaxHours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_count_and_no_limit_is_none() {
        assert_eq!(Limits::begin(1e-12, Signals::default(), World::alone()).interrupted(), Some(StopReason::MaxHours));
        assert_eq!(Limits::begin(0.0, Signals::default(), World::alone()).interrupted(), None);
    }
}
