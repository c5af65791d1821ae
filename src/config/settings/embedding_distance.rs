//! `[embedding_distance]`: the objective on the embedding tables. Formulas and advice: docs/embedding-distance.md.

use super::Checks;

settings! {
    /// Pulls embedding vectors together, beside or instead of the likelihood (docs/embedding-distance.md). Off by
    /// default. Without [[phase]] entries that name an objective it is added to the likelihood from the first update
    /// on.
    pub struct EmbeddingDistanceConfig {
        /// "off"; "bridge" (words that translate each other); "literal-math" (all pairs inside a table, as the document
        /// writes it: the tables collapse); "code" (as the document's sample runs: does nothing).
        pub form: DistanceForm = DistanceForm::Off,
        /// "euclidean" or "cosine".
        pub metric: DistanceMetric = DistanceMetric::Euclidean,
        /// bridge: where pairs of words come from. "lexical" (IBM model 1 on the training text) or "attention" (target
        /// words with the source words the model attends to most; costs one more forward pass an update).
        pub pairs: PairSource = PairSource::Lexical,
        /// bridge: what keeps the vectors apart. "contrastive" (other pairs of the batch as negatives),
        /// "variance-floor" or "none".
        pub guard: DistanceGuard = DistanceGuard::Contrastive,
        /// Factor on the distance and its guard beside the likelihood. 0 or more.
        pub weight: f64 = 0.05,
        /// Factor on the guard, within `weight`. 0 or more.
        pub guard_weight: f64 = 1.0,
        /// Updates over which the weight grows from 0, counted from where the objective begins. 0 or more.
        pub warmup_updates: u64 = 1000,
        /// Last share of train.max_updates over which the weight falls to 0, so that the end serves the likelihood
        /// alone; no fall without train.max_updates. In [0, 1).
        pub decay: f64 = 0.2,
        /// contrastive: temperature of the softmax over cosines. Above 0.
        pub temperature: f64 = 0.1,
        /// Largest number of pairs (bridge) or rows of a table (literal-math) in one update; of more a random choice.
        /// 2 or more.
        pub sample_size: usize = 256,
        /// lexical: least p(target | source) × p(source | target) of a pair. In (0, 1).
        pub min_probability: f64 = 0.1,
        /// lexical: least number of sentence pairs in which both words occur. 1 or more.
        pub min_count: u32 = 5,
        /// attention: least weight of a pair's attention. In (0, 1).
        pub min_attention: f64 = 0.5,
        /// attention: share of train.max_updates before which it is not trusted; until then there are no pairs. In [0,
        /// 1).
        pub attention_from: f64 = 0.3,
        /// Must be true for form = "literal-math": I know that its optimum is a table of equal vectors.
        pub acknowledge_collapse: bool = false,
        /// Updates between measurements of the tables (effective rank, mean cosine), at which the brake looks. 1 or
        /// more.
        pub measure_freq: u64 = 100,
        /// Brake: the weight is halved each time the effective rank of a table has fallen by another such share since
        /// the objective began; 1 = never. In [0, 1].
        pub max_rank_drop: f64 = 0.1,
        /// Brake: the same for a rise of the mean cosine of a table; 2 = never. Above 0.
        pub max_cosine_rise: f64 = 0.1,
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

choices! {
    pub enum DistanceForm {
        Off = "off",
        Bridge = "bridge",
        LiteralMath = "literal-math",
        Code = "code",
    }
}

choices! {
    pub enum DistanceMetric {
        Euclidean = "euclidean",
        Cosine = "cosine",
    }
}

choices! {
    pub enum PairSource {
        Lexical = "lexical",
        Attention = "attention",
    }
}

choices! {
    pub enum DistanceGuard {
        Contrastive = "contrastive",
        VarianceFloor = "variance-floor",
        None = "none",
    }
}
