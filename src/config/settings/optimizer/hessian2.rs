//! `[optimizer.hessian2]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Table;
use crate::config::settings::Checks;

/// Hessian-2: rank-two corrections of the inverse curvature (the document on Hessian-2, made sound). See docs/optimizers.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Hessian2Config {
    /// "white": both sides of each weight whitened, their inverse roots corrected at every update. "kron": the inverse of
    /// the input's second moment, by BFGS, times a scale for each output; for comparison.
    pub variant: Hessian2Variant,
    /// What is corrected: "all", "hidden" (weights of linear maps and recurrences) or "embeddings" (tables, as the document
    /// has it). Adam moves the rest.
    pub scope: Hessian2Scope,
    /// Rank of one correction: 2 is the literal rank-two correction; 0 = as many columns as the sketch has. Even, 0 or more.
    pub rank: usize,
    /// Decay of the momentum; Adam's too, where Adam moves. In [0, 1).
    pub beta1: f64,
    /// Decay of the second moments of rows and of Adam, where Adam moves. In [0, 1).
    pub beta2: f64,
    /// Added to the root of Adam's second moment. Above 0.
    pub eps: f64,
    /// Nesterov's look ahead in the momentum (white).
    pub nesterov: bool,
    /// white: share of a new gradient in the tracked curvature. In (0, 1).
    pub curvature_beta: f64,
    /// white: smallest curvature, as a share of the mean one: what lies below is replaced, never zeroed. Above 0.
    pub damping: f64,
    /// A side of n is sketched by max(8, n / sketch_divisor) columns at every update. 1 or more.
    pub sketch_divisor: usize,
    /// Longer sides of a weight are split, each block with factors of its own: as in distributed Shampoo. 1 or more.
    pub block_size: usize,
    /// kron: share of a new batch in the second moment of inputs. In (0, 1).
    pub input_beta: f64,
    /// kron: smallest curvature of inputs, as a share of the mean one. Above 0.
    pub input_damping: f64,
    /// kron: updates between two looks at the inputs, after the first 50. 1 or more.
    pub statistics_freq: u64,
    /// kron: rows of an input that are looked at. 1 or more.
    pub statistics_rows: usize,
    /// kron: curvature below this share of the largest is dropped and replaced by that bound. In [0, 1).
    pub truncation: f64,
    /// Largest root mean square of an update before the learning rate; larger ones are scaled down. Above 0.
    pub trust: f64,
}

impl Default for Hessian2Config {
    fn default() -> Self {
        Hessian2Config {
            variant: Hessian2Variant::White,
            scope: Hessian2Scope::All,
            rank: 0,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-9,
            nesterov: true,
            curvature_beta: 0.02,
            damping: 1e-3,
            sketch_divisor: 16,
            block_size: 256,
            input_beta: 0.05,
            input_damping: 0.1,
            statistics_freq: 2,
            statistics_rows: 1024,
            truncation: 0.0,
            trust: 1.0,
        }
    }
}

impl Table for Hessian2Config {
    const METHODS: &'static [&'static str] = &["variant", "scope", "rank"];

    fn rules(&self, check: &mut Checks) {
        check.rule(self.rank.is_multiple_of(2), &["optimizer.hessian2.rank"], "must be even, 0 or more");
    }
}

impl Hessian2Config {
    /// Variant, scope and rank in words.
    pub(crate) fn title(&self) -> String {
        let variant = match self.variant {
            Hessian2Variant::White => "white",
            Hessian2Variant::Kron => "kron",
        };
        let scope = match self.scope {
            Hessian2Scope::All => "",
            Hessian2Scope::Hidden => " on hidden weights",
            Hessian2Scope::Embeddings => " on embeddings",
        };
        let rank = if self.rank > 0 { format!(" of rank {}", self.rank) } else { String::new() };
        format!("{variant}{rank}{scope}")
    }
}

/// How the inverse curvature is held and corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hessian2Variant {
    White,
    Kron,
}

/// Which parameters are corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hessian2Scope {
    All,
    Hidden,
    Embeddings,
}
