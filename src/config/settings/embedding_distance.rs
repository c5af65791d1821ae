//! `[embedding_distance]`: the objective on the embedding tables. Formulas and advice: docs/embedding-distance.md.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Checks;

/// Pulls embedding vectors together, beside or instead of the likelihood (docs/embedding-distance.md). Off by default.
/// Without [[phase]] entries that name an objective it is added to the likelihood from the first update on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EmbeddingDistanceConfig {
    /// "off"; "bridge" (words that translate each other); "literal-math" (all pairs inside a table, as the document
    /// writes it: the tables collapse); "code" (as the document's sample runs: does nothing).
    pub form: DistanceForm,
    /// "euclidean" or "cosine".
    pub metric: DistanceMetric,
    /// bridge: where pairs of words come from. "lexical" (IBM model 1 on the training text) or "attention" (target words
    /// with the source words the model attends to most; costs one more forward pass an update).
    pub pairs: PairSource,
    /// bridge: what keeps the vectors apart. "contrastive" (other pairs of the batch as negatives), "variance-floor" or
    /// "none".
    pub guard: DistanceGuard,
    /// Factor on the distance and its guard beside the likelihood. 0 or more.
    pub weight: f64,
    /// Factor on the guard, within `weight`. 0 or more.
    pub guard_weight: f64,
    /// Updates over which the weight grows from 0, counted from where the objective begins. 0 or more.
    pub warmup_updates: u64,
    /// Last share of train.max_updates over which the weight falls to 0, so that the end serves the likelihood alone; no
    /// fall without train.max_updates. In [0, 1).
    pub decay: f64,
    /// contrastive: temperature of the softmax over cosines. Above 0.
    pub temperature: f64,
    /// Largest number of pairs (bridge) or rows of a table (literal-math) in one update; of more a random choice.
    /// 2 or more.
    pub sample_size: usize,
    /// lexical: least p(target | source) × p(source | target) of a pair. In (0, 1).
    pub min_probability: f64,
    /// lexical: least number of sentence pairs in which both words occur. 1 or more.
    pub min_count: u32,
    /// attention: least weight of a pair's attention. In (0, 1).
    pub min_attention: f64,
    /// attention: share of train.max_updates before which it is not trusted; until then there are no pairs. In [0, 1).
    pub attention_from: f64,
    /// Must be true for form = "literal-math": I know that its optimum is a table of equal vectors.
    pub acknowledge_collapse: bool,
    /// Updates between measurements of the tables (effective rank, mean cosine), at which the brake looks. 1 or more.
    pub measure_freq: u64,
    /// Brake: the weight is halved each time the effective rank of a table has fallen by another such share since the
    /// objective began; 1 = never. In [0, 1].
    pub max_rank_drop: f64,
    /// Brake: the same for a rise of the mean cosine of a table; 2 = never. Above 0.
    pub max_cosine_rise: f64,
}

impl Default for EmbeddingDistanceConfig {
    fn default() -> Self {
        EmbeddingDistanceConfig {
            form: DistanceForm::Off,
            metric: DistanceMetric::Euclidean,
            pairs: PairSource::Lexical,
            guard: DistanceGuard::Contrastive,
            weight: 0.05,
            guard_weight: 1.0,
            warmup_updates: 1000,
            decay: 0.2,
            temperature: 0.1,
            sample_size: 256,
            min_probability: 0.1,
            min_count: 5,
            min_attention: 0.5,
            attention_from: 0.3,
            acknowledge_collapse: false,
            measure_freq: 100,
            max_rank_drop: 0.1,
            max_cosine_rise: 0.1,
        }
    }
}

impl EmbeddingDistanceConfig {
    pub(super) fn rules(&self, check: &mut Checks) {
        check.rule(
            self.form != DistanceForm::LiteralMath || self.acknowledge_collapse,
            &["embedding_distance.form", "embedding_distance.acknowledge_collapse"],
            "must come with embedding_distance.acknowledge_collapse = true: its optimum is a table of equal vectors",
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceForm {
    Off,
    Bridge,
    LiteralMath,
    Code,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceMetric {
    Euclidean,
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PairSource {
    Lexical,
    Attention,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceGuard {
    Contrastive,
    VarianceFloor,
    None,
}
