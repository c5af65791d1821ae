//! `[optimizer.clipped_adam]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Table;

/// Adam behind gradient clipping by global norm: what the document on Hessian-2 runs (its §4.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClippedAdamConfig {
    /// Decay of the first moment. In [0, 1).
    pub beta1: f64,
    /// Decay of the second moment. In [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment. Above 0.
    pub eps: f64,
    /// Gradient norm above which gradients are scaled down; used when train.clip_grad_norm = 0. Above 0.
    pub max_norm: f64,
}

impl Default for ClippedAdamConfig {
    fn default() -> Self {
        ClippedAdamConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, max_norm: 1.0 }
    }
}

impl Table for ClippedAdamConfig {}
