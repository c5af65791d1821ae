//! `debug.log`: every event with its time, one a line, to attach to a bug report.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Event, Sink};
use crate::fsio::{self, AppendLog};

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
        self.log.append(&format!("{} {event:?}", timestamp(since_epoch))).map_err(io::Error::other)
    }
}

/// Time since 1970 as "2026-11-03T14:05:09.123Z".
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Days since 1970-01-01 as (year, month, day), after Howard Hinnant, "chrono-compatible low-level date algorithms".
fn civil_date(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_calendar_dates() {
        let at = |s| timestamp(Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000Z");
        assert_eq!(timestamp(Duration::from_millis(1_793_714_709_123)), "2026-11-03T14:05:09.123Z");
    }

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
