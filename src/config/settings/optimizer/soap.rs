//! `[optimizer.soap]`.

use super::Table;

settings! {
    /// SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's factors; Adam for biases and gains.
    pub struct SoapConfig {
        /// Decay of the first moment. In [0, 1).
        pub beta1: f64 = 0.95,
        /// Decay of the second moment and of Shampoo's factors. In [0, 1).
        pub beta2: f64 = 0.95,
        /// Added to the root of the second moment. Above 0.
        pub eps: f64 = 1e-8,
        /// Updates between two refreshes of the eigenbases. 1 or more.
        pub precondition_frequency: u64 = 10,
        /// Sides longer than this keep the identity as their basis: the vocabulary side of tables. 1 or more.
        pub max_precondition_dim: usize = 1024,
    }
}

impl Table for SoapConfig {
    fn states(&self) -> usize {
        5
    }
}
