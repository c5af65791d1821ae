//! What a run has done and knows, and the only place where that changes: `state.json` of a checkpoint.
//!
//! A [`Ledger`] is read by everyone and written by its transitions alone, which are pure: given what happened, what is
//! true now. What follows from it is derived, never stored beside it: the best validation and the patience left come
//! from the list of validations ([`super::judge`]), what is due next from all of it ([`super::due`]).

use std::ops::{Deref, Range};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::due::Rules;
use super::judge::{self, Judged, Plateau, Scored, Unit};
use super::phase::Trained;
use super::tables::DistanceState;
use crate::objective::DistanceStats;
use crate::scores::Metric;

/// Counters and sums. Exact in JSON: floats are written so that they read back to the same bits, and what may not be
/// finite says so ([`crate::exact`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entries {
    /// Updates done.
    pub step: u64,
    /// Micro-batches computed, skipped updates included; names the dropout masks.
    pub micro_batches: u64,
    /// Current pass over the data, from 0.
    pub epoch: u64,
    /// Batches of this epoch already used.
    pub batch: u64,
    /// Target tokens so far.
    pub tokens: u64,
    pub seconds: f64,
    pub seconds_valid: f64,
    pub seconds_save: f64,
    /// Non-finite updates in all, and in a row.
    pub skipped_updates: u64,
    pub skipped_in_a_row: u32,
    pub rollbacks: u32,
    /// All validations since the text or the way of measuring last changed.
    pub scored: Vec<Scored>,
    /// What they were measured on and how; checkpoints of before 0.2 do not say.
    #[serde(default)]
    pub unit: Option<Unit>,
    /// Step of the last validation, so that the end of training does not repeat it.
    pub validated_at: Option<u64>,
    /// Updates of the last validations, ascending, whose weights are kept for `checkpoint.average_last`.
    #[serde(default)]
    pub averaged: Vec<u64>,
    /// Scale of the learning rate after plateaus and roll-backs.
    pub schedule: Plateau,
    pub since_log: Sums,
    /// Length of metrics.jsonl at this point; a run that returns to it cuts the file there.
    pub metrics_bytes: u64,
    /// Content hash of the training text as encoded; a changed corpus would change the order of batches.
    pub data_fingerprint: String,
    pub tokenizer_fingerprint: String,
    /// What the optimizer's state belongs to; checkpoints from before phases do not say.
    #[serde(default)]
    pub trained: Option<Trained>,
    /// What decides the last bits, as [`crate::machine::computed_by`] tells; checkpoints of before 0.2 do not say.
    #[serde(default)]
    pub computed_by: Option<String>,
    /// Updates done when phases were last entered: what was in force then is in force still. Checkpoints of before 0.2,
    /// which do not say, were saved after entering.
    #[serde(default)]
    pub in_force_at: Option<u64>,
    #[serde(default)]
    pub distance: DistanceState,
}

/// Sums since the last `train` row of metrics.jsonl.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    pub updates: u64,
    #[serde(with = "crate::exact")]
    pub loss: f64,
    #[serde(with = "crate::exact")]
    pub nll: f64,
    pub tokens: u64,
    pub source_tokens: u64,
    /// Of R-Drop: the divergence between both passes, and the target tokens it was taken of.
    #[serde(default, with = "crate::exact")]
    pub r_drop_kl: f64,
    #[serde(default)]
    pub r_drop_tokens: u64,
    #[serde(with = "crate::exact")]
    pub grad_norm: f64,
    pub clipped: u64,
    pub seconds: f64,
    /// Of the embedding distance: updates with it, their sums, and its last weight.
    #[serde(default)]
    pub distance_updates: u64,
    #[serde(default, with = "crate::exact")]
    pub distance: f64,
    #[serde(default, with = "crate::exact")]
    pub guard: f64,
    #[serde(default)]
    pub distance_pairs: u64,
    #[serde(default, with = "crate::exact")]
    pub distance_weight: f64,
}

/// What one update was: sums over its micro-batches.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdateStats {
    /// The learning rate it was done with.
    pub lr: f64,
    pub seconds: f64,
    pub loss: f64,
    pub nll: f64,
    /// Divergence between the passes of R-Drop, where there are two.
    pub r_drop_kl: Option<f64>,
    pub tokens: u64,
    pub source_tokens: u64,
    pub grad_norm: f64,
    pub clipped: bool,
    /// What the embedding distance found, if it is in force.
    pub distance: Option<DistanceStats>,
}

