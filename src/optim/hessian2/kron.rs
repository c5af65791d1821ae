//! `variant = "kron"`: the inverse of the input's second moment, tracked by BFGS, times one scale for each output.
//!
//! The model is GGN ≈ D ⊗ A with A = E[xxᵀ] taken to the full power −1 and D diagonal to −½:
//!
//! ```text
//! H   the tracked inverse of A + λ·a₀·I of the weight's input (see `factors`)
//! every 4 updates (early: more often):
//!     P = G·H;  r_a ← r_a + b₂·(mean_j G_aj·P_aj − r_a);  q ← q + b₂·(mean(P²/r) − q)
//! M ← M + (1 − β₁)·(G − M)
//! U = diag(r)^(−1/2)·M·H / (√q·(1 − β₁ᵗ))
//! ```
//!
//! q makes U as large as Adam's update (root mean square 1 for a fresh gradient). A table has r for each token; one that
//! is only looked up has no input factor (H = I), as a one-hot input has none but the diagonal that r is.

use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

use super::factors::{apply, Factor};
use super::groups::Groups;
use super::in_scope;
use super::inputs::{is_due, words};
use crate::config::Hessian2Config;
use crate::ops::Real;
use crate::optim::matrix::{squares, Matrix};
use crate::optim::per_matrix::{state, At, Direction, Gradient, Named, Rule};
use crate::optim::StepContext;
use crate::params::{Param, ParamKind, ParamSet};

/// Updates between two measurements of r.
pub(super) const SCALES_FREQ: f64 = 4.0;

/// The rule; see the formulas above.
pub(super) struct Kron<T> {
    config: Hessian2Config,
    factors: Groups<Factor<T>>,
}

impl<T: Real> Kron<T> {
    pub(super) fn new(config: Hessian2Config) -> Self {
        Kron { factors: Groups::new(&config), config }
    }
}

state! {
    /// `scales` is r (o × 1).
    KronState { m, scales; t, n, q }
}

impl<T: Real> Rule<T> for Kron<T> {
    type State = KronState<T>;

    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        let seen = matches!(param.kind, ParamKind::Table { .. }) || self.factors.of(&param.name).is_some();
        seen && in_scope(&self.config, param.kind)
    }

    fn start(&self, _param: &Param, rows: usize, columns: usize) -> KronState<T> {
        KronState { m: Matrix::zeros(rows, columns), scales: Matrix::zeros(rows, 1), t: 0.0, n: 0.0, q: 0.0 }
    }

    fn trust(&self) -> Option<f64> {
        Some(self.config.trust)
    }

    fn needs_inputs(&self, step: u64) -> bool {
        is_due(step, &self.config)
    }

    fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        self.factors.observe(params, context)
    }

    fn direction(&self, state: &mut KronState<T>, g: &Gradient<'_, T>, at: &At<'_>) -> Result<Direction<T>> {
        let Hessian2Config { beta1, beta2, truncation, .. } = self.config;
        let factors = self.factors.of(&at.param.name);
        let t = state.t + 1.0;
        let omega = ((t - 20.0) / 100.0).clamp(0.0, 1.0);
        let whiten = |m: &Matrix<T>| factors.map_or_else(|| m.clone(), |factors| apply(factors, m, omega));
        let often = t < 20.0 || (t < 150.0 && t % 2.0 == 0.0) || t % SCALES_FREQ == 0.0;
        if state.n == 0.0 && squares(g.values) == 0.0 {
            return Ok(Direction::plain(Matrix::zeros(g.rows, g.columns)));
        }
        if often || state.n == 0.0 {
            let share = (1.0 - beta2.powf(SCALES_FREQ)).max(1.0 / (state.n + 1.0));
            self.measure(state, g, &whiten(&g.to_matrix()), share, truncation);
        }
        state.t = t;
        state.m.toward(g.values, 1.0 - beta1);
        let mut update = whiten(&state.m);
        let size = 1.0 / (state.q.sqrt() * (1.0 - beta1.powf(t)));
        for (row, r) in update.rows_mut().zip(&state.scales.data) {
            let gain = T::from_f64(size * r.to_f64().powf(-0.5));
            row.iter_mut().for_each(|u| *u *= gain);
        }
        Ok(Direction::plain(update))
    }

    fn shared(&self) -> Vec<(String, &dyn Named<T>)> {
        self.factors.shared()
    }

    fn shared_mut(&mut self, saved: &BTreeMap<String, Tensor>) -> Vec<(String, &mut dyn Named<T>)> {
        self.factors.shared_mut(saved)
    }

    fn shared_scalars(&self) -> Vec<(String, f64)> {
        self.factors.scalars()
    }

    fn load_shared_scalars(&mut self, scalars: &[(String, f64)]) {
        self.factors.load_scalars(scalars);
    }

    fn health(&self) -> Vec<(String, f64)> {
        self.factors.health()
    }
}

impl<T: Real> Kron<T> {
    /// r and q; `p` = G·H. Scales below `truncation` of the largest are replaced by that bound.
    fn measure(&self, state: &mut KronState<T>, g: &Gradient<'_, T>, p: &Matrix<T>, share: f64, truncation: f64) {
        state.n += 1.0;
        let (mut mean, mut largest) = (0.0, 0.0);
        for (i, (r, p)) in state.scales.data.iter_mut().zip(p.rows()).enumerate() {
            let now = crate::ops::dot(g.row(i), p).to_f64() / g.columns as f64;
            *r += T::from_f64(share * (now - r.to_f64()));
            mean += r.to_f64() / g.rows as f64;
            largest = f64::max(largest, r.to_f64());
        }
        let floor = T::from_f64((1e-12 * mean).max(truncation * largest).max(f64::MIN_POSITIVE));
        let mut raw = 0.0;
        for (r, p) in state.scales.data.iter_mut().zip(p.rows()) {
            if *r < floor {
                *r = floor;
            }
            raw += squares(p) / r.to_f64();
        }
        state.q += share * (raw / (g.rows * g.columns) as f64 - state.q);
    }
}
