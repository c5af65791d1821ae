//! `[optimizer.muon]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Table;

/// Muon (Jordan et al. 2024): the momentum of each hidden weight made orthogonal; Adam for tables, biases and gains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MuonConfig {
    /// Decay of the momentum of hidden weights. In [0, 1).
    pub momentum: f64,
    /// Nesterov's look ahead.
    pub nesterov: bool,
    /// Newton-Schulz iterations. 1 or more.
    pub iterations: usize,
    /// Size of an update: "match-rms-adamw" (0.2·√max(out, in), so that Adam's rates fit) or "original" (√max(1, out/in)).
    pub scale: MuonScale,
    /// Adam's decay of the first moment, where Adam moves. In [0, 1).
    pub beta1: f64,
    /// Adam's decay of the second moment. In [0, 1).
    pub beta2: f64,
    /// Added to the root of Adam's second moment. Above 0.
    pub eps: f64,
}

impl Default for MuonConfig {
    fn default() -> Self {
        let (beta1, beta2, eps) = (0.9, 0.98, 1e-9);
        MuonConfig { momentum: 0.95, nesterov: true, iterations: 5, scale: MuonScale::MatchRmsAdamw, beta1, beta2, eps }
    }
}

impl Table for MuonConfig {
    const METHODS: &'static [&'static str] = &["scale"];
}

/// How large an update of Muon is; the names are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MuonScale {
    Original,
    MatchRmsAdamw,
}
