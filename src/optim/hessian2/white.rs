//! `variant = "white"`: both Kronecker factors of a matrix's curvature whitened, their inverse square roots never
//! computed, only corrected.
//!
//! ```text
//! M ← M + (1 − β₁)·(G − M)
//! M̂ ← (β₁·M + (1 − β₁)·G) / (1 − β₁ᵗ)          Nesterov; else M / (1 − β₁ᵗ)
//! U  = H_L · M̂ · H_R                            H_L ≈ S_L^(−1/2) (o × o), H_R ≈ S_R^(−1/2) (i × i)
//! Z_L = H_L·(G·H_R)[:, J] / √k                  J: k random columns  } a sketch of the whitened gradient H_L·G·H_R,
//! Z_R = (H_L[J′, :]·G·H_R)ᵀ / √k                J′: k random rows    } which is never formed
//! both: four columns √(λ/4)·H·Ω / mean diag H more, Ω normal (damping)
//! H_L, H_R ← corrected by Z_L, Z_R with β_t = max(β, 1/(t + 2))      (see `track`)
//! ```
//!
//! The fixed point is KL-Shampoo's (arXiv 2509.03378): S_L = E[G S_R⁻¹ Gᵀ]/i, S_R = E[Gᵀ S_L⁻¹ G]/o. A table V × d has
//! one number a token instead of H_L: r_a ← r_a + β_t·(‖g_a H_R‖²/d − r_a), U = diag(r + λ·mean r)^(−1/2)·M̂·H_R, and its
//! Z_R is made of k random rows among the n present in the batch, scaled by √(n/V). A weight with a side longer than
//! `block_size` is several, each with its own H_L and H_R, as in distributed Shampoo.
//!
//! The momentum is of the raw gradient: the average of whitened gradients remembers factors that are gone, and was
//! clearly worse.
//!
//! On an accelerator it is `white_batched`.

use candle_core::Result;
use std::ops::Range;

use super::in_scope;
use super::track::correct;
use crate::config::Hessian2Config;
use crate::ops::Real;
use crate::optim::matrix::{blocks, part, product, rms, squares, Matrix};
use crate::optim::per_matrix::{At, Direction, Gradient, Named, Rule};
use crate::params::{Param, ParamKind};
use crate::rng::Stream;

/// Damping columns of a correction.
pub(super) const DAMPING: usize = 4;
/// Updates between two looks at the residual.
pub(super) const PROBE: u64 = 100;

/// The rule; see the formulas above.
pub(super) struct White {
    pub(super) config: Hessian2Config,
}

/// State of one weight.
pub(super) struct WhiteState<T> {
    m: Matrix<T>,
    blocks: Vec<Block<T>>,
    t: f64,
}

/// A part of the weight with factors of its own.
struct Block<T> {
    rows: Range<usize>,
    columns: Range<usize>,
    /// H_L, or r of a table (V × 1).
    left: Matrix<T>,
    /// H_R.
    right: Matrix<T>,
    table: bool,
}

impl<T: Real> Named<T> for WhiteState<T> {
    fn matrices(&self) -> Vec<(String, &Matrix<T>)> {
        let mut all = vec![("m".to_string(), &self.m)];
        for (i, Block { left, right, .. }) in self.blocks.iter().enumerate() {
            all.extend([(format!("left{i}"), left), (format!("right{i}"), right)]);
        }
        all
    }

    fn matrices_mut(&mut self) -> Vec<(String, &mut Matrix<T>)> {
        let mut all = vec![("m".to_string(), &mut self.m)];
        for (i, Block { left, right, .. }) in self.blocks.iter_mut().enumerate() {
            all.extend([(format!("left{i}"), left), (format!("right{i}"), right)]);
        }
        all
    }

    fn scalars(&self) -> Vec<(&'static str, f64)> {
        vec![("t", self.t)]
    }

    fn scalars_mut(&mut self) -> Vec<(&'static str, &mut f64)> {
        vec![("t", &mut self.t)]
    }
}

/// For the pre-flight table.
pub(super) fn words(config: &Hessian2Config) -> String {
    let Hessian2Config { beta1, curvature_beta, damping, nesterov, .. } = config;
    let momentum = if *nesterov { "Nesterov momentum" } else { "momentum" };
    format!("{}, {momentum} {beta1}, curvature beta {curvature_beta}, damping {damping}", config.title())
}

