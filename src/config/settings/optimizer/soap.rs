//! `[optimizer.soap]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Table;

/// SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's factors; Adam for biases and gains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SoapConfig {
    /// Decay of the first moment. In [0, 1).
    pub beta1: f64,
    /// Decay of the second moment and of Shampoo's factors. In [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment. Above 0.
    pub eps: f64,
    /// Updates between two refreshes of the eigenbases. 1 or more.
    pub precondition_frequency: u64,
    /// Sides longer than this keep the identity as their basis: the vocabulary side of tables. 1 or more.
    pub max_precondition_dim: usize,
}

impl Default for SoapConfig {
    fn default() -> Self {
        SoapConfig { beta1: 0.95, beta2: 0.95, eps: 1e-8, precondition_frequency: 10, max_precondition_dim: 1024 }
    }
}

impl Table for SoapConfig {}
