//! `[optimizer.schedule_free]`.

use super::{Table, User};
use crate::config::settings::{Checks, Config, ScheduleKind};

settings! {
    /// Schedule-Free AdamW (Defazio et al. 2024): the model is a running mean of the iterates instead of the end of a
    /// decaying schedule. Needs schedule.kind = "constant" (with warmup_updates) and train.ema_decay = 0.
    pub struct ScheduleFreeConfig {
        /// Where gradients are taken between the last iterate (0) and the mean (1). In (0, 1); 0.95 to 0.98 for long
        /// runs.
        pub beta1: f64 = 0.9,
        /// Decay of the second moment. In [0, 1).
        pub beta2: f64 = 0.999,
        /// Added to the root of the second moment. Above 0.
        pub eps: f64 = 1e-8,
        /// The n-th update weighs n^r in the mean. 0 or more.
        pub r: f64 = 0.0,
        /// Each update weighs (largest rate so far)^weight_lr_power in the mean, so that warm-up counts little. 0 or
        /// more.
        pub weight_lr_power: f64 = 2.0,
        /// Weights that optimizer.weight_decay is a share of: "y" (where the gradient is taken) or "z" (the iterate).
        pub decay_at: DecayAt = DecayAt::Y,
    }
}

impl Table for ScheduleFreeConfig {
    fn rules_in_use(&self, check: &mut Checks, config: &Config, User { key, text: user }: &User) {
        check.rule(
            config.schedule.kind == ScheduleKind::Constant,
            &["schedule.kind", key],
            format!(r#"must be "constant" with {user}, whose mean of the weights takes the place of a decaying rate"#),
        );
        check.rule(
            config.optimizer.embedding_decay_power == 0.0,
            &["optimizer.embedding_decay_power", key],
            format!("must be 0 with {user}, which decays one sequence of weights and trains another"),
        );
        check.rule(
            config.train.ema_decay == 0.0,
            &["train.ema_decay", key],
            format!("must be 0 with {user}, which keeps a mean of the weights of its own"),
        );
    }
}

choices! {
    pub enum DecayAt {
        Y = "y",
        Z = "z",
    }
}
