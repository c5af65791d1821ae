//! What can be set: one file a section, with the meaning, range and default of its keys and the rules between them. The
//! doc comments are the user's documentation (`configs/reference.toml` is generated from them), so each says meaning,
//! unit and range; ranges are checked as they stand there (`reading/ranges.rs`).
//!
//! | file | what it has |
//! |---|---|
//! | `data.rs`, `data_rules.rs`, `tokenizer.rs`, `model.rs`, `train.rs`, `schedule.rs` | a section each |
//! | `validation.rs`, `decode.rs`, `checkpoint.rs`, `embedding_distance.rs`, `phase.rs` | likewise |
//! | `optimizer/` | `[optimizer]`: the list of optimizers and a file for the table of each |
//! | `forms.rs`; `device.rs`, `every.rs`, `batch_size.rs`, `corpora.rs` | values that TOML writes in more than one form |
//! | `limits.rs` | how large numbers may be where the machine could not bear more |
//! | `macros.rs`, `check.rs` | how a section is written down, and how it says what is wrong with it |

#[macro_use]
mod macros;

mod batch_size;
mod check;
mod checkpoint;
mod corpora;
mod data;
mod data_rules;
mod decode;
mod device;
mod embedding_distance;
mod every;
mod forms;
mod limits;
mod model;
mod optimizer;
mod phase;
mod schedule;
mod tokenizer;
mod train;
mod validation;

pub use batch_size::BatchSize;
pub use check::Finding;
pub(super) use check::{as_toml, value_at, Checks};
pub use checkpoint::CheckpointConfig;
pub use data::{ending, BothSides, Column, Corpora, Corpus, DataConfig};
pub use decode::{DecodeConfig, LengthPenalty};
pub use device::DeviceName;
pub use embedding_distance::{DistanceForm, DistanceGuard, DistanceMetric, EmbeddingDistanceConfig, PairSource};
pub use every::Every;
pub use limits::{
    bleu_tokenizers, is_bleu_tokenizer, most_threads, spm_tokenizer, too_many_threads, total_memory_bytes,
    BLEU_TOKENIZERS, LARGEST_BEAM,
};
pub use model::{AttentionKind, ModelConfig, ModelKind, Norm, RnnConfig, TiedEmbeddings};
pub use optimizer::*;
pub use phase::{InForce, PhaseConfig, PhaseObjective, Trainable};
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use tokenizer::{Normalization, TokenizerConfig, TokenizerKind};
pub use train::{BatchType, ShareOptimizer, TrainConfig};
pub use validation::ValidationConfig;

settings! {
    /// Everything a run needs.
    pub struct Config {
        /// Seed of every random choice: initial weights, order of batches, dropout. Any whole number of 0 or more.
        pub seed: u64 = 1,
        /// Folder of the run. Empty: `runs/` and the name of the config file without its ending.
        pub run_dir: String = String::new(),
        /// Where to compute: "cpu", "cuda", "cuda:N" or "auto" (CUDA if this program was built with it and a GPU is there).
        pub device: DeviceName = DeviceName::Auto,
        /// Threads for computation; 0 = number of physical cores. At most four for each core of the machine.
        pub threads: usize = 0,
        pub data: DataConfig = DataConfig::default(),
        pub tokenizer: TokenizerConfig = TokenizerConfig::default(),
        pub model: ModelConfig = ModelConfig::default(),
        pub train: TrainConfig = TrainConfig::default(),
        pub optimizer: OptimizerConfig = OptimizerConfig::default(),
        pub schedule: ScheduleConfig = ScheduleConfig::default(),
        pub validation: ValidationConfig = ValidationConfig::default(),
        pub decode: DecodeConfig = DecodeConfig::default(),
        pub checkpoint: CheckpointConfig = CheckpointConfig::default(),
        pub embedding_distance: EmbeddingDistanceConfig = EmbeddingDistanceConfig::default(),
        /// Parts of the run that begin at given updates, each a table `[[phase]]` with from_update (updates done when it
        /// begins, in rising order) and what changes: optimizer (a name), lr (rate at the top of the schedule), objective
        /// ("nll", "joint" = nll and the embedding distance, or "distance" alone), trainable (as train.trainable).
        pub phase: Vec<PhaseConfig> = Vec::new(),
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

    /// Whether it is that of a model that came from elsewhere: there is no text to train on.
    pub fn is_imported(&self) -> bool {
        self.data.train.0.is_empty()
    }

    /// The rules of all sections.
    pub(super) fn rules(&self, check: &mut Checks) {
        let too_many = too_many_threads(self.threads);
        check.rule(too_many.is_none(), &["threads"], too_many.unwrap_or_default());
        data_rules::rules(&self.data, check);
        self.tokenizer.rules(check, self);
        self.model.rules(check, self);
        self.train.rules(check, self);
        self.optimizer.rules(check, self);
        self.schedule.rules(check, self);
        self.validation.rules(check, self);
        self.checkpoint.rules(check, self);
        self.embedding_distance.rules(check);
        phase::rules(check, self);
    }
}