impl<T: Real> Rule<T> for White {
    type State = WhiteState<T>;

    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        in_scope(&self.config, param.kind)
    }

    fn start(&self, param: &Param, rows: usize, columns: usize) -> WhiteState<T> {
        let table = matches!(param.kind, ParamKind::Table { .. });
        let longest = if table { usize::MAX } else { self.config.block_size };
        let mut found = Vec::new();
        for rows in blocks(rows, longest) {
            for columns in blocks(columns, longest) {
                let left = if table { Matrix::zeros(rows.len(), 1) } else { Matrix::zeros(rows.len(), rows.len()) };
                let right = Matrix::zeros(columns.len(), columns.len());
                found.push(Block { rows: rows.clone(), columns, left, right, table });
            }
        }
        WhiteState { m: Matrix::zeros(rows, columns), blocks: found, t: 0.0 }
    }

    fn trust(&self) -> Option<f64> {
        Some(self.config.trust)
    }

    fn direction(&self, state: &mut WhiteState<T>, g: &Gradient<'_, T>, at: &At<'_>) -> Result<Direction<T>> {
        if state.t == 0.0 {
            let size = rms(g.values);
            if size == 0.0 {
                // nothing to measure the curvature with yet
                return Ok(Direction::plain(Matrix::zeros(g.rows, g.columns)));
            }
            state.blocks.iter_mut().for_each(|block| block.begin(size));
        }
        state.t += 1.0;
        let beta = self.config.curvature_beta.max(1.0 / (state.t + 2.0));
        let momentum = self.momentum(&mut state.m, g, state.t);
        let mut random = at.random();
        let mut update = Matrix::zeros(g.rows, g.columns);
        let (mut residuals, mut whole) = (Vec::new(), true);
        for block in &mut state.blocks {
            let (rows, columns) = (block.rows.clone(), block.columns.clone());
            let g = part(g.values, g.columns, rows.clone(), columns.clone());
            if at.step.is_multiple_of(PROBE) {
                residuals.push(self.residual(block, &g, &mut random));
            }
            let momentum = momentum.part(rows.clone(), columns.clone());
            let of_block = if block.table { Self::table } else { Self::matrix };
            let (part, corrected) = of_block(self, block, &g, &momentum, beta, &mut random);
            update.set_part(rows, columns, &part);
            whole &= corrected && block.left.is_finite() && block.right.is_finite();
        }
        let residual = (!residuals.is_empty()).then(|| residuals.iter().sum::<f64>() / residuals.len() as f64);
        if !whole {
            // a failed factor begins anew, with the next gradient
            state.t = 0.0;
            state.m.data.fill(T::zero());
            update.data.fill(T::zero());
        }
        Ok(Direction { update, residual, reset: !whole })
    }
}

impl<T: Real> Block<T> {
    /// H = rms(G)^(−1/2)·I on both sides.
    fn begin(&mut self, size: f64) {
        self.right.set_identity(size.powf(-0.5));
        if self.table {
            self.left.data.fill(T::from_f64(size));
        } else {
            self.left.set_identity(size.powf(-0.5));
        }
    }
}

impl White {
    fn matrix<T: Real>(
        &self,
        block: &mut Block<T>,
        g: &Matrix<T>,
        momentum: &Matrix<T>,
        beta: f64,
        random: &mut Stream,
    ) -> (Matrix<T>, bool) {
        let Block { left, right, .. } = block;
        let update = product(left.view(), product(momentum.view(), right.view()).view());

        // H is symmetric: its columns J are its rows J
        let columns = self.sample(random, g.rows, |random| random.below(g.columns));
        let sketch = product(right.gather(&columns).view(), g.t());
        let mut z_left = product(sketch.view(), left.view());
        z_left.scale((columns.len() as f64).powf(-0.5));
        let rows = self.sample(random, g.columns, |random| random.below(g.rows));
        let sketch = product(left.gather(&rows).view(), g.view());
        let mut z_right = product(sketch.view(), right.view());
        z_right.scale((rows.len() as f64).powf(-0.5));

        let z_left = self.compress(z_left.above(&self.damping(left, random)), random);
        let z_right = self.compress(z_right.above(&self.damping(right, random)), random);
        let whole = correct(left, z_left, beta) & correct(right, z_right, beta);
        (update, whole)
    }

