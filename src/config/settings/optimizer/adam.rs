//! `[optimizer.adam]`.

use super::Table;

settings! {
    /// Adam (Kingma & Ba 2015), the numbers of Vaswani et al. 2017.
    pub struct AdamConfig {
        /// Decay of the first moment. In [0, 1).
        pub beta1: f64 = 0.9,
        /// Decay of the second moment. In [0, 1).
        pub beta2: f64 = 0.98,
        /// Added to the root of the second moment. Above 0.
        pub eps: f64 = 1e-9,
    }
}

impl Table for AdamConfig {}
