//! A run from its first screen to its last.

use anyhow::Result;

use crate::events::{End, Event};
use crate::fsio;
use crate::run::{drive, Ledger, StopReason};
use crate::scores::Metric;
use crate::shell;

use super::averaging::Average;
use super::batch_size::is_want_of_memory;
use super::session::Session;
use super::trainer::Trainer;
use super::validator::Evaluation;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub stop: StopReason,
    pub end: End,
}

/// Trains until a limit, early stopping, a signal or divergence; then scores the test set and says what to do next.
///
/// # Errors
/// Unreadable data, a full disk, errors of the computation; what was saved before is whole.
pub fn run(session: Session) -> Result<Ended> {
    let Session { mut ledger, mut trainer } = session;
    trainer.announce(&ledger)?;
    let rules = trainer.rules.clone();
    let ended = drive(&mut ledger, &rules, &mut trainer).and_then(|stop| trainer.conclude(&ledger, stop));
    let is_gone = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(fsio::Error::Gone { .. }));
    let left = ended.as_ref().err().filter(|error| !is_gone(error)).and_then(|_| ledger.saved_at());
    if let Some(step) = left {
        let run = shell::path(trainer.record.paths().root());
        trainer.record.note(format!("the last checkpoint is of update {step}; go on with `nmt-train --resume {run}`"));
    }
    ended.map_err(|error| match is_want_of_memory(&format!("{error:#}")) {
        true => error.context(
            "the memory of the GPU is full; try a smaller train.batch_size (\"auto\" finds one), or \
             train.precision = \"bf16\"",
        ),
        false => error,
    })
}

impl Trainer {
    /// Emits the last screen after the test.
    fn conclude(&mut self, ledger: &Ledger, mut stop: StopReason) -> Result<Ended> {
        let (mut average, mut test) = (None, None);
        if stop.is_finished() {
            let whole = match self.validate_average(ledger)? {
                Average::Interrupted => false,
                Average::None => self.test(ledger, &mut test, false)?,
                Average::Scored(point) => self.test(ledger, &mut test, average.insert(point).is_best)?,
            };
            if !whole {
                // Given up on the way; a resume begins with what follows training.
                stop = self.limits.interrupted().unwrap_or(stop);
            }
        }
        self.warn_if_nothing_was_learnt(ledger);
        let end = self.last_screen(ledger, stop, average, test.as_ref());
        self.record.emit(&Event::End(end.clone()));
        Ok(Ended { stop, end })
    }

    /// Scores the test set, if there is one, with the best checkpoint or the weights that are in the model; false: given
    /// up on the way.
    fn test(&mut self, ledger: &Ledger, found: &mut Option<Evaluation>, is_best_loaded: bool) -> Result<bool> {
        if self.resources.test.is_none() {
            return Ok(true);
        }
        if !is_best_loaded {
            self.load_best(ledger)?;
        }
        *found = self.score_test_set()?;
        Ok(found.is_some())
    }

    /// A loss above that of guessing is no model, however good it was called on the way.
    fn warn_if_nothing_was_learnt(&mut self, ledger: &Ledger) {
        let chance = (self.resources.vocabulary.target_size as f64).ln();
        let losses: Vec<f64> = ledger.scored.iter().filter_map(|scored| scored.value(Metric::Nll)).collect();
        let (Some(&first), Some(&last)) = (losses.first(), losses.last()) else { return };
        let loss = |x: f64| if x < 1000.0 { format!("{x:.3}") } else { format!("{x:.2e}") };
        let cure = "try a lower optimizer.lr or a longer schedule.warmup_updates";
        if last > chance {
            let chance = loss(chance);
            let what = format!("the validation loss ended at {} a token, guessing has {chance}: {cure}", loss(last));
            self.record.warn(ledger.step, what);
        } else if losses.len() > 1 && last > first {
            let what = format!(
                "the validation loss ended at {}, above the {} it began at: {cure}; the best checkpoint is the one to use",
                loss(last),
                loss(first)
            );
            self.record.warn(ledger.step, what);
        }
    }
}
