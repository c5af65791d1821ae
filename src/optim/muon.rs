//! `muon` (Jordan et al. 2024, github.com/KellerJordan/Muon): the momentum of a hidden weight with all its singular values
//! moved towards 1.
//!
//! ```text
//! M ← μ·M + (1 − μ)·G
//! X ← (1 − μ)·G + μ·M              Nesterov; else M.  X ← Xᵀ if it has more rows than columns
//! X ← X / max(‖X‖_F, 10⁻⁷)         as PyTorch; the authors add 10⁻⁷
//! 5 times:  S = X·Xᵀ;  X ← a·X + (b·S + c·S²)·X           (a, b, c) = (3.4445, −4.7750, 2.0315)
//! W ← W·(1 − lr·wd) − lr·s·X       s = 0.2·√max(o, i), or √max(1, o/i)
//! ```
//!
//! The quintic does not converge to 1: singular values end between about 0.7 and 1.2. Tables, biases and gains are Adam's,
//! at the same rate, which is what s = 0.2·√max(o, i) is for. In f32, where the authors use bf16. On an accelerator it is
//! `batched::muon`.

use candle_core::{DType, Device, Result};

use super::batched::{self, Batched};
use super::matrix::{product, squares, Matrix};
use super::per_matrix::{boxed, state, At, Direction, Gradient, Rule};
use super::Optimizer;
use crate::config::{MuonConfig, MuonScale};
use crate::ops::Real;
use crate::params::{Param, ParamKind};

pub(super) const QUINTIC: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
pub(super) const EPS: f64 = 1e-7;

pub(super) fn build(
    config: &MuonConfig,
    weight_decay: f64,
    lr: f64,
    dtype: DType,
    device: &Device,
) -> Box<dyn Optimizer> {
    let adam = (config.beta1, config.beta2, config.eps);
    match device {
        Device::Cpu => boxed(Muon { config: config.clone() }, adam, weight_decay, lr, dtype),
        _ => Box::new(Batched::new(batched::Muon::new(config), adam, weight_decay, lr)),
    }
}

/// For the pre-flight table.
pub(super) fn words(config: &MuonConfig) -> String {
    let MuonConfig { momentum, iterations, beta1, beta2, .. } = config;
    format!("momentum {momentum}, {iterations} iterations, tables by adam with betas ({beta1}, {beta2})")
}

/// Hidden weights.
pub(super) fn takes(param: &Param) -> bool {
    matches!(param.kind, ParamKind::Matrix | ParamKind::Recurrent)
}

/// s of the update of a weight.
pub(super) fn scale(kind: MuonScale, rows: usize, columns: usize) -> f64 {
    let (rows, columns) = (rows as f64, columns as f64);
    match kind {
        MuonScale::Original => (rows / columns).max(1.0).sqrt(),
        MuonScale::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
    }
}

/// The rule for hidden weights.
struct Muon {
    config: MuonConfig,
}

state! {
    MuonState { m; }
}

impl<T: Real> Rule<T> for Muon {
    type State = MuonState<T>;

    fn name(&self) -> &'static str {
        "muon"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        takes(param)
    }

    fn start(&self, _param: &Param, rows: usize, columns: usize) -> MuonState<T> {
        MuonState { m: Matrix::zeros(rows, columns) }
    }

    fn direction(&self, state: &mut MuonState<T>, g: &Gradient<'_, T>, _at: &At<'_>) -> Result<Direction<T>> {
        let MuonConfig { momentum, nesterov, iterations, scale: kind, .. } = self.config;
        state.m.toward(g.values, 1.0 - momentum);
        let mut x = state.m.clone();
        if nesterov {
            x.toward(g.values, 1.0 - momentum);
        }
        let mut update = orthogonalize(x, iterations);
        update.scale(scale(kind, g.rows, g.columns));
        Ok(Direction::plain(update))
    }
}

/// The Newton–Schulz iteration; on the shorter side, which a transposed view gives without a copy.
fn orthogonalize<T: Real>(mut x: Matrix<T>, iterations: usize) -> Matrix<T> {
    let (a, b, c) = QUINTIC;
    let tall = x.rows > x.columns;
    x.scale(1.0 / squares(&x.data).sqrt().max(EPS));
    for _ in 0..iterations {
        let s = if tall { product(x.t(), x.view()) } else { product(x.view(), x.t()) };
        let mut p = s.clone();
        p.scale(b);
        p.add_product(c, s.view(), s.view());
        let mut next = x.clone();
        next.scale(a);
        if tall {
            next.add_product(1.0, x.view(), p.view());
        } else {
            next.add_product(1.0, p.view(), x.view());
        }
        x = next;
    }
    x
}
