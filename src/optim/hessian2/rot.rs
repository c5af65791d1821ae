//! `variant = "rot"`: Adam in the eigenbasis of the input's second moment, the basis tracked by rank-two rotations.
//!
//! ```text
//! every 10 updates (each of the first 50), for each input group:
//!     B = QᵀAQ, b = diag B;  X_ij = B_ij·(b_j − b_i)/((b_j − b_i)² + (0.05·√(b_i·b_j))²), at most ±0.3,
//!     scaled so that no row sums to more than 1: a sum of rotations in single planes, each of rank two
//!     Q⁺ = Q·(I + X), made orthonormal by three cubic Newton–Schulz steps Q ← Q·(1.5·I − 0.5·QᵀQ);  R = QᵀQ⁺
//!     m ← m·R,  v ← max(v·(R∘R), 0)
//! m, v: Adam's moments of G′ = G·Q;  U′ = m̂/(√v̂ + ε)
//! c_j = (λ_j + λ_d·mean λ)^(−½), λ = diag(QᵀAQ);  U = U′·diag(c)·Qᵀ, as large as U′
//! ```
//!
//! Adam in the basis contributes a power −½ of the input's curvature and c the other: −1 together. Weights whose input is
//! not seen, and lookup tables, have Q = I and c = 1: Adam.

use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

use super::groups::{times_blocks, Block, Groups};
use super::in_scope;
use super::inputs::{self, is_due};
use crate::config::Hessian2Config;
use crate::ops::Real;
use crate::optim::matrix::{product, squares, Matrix};
use crate::optim::per_matrix::{state, At, Direction, Gradient, Named, Rule};
use crate::optim::StepContext;
use crate::params::{Param, ParamKind, ParamSet};
use crate::rng::Stream;

/// Updates of A between two turns of its basis, after the first [`EARLY`].
const TURN_FREQ: f64 = 5.0;
const EARLY: f64 = 50.0;

/// Whether A's update of this number turns the basis.
pub(super) fn turns(updates: f64) -> bool {
    updates <= EARLY || updates % TURN_FREQ == 0.0
}

state! {
    /// A block of an input factor: A, its eigenbasis, the last turn, the eigenvalues (1 × n). `turned`: whether `turn`
    /// is of this update.
    Basis { a, basis, turn, eigenvalues; n, turned, residual }
}

impl<T: Real> Block<T> for Basis<T> {
    fn first(now: Matrix<T>, _config: &Hessian2Config) -> Result<Self> {
        let mut first = Self::unfilled(now.rows);
        first.basis.set_identity(1.0);
        first.a = now;
        first.n = 1.0;
        first.turn_basis();
        Ok(first)
    }

    fn unfilled(n: usize) -> Self {
        let square = || Matrix::zeros(n, n);
        let eigenvalues = Matrix::zeros(1, n);
        Basis { a: square(), basis: square(), turn: square(), eigenvalues, n: 0.0, turned: 0.0, residual: 0.0 }
    }

    fn residual(&self) -> f64 {
        self.residual
    }

    fn rest(&mut self) {
        self.turned = 0.0;
    }

    fn update(&mut self, now: &Matrix<T>, config: &Hessian2Config, _random: &mut Stream) -> Result<bool> {
        self.a.toward(&now.data, config.input_beta.max(1.0 / (self.n + 1.0)));
        self.n += 1.0;
        self.turned = 0.0;
        if !turns(self.n) {
            return Ok(false);
        }
        self.turn_basis();
        let whole = self.basis.is_finite() && self.turn.is_finite();
        if !whole {
            self.basis.set_identity(1.0);
            self.turn.set_identity(1.0);
        }
        Ok(!whole)
    }
}

impl<T: Real> Basis<T> {
    /// One Jacobi-like turn; afterwards `residual` is the share of A's energy off the diagonal.
    fn turn_basis(&mut self) {
        let n = self.a.rows;
        let b: Matrix<T> = product(product(self.basis.t(), self.a.view()).view(), self.basis.view());
        let diagonal: Vec<f64> = (0..n).map(|i| b.row(i)[i].to_f64()).collect();
        let mut x = Matrix::zeros(n, n);
        let mut largest = 0.0;
        for i in 0..n {
            let mut sum = 0.0;
            for j in (0..n).filter(|&j| j != i) {
                let gap = diagonal[j] - diagonal[i];
                let soft = 0.05f64.powi(2) * diagonal[i].max(0.0) * diagonal[j].max(0.0);
                let turn = b.row(i)[j].to_f64() * gap / (gap * gap + soft + f64::MIN_POSITIVE);
                let turn = turn.clamp(-0.3, 0.3);
                sum += turn.abs();
                x.row_mut(i)[j] = T::from_f64(turn);
            }
            largest = f64::max(largest, sum);
        }
        x.scale(1.0 / largest.max(1.0));
        let mut next = self.basis.clone();
        next.add_product(1.0, self.basis.view(), x.view());
        for _ in 0..3 {
            let gram: Matrix<T> = product(next.t(), next.view());
            let mut cubic = Matrix::zeros(n, n);
            cubic.set_identity(1.5);
            cubic.data.iter_mut().zip(&gram.data).for_each(|(c, &g)| *c -= T::from_f64(0.5) * g);
            next = product(next.view(), cubic.view());
        }
        self.turn = product(self.basis.t(), next.view());
        self.turned = 1.0;
        self.basis = next;
        self.eigenvalues.data.iter_mut().zip(&diagonal).for_each(|(to, &from)| *to = T::from_f64(from));
        let on_diagonal: f64 = diagonal.iter().map(|d| d * d).sum();
        let all = squares(&b.data).max(f64::MIN_POSITIVE);
        self.residual = (1.0 - on_diagonal / all).max(0.0).sqrt();
    }
}

