//! The configuration: plain structs, one default each. The doc comments are the user's documentation
//! (`configs/reference.toml` is generated from them), so each says meaning, unit and range.

mod data;
mod data_rules;
mod diff;
mod embedding_distance;
mod forms;
mod hessian2;
mod home;
mod hvr;
mod keys;
mod limits;
mod load;
mod model;
mod optimizer;
mod phase;
mod problems;
mod reference;
mod schedule_free;
mod suggest;
mod train;
mod validate;
mod wording;

pub use data::{ending, BothSides, Column, Corpora, Corpus, DataConfig, TokenizerConfig, TokenizerKind};
pub use diff::{differences, flat, Difference, Effect};
pub use embedding_distance::{DistanceForm, DistanceGuard, DistanceMetric, EmbeddingDistanceConfig, PairSource};
pub use hessian2::{Hessian2Config, Hessian2Scope, Hessian2Variant};
pub use hvr::{HvrAutomatic, HvrConfig, HvrForm, HvrTruncation};
pub use limits::{
    is_bleu_tokenizer, most_threads, too_many_threads, total_memory_bytes, BLEU_TOKENIZERS, LARGEST_BEAM, SPM_PREFIX,
};
pub use load::{load, Loaded, Source};
pub use model::{Activation, AttentionKind, Cell, ModelConfig, ModelKind, Norm, RnnConfig, TiedEmbeddings};
pub use optimizer::{
    AdamConfig, AdamwConfig, ClippedAdamConfig, MuonConfig, MuonScale, OptimizerConfig, OptimizerName, ScheduleConfig,
    ScheduleKind, SgdConfig, SoapConfig,
};
pub use phase::{InForce, PhaseConfig, PhaseObjective, Trainable};
pub use problems::{Place, Problem, Problems};
pub use reference::{init, reference};
pub use schedule_free::{DecayAt, ScheduleFreeConfig};
pub use train::{
    BatchSize, BatchType, CheckpointConfig, DecodeConfig, Every, LengthPenalty, Metric, Precision, TrainConfig,
    ValidationConfig,
};
pub use validate::{validate, Finding};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything a run needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Seed of every random choice: initial weights, order of batches, dropout. Any whole number of 0 or more.
    pub seed: u64,
    /// Folder of the run. Empty: `runs/` and the name of the config file without its ending.
    pub run_dir: String,
    /// Where to compute: "cpu", "cuda", "cuda:N" or "auto" (CUDA if this program was built with it and a GPU is there).
    pub device: String,
    /// Threads for computation; 0 = number of physical cores. At most four for each core of the machine.
    pub threads: usize,
    pub data: DataConfig,
    pub tokenizer: TokenizerConfig,
    pub model: ModelConfig,
    pub train: TrainConfig,
    pub optimizer: OptimizerConfig,
    pub schedule: ScheduleConfig,
    pub validation: ValidationConfig,
    pub decode: DecodeConfig,
    pub checkpoint: CheckpointConfig,
    pub embedding_distance: EmbeddingDistanceConfig,
    /// Parts of the run that begin at given updates, each a table `[[phase]]` with from_update (updates done when it begins,
    /// in rising order) and what changes: optimizer (a name), lr (rate at the top of the schedule), objective ("nll",
    /// "joint" = nll and the embedding distance, or "distance" alone), trainable ("all" or "embeddings").
    pub phase: Vec<PhaseConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            seed: 1,
            run_dir: String::new(),
            device: "auto".to_string(),
            threads: 0,
            data: DataConfig::default(),
            tokenizer: TokenizerConfig::default(),
            model: ModelConfig::default(),
            train: TrainConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            validation: ValidationConfig::default(),
            decode: DecodeConfig::default(),
            checkpoint: CheckpointConfig::default(),
            embedding_distance: EmbeddingDistanceConfig::default(),
            phase: Vec::new(),
        }
    }
}

impl Config {
    /// The whole configuration as TOML, every key; reads back the same.
    ///
    /// # Errors
    /// When a whole number is beyond what TOML can hold (`i64`), which no file can have given.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}
