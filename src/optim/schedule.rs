//! The learning rate as a function of the update.
//!
//! With n = 1, 2, … the update counted from `start_update`, W = `warmup_updates`, N the last update of the schedule counted
//! the same way, w = max(W, 1), b = max(w, `flat`·N), p = (n − b)/(N + 1 − b) clamped to [0, 1]:
//!
//! | kind | n < W | n ≥ W |
//! |---|---|---|
//! | constant | lr·n/W | lr |
//! | inverse-sqrt | lr·n/W | lr·√(w/n) |
//! | noam | lr·d⁻⁰·⁵·n·W⁻¹·⁵ | lr·d⁻⁰·⁵·n⁻⁰·⁵ (Vaswani et al. 2017) |
//! | linear | lr·n/W | lr + p·(min_lr − lr) |
//! | cosine | lr·n/W | min_lr + (lr − min_lr)·(1 + cos πp)/2 (Loshchilov & Hutter 2017) |
//! | plateau | lr·n/W | lr; the factor is in the scale (PyTorch's ReduceLROnPlateau) |
//!
//! linear and cosine fall after b (`flat` = 0: from the end of warm-up on; Hägele et al. 2024 leave the rate at its top for
//! most of the run) and reach `min_lr` after their last update, so none is done in vain. After warm-up the rate is at least
//! `min_lr`. A scale for plateaus and roll-backs multiplies everything.

use crate::config::{Config, ScheduleConfig, ScheduleKind};

/// A learning-rate schedule; a pure function.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: ScheduleConfig,
    /// Model width, for noam.
    width: f64,
    total: u64,
}

