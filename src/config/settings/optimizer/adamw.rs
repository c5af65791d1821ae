//! `[optimizer.adamw]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Table;

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdamwConfig {
    /// Decay of the first moment. In [0, 1).
    pub beta1: f64,
    /// Decay of the second moment. In [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment. Above 0.
    pub eps: f64,
}

impl Default for AdamwConfig {
    fn default() -> Self {
        AdamwConfig { beta1: 0.9, beta2: 0.98, eps: 1e-9 }
    }
}

impl Table for AdamwConfig {}
