//! Kinds that a config names and operations compute: number formats, activations, recurrent cells.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How products are computed and a GPU keeps activations; parameters, sums and optimizers are f32 with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Products of f32 numbers.
    F32,
    /// f32 in memory, rounded to 10 bits of mantissa inside products. Of GPUs.
    Tf32,
    /// Products of numbers rounded to 7 bits of mantissa, sums in f32; on a GPU activations and their gradients are
    /// also kept so, on a CPU they are f32 in memory.
    Bf16,
    /// Products of numbers rounded to 8 bits by scales of their rows, sums of integers. Of CPUs, for models in use: nothing
    /// trains so.
    #[serde(skip_deserializing)]
    #[schemars(skip)]
    Int8,
}

impl Precision {
    /// As in a config.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }
}

/// The function φ after a linear map. A config names those of feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x
    #[serde(skip)]
    Identity,
    /// max(0, x)
    Relu,
    /// z·Φ(z) with the exact normal distribution function (Hendrycks & Gimpel 2016), not the tanh fit.
    Gelu,
    /// z·σ(z) (Ramachandran et al. 2017), also called SiLU.
    Swish,
    /// tanh x
    #[serde(skip)]
    Tanh,
}

/// Which gated cell a recurrence has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Gated recurrent unit (Cho et al. 2014).
    Gru,
    /// Long short-term memory (Hochreiter & Schmidhuber 1997).
    Lstm,
}
