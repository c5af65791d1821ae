//! `[optimizer]` (a name and one table an optimizer) and `[schedule]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Hessian2Config, HvrConfig, ScheduleFreeConfig};

/// Which optimizer, and what all of them share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OptimizerConfig {
    /// "adam", "adamw", "clipped-adam", "hessian2", "hvr", "muon", "schedule-free", "sgd" or "soap"; its own settings are in
    /// the table of that name.
    pub name: OptimizerName,
    /// Learning rate at the top of the schedule. Above 0.
    pub lr: f64,
    /// Weight decay: added to the gradient (adam, clipped-adam, sgd) or taken from the weights (the others). It leaves
    /// biases, gains and embedding tables alone. 0 or more.
    pub weight_decay: f64,
    /// Factor of the learning rate for embedding tables (the tied output layer is one of them). Above 0.
    pub embedding_lr_scale: f64,
    pub adam: AdamConfig,
    pub adamw: AdamwConfig,
    pub clipped_adam: ClippedAdamConfig,
    pub hessian2: Hessian2Config,
    pub hvr: HvrConfig,
    pub muon: MuonConfig,
    pub schedule_free: ScheduleFreeConfig,
    pub sgd: SgdConfig,
    pub soap: SoapConfig,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            name: OptimizerName::Adam,
            lr: 1e-3,
            weight_decay: 0.0,
            embedding_lr_scale: 1.0,
            adam: AdamConfig::default(),
            adamw: AdamwConfig::default(),
            clipped_adam: ClippedAdamConfig::default(),
            hessian2: Hessian2Config::default(),
            hvr: HvrConfig::default(),
            muon: MuonConfig::default(),
            schedule_free: ScheduleFreeConfig::default(),
            sgd: SgdConfig::default(),
            soap: SoapConfig::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerName {
    Adam,
    Adamw,
    ClippedAdam,
    Hessian2,
    Hvr,
    Muon,
    ScheduleFree,
    Sgd,
    Soap,
}

/// Adam (Kingma & Ba 2015), the numbers of Vaswani et al. 2017.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdamConfig {
    /// Decay of the first moment. In [0, 1).
    pub beta1: f64,
    /// Decay of the second moment. In [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment. Above 0.
    pub eps: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        AdamConfig { beta1: 0.9, beta2: 0.98, eps: 1e-9 }
    }
}

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

/// How large an update of Muon is; the names are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MuonScale {
    Original,
    MatchRmsAdamw,
}

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

/// Stochastic gradient descent, as in PyTorch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SgdConfig {
    /// Momentum. In [0, 1).
    pub momentum: f64,
    /// Share of the gradient kept out of the momentum. In [0, 1].
    pub dampening: f64,
    /// Nesterov's form; needs momentum above 0 and dampening 0.
    pub nesterov: bool,
}

/// Learning rate over updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScheduleConfig {
    /// "constant", "inverse-sqrt", "noam", "linear", "cosine" or "plateau". noam = inverse-sqrt whose rate is
    /// lr × d_model^-0.5 × min(n^-0.5, n × warmup^-1.5), as in Vaswani et al. 2017; set lr to about 1 with it.
    pub kind: ScheduleKind,
    /// Updates of linear growth from 0 to the full rate. 0 or more.
    pub warmup_updates: u64,
    /// Last update of linear and cosine; they reach min_lr after it. 0 = train.max_updates.
    pub total_updates: u64,
    /// Updates done when the schedule begins, warm-up included: above 0 for a new curve in a run that goes on. 0 or more.
    pub start_update: u64,
    /// Rate that is never gone below after warm-up. 0 or more.
    pub min_lr: f64,
    /// plateau: factor on the rate after `plateau_patience` validations without improvement. In (0, 1).
    pub plateau_factor: f64,
    /// plateau: validations without improvement that are borne; the next one lowers the rate. 0 or more.
    pub plateau_patience: u32,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig {
            kind: ScheduleKind::InverseSqrt,
            warmup_updates: 4000,
            total_updates: 0,
            start_update: 0,
            min_lr: 0.0,
            plateau_factor: 0.5,
            plateau_patience: 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    Constant,
    InverseSqrt,
    Noam,
    Linear,
    Cosine,
    Plateau,
}