/// The rule; see the formulas above.
pub(super) struct Rot<T> {
    config: Hessian2Config,
    bases: Groups<Basis<T>>,
}

impl<T: Real> Rot<T> {
    pub(super) fn new(config: Hessian2Config) -> Self {
        Rot { bases: Groups::new(&config), config }
    }
}

state! {
    /// Adam's moments, in the basis of the input.
    RotState { m, v; t }
}

impl<T: Real> Rule<T> for Rot<T> {
    type State = RotState<T>;

    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        inputs::words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        let seen = matches!(param.kind, ParamKind::Table { .. }) || self.bases.of(&param.name).is_some();
        seen && in_scope(&self.config, param.kind)
    }

    fn start(&self, _param: &Param, rows: usize, columns: usize) -> RotState<T> {
        RotState { m: Matrix::zeros(rows, columns), v: Matrix::zeros(rows, columns), t: 0.0 }
    }

    fn trust(&self) -> Option<f64> {
        Some(self.config.trust)
    }

    fn needs_inputs(&self, step: u64) -> bool {
        is_due(step, &self.config)
    }

    fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        self.bases.observe(params, context)
    }

    fn direction(&self, state: &mut RotState<T>, g: &Gradient<'_, T>, at: &At<'_>) -> Result<Direction<T>> {
        let Hessian2Config { beta1, beta2, eps, .. } = self.config;
        let bases = self.bases.of(&at.param.name).unwrap_or_default();
        if state.t > 0.0 && bases.iter().any(|basis| basis.turned > 0.0) {
            state.m = times_blocks(&state.m, bases.iter().map(|basis| basis.turn.view()));
            let squares: Vec<Matrix<T>> = bases.iter().map(|basis| squared(&basis.turn)).collect();
            state.v = times_blocks(&state.v, squares.iter().map(Matrix::view));
            state.v.data.iter_mut().filter(|v| **v < T::zero()).for_each(|v| *v = T::zero());
        }
        state.t += 1.0;
        let turned = match bases {
            [] => g.to_matrix(),
            bases => times_blocks(&g.to_matrix(), bases.iter().map(|basis| basis.basis.view())),
        };
        state.m.toward(&turned.data, 1.0 - beta1);
        let (keep, take) = (T::from_f64(beta2), T::from_f64(1.0 - beta2));
        state.v.data.iter_mut().zip(&turned.data).for_each(|(v, &g)| *v = keep * *v + take * (g * g));
        let rate = T::from_f64(1.0 / (1.0 - beta1.powf(state.t)));
        let (root, eps) = (T::from_f64((1.0 - beta2.powf(state.t)).sqrt()), T::from_f64(eps));
        let mut update = state.m.clone();
        update.data.iter_mut().zip(&state.v.data).for_each(|(u, &v)| *u = rate * *u / (v.sqrt() / root + eps));
        if bases.is_empty() {
            return Ok(Direction::plain(update));
        }
        let size = squares(&update.data);
        let gains = self.gains(bases);
        for row in update.rows_mut() {
            row.iter_mut().zip(&gains).for_each(|(u, &gain)| *u *= gain);
        }
        update.scale((size / squares(&update.data).max(f64::MIN_POSITIVE)).sqrt());
        let back = bases.iter().map(|basis| basis.basis.t());
        Ok(Direction::plain(times_blocks(&update, back)))
    }

    fn shared(&self) -> Vec<(String, &dyn Named<T>)> {
        self.bases.shared()
    }

    fn shared_mut(&mut self, saved: &BTreeMap<String, Tensor>) -> Vec<(String, &mut dyn Named<T>)> {
        self.bases.shared_mut(saved)
    }

    fn shared_scalars(&self) -> Vec<(String, f64)> {
        self.bases.scalars()
    }

    fn load_shared_scalars(&mut self, scalars: &[(String, f64)]) {
        self.bases.load_scalars(scalars);
    }

    fn health(&self) -> Vec<(String, f64)> {
        self.bases.health()
    }
}

impl<T: Real> Rot<T> {
    /// c, with eigenvalues below `truncation` of the largest replaced by that bound.
    fn gains(&self, bases: &[Basis<T>]) -> Vec<T> {
        let mut gains = Vec::new();
        for basis in bases {
            let values = basis.eigenvalues.to_f64();
            let (largest, sum) = values.iter().fold((0.0, 0.0), |(largest, sum), &x| (f64::max(largest, x), sum + x));
            let floor = self.config.input_damping * sum / values.len() as f64 + f64::MIN_POSITIVE;
            let kept = values.iter().map(|&x| x.max(self.config.truncation * largest).max(0.0));
            gains.extend(kept.map(|x| T::from_f64((x + floor).powf(-0.5))));
        }
        gains
    }
}

fn squared<T: Real>(m: &Matrix<T>) -> Matrix<T> {
    let mut squared = m.clone();
    squared.data.iter_mut().for_each(|x| *x = *x * *x);
    squared
}
