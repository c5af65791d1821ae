//! The story of a run, top to bottom.

use std::time::Instant;

use anyhow::Result;

use crate::data::Epoch;
use crate::events::{End, Event};

use super::batch_size::is_want_of_memory;
use super::guard::{self, Action};
use super::session::Session;
use super::step::Update;
use super::stop::StopReason;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub stop: StopReason,
    pub end: End,
}

/// Trains until a limit, early stopping, a signal or divergence; then scores the test set and says what to do next.
///
/// # Errors
/// Unreadable data, a full disk, errors of the computation; what was saved before is whole.
pub fn run(mut session: Session) -> Result<Outcome> {
    session.announce();
    let ended = session.train().and_then(|stop| session.conclude(stop));
    if let (Err(_), Some(step)) = (&ended, session.saved_at) {
        let run = session.folder.root().display();
        let note = format!("the last checkpoint is of update {step}; go on with `nmt-train --resume {run}`");
        session.sinks.emit(&Event::Note(note));
    }
    ended.map_err(|error| match is_want_of_memory(&format!("{error:#}")) {
        true => error.context(
            "the memory of the GPU is full; try a smaller train.batch_size (\"auto\" finds one), or \
             train.precision = \"bf16\"",
        ),
        false => error,
    })
}

impl Session {
    /// Updates until something says stop. What is due is decided at the top of the loop from the state alone, so a
    /// resumed run does what the uninterrupted one would have done.
    fn train(&mut self) -> Result<StopReason> {
        let mut epoch = self.resources.epoch(self.state.epoch);
        loop {
            if self.state.batch >= epoch.len() as u64 {
                self.state.epoch += 1;
                self.state.batch = 0;
                epoch = self.resources.epoch(self.state.epoch);
            }
            self.enter_phase();
            let validation_is_due =
                self.is_due(self.config.validation.valid_freq) || self.limits.finished(&self.state).is_some();
            if validation_is_due && !self.is_validated() {
                if let Some(interrupted) = self.validate()? {
                    return self.save_and_stop(interrupted);
                }
            }
            // Asked after validation, which may have exhausted the patience.
            if let Some(finished) = self.limits.finished(&self.state) {
                return self.save_and_stop(finished);
            }
            if self.is_due(self.config.checkpoint.save_freq) {
                self.save()?;
            }
            if let Some(interrupted) = self.limits.interrupted() {
                return self.save_and_stop(interrupted);
            }
            if let Some(diverged) = self.update(&epoch)? {
                return Ok(diverged);
            }
        }
    }

    /// One update with the next batches of the epoch.
    fn update(&mut self, epoch: &Epoch) -> Result<Option<StopReason>> {
        let clock = Instant::now();
        let last = (self.state.batch + self.config.train.gradient_accumulation_steps as u64).min(epoch.len() as u64);
        let batches: Vec<_> =
            (self.state.batch..last).map(|i| epoch.batch(&self.resources.train, i as usize)).collect();
        let first_micro_batch = self.state.micro_batches;
        self.state.batch = last;
        self.state.micro_batches += batches.len() as u64;

        self.watch_tables()?;
        let (mut stepper, context) = self.stepper();
        match stepper.update(&batches, first_micro_batch, &context)? {
            Update::Done(stats) => {
                guard::on_finite(&mut self.state);
                self.state.step += 1;
                self.account(&stats, context.lr, clock.elapsed().as_secs_f64());
            }
            Update::NonFinite { parameter } => {
                self.state.seconds += clock.elapsed().as_secs_f64();
                let action = guard::on_non_finite(&mut self.state, self.saved_at.is_some());
                self.warn(format!("the gradient of {parameter} is not finite; update skipped{}", self.health()));
                match action {
                    Action::Skip => (),
                    Action::RollBack => self.roll_back()?,
                    Action::Stop => return Ok(Some(StopReason::Diverged)),
                }
            }
        }
        Ok(None)
    }

    fn save_and_stop(&mut self, reason: StopReason) -> Result<StopReason> {
        self.save()?;
        Ok(reason)
    }

    /// Emits the last screen after the test.
    fn conclude(&mut self, mut stop: StopReason) -> Result<Outcome> {
        let mut test = None;
        if stop.is_finished() {
            self.load_best()?;
            test = self.score_test_set()?;
        }
        if stop.is_finished() && self.resources.test.is_some() && test.is_none() {
            // Given up on the way; a resume begins with the test.
            stop = self.limits.interrupted().unwrap_or(stop);
        }
        let end = self.last_screen(stop, test.as_ref());
        self.sinks.emit(&Event::End(end.clone()));
        Ok(Outcome { stop, end })
    }
}