/// Batches of the present epoch that make one update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub batches: Range<u64>,
    /// Names the dropout masks of the first of them.
    pub first_micro_batch: u64,
}

/// What to do about an update whose gradient was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Leave the weights as they are and go on with the next batch.
    Skip,
    /// Return to the last good checkpoint.
    RollBack,
    /// Give up.
    Stop,
}

/// Consecutive skipped updates that lead to a roll-back.
const SKIPS_BEFORE_ROLLBACK: u32 = 3;
/// Roll-backs of one run, after which it is given up.
const MAX_ROLLBACKS: u32 = 3;

/// See the module. Reading goes through [`Entries`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    entries: Entries,
    /// Step of the newest checkpoint.
    saved_at: Option<u64>,
    /// What `averaged` was then: a run that comes back from there needs those weights.
    saved_averaged: Vec<u64>,
    /// Whether something happened that no checkpoint knows.
    unsaved: bool,
}

impl Deref for Ledger {
    type Target = Entries;

    fn deref(&self) -> &Entries {
        &self.entries
    }
}

impl Ledger {
    /// Before the first update.
    pub fn new(data_fingerprint: String, tokenizer_fingerprint: String) -> Self {
        let entries = Entries { data_fingerprint, tokenizer_fingerprint, ..Entries::default() };
        Ledger { entries, saved_at: None, saved_averaged: Vec::new(), unsaved: true }
    }

    /// From the `state.json` of a checkpoint.
    ///
    /// # Errors
    /// When it is not what [`Ledger::to_json`] makes.
    pub fn read(state: &Value) -> Result<Self, serde_json::Error> {
        let mut entries = Entries::deserialize(state)?;
        entries.in_force_at.get_or_insert(entries.step);
        let saved_averaged = entries.averaged.clone();
        Ok(Ledger { saved_at: Some(entries.step), saved_averaged, entries, unsaved: false })
    }

    /// For `state.json`.
    ///
    /// # Errors
    /// When it could not be read back: a checkpoint that could not be loaded is not to be written.
    pub fn to_json(&self) -> Result<Value, serde_json::Error> {
        let value = serde_json::to_value(&self.entries)?;
        Entries::deserialize(&value)?;
        Ok(value)
    }

    /// Step of the newest checkpoint.
    pub fn saved_at(&self) -> Option<u64> {
        self.saved_at
    }

    /// Whether something happened that no checkpoint knows.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Goes on to the next epoch where the present one, of `batches`, is used up.
    pub fn turn_epoch(&mut self, batches: u64) -> bool {
        let ends = self.batch >= batches;
        if ends {
            self.entries.epoch += 1;
            self.entries.batch = 0;
        }
        ends
    }

    /// What the phases say for the next update is in force from here on.
    pub fn entered(&mut self) {
        self.entries.in_force_at = Some(self.step);
    }

    /// The batches of the next update, `accumulation` or what the epoch, of `batches`, has left. They count as used
    /// whatever becomes of the update.
    pub fn take(&mut self, accumulation: u64, batches: u64) -> Taken {
        let last = (self.batch + accumulation).min(batches);
        let taken = Taken { batches: self.batch..last, first_micro_batch: self.micro_batches };
        self.entries.batch = last;
        self.entries.micro_batches += taken.batches.end - taken.batches.start;
        self.unsaved = true;
        taken
    }

    /// An update was done.
    pub fn updated(&mut self, done: &UpdateStats) {
        let entries = &mut self.entries;
        entries.step += 1;
        entries.skipped_in_a_row = 0;
        entries.tokens += done.tokens;
        entries.seconds += done.seconds;
        let sums = &mut entries.since_log;
        sums.updates += 1;
        sums.loss += done.loss;
        sums.nll += done.nll;
        sums.tokens += done.tokens;
        sums.source_tokens += done.source_tokens;
        if let Some(kl) = done.r_drop_kl {
            sums.r_drop_kl += kl;
            sums.r_drop_tokens += done.tokens;
        }
        sums.grad_norm += done.grad_norm;
        sums.clipped += u64::from(done.clipped);
        if let Some(found) = &done.distance {
            sums.distance_updates += 1;
            sums.distance += found.distance;
            sums.guard += found.guard;
            sums.distance_pairs += found.pairs as u64;
            sums.distance_weight = found.weight;
        }
        sums.seconds += done.seconds;
    }

