//! `[decode]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Translation: the test after training, and the defaults of `nmt-train translate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DecodeConfig {
    /// Hypotheses kept a step; 1 = greedy. 1 or more, 1000 at most.
    pub beam_size: usize,
    /// Exponent `a` of the length penalty; 0 = off. 0 or more.
    pub length_penalty: f64,
    /// Formula: "length" (score / length^a, as Marian and fairseq) or "gnmt" (score / ((5 + length) / 6)^a).
    pub length_penalty_type: LengthPenalty,
    /// Longest translation in tokens: this factor × source tokens + 10. Above 0, 1000 at most.
    pub max_length_factor: f64,
    /// Source tokens decoded together. 1 or more.
    pub batch_size: usize,
}

impl Default for DecodeConfig {
    fn default() -> Self {
        DecodeConfig {
            beam_size: 5,
            length_penalty: 1.0,
            length_penalty_type: LengthPenalty::Length,
            max_length_factor: 2.0,
            batch_size: 2048,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LengthPenalty {
    Length,
    Gnmt,
}
