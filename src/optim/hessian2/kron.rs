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
//! q makes U as large as Adam's update (root mean square 1 for a fresh gradient). Between the 20th and the 120th update H
//! comes in for the plain 1/a₀. A table has r for each token; one that is only looked up has no input factor (H = I), as a
//! one-hot input has none but the diagonal that r is.

use candle_core::Result;

use super::factors::Factors;
use super::in_scope;
use super::inputs::is_due;
use crate::config::Hessian2Config;
use crate::optim::algebra::{Mats, Number, Place, Start, View};
use crate::optim::rule::{Direction, MatrixRule, Now, Slot};
use crate::optim::saved::Saved;
use crate::optim::slots::Slots;
use crate::optim::{OptimizerState, StepContext};
use crate::params::{Param, ParamKind, ParamSet};

/// Updates between two measurements of r.
const SCALES_FREQ: u64 = 4;

/// The rule; see the formulas above.
pub(in crate::optim) struct Kron<M: Mats> {
    config: Hessian2Config,
    factors: Factors<M>,
}

impl<M: Mats> Kron<M> {
    pub(in crate::optim) fn new(config: &Hessian2Config) -> Self {
        Kron { factors: Factors::new(config), config: config.clone() }
    }

    /// r and q of P. Scales below `truncation` of the largest are replaced by that bound.
    fn measure(
        &self,
        (r, n, q): (&mut M, &M::Number, &mut M::Number),
        g: M::View<'_>,
        p: M::View<'_>,
        now: &Now<'_, M>,
    ) -> Result<()> {
        let share = (n.clone() + 1.0).recip().max(1.0 - self.config.beta2.powf(SCALES_FREQ as f64));
        r.toward_row_means(g, p, &share)?;
        let (sum, largest) = r.sum_and_largest()?;
        let (mean, least) = (sum * (1e-12 / g.rows() as f64), largest * self.config.truncation);
        // the larger of the two
        let floor = (mean.clone() - least.clone()).is_below(0.0).choose(&least, &mean).max(M::least(now.place));
        r.raise(&floor)?;
        let raw = r.squares_over(p)? / (g.rows() * g.columns()) as f64;
        *q = q.clone() + share * (raw - q.clone());
        Ok(())
    }
}

impl<M: Mats> MatrixRule<M> for Kron<M> {
    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        let Hessian2Config { beta1, beta2, input_beta, input_damping, .. } = self.config;
        let title = self.config.title();
        format!("{title}, betas ({beta1}, {beta2}), input beta {input_beta}, damping {input_damping}")
    }

    fn takes(&self, param: &Param) -> bool {
        let seen = matches!(param.kind, ParamKind::Table { .. }) || self.factors.knows(&param.name);
        seen && in_scope(&self.config, param.kind)
    }

    /// M and r.
    fn slots(&self, shape: [usize; 2], _table: bool) -> Vec<Slot> {
        vec![Slot::weight("m", shape), Slot::new("scales", [shape[0], 1], Start::Zeros)]
    }

    /// Updates; measurements of r; q.
    fn numbers(&self) -> &'static [&'static str] {
        &["t", "n", "q"]
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

    fn direction(&self, state: &mut Slots<M>, g: M::View<'_>, now: &mut Now<'_, M>) -> Result<Direction<M>> {
        let beta1 = self.config.beta1;
        let age = state.age + 1;
        let omega = ((age as f64 - 20.0) / 100.0).clamp(0.0, 1.0);
        let often = age < 20 || (age < 150 && age.is_multiple_of(2)) || age.is_multiple_of(SCALES_FREQ);
        let ([m, r], [t, n, q]) = state.parts()?;
        let mut idle = now.number(0.0)?;
        if often {
            let fresh = n.is_zero();
            idle = match fresh.surely(0.0) {
                true => idle,
                false => fresh * M::squares(g)?.is_zero(),
            };
            if idle.surely(1.0) {
                let update = M::start(Start::Zeros, now.members.len(), [g.rows(), g.columns()], now.place)?;
                return Ok(Direction { idle: Some(idle), ..Direction::plain(update) });
            }
            match self.factors.apply(g, omega, now)? {
                Some(p) => self.measure((r, n, q), g, p.view(), now)?,
                None => self.measure((r, n, q), g, g, now)?,
            }
            *n = n.clone() + idle.clone().rest();
        }
        *t = t.clone() + idle.clone().rest();
        m.toward(g, &now.number(1.0 - beta1)?)?;
        let mut update = match self.factors.apply(m.view(), omega, now)? {
            Some(update) => update,
            None => m.copy()?,
        };
        let size = (q.clone().sqrt() * t.clone().max(1.0).exponents_of(beta1).rest()).recip();
        update.scale_rows(&r.powers(&now.number(0.0)?, -0.5, &size)?)?;
        // one that began anew among others waits for its measurement
        Ok(Direction { idle: Some(n.is_zero()), ..Direction::plain(update) })
    }

    fn clear_shared(&mut self) {
        self.factors = Factors::new(&self.config);
    }

    fn save_shared(&self, state: &mut OptimizerState) -> Result<()> {
        self.factors.save(state)
    }

    fn load_shared(&mut self, place: &Place, saved: &mut Saved) -> Result<()> {
        self.factors.load(place, saved)
    }

    fn health(&self) -> Result<Vec<(String, f64)>> {
        self.factors.health()
    }
}
