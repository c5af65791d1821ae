//! What a run remembers of its embedding tables: how they were when the embedding distance began, how they are, and the
//! brake.

use serde::{Deserialize, Serialize};

use crate::config::EmbeddingDistanceConfig;
use crate::objective::TableHealth;

/// What the objective remembers; part of the [`super::Ledger`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DistanceState {
    /// Update at which the objective began.
    pub since: Option<u64>,
    /// Source and target table then.
    pub reference: [TableHealth; 2],
    /// The last measurement, and its update.
    pub latest: [TableHealth; 2],
    pub measured_at: u64,
    /// Times the brake halved the weight since the objective began.
    pub halvings: u32,
}

impl DistanceState {
    /// Whether the tables should be measured before the next update; `since`: update at which the objective began.
    pub fn is_due(&self, step: u64, since: u64, measure_freq: u64) -> bool {
        let is_due = step.saturating_sub(since).is_multiple_of(measure_freq);
        self.since != Some(since) || (is_due && self.measured_at != step)
    }

    /// Takes in a measurement before the update after `step`; whether the brake halved the weight.
    pub fn take(&mut self, step: u64, since: u64, now: [TableHealth; 2], config: &EmbeddingDistanceConfig) -> bool {
        if self.since == Some(since) {
            return self.measured(step, now, config);
        }
        let (since, reference, latest, measured_at) = (Some(since), now, now, step);
        *self = DistanceState { since, reference, latest, measured_at, halvings: 0 };
        false
    }

    /// Factor on the weight.
    pub fn brake(&self) -> f64 {
        0.5f64.powi(self.halvings.min(1000) as i32)
    }

    /// Takes in a measurement after the first; whether the brake halved the weight. Each halving needs a further loss.
    fn measured(&mut self, step: u64, now: [TableHealth; 2], config: &EmbeddingDistanceConfig) -> bool {
        (self.latest, self.measured_at) = (now, step);
        let next = f64::from(self.halvings) + 1.0;
        let is_worse = |(now, then): (&TableHealth, &TableHealth)| {
            now.effective_rank < then.effective_rank * (1.0 - config.max_rank_drop).powf(next)
                || now.mean_cosine > then.mean_cosine + next * config.max_cosine_rise
        };
        let halve = now.iter().zip(&self.reference).any(is_worse);
        self.halvings += u32::from(halve);
        halve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brake_halves_once_for_each_further_loss() {
        let table = |effective_rank, mean_cosine| TableHealth { effective_rank, mean_cosine, deviation: 1.0 };
        let (config, good) = (EmbeddingDistanceConfig::default(), table(100.0, 0.0));
        let mut state = DistanceState { reference: [good; 2], ..Default::default() };
        assert!(!state.measured(100, [table(91.0, 0.09), good], &config));
        assert!(state.measured(200, [good, table(89.0, 0.0)], &config));
        assert!(!state.measured(300, [good, table(82.0, 0.0)], &config));
        assert!(state.measured(400, [good, table(80.0, 0.0)], &config));
        assert!(state.measured(500, [table(100.0, 0.31), good], &config));
        assert_eq!((state.halvings, state.brake(), state.measured_at), (3, 0.125, 500));
        let never = EmbeddingDistanceConfig { max_rank_drop: 1.0, max_cosine_rise: 2.0, ..config };
        assert!(!state.measured(600, [table(1.0, 1.0), good], &never));
    }
}
