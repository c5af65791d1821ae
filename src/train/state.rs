//! Everything a run needs to continue besides tensors: `state.json` of a checkpoint.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Scored;
use crate::optim::ScheduleState;

use super::distance::DistanceState;
use super::phases::Trained;

/// Counters and sums. Exact in JSON: floats are written so that they read back to the same bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
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
    pub best: Option<Best>,
    /// All validations by `validation.early_stopping_metric`.
    pub scored: Vec<Scored>,
    pub validations_without_improvement: u32,
    /// Step of the last validation, so that the end of training does not repeat it.
    pub validated_at: Option<u64>,
    /// Scale of the learning rate after plateaus and roll-backs.
    pub schedule: ScheduleState,
    pub since_log: Sums,
    /// Length of metrics.jsonl at this point; a resumed run cuts the file there.
    pub metrics_bytes: u64,
    /// Content hash of the training text as encoded; a changed corpus would change the order of batches.
    pub data_fingerprint: String,
    pub tokenizer_fingerprint: String,
    /// What the optimizer's state belongs to; checkpoints from before phases do not say.
    #[serde(default)]
    pub trained: Option<Trained>,
    #[serde(default)]
    pub distance: DistanceState,
}

/// The best validation so far, by `validation.early_stopping_metric`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub value: f64,
    pub nll: Option<f64>,
    pub bleu: Option<f64>,
}

/// Sums since the last `train` row of metrics.jsonl.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    pub updates: u64,
    pub loss: f64,
    pub nll: f64,
    pub tokens: u64,
    pub source_tokens: u64,
    pub grad_norm: f64,
    pub clipped: u64,
    pub seconds: f64,
    /// Of the embedding distance: updates with it, their sums, and its last weight.
    #[serde(default)]
    pub distance_updates: u64,
    #[serde(default)]
    pub distance: f64,
    #[serde(default)]
    pub guard: f64,
    #[serde(default)]
    pub distance_pairs: u64,
    #[serde(default)]
    pub distance_weight: f64,
}

impl TrainState {
    /// Before the first update.
    pub fn new(data_fingerprint: String, tokenizer_fingerprint: String) -> Self {
        TrainState { data_fingerprint, tokenizer_fingerprint, ..Default::default() }
    }

    /// Takes over everything from a checkpoint except the position in the data and the count of failures: a roll-back
    /// goes on with fresh batches at half the rate.
    pub fn roll_back_to(&mut self, good: TrainState) {
        let (epoch, batch, micro_batches) = (self.epoch, self.batch, self.micro_batches);
        let (rollbacks, skipped_updates) = (self.rollbacks + 1, self.skipped_updates);
        let (seconds, seconds_valid, seconds_save) = (self.seconds, self.seconds_valid, self.seconds_save);
        let mut schedule = self.schedule.clone();
        schedule.scale /= 2.0;
        *self = TrainState {
            epoch,
            batch,
            micro_batches,
            rollbacks,
            skipped_updates,
            seconds,
            seconds_valid,
            seconds_save,
            schedule,
            skipped_in_a_row: 0,
            since_log: Sums::default(),
            ..good
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_survive_json_bit_for_bit() {
        let mut state = TrainState::new("a".into(), "b".into());
        state.since_log.loss = 0.1 + 0.2;
        state.seconds = 1.0 / 3.0;
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<TrainState>(&text).unwrap(), state);
    }

    #[test]
    fn a_roll_back_keeps_the_data_position_and_halves_the_rate() {
        let good = TrainState { step: 100, epoch: 1, batch: 3, tokens: 9, ..TrainState::new("a".into(), "b".into()) };
        let mut now = TrainState { step: 130, epoch: 1, batch: 33, skipped_updates: 3, ..good.clone() };
        now.roll_back_to(good);
        assert_eq!((now.step, now.batch, now.tokens), (100, 33, 9));
        assert_eq!((now.rollbacks, now.skipped_updates, now.schedule.scale), (1, 3, 0.5));
    }
}