/// linear and cosine need to know where they end.
#[derive(Debug, thiserror::Error)]
#[error(
    "schedule.kind = \"{0}\" must know its last update: set schedule.total_updates or train.max_updates \
     above schedule.start_update + schedule.warmup_updates"
)]
pub struct NoEnd(&'static str);

impl Schedule {
    /// `d_model`: width of the model; `max_updates`: `train.max_updates`, used where `total_updates` is 0.
    ///
    /// # Errors
    /// [`NoEnd`] for linear or cosine without an end after warm-up.
    pub fn new(config: &ScheduleConfig, d_model: usize, max_updates: u64) -> Result<Self, NoEnd> {
        let total = if config.total_updates > 0 { config.total_updates } else { max_updates };
        let begins = config.start_update + config.warmup_updates;
        match config.kind {
            ScheduleKind::Linear if total <= begins => return Err(NoEnd("linear")),
            ScheduleKind::Cosine if total <= begins => return Err(NoEnd("cosine")),
            _ => {}
        }
        Ok(Schedule { config: config.clone(), width: d_model as f64, total })
    }

    /// That of a config.
    ///
    /// # Errors
    /// Those of [`Schedule::new`].
    pub fn of(config: &Config) -> Result<Self, NoEnd> {
        Schedule::new(&config.schedule, config.model.d_model, config.train.max_updates)
    }

    /// Updates after which the rate is `min_lr` for good; `None` of schedules that do not end.
    pub fn end(&self) -> Option<u64> {
        matches!(self.config.kind, ScheduleKind::Linear | ScheduleKind::Cosine).then_some(self.total)
    }

    /// The rate of the update after `step` updates. `lr`: that at the top; `scale`: after plateaus and roll-backs.
    pub fn rate(&self, step: u64, lr: f64, scale: f64) -> f64 {
        let ScheduleConfig { kind, warmup_updates, start_update, min_lr, flat, .. } = self.config;
        let update = (step + 1).saturating_sub(start_update).max(1);
        let (n, warmup) = (update as f64, warmup_updates as f64);
        if update < warmup_updates {
            let top = if kind == ScheduleKind::Noam { (self.width * warmup).powf(-0.5) } else { 1.0 };
            return scale * lr * top * n / warmup;
        }
        let peak = warmup.max(1.0);
        let length = self.total.saturating_sub(start_update) as f64;
        let begin = peak.max(flat * length);
        let done = ((n - begin) / (length + 1.0 - begin)).clamp(0.0, 1.0);
        let rate = match kind {
            ScheduleKind::Constant | ScheduleKind::Plateau => lr,
            ScheduleKind::InverseSqrt => lr * (peak / n).sqrt(),
            ScheduleKind::Noam => lr * (self.width * n).powf(-0.5),
            ScheduleKind::Linear => lr + done * (min_lr - lr),
            ScheduleKind::Cosine => min_lr + (lr - min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        (scale * rate).max(min_lr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LR: f64 = 2.0;

    fn schedule(kind: ScheduleKind, warmup_updates: u64, total_updates: u64, min_lr: f64) -> Schedule {
        let config = ScheduleConfig { kind, warmup_updates, total_updates, min_lr, ..ScheduleConfig::default() };
        Schedule::new(&config, 512, 0).unwrap()
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs(), "{a} against {b}");
    }

    /// In terms of update n, counted from 1.
    fn at(schedule: &Schedule, n: u64) -> f64 {
        schedule.rate(n - 1, LR, 1.0)
    }

    #[test]
    fn rates_follow_the_table() {
        use ScheduleKind::{Constant, Cosine, InverseSqrt, Linear, Noam, Plateau};
        for kind in [Constant, InverseSqrt, Linear, Cosine, Plateau] {
            let s = schedule(kind, 10, 110, 0.0);
            close(at(&s, 1), 0.2);
            close(at(&s, 10), LR);
        }
        close(at(&schedule(Constant, 0, 0, 0.0), 1), LR);
        close(at(&schedule(InverseSqrt, 10, 0, 0.0), 40), 1.0);
        close(at(&schedule(InverseSqrt, 0, 0, 0.0), 4), 1.0);
        for kind in [Linear, Cosine] {
            // 10 + (1 + 99)/2 is the middle of the curve from update 10 to the one after the last
            close(at(&schedule(kind, 10, 109, 0.5), 60), 1.25);
            close(at(&schedule(kind, 10, 109, 0.5), 110), 0.5);
            close(at(&schedule(kind, 10, 109, 0.5), 500), 0.5);
            close(at(&schedule(kind, 0, 99, 0.0), 1), LR);
        }
        let noam = |n: f64| LR * 512f64.powf(-0.5) * n.powf(-0.5).min(n * 4000f64.powf(-1.5));
        for n in [1u64, 3999, 4000, 4001, 100_000] {
            close(at(&schedule(Noam, 4000, 0, 0.0), n), noam(n as f64));
        }
        close(at(&schedule(InverseSqrt, 4, 0, 0.1), 1_000_000), 0.1);
        close(schedule(Cosine, 10, 109, 0.5).rate(59, 3.0, 1.0), 1.75);
        close(schedule(Plateau, 0, 0, 0.0).rate(7, LR, 0.25), 0.5);
    }

    #[test]
    fn a_share_of_the_updates_may_be_flat() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            let flat = |flat| {
                let config = ScheduleConfig { kind, warmup_updates: 10, flat, ..ScheduleConfig::default() };
                Schedule::new(&config, 512, 100).unwrap()
            };
            let s = flat(0.4);
            (10..=40).for_each(|n| assert_eq!(at(&s, n), LR));
            assert!((40..=100).all(|n| at(&s, n + 1) < at(&s, n)) && at(&s, 100) > 0.0 && at(&s, 101) == 0.0);
            // (101 - 40)/2 updates on, half of the way is gone
            close((at(&s, 70) + at(&s, 71)) / 2.0, 1.0);
            close(at(&s, 5), 1.0);
            // what lies within warm-up changes nothing
            (1..=101).for_each(|n| assert_eq!(at(&flat(0.05), n), at(&flat(0.0), n)));
        }
    }

    #[test]
    fn the_last_update_is_not_done_in_vain() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            for (warmup, total) in [(0, 1), (0, 2), (1, 2), (10, 11), (10, 4000)] {
                let s = schedule(kind, warmup, total, 0.0);
                assert!(at(&s, total) > 0.0 && at(&s, total + 1) == 0.0, "{kind:?} {warmup} {total}");
                assert!((1..=total).all(|n| at(&s, n) > 0.0));
            }
        }
    }

    #[test]
    fn a_schedule_that_starts_later_is_the_same_curve_moved() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::InverseSqrt, ScheduleKind::Noam] {
            let config = ScheduleConfig { kind, warmup_updates: 10, ..ScheduleConfig::default() };
            let moved = ScheduleConfig { start_update: 400, ..config.clone() };
            let (first, moved) = (Schedule::new(&config, 8, 100).unwrap(), Schedule::new(&moved, 8, 500).unwrap());
            (1..=101).for_each(|n| assert_eq!(at(&first, n), at(&moved, 400 + n)));
            assert_eq!(at(&moved, 3), at(&first, 1));
        }
    }

    #[test]
    fn linear_and_cosine_ask_for_their_end() {
        let config = ScheduleConfig { kind: ScheduleKind::Cosine, warmup_updates: 10, ..ScheduleConfig::default() };
        let message = Schedule::new(&config, 1, 10).unwrap_err().to_string();
        assert!(message.contains("cosine") && message.contains("train.max_updates"), "{message}");
        let schedule = Schedule::new(&config, 1, 19).unwrap();
        close(schedule.rate(14, 1.0, 1.0), 0.5);
        assert_eq!((schedule.end(), self::schedule(ScheduleKind::Noam, 1, 9, 0.0).end()), (Some(19), None));
    }
}