    fn table<T: Real>(
        &self,
        block: &mut Block<T>,
        g: &Matrix<T>,
        momentum: &Matrix<T>,
        beta: f64,
        random: &mut Stream,
    ) -> (Matrix<T>, bool) {
        let Block { left, right, .. } = block;
        let white = product(g.view(), right.view());
        let mut mean = 0.0;
        for (r, row) in left.data.iter_mut().zip(white.rows()) {
            let now = squares(row) / g.columns as f64;
            *r += T::from_f64(beta * (now - r.to_f64()));
            mean += r.to_f64();
        }
        let floor = self.config.damping * mean / g.rows as f64 + f64::MIN_POSITIVE;
        let gain = |r: T| T::from_f64((r.to_f64() + floor).powf(-0.5));
        let mut update = product(momentum.view(), right.view());
        for (row, &r) in update.rows_mut().zip(&left.data) {
            let gain = gain(r);
            row.iter_mut().for_each(|u| *u *= gain);
        }

        let present: Vec<usize> = (0..g.rows).filter(|&i| g.row(i).iter().any(|x| *x != T::zero())).collect();
        if present.is_empty() {
            return (update, true);
        }
        let rows = self.sample(random, g.columns, |random| present[random.below(present.len())]);
        let mut z = white.gather(&rows);
        let share = (present.len() as f64 / g.rows as f64 / rows.len() as f64).sqrt();
        for (z, &i) in z.rows_mut().zip(&rows) {
            let gain = gain(left.data[i]) * T::from_f64(share);
            z.iter_mut().for_each(|z| *z *= gain);
        }
        let z = self.compress(z.above(&self.damping(right, random)), random);
        let whole = correct(right, z, beta);
        (update, whole)
    }

    /// k = max(8, n / `sketch_divisor`) indices for the factor of side `n`.
    fn sample(&self, random: &mut Stream, n: usize, mut draw: impl FnMut(&mut Stream) -> usize) -> Vec<usize> {
        let k = (n / self.config.sketch_divisor).max(8);
        (0..k).map(|_| draw(random)).collect()
    }

    /// `[4, n]`: pulls the factor towards S + λ·(mean scale)·I.
    fn damping<T: Real>(&self, h: &Matrix<T>, random: &mut Stream) -> Matrix<T> {
        let omega: Vec<f64> = (0..DAMPING * h.rows).map(|_| random.normal()).collect();
        let mut columns = product(Matrix::from_f64(DAMPING, h.rows, &omega).view(), h.view());
        columns.scale((self.config.damping / DAMPING as f64).sqrt() / h.mean_diagonal());
        columns
    }

    /// With a fixed `rank` = 2c: c random combinations of the columns (signs ±1, Rademacher) with the same expectation of
    /// ZZᵀ. 0 = all columns.
    fn compress<T: Real>(&self, z: Matrix<T>, random: &mut Stream) -> Matrix<T> {
        let c = self.config.rank / 2;
        if c == 0 || c >= z.rows {
            return z;
        }
        let size = (c as f64).powf(-0.5);
        let signs: Vec<f64> = (0..c * z.rows).map(|_| if random.bits() & 1 == 0 { size } else { -size }).collect();
        product(Matrix::from_f64(c, z.rows, &signs).view(), z.view())
    }

    /// |sᵀ(ĜĜᵀ/i)s / sᵀs − 1| for a fresh normal s and the whitened gradient Ĝ: 0 in the mean when the factors are right.
    fn residual<T: Real>(&self, block: &Block<T>, g: &Matrix<T>, random: &mut Stream) -> f64 {
        let s: Vec<f64> = (0..g.rows).map(|_| random.normal()).collect();
        let mut probe: Matrix<T> = Matrix::from_f64(1, g.rows, &s);
        if block.table {
            let floor = self.config.damping * block.left.data.iter().map(|r| r.to_f64()).sum::<f64>() / g.rows as f64;
            for (s, r) in probe.data.iter_mut().zip(&block.left.data) {
                *s *= T::from_f64((r.to_f64() + floor + f64::MIN_POSITIVE).powf(-0.5));
            }
        } else {
            probe = product(probe.view(), block.left.view());
        }
        let white = product(product(probe.view(), g.view()).view(), block.right.view());
        let length: f64 = s.iter().map(|s| s * s).sum();
        (squares(&white.data) / g.columns as f64 / length - 1.0).abs()
    }

    /// Takes the gradient into the average and returns what is whitened: bias-corrected, with Nesterov's look ahead.
    fn momentum<T: Real>(&self, m: &mut Matrix<T>, g: &Gradient<'_, T>, t: f64) -> Matrix<T> {
        let Hessian2Config { beta1, nesterov, .. } = self.config;
        m.toward(g.values, 1.0 - beta1);
        let mut ahead = m.clone();
        if nesterov {
            ahead.toward(g.values, 1.0 - beta1);
        }
        ahead.scale(1.0 / (1.0 - beta1.powf(t)));
        ahead
    }
}
