//! The learning rate as a function of the update.
//!
//! With n = 1, 2, … the update, W = `warmup_updates`, N = `total_updates`, p = (n − W)/(N − W) clamped to [0, 1]:
//!
//! | kind | n < W | n ≥ W |
//! |---|---|---|
//! | constant | lr·n/W | lr |
//! | inverse-sqrt | lr·n/W | lr·√(W/n) (W at least 1) |
//! | noam | lr·d⁻⁰·⁵·n·W⁻¹·⁵ | lr·d⁻⁰·⁵·n⁻⁰·⁵ (Vaswani et al. 2017) |
//! | linear | lr·n/W | lr + p·(min_lr − lr) |
//! | cosine | lr·n/W | min_lr + (lr − min_lr)·(1 + cos πp)/2 (Loshchilov & Hutter 2017) |
//! | plateau | lr·n/W | lr·factor^k, k = times that validations stopped improving (PyTorch's ReduceLROnPlateau) |
//!
//! After warm-up the rate is at least `min_lr`. A roll-back may scale everything down ([`Schedule::scale_down`]).

use serde::{Deserialize, Serialize};

use crate::config::{ScheduleConfig, ScheduleKind};

/// A learning-rate schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: ScheduleConfig,
    lr: f64,
    /// Model width, for noam.
    width: f64,
    total: u64,
    state: ScheduleState,
}

/// What a schedule remembers; belongs into the checkpoint. All other schedules are pure functions of the update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Factor on the rate: plateaus and roll-backs so far.
    pub scale: f64,
    /// Best score seen by plateau.
    pub best: Option<f64>,
    /// Validations since then.
    pub without_improvement: u32,
}

impl Default for ScheduleState {
    fn default() -> Self {
        ScheduleState { scale: 1.0, best: None, without_improvement: 0 }
    }
}