    /// The sums for a row of metrics.jsonl; they begin anew.
    pub fn logged(&mut self) -> Sums {
        std::mem::take(&mut self.entries.since_log)
    }

    /// An update was left out because its gradient was not finite: skip and count, then roll back, then stop.
    pub fn skipped(&mut self, seconds: f64) -> Failed {
        let entries = &mut self.entries;
        entries.seconds += seconds;
        entries.skipped_updates += 1;
        entries.skipped_in_a_row += 1;
        if entries.skipped_in_a_row < SKIPS_BEFORE_ROLLBACK {
            Failed::Skip
        } else if self.saved_at.is_some() && entries.rollbacks < MAX_ROLLBACKS {
            Failed::RollBack
        } else {
            Failed::Stop
        }
    }

    /// Takes over everything from a checkpoint except the position in the data, the times and the count of failures:
    /// training goes on with fresh batches at half the rate. What was validated since is forgotten.
    pub fn rolled_back_to(&mut self, good: Ledger) {
        let now = &self.entries;
        let entries = Entries {
            epoch: now.epoch,
            batch: now.batch,
            micro_batches: now.micro_batches,
            rollbacks: now.rollbacks + 1,
            skipped_updates: now.skipped_updates,
            skipped_in_a_row: 0,
            seconds: now.seconds,
            seconds_valid: now.seconds_valid,
            seconds_save: now.seconds_save,
            since_log: Sums::default(),
            schedule: Plateau { scale: now.schedule.scale / 2.0, ..good.schedule.clone() },
            ..good.entries
        };
        *self = Ledger { entries, saved_at: good.saved_at, saved_averaged: good.saved_averaged, unsaved: true };
    }

    /// The present weights were validated.
    pub fn validated(&mut self, scored: Scored, seconds: f64, rules: &Rules) -> Judged {
        debug_assert_eq!(scored.step, self.step, "scores of other weights");
        let entries = &mut self.entries;
        entries.seconds_valid += seconds;
        entries.validated_at = Some(entries.step);
        let step = entries.step;
        entries.averaged.retain(|&earlier| earlier < step);
        entries.averaged.push(step);
        entries.averaged.drain(..entries.averaged.len().saturating_sub(rules.average_last));
        self.unsaved = true;
        judge::judge(&mut entries.scored, &mut entries.schedule, scored, rules)
    }

    /// Validations are measured as `unit` says from here on; what came before stays as far as it can be compared with
    /// that. `before`: what a checkpoint that does not say was measured by. Says what was forgotten.
    pub fn measured_by(&mut self, unit: Unit, before: &Unit) -> Option<String> {
        let entries = &mut self.entries;
        let was = entries.unit.get_or_insert_with(|| before.clone()).clone();
        let forgotten = judge::change_unit(&mut entries.scored, &mut entries.schedule, &was, &unit);
        self.unsaved |= forgotten.is_some();
        entries.unit = Some(unit);
        forgotten
    }

    /// The best validation so far by the metric in use.
    pub fn best(&self) -> Option<&Scored> {
        judge::best(&self.scored, self.unit.as_ref()?.metric)
    }

    /// Validated steps, best first by this metric; of equals the earlier.
    pub fn ranked(&self, metric: Metric) -> Vec<u64> {
        judge::ranked(&self.scored, metric)
    }

    /// Validations since the best one.
    pub fn validations_without_improvement(&self) -> u32 {
        self.unit.as_ref().map_or(0, |unit| judge::without_improvement(&self.scored, unit.metric))
    }

    /// Updates whose validated weights must be on the disk, ascending: those whose mean is asked for now, and what would be
    /// asked for if the process died here.
    pub fn weights_kept(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = self.averaged.iter().chain(&self.saved_averaged).copied().collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }

    /// Updates whose weights the mean at the end is of, ascending.
    pub fn to_average(&self, rules: &Rules) -> &[u64] {
        &self.averaged[self.averaged.len().saturating_sub(rules.average_last)..]
    }

