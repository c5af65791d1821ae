//! The embedding distance in a run: pairs of words from the training text, the weight over updates, measurements of the
//! tables and the brake.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::config::{Config, DistanceForm, EmbeddingDistanceConfig, InForce, PairSource, PhaseObjective};
use crate::objective::{self, DistanceContext, EmbeddingDistance, PairLimits, TableHealth};
use crate::params::ParamSet;
use crate::units;

use super::resources::Resources;
use super::session::Session;
use super::state::TrainState;
use super::step::DistanceUpdate;

/// What the objective remembers; part of [`super::TrainState`].
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
    /// Factor on the weight.
    fn brake(&self) -> f64 {
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

/// The objective of a run that uses it, with the pairs of words it needs; a sentence about them goes to `note`.
///
/// # Errors
/// A model without embedding tables.
pub(super) fn prepare(
    config: &Config,
    resources: &Resources,
    params: &ParamSet,
    note: &mut dyn FnMut(String),
) -> Result<Option<EmbeddingDistance>> {
    if !config.uses_distance() {
        return Ok(None);
    }
    let distance = &config.embedding_distance;
    let is_lexical = distance.form == DistanceForm::Bridge && distance.pairs == PairSource::Lexical;
    let mut pairs = Vec::new();
    if is_lexical {
        let limits = PairLimits { min_probability: distance.min_probability, min_count: distance.min_count };
        let vocabulary = [resources.vocabulary.source_size, resources.vocabulary.target_size];
        pairs = objective::word_pairs(&resources.train, vocabulary, limits);
    }
    let objective = EmbeddingDistance::new(distance, params, pairs)?;
    if is_lexical {
        note(match objective.pairs().len() {
            0 => "embedding distance: the training text gives no pairs of words, so it does nothing; lower \
                  embedding_distance.min_count or min_probability"
                .to_string(),
            n => format!("embedding distance: {} pairs of words that translate each other", units::count(n as u64)),
        });
    }
    Ok(Some(objective))
}

/// The weight of the update after `step` updates, without the brake.
fn weight(config: &Config, now: &InForce, step: u64) -> f64 {
    let distance = &config.embedding_distance;
    match now.objective {
        PhaseObjective::Nll => 0.0,
        PhaseObjective::Distance => 1.0,
        PhaseObjective::Joint => {
            let done = (step + 1).saturating_sub(now.distance_since) as f64;
            let grown = (done / distance.warmup_updates.max(1) as f64).min(1.0);
            let total = config.train.max_updates as f64;
            let falling = distance.decay * total;
            let left = if falling > 0.0 { ((total - step as f64) / falling).clamp(0.0, 1.0) } else { 1.0 };
            distance.weight * grown * left
        }
    }
}

impl Session {
    /// Measures the tables when that is due; decided from the saved state alone.
    pub(super) fn watch_tables(&mut self) -> Result<()> {
        let Some(tables) = self.model.params().embeddings().filter(|_| self.in_force.objective.has_distance()) else {
            return Ok(());
        };
        let (step, since) = (self.state.step, self.in_force.distance_since);
        let distance = &self.config.embedding_distance;
        let begins = self.state.distance.since != Some(since);
        let is_due = step.saturating_sub(since).is_multiple_of(distance.measure_freq);
        if !begins && (!is_due || self.state.distance.measured_at == step) {
            return Ok(());
        }
        let source = objective::table_health(tables[0])?;
        let is_joint = tables[0].name == tables[1].name;
        let now = [source, if is_joint { source } else { objective::table_health(tables[1])? }];
        if begins {
            let (since, reference, latest, measured_at) = (Some(since), now, now, step);
            self.state.distance = DistanceState { since, reference, latest, measured_at, halvings: 0 };
        } else if self.state.distance.measured(step, now, distance) {
            let (factor, (rank, cosine)) = (self.state.distance.brake(), worst(&now));
            self.warn(format!(
                "an embedding table narrows (effective rank {rank:.1}, mean cosine {cosine:.3}): the weight of the \
                 embedding distance is now {factor} of its schedule"
            ));
        }
        Ok(())
    }

    /// Columns `embedding.*` of a `train` row, without the prefix; none while the objective is not in force.
    pub(super) fn distance_columns(&self) -> Vec<(String, f64)> {
        let sums = &self.state.since_log;
        if sums.distance_updates == 0 {
            return Vec::new();
        }
        let updates = sums.distance_updates as f64;
        let (rank, cosine) = worst(&self.state.distance.latest);
        let columns = [
            ("distance", sums.distance / updates),
            ("guard", sums.guard / updates),
            ("pairs", sums.distance_pairs as f64 / updates),
            ("weight", sums.distance_weight),
            ("effective_rank", rank),
            ("mean_cosine", cosine),
        ];
        columns.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }
}

/// The objective's part in the next update; `None` while it is not in force.
pub(super) fn update<'a>(
    objective: Option<&'a EmbeddingDistance>,
    config: &Config,
    now: &InForce,
    state: &TrainState,
) -> Option<DistanceUpdate<'a>> {
    let objective = objective.filter(|_| now.objective.has_distance())?;
    let context = DistanceContext {
        weight: weight(config, now, state.step) * state.distance.brake(),
        step: state.step,
        seed: config.seed,
        floors: state.distance.reference.map(|table| table.deviation),
        attends: state.step as f64 >= config.embedding_distance.attention_from * config.train.max_updates as f64,
    };
    Some(DistanceUpdate { objective, context, alone: now.objective == PhaseObjective::Distance })
}

/// Smallest effective rank, largest mean cosine.
fn worst(tables: &[TableHealth; 2]) -> (f64, f64) {
    let [a, b] = tables;
    (a.effective_rank.min(b.effective_rank), a.mean_cosine.max(b.mean_cosine))
}

/// The objective for the pre-flight table.
pub(super) fn describe(config: &EmbeddingDistanceConfig) -> String {
    let form = super::preflight::name(config.form);
    let metric = super::preflight::name(config.metric);
    match config.form {
        DistanceForm::Off => form,
        DistanceForm::Code => format!("{form}: does nothing"),
        DistanceForm::LiteralMath => format!("{form}, {metric}, weight {}: the tables collapse", config.weight),
        DistanceForm::Bridge => {
            let (guard, pairs) = (super::preflight::name(config.guard), super::preflight::name(config.pairs));
            format!("{form}, {pairs} pairs, {metric}, guard {guard}, weight {}", config.weight)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PhaseConfig;

    #[test]
    fn the_weight_grows_from_where_the_objective_begins_and_falls_at_the_end() {
        let mut config = Config::default();
        config.embedding_distance.form = DistanceForm::Bridge;
        config.embedding_distance.warmup_updates = 10;
        config.train.max_updates = 1000;
        let at = |config: &Config, step| weight(config, &config.in_force(step), step);
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        close(at(&config, 0), 0.005);
        close(at(&config, 9), 0.05);
        close(at(&config, 800), 0.05);
        close(at(&config, 900), 0.025);
        assert!(at(&config, 999) > 0.0 && at(&config, 1000) == 0.0);
        let objective = Some(PhaseObjective::Joint);
        config.phase = vec![PhaseConfig { from_update: 100, objective, ..Default::default() }];
        close(at(&config, 99), 0.0);
        close(at(&config, 100), 0.005);
        close(at(&config, 200), 0.05);
        config.phase[0].objective = Some(PhaseObjective::Distance);
        assert_eq!(at(&config, 999), 1.0);
        config.phase.clear();
        config.train.max_updates = 0;
        assert_eq!(at(&config, 1_000_000), 0.05);
    }

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
