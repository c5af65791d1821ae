//! The story of a run, top to bottom.

use std::time::Instant;

use anyhow::Result;

use crate::checkpoint::Snapshot;
use crate::config::{Every, Metric, ScheduleKind};
use crate::data::Epoch;
use crate::events::{Event, Progress, Sample, TrainPoint, ValidPoint};

use super::guard::{self, Action};
use super::session::Session;
use super::state::Sums;
use super::step::Update;
use super::stop::StopReason;
use super::test_set;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub stop: StopReason,
    pub end: crate::events::End,
}

/// Trains until a limit, early stopping, a signal or divergence; then scores the test set and says what to do next.
///
/// # Errors
/// Unreadable data, a full disk, errors of the computation; what was saved before is whole.
pub fn run(mut session: Session) -> Result<Outcome> {
    session.announce();
    let stop = session.train()?;
    let end = session.conclude(stop)?;
    Ok(Outcome { stop, end })
}

impl Session {
    /// Updates until something says stop. Everything due after an update is decided at the top of the loop, from the
    /// state alone, so a resumed run does what the uninterrupted one would have done.
    fn train(&mut self) -> Result<StopReason> {
        let mut epoch = self.open_epoch();
        loop {
            if self.state.batch >= epoch.len() as u64 {
                self.state.epoch += 1;
                self.state.batch = 0;
                epoch = self.open_epoch();
            }
            let mut finished = self.limits.finished(&self.state);
            if self.validation_is_due(finished.is_some()) {
                if let Some(interrupted) = self.validate()? {
                    self.save(None)?;
                    return Ok(interrupted);
                }
                finished = finished.or_else(|| self.limits.finished(&self.state));
            }
            if finished.is_some() || self.save_is_due() {
                self.state.finished = finished.map(|reason| reason.name().to_string());
                self.save(None)?;
            }
            if let Some(reason) = finished {
                return Ok(reason);
            }
            if let Some(reason) = self.limits.interrupted() {
                self.save(None)?;
                return Ok(reason);
            }
            if let Some(reason) = self.update(&epoch)? {
                return Ok(reason);
            }
        }
    }
}
