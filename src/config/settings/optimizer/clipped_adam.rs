//! `[optimizer.clipped_adam]`.

use super::Table;

settings! {
    /// Adam behind gradient clipping by global norm: what the document on Hessian-2 runs (its §4.1).
    pub struct ClippedAdamConfig {
        /// Decay of the first moment. In [0, 1).
        pub beta1: f64 = 0.9,
        /// Decay of the second moment. In [0, 1).
        pub beta2: f64 = 0.999,
        /// Added to the root of the second moment. Above 0.
        pub eps: f64 = 1e-8,
        /// Gradient norm above which gradients are scaled down; used when train.clip_grad_norm = 0. Above 0.
        pub max_norm: f64 = 1.0,
    }
}

impl Table for ClippedAdamConfig {
    fn max_norm(&self) -> Option<f64> {
        Some(self.max_norm)
    }
}
