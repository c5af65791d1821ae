//! `[optimizer.sgd]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Table;
use crate::config::settings::Checks;

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

impl Table for SgdConfig {
    fn rules(&self, check: &mut Checks) {
        check.rule(
            !self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0),
            &["optimizer.sgd.nesterov", "optimizer.sgd.momentum", "optimizer.sgd.dampening"],
            "must be false without momentum above 0 and dampening 0",
        );
    }
}
