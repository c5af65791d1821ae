//! `[optimizer.muon]`.

use super::Table;

settings! {
    /// Muon (Jordan et al. 2024): the momentum of each hidden weight made orthogonal; Adam for tables, biases and
    /// gains.
    pub struct MuonConfig {
        /// Decay of the momentum of hidden weights. In [0, 1).
        pub momentum: f64 = 0.95,
        /// Nesterov's look ahead.
        pub nesterov: bool = true,
        /// Newton-Schulz iterations. 1 or more.
        pub iterations: usize = 5,
        /// Size of an update: "match-rms-adamw" (0.2·√max(out, in), so that Adam's rates fit) or "original" (√max(1,
        /// out/in)).
        pub scale: MuonScale = MuonScale::MatchRmsAdamw,
        /// Adam's decay of the first moment, where Adam moves. In [0, 1).
        pub beta1: f64 = 0.9,
        /// Adam's decay of the second moment. In [0, 1).
        pub beta2: f64 = 0.98,
        /// Added to the root of Adam's second moment. Above 0.
        pub eps: f64 = 1e-9,
    }
}

impl Table for MuonConfig {
    const METHODS: &'static [&'static str] = &["scale"];
}

choices! {
    /// How large an update of Muon is; the names are PyTorch's.
    pub enum MuonScale {
        Original = "original",
        MatchRmsAdamw = "match-rms-adamw",
    }
}
