//! The configuration: plain structs, one default each. The doc comments are the user's documentation
//! (`configs/reference.toml` is generated from them), so each says meaning, unit and range.

mod data;
mod diff;
mod forms;
mod hvr;
mod keys;
mod load;
mod model;
mod optimizer;
mod problems;
mod reference;
mod schedule_free;
mod suggest;
mod train;
mod validate;
mod wording;

pub use data::{Corpora, Corpus, DataConfig, TokenizerConfig, TokenizerKind};
pub use diff::{differences, Difference, Effect};
pub use hvr::{HvrAutomatic, HvrConfig, HvrForm, HvrTruncation};
pub use load::{load, Loaded, Source};
pub use model::{Activation, AttentionKind, Cell, ModelConfig, ModelKind, Norm, RnnConfig, TiedEmbeddings};
pub use optimizer::{
    AdamConfig, AdamwConfig, ClippedAdamConfig, OptimizerConfig, OptimizerName, ScheduleConfig, ScheduleKind, SgdConfig,
};
pub use problems::{Place, Problem, Problems};
pub use reference::{init, reference};
pub use schedule_free::{DecayAt, ScheduleFreeConfig};
pub use train::{
    BatchType, CheckpointConfig, DecodeConfig, Every, LengthPenalty, Metric, Precision, TrainConfig, ValidationConfig,
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
    /// Threads for computation; 0 = number of physical cores.
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
