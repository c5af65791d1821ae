//! The inverse of the input factor, tracked by block BFGS, with a probe that finds a failed one and starts it anew.
//!
//! ```text
//! A_λ = A + λ·a₀·I,  a₀ = tr(A)/i           never formed
//! first: H = A_λ⁻¹ exactly; then at every update of A: S normal (i × k), Y = A_λ·S, block BFGS
//! probe: ‖H·A_λ·s − s‖/‖s‖ > ½ or not finite: H = A_λ⁻¹ exactly again
//! applied: (1 − ω)·M/a₀ + ω·M·H, ω from 0 to 1 between the 20th and the 120th update
//! ```

use candle_core::Result;

use super::bfgs::block_bfgs;
use super::groups::Block;
use crate::config::Hessian2Config;
use crate::ops::Real;
use crate::optim::matrix::{product, squares, Matrix};
use crate::optim::per_matrix::state;
use crate::optim::small::Cholesky;
use crate::rng::Stream;

/// Updates of a factor between two probes.
pub(super) const PROBE: f64 = 20.0;

state! {
    /// One block on the diagonal of an input factor: A and its tracked inverse; `n`: updates.
    Factor { a, inverse; n, residual }
}

impl<T: Real> Block<T> for Factor<T> {
    fn first(now: Matrix<T>, config: &Hessian2Config) -> Result<Self> {
        Ok(Factor { inverse: exact(&now, config.input_damping)?, a: now, n: 1.0, residual: 0.0 })
    }

    fn unfilled(n: usize) -> Self {
        Factor { a: Matrix::zeros(n, n), inverse: Matrix::zeros(n, n), n: 0.0, residual: 0.0 }
    }

    fn residual(&self) -> f64 {
        self.residual
    }

    fn update(&mut self, now: &Matrix<T>, config: &Hessian2Config, random: &mut Stream) -> Result<bool> {
        self.a.toward(&now.data, config.input_beta.max(1.0 / (self.n + 1.0)));
        self.n += 1.0;
        let (n, floor) = (self.a.rows, T::from_f64(config.input_damping * self.a.mean_diagonal()));
        let times = |s: &Matrix<T>| {
            let mut y = product(s.view(), self.a.view());
            y.data.iter_mut().zip(&s.data).for_each(|(y, &s)| *y += floor * s);
            y
        };
        let mut normal = |k: usize| {
            let values: Vec<f64> = (0..k * n).map(|_| random.normal()).collect();
            Matrix::<T>::from_f64(k, n, &values)
        };
        let s = normal(directions(config, n));
        let mut whole = block_bfgs(&mut self.inverse, &s, &times(&s));
        if whole && self.n % PROBE == 0.0 {
            let s = normal(1);
            let mut back = product(times(&s).view(), self.inverse.view());
            back.data.iter_mut().zip(&s.data).for_each(|(b, &s)| *b -= s);
            self.residual = (squares(&back.data) / squares(&s.data)).sqrt();
            whole = self.residual <= 0.5;
        }
        if !whole {
            self.inverse = exact(&self.a, config.input_damping)?;
        }
        Ok(!whole)
    }
}

/// Columns of S for a side of `n`.
pub(super) fn directions(config: &Hessian2Config, n: usize) -> usize {
    let k = if config.rank > 0 { config.rank / 2 } else { (n / config.sketch_divisor).max(8) };
    k.min(n)
}

/// (A + λ·a₀·I)⁻¹; of nothing but zeros, the identity.
fn exact<T: Real>(a: &Matrix<T>, damping: f64) -> Result<Matrix<T>> {
    let (n, scale) = (a.rows, a.mean_diagonal());
    let floor = if scale > 0.0 { damping * scale } else { 1.0 };
    let mut damped = a.to_f64();
    damped.iter_mut().step_by(n + 1).for_each(|x| *x += floor);
    match Cholesky::new(n, &damped) {
        Some(cholesky) => Ok(Matrix::from_f64(n, n, &cholesky.inverse())),
        None => candle_core::bail!("hessian2: the second moment of an input is not positive definite"),
    }
}

/// `(1 − ω)·m/a₀ + ω·m·H`, block by block.
pub(super) fn apply<T: Real>(factors: &[Factor<T>], m: &Matrix<T>, omega: f64) -> Matrix<T> {
    let mut result = Matrix::zeros(m.rows, m.columns);
    let mut start = 0;
    for factor in factors {
        let range = start..start + factor.a.rows;
        start = range.end;
        let part = m.part(0..m.rows, range.clone());
        let mut whitened = product(part.view(), factor.inverse.view());
        if omega < 1.0 {
            let plain = T::from_f64((1.0 - omega) / factor.a.mean_diagonal().max(f64::MIN_POSITIVE));
            let omega = T::from_f64(omega);
            whitened.data.iter_mut().zip(&part.data).for_each(|(w, &m)| *w = omega * *w + plain * m);
        }
        result.set_part(0..m.rows, range, &whitened);
    }
    result
}
