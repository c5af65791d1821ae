//! `[optimizer.sgd]`.

use super::Table;
use crate::config::settings::Checks;

settings! {
    /// Stochastic gradient descent, as in PyTorch.
    pub struct SgdConfig {
        /// Momentum. In [0, 1).
        pub momentum: f64 = 0.0,
        /// Share of the gradient kept out of the momentum. In [0, 1].
        pub dampening: f64 = 0.0,
        /// Nesterov's form; needs momentum above 0 and dampening 0.
        pub nesterov: bool = false,
    }
}

impl Table for SgdConfig {
    fn states(&self) -> usize {
        usize::from(self.momentum > 0.0)
    }

    fn rules(&self, check: &mut Checks) {
        check.rule(
            !self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0),
            &["optimizer.sgd.nesterov", "optimizer.sgd.momentum", "optimizer.sgd.dampening"],
            "must be false without momentum above 0 and dampening 0",
        );
    }
}
