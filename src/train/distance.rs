//! The embedding distance in a run: pairs of words from the training text, the weight over updates, measurements of the
//! tables and the brake.

use anyhow::Result;

use crate::config::{Config, DistanceForm, EmbeddingDistanceConfig, InForce, PairSource, PhaseObjective};
use crate::objective::{self, DistanceContext, EmbeddingDistance, PairLimits, TableHealth};
use crate::params::ParamSet;
use crate::run::{Entries, Ledger, Sums};
use crate::units;

use super::resources::Resources;
use super::step::DistanceUpdate;
use super::trainer::Trainer;

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
pub(super) fn weight(config: &Config, now: &InForce, step: u64) -> f64 {
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

impl Trainer {
    /// Measures the tables when that is due; decided from the ledger alone.
    pub(super) fn watch_tables(&mut self, ledger: &mut Ledger) -> Result<()> {
        let Some(tables) = self.model.params().embeddings().filter(|_| self.in_force.objective.has_distance()) else {
            return Ok(());
        };
        let (step, since) = (ledger.step, self.in_force.distance_since);
        let distance = &self.config.embedding_distance;
        if !ledger.distance.is_due(step, since, distance.measure_freq) {
            return Ok(());
        }
        let source = objective::table_health(tables[0])?;
        let is_joint = tables[0].name == tables[1].name;
        let now = [source, if is_joint { source } else { objective::table_health(tables[1])? }];
        if ledger.tables().take(step, since, now, distance) {
            let (factor, (rank, cosine)) = (ledger.distance.brake(), worst(&now));
            let message = format!(
                "an embedding table narrows (effective rank {rank:.1}, mean cosine {cosine:.3}): the weight of the \
                 embedding distance is now {factor} of its schedule"
            );
            self.record.warn(step, message);
        }
        Ok(())
    }
}

/// Columns `embedding.*` of a `train` row, without the prefix; none while the objective is not in force.
pub(super) fn columns(sums: &Sums, latest: &[TableHealth; 2]) -> Vec<(String, f64)> {
    if sums.distance_updates == 0 {
        return Vec::new();
    }
    let updates = sums.distance_updates as f64;
    let (rank, cosine) = worst(latest);
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

/// The objective's part in the next update; `None` while it is not in force.
pub(super) fn update<'a>(
    objective: Option<&'a EmbeddingDistance>,
    config: &Config,
    now: &InForce,
    ledger: &Entries,
) -> Option<DistanceUpdate<'a>> {
    let objective = objective.filter(|_| now.objective.has_distance())?;
    let context = DistanceContext {
        weight: weight(config, now, ledger.step) * ledger.distance.brake(),
        step: ledger.step,
        seed: config.seed,
        floors: ledger.distance.reference.map(|table| table.deviation),
        attends: ledger.step as f64 >= config.embedding_distance.attention_from * config.train.max_updates as f64,
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
}