/// linear and cosine need to know where they end.
#[derive(Debug, thiserror::Error)]
#[error(
    "schedule.kind = \"{0}\" must know its last update: set schedule.total_updates or train.max_updates \
     above schedule.warmup_updates"
)]
pub struct NoEnd(&'static str);

impl Schedule {
    /// `lr`: `optimizer.lr`; `d_model`: width of the model; `max_updates`: `train.max_updates`, used where
    /// `total_updates` is 0.
    ///
    /// # Errors
    /// [`NoEnd`] for linear or cosine without an end after warm-up.
    pub fn new(config: &ScheduleConfig, lr: f64, d_model: usize, max_updates: u64) -> Result<Self, NoEnd> {
        let total = if config.total_updates > 0 { config.total_updates } else { max_updates };
        match config.kind {
            ScheduleKind::Linear if total <= config.warmup_updates => return Err(NoEnd("linear")),
            ScheduleKind::Cosine if total <= config.warmup_updates => return Err(NoEnd("cosine")),
            _ => {}
        }
        Ok(Schedule { config: config.clone(), lr, width: d_model as f64, total, state: ScheduleState::default() })
    }

    /// The rate of the update after `step` updates.
    pub fn lr(&self, step: u64) -> f64 {
        let ScheduleConfig { kind, warmup_updates, min_lr, .. } = self.config;
        let n = step as f64 + 1.0;
        let warmup = warmup_updates as f64;
        if step + 1 < warmup_updates {
            let top = if kind == ScheduleKind::Noam { (self.width * warmup).powf(-0.5) } else { 1.0 };
            return self.state.scale * self.lr * top * n / warmup;
        }
        let done = ((n - warmup) / (self.total as f64 - warmup)).clamp(0.0, 1.0);
        let rate = match kind {
            ScheduleKind::Constant | ScheduleKind::Plateau => self.lr,
            ScheduleKind::InverseSqrt => self.lr * (warmup.max(1.0) / n).sqrt(),
            ScheduleKind::Noam => self.lr * (self.width * n).powf(-0.5),
            ScheduleKind::Linear => self.lr + done * (min_lr - self.lr),
            ScheduleKind::Cosine => min_lr + (self.lr - min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        (self.state.scale * rate).max(min_lr)
    }

    /// Tells plateau the score of a validation; returns whether the rate fell. Others ignore it.
    pub fn validated(&mut self, score: f64, lower_is_better: bool) -> bool {
        if self.config.kind != ScheduleKind::Plateau {
            return false;
        }
        let better = match self.state.best {
            None => !score.is_nan(),
            Some(best) => (lower_is_better && score < best) || (!lower_is_better && score > best),
        };
        if better {
            (self.state.best, self.state.without_improvement) = (Some(score), 0);
            return false;
        }
        self.state.without_improvement += 1;
        if self.state.without_improvement <= self.config.plateau_patience {
            return false;
        }
        self.state.without_improvement = 0;
        self.state.scale *= self.config.plateau_factor;
        true
    }

    /// Another rate at the top, from the next update on; shape and position stay.
    pub fn set_peak(&mut self, lr: f64) {
        self.lr = lr;
    }

    /// Multiplies all later rates by `factor` (min_lr still holds after warm-up).
    pub fn scale_down(&mut self, factor: f64) {
        self.state.scale *= factor;
    }

    pub fn state(&self) -> &ScheduleState {
        &self.state
    }

    pub fn load_state(&mut self, state: ScheduleState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, warmup_updates: u64, total_updates: u64, min_lr: f64) -> Schedule {
        let config = ScheduleConfig { kind, warmup_updates, total_updates, min_lr, ..ScheduleConfig::default() };
        Schedule::new(&config, 2.0, 512, 0).unwrap()
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs(), "{a} against {b}");
    }

    #[test]
    fn rates_follow_the_table() {
        use ScheduleKind::{Constant, Cosine, InverseSqrt, Linear, Noam};
        for kind in [Constant, InverseSqrt, Linear, Cosine] {
            let s = schedule(kind, 10, 110, 0.0);
            close(s.lr(0), 0.2);
            close(s.lr(9), 2.0);
        }
        close(schedule(Constant, 0, 0, 0.0).lr(0), 2.0);
        close(schedule(InverseSqrt, 10, 0, 0.0).lr(39), 1.0);
        close(schedule(InverseSqrt, 0, 0, 0.0).lr(3), 1.0);
        close(schedule(Linear, 10, 110, 0.5).lr(59), 1.25);
        close(schedule(Linear, 10, 110, 0.5).lr(500), 0.5);
        close(schedule(Cosine, 10, 110, 0.5).lr(59), 1.25);
        close(schedule(Cosine, 10, 110, 0.5).lr(109), 0.5);
        let noam = |n: f64| 2.0 * 512f64.powf(-0.5) * n.powf(-0.5).min(n * 4000f64.powf(-1.5));
        for n in [1u64, 3999, 4000, 4001, 100_000] {
            close(schedule(Noam, 4000, 0, 0.0).lr(n - 1), noam(n as f64));
        }
        close(schedule(InverseSqrt, 4, 0, 0.1).lr(1_000_000), 0.1);
        let mut other = schedule(Cosine, 10, 110, 0.5);
        other.set_peak(3.0);
        close(other.lr(59), 1.75);
    }

    #[test]
    fn linear_and_cosine_ask_for_their_end() {
        let config = ScheduleConfig { kind: ScheduleKind::Cosine, warmup_updates: 10, ..ScheduleConfig::default() };
        let message = Schedule::new(&config, 1.0, 1, 10).unwrap_err().to_string();
        assert!(message.contains("cosine") && message.contains("train.max_updates"), "{message}");
        close(Schedule::new(&config, 1.0, 1, 20).unwrap().lr(14), 0.5);
    }

    #[test]
    fn plateau_waits_for_its_patience_and_resumes() {
        let mut s = schedule(ScheduleKind::Plateau, 0, 0, 0.0);
        let falls: Vec<bool> = [3.0, 2.0, 2.5, 2.5, f64::NAN, 2.4].iter().map(|&x| s.validated(x, true)).collect();
        assert_eq!(falls, [false, false, false, false, true, false]);
        close(s.lr(7), 1.0);
        let text = serde_json::to_string(s.state()).unwrap();
        let mut resumed = schedule(ScheduleKind::Plateau, 0, 0, 0.0);
        resumed.load_state(serde_json::from_str(&text).unwrap());
        assert_eq!(resumed.state(), s.state());
        close(resumed.lr(7), 1.0);
        resumed.scale_down(0.5);
        close(resumed.lr(7), 0.5);
    }
}
