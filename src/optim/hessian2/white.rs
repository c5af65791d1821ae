//! `variant = "white"`: both Kronecker factors of a matrix's curvature whitened, their inverse square roots never
//! computed, only corrected.
//!
//! ```text
//! M ← M + (1 − β₁)·(G − M)
//! M̂ ← (β₁·M + (1 − β₁)·G) / (1 − β₁ᵗ)          Nesterov; else M / (1 − β₁ᵗ)
//! U  = H_L · M̂ · H_R                            H_L ≈ S_L^(−1/2) (o × o), H_R ≈ S_R^(−1/2) (i × i)
//! Z_L = H_L·(G·H_R)[:, J] / √k                  J: k random columns  } a sketch of the whitened gradient H_L·G·H_R,
//! Z_R = (H_L[J′, :]·G·H_R)ᵀ / √k                J′: k random rows    } which is never formed
//! both: four columns √(λ/4)·H·Ω / mean diag H more, signs ±1 in Ω (damping)
//! H_L, H_R ← corrected by Z_L, Z_R with β_t = max(β, 1/(t + 2))      (see `track`)
//! ```
//!
//! The fixed point is KL-Shampoo's (arXiv 2509.03378): S_L = E[G S_R⁻¹ Gᵀ]/i, S_R = E[Gᵀ S_L⁻¹ G]/o. A table V × d has
//! one number a token instead of H_L: r_a ← r_a + β_t·(‖g_a H_R Ω‖²/k − r_a) with signs ±1/√d in Ω (d × k),
//! U = diag(r + λ·mean r)^(−p)·M̂·H_R with p = `row_power` (½ is curvature's), and its Z_R is made of k random rows among
//! the n present in the batch, scaled by √(n/V). A weight with a side longer than `block_size` is several, each with its own H_L and H_R, as in distributed
//! Shampoo.
//!
//! The first gradient G ≠ 0 sets H to rms(G)^(−1/2)·I and r to rms(G). The momentum is of the raw gradient: the average of
//! whitened gradients remembers factors that are gone, and was clearly worse.

use candle_core::Result;

use super::in_scope;
use super::track::correct;
use crate::config::Hessian2Config;
use crate::optim::algebra::{Mats, Number, Start, View};
use crate::optim::rule::{Direction, MatrixRule, Now, Slot};
use crate::optim::slots::Slots;
use crate::params::Param;

/// Damping columns of a correction.
const DAMPING: usize = 4;
/// Updates between two looks at the residual.
const PROBE: u64 = 100;

/// The rule; see the formulas above.
pub(in crate::optim) struct White {
    pub(in crate::optim) config: Hessian2Config,
}

