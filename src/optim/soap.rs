//! `soap` (Vyas et al. 2024, arXiv 2409.11321; github.com/nikhilvyas/SOAP): Adam in the eigenbasis of Shampoo's factors.
//!
//! ```text
//! first call: L ← (1 − β₂)·G·Gᵀ, R ← (1 − β₂)·Gᵀ·G; Q_L, Q_R their eigenvectors, largest first; the weights stay
//! k ← k + 1;  G′ = Q_Lᵀ·G·Q_R
//! m ← β₁·m + (1 − β₁)·G′;  v ← β₂·v + (1 − β₂)·G′²           in rotated coordinates
//! W ← W − lr·√(1 − β₂ᵏ)/(1 − β₁ᵏ) · Q_L·[m / (√v + ε)]·Q_Rᵀ
//! L ← L + (1 − β₂)·(G·Gᵀ − L);  R ← R + (1 − β₂)·(Gᵀ·G − R)
//! every f calls, for each side with factor S: e = diag(QᵀSQ); v and the columns of Q in the order of falling e;
//!     Q ← qr(S·Q).Q;  m is turned into the new basis, v is only permuted
//! ```
//!
//! A side longer than `max_precondition_dim` keeps Q = I. Differences from the authors' code: that limit is 1024 instead
//! of 10 000, which would decompose vocabulary sides; weight decay is taken before the update instead of after it.

use candle_core::{DType, Device, Result};

use super::batched::{self, Batched};
use super::decompose::eigh;
use super::matrix::{product, Matrix};
use super::per_matrix::{boxed, state, At, Direction, Gradient, Rule};
use super::Optimizer;
use crate::config::SoapConfig;
use crate::ops::{qr_q_of, Real};
use crate::params::{Param, ParamKind};

pub(super) fn build(
    config: &SoapConfig,
    weight_decay: f64,
    lr: f64,
    dtype: DType,
    device: &Device,
) -> Box<dyn Optimizer> {
    let adam = (config.beta1, config.beta2, config.eps);
    match device {
        Device::Cpu => boxed(Soap::new(config), adam, weight_decay, lr, dtype),
        _ => Box::new(Batched::new(batched::Soap::new(config), adam, weight_decay, lr)),
    }
}

/// For the pre-flight table.
pub(super) fn words(config: &SoapConfig) -> String {
    let SoapConfig { beta1, beta2, eps, precondition_frequency, .. } = config;
    format!("betas ({beta1}, {beta2}), eps {eps:e}, bases refreshed every {precondition_frequency} updates")
}

/// Weights and tables.
pub(super) fn takes(param: &Param) -> bool {
    param.kind != ParamKind::Vector
}

/// The rule for weights and tables.
pub(super) struct Soap {
    config: SoapConfig,
}

state! {
    /// `m` and `v` in rotated coordinates; a side without a basis has matrices of 0 × 0.
    SoapState { m, v, left, left_basis, right, right_basis; k, begun }
}

impl<T: Real> Rule<T> for Soap {
    type State = SoapState<T>;

    fn name(&self) -> &'static str {
        "soap"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        takes(param)
    }

    fn start(&self, _param: &Param, rows: usize, columns: usize) -> SoapState<T> {
        self.fresh(rows, columns)
    }

    fn direction(&self, state: &mut SoapState<T>, g: &Gradient<'_, T>, _at: &At<'_>) -> Result<Direction<T>> {
        let SoapConfig { beta1, beta2, eps, precondition_frequency, .. } = self.config;
        if state.begun == 0.0 {
            self.begin(state, g)?;
            return Ok(Direction::plain(Matrix::zeros(g.rows, g.columns)));
        }
        state.k += 1.0;
        let rotated = rotate(g.to_matrix(), state, Way::In);
        state.m.toward(&rotated.data, 1.0 - beta1);
        let (keep, take) = (T::from_f64(beta2), T::from_f64(1.0 - beta2));
        state.v.data.iter_mut().zip(&rotated.data).for_each(|(v, &g)| *v = keep * *v + take * (g * g));

        let size = T::from_f64((1.0 - beta2.powf(state.k)).sqrt() / (1.0 - beta1.powf(state.k)));
        let eps = T::from_f64(eps);
        let mut adam = state.m.clone();
        adam.data.iter_mut().zip(&state.v.data).for_each(|(m, &v)| *m = size * *m / (v.sqrt() + eps));
        let update = rotate(adam, state, Way::Out);

        let refresh = (state.k as u64).is_multiple_of(precondition_frequency);
        let momentum = refresh.then(|| rotate(state.m.clone(), state, Way::Out));
        self.take_in(state, g);
        if let Some(momentum) = momentum {
            refresh_basis(&state.left, &mut state.left_basis, |order| state.v = state.v.gather(order));
            refresh_basis(&state.right, &mut state.right_basis, |order| permute_columns(&mut state.v, order));
            state.m = rotate(momentum, state, Way::In);
        }
        Ok(Direction::plain(update))
    }
}