    /// A checkpoint is about to be written; it will know the length of metrics.jsonl, whose state its optimizer has, and
    /// what its numbers were computed by.
    pub fn saving(&mut self, metrics_bytes: u64, trained: Trained, computed_by: String) {
        self.entries.computed_by = Some(computed_by);
        self.entries.metrics_bytes = metrics_bytes;
        self.entries.trained = Some(trained);
    }

    /// It is on the disk.
    pub fn saved(&mut self, seconds: f64) {
        self.entries.seconds_save += seconds;
        self.saved_at = Some(self.step);
        self.saved_averaged.clone_from(&self.entries.averaged);
        self.unsaved = false;
    }

    /// The embedding tables, for the objective that watches them.
    pub fn tables(&mut self) -> &mut DistanceState {
        &mut self.entries.distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64, batch: u64) -> Ledger {
        let entries = Entries { step, epoch: 1, batch, tokens: 9 * step, ..Entries::default() };
        Ledger { entries, saved_at: Some(step), saved_averaged: Vec::new(), unsaved: false }
    }

    #[test]
    fn every_float_survives_json_bit_for_bit_or_says_what_it_was() {
        let mut ledger = at(1, 2);
        ledger.entered();
        ledger.entries.seconds = 1.0 / 3.0;
        ledger.entries.since_log = Sums { loss: f64::INFINITY, nll: 0.1 + 0.2, guard: -0.0, ..Sums::default() };
        ledger.entries.distance.latest[0].effective_rank = f64::NEG_INFINITY;
        let text = serde_json::to_string(&ledger.to_json().unwrap()).unwrap();
        assert_eq!(Ledger::read(&serde_json::from_str(&text).unwrap()).unwrap(), ledger);
        ledger.entries.since_log.loss = f64::NAN;
        let back = Ledger::read(&ledger.to_json().unwrap()).unwrap();
        assert!(back.since_log.loss.is_nan());
    }

    #[test]
    fn three_in_a_row_roll_back_and_the_fourth_roll_back_is_a_stop() {
        let mut ledger = at(100, 3);
        for _ in 0..MAX_ROLLBACKS {
            assert_eq!([ledger.skipped(1.0), ledger.skipped(1.0)], [Failed::Skip; 2]);
            assert_eq!(ledger.skipped(1.0), Failed::RollBack);
            ledger.rolled_back_to(at(100, 3));
        }
        assert_eq!([ledger.skipped(1.0), ledger.skipped(1.0), ledger.skipped(1.0)][2], Failed::Stop);
        assert_eq!((ledger.schedule.scale, ledger.skipped_updates, ledger.seconds), (0.125, 12, 12.0));
    }

    #[test]
    fn a_good_update_in_between_starts_the_count_anew() {
        let mut ledger = at(7, 0);
        assert_eq!([ledger.skipped(0.0), ledger.skipped(0.0)], [Failed::Skip; 2]);
        ledger.updated(&UpdateStats::default());
        assert_eq!((ledger.skipped(0.0), ledger.skipped_updates, ledger.step), (Failed::Skip, 3, 8));
    }

    #[test]
    fn without_a_checkpoint_there_is_nothing_to_return_to() {
        let mut ledger = Ledger::new(String::new(), String::new());
        assert_eq!([ledger.skipped(0.0), ledger.skipped(0.0), ledger.skipped(0.0)][2], Failed::Stop);
    }

    #[test]
    fn a_roll_back_keeps_the_position_in_the_data_and_halves_the_rate() {
        let mut now = at(130, 33);
        now.entries.schedule.scale = 0.5;
        now.rolled_back_to(at(100, 3));
        assert_eq!((now.step, now.batch, now.tokens, now.rollbacks), (100, 33, 900, 1));
        assert_eq!((now.schedule.scale, now.saved_at(), now.is_unsaved()), (0.25, Some(100), true));
    }

    #[test]
    fn batches_are_taken_to_the_end_of_the_epoch_and_not_beyond() {
        let mut ledger = Ledger::new(String::new(), String::new());
        assert_eq!(ledger.take(3, 4), Taken { batches: 0..3, first_micro_batch: 0 });
        assert!(!ledger.turn_epoch(4));
        assert_eq!(ledger.take(3, 4), Taken { batches: 3..4, first_micro_batch: 3 });
        assert!(ledger.turn_epoch(4));
        assert_eq!((ledger.epoch, ledger.batch, ledger.micro_batches), (1, 0, 4));
    }
}
