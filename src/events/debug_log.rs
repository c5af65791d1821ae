//! `debug.log`: every event with its time, one a line, to attach to a bug report.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Event, Sink};
use crate::fsio::{self, AppendLog};
use crate::units;

/// Progress and phases come at every update; one a second of them is enough to see where a run stood.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Appends to the log of a run; earlier processes' lines stay.
pub struct DebugLog {
    log: AppendLog,
    last_progress: Option<Instant>,
}

impl DebugLog {
    /// # Errors
    /// When the file can not be opened.
    pub fn open(path: &Path) -> fsio::Result<Self> {
        Ok(DebugLog { log: AppendLog::open(path, u64::MAX)?, last_progress: None })
    }
}

impl Sink for DebugLog {
    fn emit(&mut self, event: &Event) -> io::Result<()> {
        if matches!(event, Event::Progress(_) | Event::Phase { .. }) {
            if self.last_progress.is_some_and(|at| at.elapsed() < PROGRESS_INTERVAL) {
                return Ok(());
            }
            self.last_progress = Some(Instant::now());
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.log.append(&format!("{} {event:?}", units::timestamp(since_epoch))).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_text() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("debug.log");
        for text in ["two\nlines", "second process"] {
            DebugLog::open(&path)?.emit(&Event::Note(text.into()))?;
        }
        let log = std::fs::read_to_string(&path)?;
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with(r#"Z Note("two\nlines")"#), "{log}");
        Ok(())
    }
}