impl Soap {
    pub(super) fn new(config: &SoapConfig) -> Self {
        Soap { config: config.clone() }
    }

    /// State before the first update.
    pub(super) fn fresh<T: Real>(&self, rows: usize, columns: usize) -> SoapState<T> {
        let factor = |n: usize| match n <= self.config.max_precondition_dim {
            true => Matrix::zeros(n, n),
            false => Matrix::zeros(0, 0),
        };
        SoapState {
            m: Matrix::zeros(rows, columns),
            v: Matrix::zeros(rows, columns),
            left: factor(rows),
            left_basis: factor(rows),
            right: factor(columns),
            right_basis: factor(columns),
            k: 0.0,
            begun: 0.0,
        }
    }

    /// The first update: factors of this gradient and their eigenvectors.
    pub(super) fn begin<T: Real>(&self, state: &mut SoapState<T>, g: &Gradient<'_, T>) -> Result<()> {
        state.begun = 1.0;
        self.take_in(state, g);
        state.left_basis = eigenvectors(&state.left)?;
        state.right_basis = eigenvectors(&state.right)?;
        Ok(())
    }

    /// Moves the factors towards G·Gᵀ and Gᵀ·G.
    fn take_in<T: Real>(&self, state: &mut SoapState<T>, g: &Gradient<'_, T>) {
        let beta = self.config.beta2;
        if state.left.rows > 0 {
            state.left.scale(beta);
            state.left.add_product(1.0 - beta, g.view(), g.view().t());
        }
        if state.right.rows > 0 {
            state.right.scale(beta);
            state.right.add_product(1.0 - beta, g.view().t(), g.view());
        }
    }
}

/// Into the eigenbasis, or back out of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// Q_Lᵀ·x·Q_R, or Q_L·x·Q_Rᵀ; a side without a basis is left alone.
fn rotate<T: Real>(x: Matrix<T>, state: &SoapState<T>, way: Way) -> Matrix<T> {
    let (left, right) = (&state.left_basis, &state.right_basis);
    let x = match way {
        _ if right.rows == 0 => x,
        Way::In => product(x.view(), right.view()),
        Way::Out => product(x.view(), right.t()),
    };
    match way {
        _ if left.rows == 0 => x,
        Way::In => product(left.t(), x.view()),
        Way::Out => product(left.view(), x.view()),
    }
}

/// One step of the power iteration; `permute` is told the order of the columns.
fn refresh_basis<T: Real>(factor: &Matrix<T>, basis: &mut Matrix<T>, permute: impl FnOnce(&[usize])) {
    if factor.rows == 0 {
        return;
    }
    let mut image = product(factor.view(), basis.view());
    let mut energy = vec![0.0; factor.rows];
    for (q, s) in basis.rows().zip(image.rows()) {
        energy.iter_mut().zip(q.iter().zip(s)).for_each(|(e, (q, s))| *e += q.to_f64() * s.to_f64());
    }
    let mut order: Vec<usize> = (0..factor.rows).collect();
    order.sort_by(|&a, &b| energy[b].total_cmp(&energy[a]));
    permute(&order);
    permute_columns(&mut image, &order);
    *basis = Matrix::from_f64(image.rows, image.rows, &qr_q_of(image.rows, &image.to_f64()));
}

fn permute_columns<T: Real>(x: &mut Matrix<T>, order: &[usize]) {
    let mut old = Vec::with_capacity(order.len());
    for row in x.rows_mut() {
        old.clear();
        old.extend_from_slice(row);
        row.iter_mut().zip(order).for_each(|(x, &from)| *x = old[from]);
    }
}

/// Eigenvectors of a factor as columns, largest eigenvalue first; nothing of a side without a factor.
fn eigenvectors<T: Real>(factor: &Matrix<T>) -> Result<Matrix<T>> {
    let n = factor.rows;
    if n == 0 {
        return Ok(factor.clone());
    }
    match eigh(n, &factor.to_f64()) {
        Some((_, vectors)) => Ok(Matrix::from_f64(n, n, &vectors)),
        None => candle_core::bail!("soap: the eigenvectors of a factor of {n} × {n} were not found"),
    }
}