impl<M: Mats> MatrixRule<M> for White {
    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        let Hessian2Config { beta1, curvature_beta, damping, nesterov, .. } = &self.config;
        let momentum = if *nesterov { "Nesterov momentum" } else { "momentum" };
        let title = self.config.title();
        format!("{title}, {momentum} {beta1}, curvature beta {curvature_beta}, damping {damping}")
    }

    fn takes(&self, param: &Param) -> bool {
        in_scope(&self.config, param.kind)
    }

    /// H_L, or r of a table, and H_R.
    fn slots(&self, [rows, columns]: [usize; 2], table: bool) -> Vec<Slot> {
        let left = match table {
            true => Slot::new("left", [rows, 1], Start::Ones),
            false => Slot::new("left", [rows, rows], Start::Identity),
        };
        let right = Slot::new("right", [columns, columns], Start::Identity);
        vec![Slot::weight("m", [rows, columns]), left, right]
    }

    fn numbers(&self) -> &'static [&'static str] {
        &["t"]
    }

    fn longest(&self) -> Option<usize> {
        Some(self.config.block_size)
    }

    fn wants_size(&self) -> bool {
        true
    }

    fn trust(&self) -> Option<f64> {
        Some(self.config.trust)
    }

    fn direction(&self, state: &mut Slots<M>, g: M::View<'_>, now: &mut Now<'_, M>) -> Result<Direction<M>> {
        let ([m, left, right], [t]) = state.parts()?;
        let table = left.columns() != left.rows();
        let begins = t.is_zero() * now.size.is_zero().rest();
        // nothing to measure the curvature with yet
        let idle = t.is_zero() - begins.clone();
        if idle.surely(1.0) {
            let update = M::start(Start::Zeros, now.members.len(), [g.rows(), g.columns()], now.place)?;
            return Ok(Direction { idle: Some(idle), ..Direction::plain(update) });
        }
        let one = now.number(1.0)?;
        let root = now.size.clone().powf(-0.5);
        left.scale(&begins.choose(if table { &now.size } else { &root }, &one))?;
        right.scale(&begins.choose(&root, &one))?;
        *t = t.clone() + idle.clone().rest();
        let beta = (t.clone() + 2.0).recip().max(self.config.curvature_beta) * idle.clone().rest();

        let momentum = self.momentum(m, g, t, now)?;
        let residual = match now.step.is_multiple_of(PROBE) {
            true => Some(self.residual((left, right), g, table, now)?),
            false => None,
        };
        let update = match table {
            true => self.table((left, right), g, &momentum, &beta, now)?,
            false => self.matrix((left, right), g, &momentum, &beta, now)?,
        };
        let whole = left.is_finite()? * right.is_finite()?;
        Ok(Direction { update, failed: Some(whole.rest() * idle.clone().rest()), idle: Some(idle), residual })
    }
}

impl White {
    fn matrix<M: Mats>(
        &self,
        (left, right): (&mut M, &mut M),
        g: M::View<'_>,
        momentum: &M,
        beta: &M::Number,
        now: &mut Now<'_, M>,
    ) -> Result<M> {
        let update = M::product(left.view(), M::product(momentum.view(), right.view())?.view())?;

        // H is symmetric: its columns J are its rows J
        let k = self.sketched(g.rows());
        let chosen = M::rows_at(right.view(), &now.choice(k, g.columns())?)?;
        let mut z_left = M::product(M::product(chosen.view(), g.t())?.view(), left.view())?;
        z_left.scale(&now.number((k as f64).powf(-0.5))?)?;
        let k = self.sketched(g.columns());
        let chosen = M::rows_at(left.view(), &now.choice(k, g.rows())?)?;
        let mut z_right = M::product(M::product(chosen.view(), g)?.view(), right.view())?;
        z_right.scale(&now.number((k as f64).powf(-0.5))?)?;

        let z_left = self.damped(left, z_left, now)?;
        let z_right = self.damped(right, z_right, now)?;
        correct(left, &z_left, beta)?;
        correct(right, &z_right, beta)?;
        Ok(update)
    }

    fn table<M: Mats>(
        &self,
        (r, right): (&mut M, &mut M),
        g: M::View<'_>,
        momentum: &M,
        beta: &M::Number,
        now: &mut Now<'_, M>,
    ) -> Result<M> {
        // r is an average over many updates, for which a sketch of the columns of G·H_R is enough
        let (k, n) = (self.sketched(g.columns()), g.columns());
        let white = match k < n {
            true => M::product(g, M::product(now.signs(k, n, (n as f64).powf(-0.5))?.view(), right.view())?.t())?,
            false => M::product(g, right.view())?,
        };
        r.toward_row_means(white.view(), white.view(), beta)?;
        let mut update = M::product(momentum.view(), right.view())?;
        update.scale_rows(&self.row_scale(r, now)?)?;

        let gains = self.gains(r, now)?;
        let (rows, present) = M::choice_of_present(g, k, now.streams())?;
        let mut gains = M::rows_at(gains.view(), &rows)?;
        gains.scale(&(present.clone() / g.rows() as f64 / k as f64).sqrt())?;
        let mut z = M::product(M::rows_at(g, &rows)?.view(), right.view())?;
        z.scale_rows(&gains)?;
        let none = present.is_zero();
        if !none.surely(1.0) {
            let z = self.damped(right, z, now)?;
            correct(right, &z, &(beta.clone() * none.rest()))?;
        }
        Ok(update)
    }

