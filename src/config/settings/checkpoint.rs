//! `[checkpoint]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Every;

/// What is kept on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointConfig {
    /// When: a number of updates, "1e" for every epoch, 0 = only at the end and at a stop.
    pub save_freq: Every,
    /// Newest checkpoints kept. 1 or more.
    pub keep_last: usize,
    /// Best checkpoints kept, by validation.early_stopping_metric. 0 or more.
    pub keep_best: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { save_freq: Every::Updates(1000), keep_last: 3, keep_best: 1 }
    }
}
