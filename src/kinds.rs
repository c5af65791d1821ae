//! Kinds that a config names and operations compute: number formats, activations, recurrent cells.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a GPU computes products and keeps activations; parameters and optimizers are f32 with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    F32,
    /// f32 in memory, rounded to 10 bits of mantissa inside products.
    Tf32,
    /// Activations and their gradients in bf16, sums in f32.
    Bf16,
}

impl Precision {
    /// As in a config.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// The function φ after a linear map. A config names those of feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    #[serde(skip)]
    Identity,
    Relu,
    /// z·Φ(z) with the exact normal distribution function (Hendrycks & Gimpel 2016), not the tanh fit.
    Gelu,
    /// z·σ(z) (Ramachandran et al. 2017), also called SiLU.
    Swish,
    #[serde(skip)]
    Tanh,
}

/// Which gated cell a recurrence has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    Gru,
    Lstm,
}
