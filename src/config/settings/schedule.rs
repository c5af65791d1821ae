//! `[schedule]`.

use super::{Checks, Config, ModelKind};
use crate::units;

settings! {
    /// Learning rate over updates.
    pub struct ScheduleConfig {
        /// "constant", "inverse-sqrt", "noam", "linear", "cosine" or "plateau". noam = inverse-sqrt whose rate is
        /// lr × d_model^-0.5 × min(n^-0.5, n × warmup^-1.5), as in Vaswani et al. 2017; set lr to about 1 with it.
        pub kind: ScheduleKind = ScheduleKind::InverseSqrt,
        /// Updates of linear growth from 0 to the full rate. 0 or more.
        pub warmup_updates: u64 = 4000,
        /// Share of its updates, warm-up among them, after which linear and cosine begin to fall. In [0, 1).
        pub flat: f64 = 0.0,
        /// Last update of linear and cosine; they reach min_lr after it. 0 = train.max_updates.
        pub total_updates: u64 = 0,
        /// Updates done when the schedule begins, warm-up included: above 0 for a new curve in a run that goes on. 0 or
        /// more.
        pub start_update: u64 = 0,
        /// Rate that is never gone below after warm-up. 0 or more.
        pub min_lr: f64 = 0.0,
        /// plateau: factor on the rate after `plateau_patience` validations without improvement. In (0, 1).
        pub plateau_factor: f64 = 0.5,
        /// plateau: validations without improvement that are borne; the next one lowers the rate. 0 or more.
        pub plateau_patience: u32 = 2,
    }
}

impl ScheduleConfig {
    /// As a person reads it: "linear, warm-up 400 updates, flat for 0.3 of its updates".
    pub fn describe(&self) -> String {
        let flat = match self.kind {
            ScheduleKind::Linear | ScheduleKind::Cosine if self.flat > 0.0 => {
                format!(", flat for {} of its updates", self.flat)
            }
            _ => String::new(),
        };
        format!("{}, warm-up {} updates{flat}", self.kind.name(), units::count(self.warmup_updates))
    }

    pub(super) fn rules(&self, check: &mut Checks, config: &Config) {
        // noam's lr is a factor, not a rate
        check.rule(
            self.min_lr <= config.optimizer.lr || self.kind == ScheduleKind::Noam,
            &["schedule.min_lr", "optimizer.lr"],
            format!("must not be above optimizer.lr = {:?}", config.optimizer.lr),
        );
        match self.kind {
            ScheduleKind::Linear | ScheduleKind::Cosine => self.end(check, config),
            ScheduleKind::Noam => {
                check.rule(
                    self.warmup_updates > 0,
                    &["schedule.warmup_updates", "schedule.kind"],
                    r#"must be above 0 with schedule.kind = "noam""#,
                );
                check.rule(
                    config.model.kind == ModelKind::Transformer,
                    &["schedule.kind", "model.kind"],
                    r#"must be another with model.kind = "rnn", which has no d_model; use "inverse-sqrt""#,
                );
            }
            ScheduleKind::Plateau => check.rule(
                config.validates(),
                &["schedule.kind", "validation.valid_freq", "validation.metrics", "data.valid"],
                "must be another without validations while training: set data.valid, validation.metrics and valid_freq",
            ),
            ScheduleKind::Constant | ScheduleKind::InverseSqrt => {}
        }
    }

    /// What a schedule that falls to its end must know of it.
    fn end(&self, check: &mut Checks, config: &Config) {
        let total = if self.total_updates > 0 { self.total_updates } else { config.train.max_updates };
        check.rule(
            total > 0,
            &["schedule.kind", "schedule.total_updates", "train.max_updates"],
            "must know where it ends: set schedule.total_updates or train.max_updates",
        );
        check.rule(
            total == 0 || self.start_update < total,
            &["schedule.start_update", "schedule.total_updates", "train.max_updates"],
            format!("must be below {total}, the last update of the schedule"),
        );
        let length = total.saturating_sub(self.start_update);
        check.rule(
            length == 0 || self.warmup_updates < length,
            &["schedule.warmup_updates", "schedule.total_updates", "train.max_updates"],
            format!("must be below the {length} updates of the schedule"),
        );
    }
}

choices! {
    pub enum ScheduleKind {
        Constant = "constant",
        InverseSqrt = "inverse-sqrt",
        Noam = "noam",
        Linear = "linear",
        Cosine = "cosine",
        Plateau = "plateau",
    }
}
