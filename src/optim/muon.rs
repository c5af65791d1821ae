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
//! at the same rate, which is what s = 0.2·√max(o, i) is for. In f32, where the authors use bf16.

use candle_core::{DType, Device, Result};

use super::algebra::{Mats, Number, View};
use super::per_matrix::{per_matrix, Common};
use super::rule::{Direction, MatrixRule, Now, Slot};
use super::slots::Slots;
use super::{Decay, Optimizer};
use crate::config::{MuonConfig, MuonScale};
use crate::params::{Param, ParamKind};

const QUINTIC: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
const EPS: f64 = 1e-7;

pub(super) fn build(config: &MuonConfig, decay: Decay, lr: f64, dtype: DType, device: &Device) -> Box<dyn Optimizer> {
    let common = Common { adam: (config.beta1, config.beta2, config.eps), decay, lr };
    per_matrix!(Muon { config: config.clone() }, common, dtype, device)
}

/// The rule; see the formulas above.
pub(super) struct Muon {
    pub(super) config: MuonConfig,
}

impl<M: Mats> MatrixRule<M> for Muon {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn describe(&self) -> String {
        let MuonConfig { momentum, iterations, beta1, beta2, .. } = &self.config;
        format!("momentum {momentum}, {iterations} iterations, tables by adam with betas ({beta1}, {beta2})")
    }

    /// Hidden weights.
    fn takes(&self, param: &Param) -> bool {
        matches!(param.kind, ParamKind::Matrix | ParamKind::Recurrent)
    }

    fn slots(&self, shape: [usize; 2], _table: bool) -> Vec<Slot> {
        vec![Slot::weight("m", shape)]
    }

    fn direction(&self, state: &mut Slots<M>, g: M::View<'_>, now: &mut Now<'_, M>) -> Result<Direction<M>> {
        let MuonConfig { momentum, nesterov, iterations, scale: kind, .. } = self.config;
        let ([m], []) = state.parts()?;
        let share = now.number(1.0 - momentum)?;
        m.toward(g, &share)?;
        let mut x = m.copy()?;
        if nesterov {
            x.toward(g, &share)?;
        }
        let mut update = orthogonalize(x, iterations)?;
        update.scale(&now.number(scale(kind, g.rows(), g.columns()))?)?;
        Ok(Direction::plain(update))
    }
}

/// s of the update of a weight.
fn scale(kind: MuonScale, rows: usize, columns: usize) -> f64 {
    let (rows, columns) = (rows as f64, columns as f64);
    match kind {
        MuonScale::Original => (rows / columns).max(1.0).sqrt(),
        MuonScale::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
    }
}

/// The Newton–Schulz iteration; on the shorter side, which a transposed view gives without a copy.
fn orthogonalize<M: Mats>(mut x: M, iterations: usize) -> Result<M> {
    let (a, b, c) = QUINTIC;
    let tall = x.rows() > x.columns();
    x.scale(&M::squares(x.view())?.sqrt().max(EPS).recip())?;
    for _ in 0..iterations {
        let s = M::gram(if tall { x.t() } else { x.view() })?;
        // P = b·S + c·S²
        let mut p = s.times(b)?;
        p.add_symmetric(c, s.view(), s.view())?;
        let mut next = x.times(a)?;
        match tall {
            true => next.add_product(1.0, x.view(), p.view())?,
            false => next.add_product(1.0, p.view(), x.view())?,
        }
        x = next;
    }
    Ok(x)
}
