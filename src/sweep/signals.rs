//! What asks a sweep to stop: SIGINT, SIGTERM, SIGUSR1 and SIGHUP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// A wrapper that passes on what the terminal or the queue sent to all makes two signals of one.
const ONE: Duration = Duration::from_secs(2);

/// Signals since [`Self::install`].
pub(super) struct Signals {
    heard: Arc<AtomicBool>,
    first: Option<Instant>,
}

impl Signals {
    /// Installs the handlers. As in a shell, what whoever started this process made it ignore (`nohup`, the script for
    /// Slurm) stays ignored; where there is no `/proc` that is not known.
    pub(super) fn install() -> std::io::Result<Self> {
        let heard = Arc::new(AtomicBool::new(false));
        let ignored = ignored();
        for signal in [SIGINT, SIGTERM, SIGUSR1, SIGHUP].into_iter().filter(|n| ignored >> (n - 1) & 1 == 0) {
            signal_hook::flag::register(signal, Arc::clone(&heard))?;
        }
        Ok(Signals { heard, first: None })
    }

    /// Whether something asked to stop since the last call: the first signal, and those of two seconds later or more.
    pub(super) fn asked(&mut self) -> bool {
        if !self.heard.swap(false, Ordering::Relaxed) || self.first.is_some_and(|first| first.elapsed() < ONE) {
            return false;
        }
        self.first.get_or_insert_with(Instant::now);
        true
    }

    /// Whether anything asked to stop so far.
    pub(super) fn stopping(&self) -> bool {
        self.first.is_some()
    }
}

/// One bit a signal, SIGHUP (1) the lowest.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
