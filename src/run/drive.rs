//! The story of training, top to bottom: what is due is done, until something says stop.
//!
//! The loop knows nothing of models and files. A run gives it hands that compute and write ([`Work`]); tests give it
//! others, a hundred thousand times.

use super::due::{Due, Rules, StopReason};
use super::judge::{Judged, Scored};
use super::ledger::{Failed, Ledger, Taken, UpdateStats};

/// What the loop has others do. Every method may fail, and then training ends as after a crash: nothing is saved.
pub trait Work {
    type Error;
    /// What a validation leaves besides scores.
    type Translations;

    /// Batches of an epoch.
    fn batches(&mut self, epoch: u64) -> u64;

    /// Whether something from outside asks to stop.
    fn interrupted(&self) -> Option<StopReason>;

    /// Scores of the present weights; `None`: interrupted on the way.
    fn validate(&mut self, ledger: &Ledger) -> Result<Option<Validation<Self::Translations>>, Self::Error>;

    /// Tells what a validation found.
    fn tell(
        &mut self,
        ledger: &Ledger,
        found: Validation<Self::Translations>,
        judged: Judged,
    ) -> Result<(), Self::Error>;

    /// Writes a checkpoint, calling [`Ledger::saving`] and [`Ledger::saved`].
    fn save(&mut self, ledger: &mut Ledger) -> Result<(), Self::Error>;

    /// Puts into force what the phases say for the next update.
    fn enter(&mut self, ledger: &mut Ledger) -> Result<(), Self::Error>;

    /// One update on these batches of the present epoch.
    fn update(&mut self, ledger: &mut Ledger, taken: Taken) -> Result<Updated, Self::Error>;

    /// Tells an update that was counted; `log`: a row of metrics.jsonl is due.
    fn account(&mut self, ledger: &mut Ledger, done: &UpdateStats, log: bool) -> Result<(), Self::Error>;

    /// Puts the newest checkpoint into the model, without its optimizer's state, and returns its ledger.
    fn restore(&mut self) -> Result<Ledger, Self::Error>;

    /// Makes the files those of a run that has just returned to its newest checkpoint.
    fn returned(&mut self, ledger: &Ledger) -> Result<(), Self::Error>;
}

/// A validation.
pub struct Validation<T> {
    pub scored: Scored,
    pub seconds: f64,
    pub translations: T,
}

/// What became of an update.
pub enum Updated {
    Done(UpdateStats),
    /// The gradient was not finite; nothing was changed.
    NonFinite {
        seconds: f64,
    },
}

/// Trains until a limit, early stopping, an interruption or divergence. All but the last leave everything saved.
///
/// # Errors
/// Those of `work`.
pub fn drive<W: Work>(ledger: &mut Ledger, rules: &Rules, work: &mut W) -> Result<StopReason, W::Error> {
    loop {
        let batches = work.batches(ledger.epoch);
        ledger.turn_epoch(batches);
        match ledger.due(rules, work.interrupted()) {
            Due::Validate => {
                let Some(found) = work.validate(ledger)? else {
                    // Given up because something asked to stop; a resume begins with this validation.
                    return stop(ledger, work.interrupted().unwrap_or(StopReason::Signal), work);
                };
                let judged = ledger.validated(found.scored.clone(), found.seconds, rules);
                work.tell(ledger, found, judged)?;
                if judged.is_best && rules.keep_best > 0 {
                    work.save(ledger)?;
                }
            }
            Due::Save => work.save(ledger)?,
            Due::Stop(reason) => return stop(ledger, reason, work),
            Due::Update => {
                if let Some(diverged) = update(ledger, rules, work)? {
                    return Ok(diverged);
                }
            }
        }
    }
}

fn stop<W: Work>(ledger: &mut Ledger, reason: StopReason, work: &mut W) -> Result<StopReason, W::Error> {
    if ledger.is_unsaved() {
        work.save(ledger)?;
    }
    Ok(reason)
}

fn update<W: Work>(ledger: &mut Ledger, rules: &Rules, work: &mut W) -> Result<Option<StopReason>, W::Error> {
    work.enter(ledger)?;
    ledger.entered();
    let batches = work.batches(ledger.epoch);
    let taken = ledger.take(rules.accumulation, batches);
    match work.update(ledger, taken)? {
        Updated::Done(stats) => {
            ledger.updated(&stats);
            work.account(ledger, &stats, ledger.step.is_multiple_of(rules.log_freq))?;
        }
        Updated::NonFinite { seconds } => match ledger.skipped(seconds) {
            Failed::Skip => (),
            Failed::RollBack => {
                let good = work.restore()?;
                ledger.rolled_back_to(good);
                work.returned(ledger)?;
            }
            Failed::Stop => return Ok(Some(StopReason::Diverged)),
        },
    }
    Ok(None)
}
