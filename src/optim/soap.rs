//! `soap` (Vyas et al. 2024, arXiv 2409.11321; github.com/nikhilvyas/SOAP): Adam in the eigenbasis of Shampoo's factors.
//!
//! ```text
//! first call: L ← (1 − β₂)·G·Gᵀ, R ← (1 − β₂)·Gᵀ·G; Q_L, Q_R their eigenvectors, largest first; the weights stay
//! k ← k + 1;  G′ = Q_Lᵀ·G·Q_R
//! m ← β₁·m + (1 − β₁)·G′;  v ← β₂·v + (1 − β₂)·G′²           in rotated coordinates
//! W ← W − lr·√(1 − β₂ᵏ)/(1 − β₁ᵏ) · Q_L·[m / (√v + ε)]·Q_Rᵀ
//! L ← L + (1 − β₂)·(G·Gᵀ − L);  R ← R + (1 − β₂)·(Gᵀ·G − R)
//! every f updates, for each side with factor S: e = diag(QᵀSQ); v and the columns of Q in the order of falling e;
//!     Q ← qr(S·Q).Q;  m is turned into the new basis, v is only permuted
//! ```
//!
//! A side longer than `max_precondition_dim` keeps Q = I. Differences from the authors' code: that limit is 1024 instead
//! of 10 000, which would decompose vocabulary sides; weight decay is taken before the update instead of after it. A weight
//! that begins anew among others on an accelerator has Q = I until the next refresh.

use candle_core::{DType, Device, Result};

use super::algebra::{Mats, Number, Start, View};
use super::per_matrix::{per_matrix, Common};
use super::rule::{Direction, MatrixRule, Now, Slot};
use super::slots::Slots;
use super::{Decay, Optimizer};
use crate::config::SoapConfig;
use crate::params::{Param, ParamKind};

pub(super) fn build(config: &SoapConfig, decay: Decay, lr: f64, dtype: DType, device: &Device) -> Box<dyn Optimizer> {
    let common = Common { adam: (config.beta1, config.beta2, config.eps), decay, lr };
    per_matrix!(Soap { config: config.clone() }, common, dtype, device)
}

/// The rule; see the formulas above.
pub(super) struct Soap {
    pub(super) config: SoapConfig,
}

impl<M: Mats> MatrixRule<M> for Soap {
    fn name(&self) -> &'static str {
        "soap"
    }

    fn describe(&self) -> String {
        let SoapConfig { beta1, beta2, eps, precondition_frequency, .. } = self.config;
        format!("betas ({beta1}, {beta2}), eps {eps:e}, bases refreshed every {precondition_frequency} updates")
    }

    /// Weights and tables.
    fn takes(&self, param: &Param) -> bool {
        param.kind != ParamKind::Vector
    }

    /// `m` and `v` in rotated coordinates; a side without a basis has matrices of 0 × 0.
    fn slots(&self, shape: [usize; 2], _table: bool) -> Vec<Slot> {
        let [left, right] = shape.map(|n| if n <= self.config.max_precondition_dim { [n, n] } else { [0, 0] });
        vec![
            Slot::weight("m", shape),
            Slot::weight("v", shape),
            Slot::new("left", left, Start::Zeros),
            Slot::new("left_basis", left, Start::Identity),
            Slot::new("right", right, Start::Zeros),
            Slot::new("right_basis", right, Start::Identity),
        ]
    }

    fn numbers(&self) -> &'static [&'static str] {
        &["begun", "k"]
    }

    fn direction(&self, state: &mut Slots<M>, g: M::View<'_>, now: &mut Now<'_, M>) -> Result<Direction<M>> {
        let SoapConfig { beta1, beta2, eps, precondition_frequency, .. } = self.config;
        let first = state.age == 0;
        let ([m, v, l, q_l, r, q_r], [begun, k]) = state.parts()?;
        // 0 where this gradient is the first one: it goes into the factors alone
        let works = begun.clone();
        let idle = begun.is_zero();
        (*begun, *k) = (works.clone() + idle.clone(), k.clone() + works.clone());
        if first {
            self.take_in(l, r, g, now)?;
            (*q_l, *q_r) = (l.eigenvectors()?, r.eigenvectors()?);
            let update = M::start(Start::Zeros, now.members.len(), [g.rows(), g.columns()], now.place)?;
            return Ok(Direction { idle: Some(idle), ..Direction::plain(update) });
        }
        let rotated = into(q_l, M::of(g)?, q_r)?;
        m.toward(rotated.view(), &(works.clone() * (1.0 - beta1)))?;
        v.toward_squares(rotated.view(), &(works * (1.0 - beta2)))?;

        let count = k.clone().max(1.0);
        let size = count.clone().exponents_of(beta2).rest().sqrt() / count.exponents_of(beta1).rest();
        let mut adam = m.copy()?;
        adam.over_root(v, eps, &size)?;
        let update = out_of(q_l, adam, q_r)?;

        let turned = match now.step.is_multiple_of(precondition_frequency) {
            true => Some(out_of(q_l, m.copy()?, q_r)?),
            false => None,
        };
        self.take_in(l, r, g, now)?;
        if let Some(turned) = turned {
            if let Some(order) = refresh(l, q_l)? {
                v.permute_rows(&order)?;
            }
            if let Some(order) = refresh(r, q_r)? {
                v.permute_columns(&order)?;
            }
            *m = into(q_l, turned, q_r)?;
        }
        Ok(Direction { idle: Some(idle), ..Direction::plain(update) })
    }
}

impl Soap {
    /// Moves the factors towards G·Gᵀ and Gᵀ·G.
    fn take_in<M: Mats>(&self, l: &mut M, r: &mut M, g: M::View<'_>, now: &Now<'_, M>) -> Result<()> {
        let beta = self.config.beta2;
        for (s, a, b) in [(l, g, g.t()), (r, g.t(), g)] {
            if s.rows() > 0 {
                s.scale(&now.number(beta)?)?;
                s.add_symmetric(1.0 - beta, a, b)?;
            }
        }
        Ok(())
    }
}

/// Q_Lᵀ·x·Q_R; a side without a basis is left alone.
fn into<M: Mats>(q_l: &M, x: M, q_r: &M) -> Result<M> {
    let x = if q_r.rows() > 0 { M::product(x.view(), q_r.view())? } else { x };
    Ok(if q_l.rows() > 0 { M::product(q_l.t(), x.view())? } else { x })
}

/// Q_L·x·Q_Rᵀ.
fn out_of<M: Mats>(q_l: &M, x: M, q_r: &M) -> Result<M> {
    let x = if q_r.rows() > 0 { M::product(x.view(), q_r.t())? } else { x };
    Ok(if q_l.rows() > 0 { M::product(q_l.view(), x.view())? } else { x })
}

/// One step of the power iteration; the order that the columns have now.
fn refresh<M: Mats>(s: &M, q: &mut M) -> Result<Option<M::Order>> {
    if s.rows() == 0 {
        return Ok(None);
    }
    let mut image = M::product(s.view(), q.view())?;
    let order = M::falling(q, &image)?;
    image.permute_columns(&order)?;
    *q = image.orthogonal()?;
    Ok(Some(order))
}
