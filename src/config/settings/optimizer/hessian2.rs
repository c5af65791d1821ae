//! `[optimizer.hessian2]`.

use super::suited::Suits;
use super::Table;
use crate::config::settings::Checks;

settings! {
    /// Hessian-2: rank-two corrections of the inverse curvature (the document on Hessian-2, made sound). See
    /// docs/optimizers.md.
    pub struct Hessian2Config {
        /// "white": both sides of each weight whitened, their inverse roots corrected at every update. "kron": the
        /// inverse of the input's second moment, by BFGS, times a scale for each output; for comparison.
        pub variant: Hessian2Variant = Hessian2Variant::White,
        /// What is corrected: "all", "hidden" (weights of linear maps and recurrences) or "embeddings" (tables, as the
        /// document has it). Adam moves the rest.
        pub scope: Hessian2Scope = Hessian2Scope::All,
        /// Rank of one correction: 2 is the literal rank-two correction; 0 = as many columns as the sketch has. Even, 0
        /// or more.
        pub rank: usize = 0,
        /// Decay of the momentum; Adam's too, where Adam moves. In [0, 1).
        pub beta1: f64 = 0.8,
        /// Decay of the second moments of outputs (kron) and of Adam, where Adam moves. In [0, 1).
        pub beta2: f64 = 0.98,
        /// Added to the root of Adam's second moment. Above 0.
        pub eps: f64 = 1e-9,
        /// Nesterov's look ahead in the momentum (white).
        pub nesterov: bool = true,
        /// white: share of a new gradient in the tracked curvature. In (0, 1).
        pub curvature_beta: f64 = 0.02,
        /// white: rows of a table are scaled by their second moment to the power of minus this: 0.5 as curvature has it,
        /// more for longer steps of rare tokens. In (0, 1).
        pub row_power: f64 = 0.5,
        /// white: smallest curvature, as a share of the mean one: what lies below is replaced, never zeroed. Above 0.
        pub damping: f64 = 1e-3,
        /// A side of n is sketched by max(8, n / sketch_divisor) columns at every update. 1 or more.
        pub sketch_divisor: usize = 16,
        /// Longer sides of a weight are split, each block with factors of its own: as in distributed Shampoo. 1 or
        /// more.
        pub block_size: usize = 128,
        /// kron: share of a new batch in the second moment of inputs. In (0, 1).
        pub input_beta: f64 = 0.05,
        /// kron: smallest curvature of inputs, as a share of the mean one. Above 0.
        pub input_damping: f64 = 0.1,
        /// kron: updates between two looks at the inputs, after the first 50. 1 or more.
        pub statistics_freq: u64 = 2,
        /// kron: rows of an input that are looked at. 1 or more.
        pub statistics_rows: usize = 1024,
        /// kron: curvature below this share of the largest is dropped and replaced by that bound. In [0, 1).
        pub truncation: f64 = 0.0,
        /// Largest root mean square of an update before the learning rate; larger ones are scaled down. Above 0.
        pub trust: f64 = 1.0,
    }
}

impl Table for Hessian2Config {
    const METHODS: &'static [&'static str] = &["variant", "scope", "rank"];
    const FIXED: &'static [(&'static str, &'static str)] = &[
        ("variant", "the saved factors are of another variant"),
        ("scope", "the saved factors are of other parameters"),
        ("block_size", "the saved factors are of other blocks"),
    ];

    /// Momentum and factors of both sides, whose share depends on the shapes.
    fn states(&self) -> usize {
        3
    }

    /// Of docs/optimizers/hessian2.md, "How to set it".
    fn suits(&self) -> Suits {
        match self.variant {
            Hessian2Variant::White => {
                Suits { weight_decay: 0.5, embedding_weight_decay: 0.15, embedding_lr_scale: 2.0 }
            }
            Hessian2Variant::Kron => Suits::PLAIN,
        }
    }

    fn rules(&self, check: &mut Checks) {
        check.rule(self.rank.is_multiple_of(2), &["optimizer.hessian2.rank"], "must be even, 0 or more");
    }
}

impl Hessian2Config {
    /// Variant, scope and rank in words.
    pub(crate) fn title(&self) -> String {
        let variant = self.variant.name();
        let scope = match self.scope {
            Hessian2Scope::All => "",
            Hessian2Scope::Hidden => " on hidden weights",
            Hessian2Scope::Embeddings => " on embeddings",
        };
        let rank = if self.rank > 0 { format!(" of rank {}", self.rank) } else { String::new() };
        format!("{variant}{rank}{scope}")
    }
}

choices! {
    /// How the inverse curvature is held and corrected.
    pub enum Hessian2Variant {
        White = "white",
        Kron = "kron",
    }
}

choices! {
    /// Which parameters are corrected.
    pub enum Hessian2Scope {
        All = "all",
        Hidden = "hidden",
        Embeddings = "embeddings",
    }
}
