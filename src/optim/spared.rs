//! Weight decay of tables that spares rows seen rarely (`optimizer.embedding_decay_power` above 0), around any optimizer:
//!
//! ```text
//! r_a ← r_a + 0.02·(mean of g_aj² over j − r_a)        begins at the first gradient
//! W_a ← W_a − lr·wd·min(1, (r_a / mean r)^p)·W_a       before the optimizer's own update, which decays no table
//! ```
//!
//! A word that comes once in a thousand batches gets one step in all that time and as many decays as any other. r is of the
//! gradient as the optimizer gets it, clipped, so that every optimizer spares the same rows alike.

use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

use super::{Gradients, Optimizer, OptimizerState, Share, StepContext};
use crate::params::{ParamKind, ParamSet};

/// Share of a new gradient in r: 1 − β₂ of Adam here.
const SHARE: f64 = 0.02;
/// The name of r in checkpoints, after that of its table.
const STATE: &str = ".row_squares";
/// Keeps quotients of gradients of nothing but zeros finite.
const LEAST: f64 = 1e-37;

/// An optimizer whose tables are decayed here.
pub(super) struct Spared {
    inner: Box<dyn Optimizer>,
    decay: f64,
    power: f64,
    /// r of each table, `[rows, 1]`.
    rows: BTreeMap<String, Tensor>,
}

impl Spared {
    /// `inner` must decay no table.
    pub(super) fn new(inner: Box<dyn Optimizer>, decay: f64, power: f64) -> Self {
        Spared { inner, decay, power, rows: BTreeMap::new() }
    }

    fn decay(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let tables = params.iter().zip(&gradients.tensors);
        for (param, g) in tables.filter(|(param, _)| matches!(param.kind, ParamKind::Table { .. })) {
            let now = g.sqr()?.mean_keepdim(1)?;
            let r = match self.rows.get(&param.name) {
                Some(r) => (r + ((now - r)? * SHARE)?)?,
                None => now,
            };
            let share = r.broadcast_div(&(r.mean_all()? + LEAST)?)?.powf(self.power)?.minimum(1.0)?;
            let by = share.affine(-context.rate(param.kind) * self.decay, 1.0)?;
            param.var.set(&param.var.broadcast_mul(&by)?)?;
            self.rows.insert(param.name.clone(), r);
        }
        Ok(())
    }
}

impl Optimizer for Spared {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn describe(&self) -> String {
        format!("{}, decay of tables {} to rows by frequency^{}", self.inner.describe(), self.decay, self.power)
    }

    fn needs_inputs(&self, step: u64) -> bool {
        self.inner.needs_inputs(step)
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        self.decay(params, gradients, context)?;
        self.inner.step(params, gradients, context)
    }

    fn reset(&mut self) {
        self.rows.clear();
        self.inner.reset();
    }

    fn swap_averages(&mut self, params: &ParamSet) -> Result<()> {
        self.inner.swap_averages(params)
    }

    fn averages(&self, params: &ParamSet) -> Result<Option<Vec<(String, Tensor)>>> {
        self.inner.averages(params)
    }

    fn can_share(&self) -> bool {
        self.inner.can_share()
    }

    fn collect(&mut self, share: &dyn Share) -> Result<()> {
        self.inner.collect(share)
    }

    fn health(&self) -> Vec<(String, f64)> {
        self.inner.health()
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.inner.state()?;
        state.tensors.extend(self.rows.iter().map(|(name, r)| (format!("{name}{STATE}"), r.clone())));
        Ok(state)
    }

    /// A state that was saved without r, before the power was set, begins it anew.
    fn load_state(&mut self, params: &ParamSet, mut state: OptimizerState) -> Result<()> {
        let (rows, rest) = state.tensors.into_iter().partition(|(name, _)| name.ends_with(STATE));
        state.tensors = rest;
        self.rows.clear();
        for (name, r) in Vec::into_iter(rows) {
            let owner = name.trim_end_matches(STATE);
            let Some(param) = params.get(owner) else {
                candle_core::bail!("the saved optimizer state {name} is of no table of this model");
            };
            if r.dims() != [param.var.dim(0)?, 1] || r.dtype() != param.var.dtype() {
                candle_core::bail!("the saved optimizer state {name} is {:?} {:?}", r.dtype(), r.dims());
            }
            self.rows.insert(owner.to_string(), r.to_device(params.device())?);
        }
        self.inner.load_state(params, state)
    }
}