    /// (r + λ·mean r)^(−1/2).
    fn gains<M: Mats>(&self, r: &M, now: &Now<'_, M>) -> Result<M> {
        r.powers(&self.floor(r, now)?, -0.5, &now.number(1.0)?)
    }

    /// (r + λ·mean r)^(−p), times what keeps the root mean square of a fresh gradient's update at 1: ĝ_a has that of √r_a.
    fn row_scale<M: Mats>(&self, r: &M, now: &Now<'_, M>) -> Result<M> {
        let power = self.config.row_power;
        if power == 0.5 {
            return self.gains(r, now);
        }
        let floor = self.floor(r, now)?;
        let (sum, _) = r.powers(&floor, 1.0 - 2.0 * power, &now.number(1.0)?)?.sum_and_largest()?;
        r.powers(&floor, -power, &(sum / r.rows() as f64).powf(-0.5))
    }

    /// λ·mean r, above 0.
    fn floor<M: Mats>(&self, r: &M, now: &Now<'_, M>) -> Result<M::Number> {
        let (sum, _) = r.sum_and_largest()?;
        Ok(sum * self.config.damping / r.rows() as f64 + M::least(now.place))
    }

    /// Columns of the sketch for the factor of a side of `n`.
    fn sketched(&self, n: usize) -> usize {
        (n / self.config.sketch_divisor).max(8)
    }

    /// `z` and below it four rows that pull the factor towards S + λ·(mean scale)·I. With a fixed `rank` = 2c: c random
    /// combinations of all these with the same expectation of ZZᵀ.
    fn damped<M: Mats>(&self, h: &M, z: M, now: &mut Now<'_, M>) -> Result<M> {
        let mut rows = M::product(now.signs(DAMPING, h.rows(), 1.0)?.view(), h.view())?;
        rows.scale(&(now.number((self.config.damping / DAMPING as f64).sqrt())? / h.mean_diagonal()?))?;
        let z = z.above(&rows)?;
        let c = self.config.rank / 2;
        if c == 0 || c >= z.rows() {
            return Ok(z);
        }
        M::product(now.signs(c, z.rows(), (c as f64).powf(-0.5))?.view(), z.view())
    }

    /// |sᵀ(ĜĜᵀ/i)s / sᵀs − 1| for a fresh normal s and the whitened gradient Ĝ: 0 in the mean when the factors are right.
    fn residual<M: Mats>(
        &self,
        (left, right): (&M, &M),
        g: M::View<'_>,
        table: bool,
        now: &mut Now<'_, M>,
    ) -> Result<M::Number> {
        let (s, mut probe);
        let white = if table {
            s = now.normals(g.rows(), 1)?;
            probe = s.copy()?;
            probe.scale_rows(&self.gains(left, now)?)?;
            M::product(M::product(probe.t(), g)?.view(), right.view())?
        } else {
            s = now.normals(1, g.rows())?;
            probe = M::product(s.view(), left.view())?;
            M::product(M::product(probe.view(), g)?.view(), right.view())?
        };
        Ok((M::squares(white.view())? / g.columns() as f64 / M::squares(s.view())? - 1.0).abs())
    }

    /// Takes the gradient into the average and returns what is whitened: bias-corrected, with Nesterov's look ahead.
    fn momentum<M: Mats>(&self, m: &mut M, g: M::View<'_>, t: &M::Number, now: &Now<'_, M>) -> Result<M> {
        let Hessian2Config { beta1, nesterov, .. } = self.config;
        let share = now.number(1.0 - beta1)?;
        let ahead = if nesterov { share.clone() } else { now.number(0.0)? };
        m.toward_and_ahead(g, &share, &ahead, &t.clone().max(1.0).exponents_of(beta1).rest().recip())
    }
}
