//! `muon` on batches: see [`crate::optim::muon`] for formulas and paper. Each weight whole, those of one shape together.
//!
//! Launches of an update for each shape: 16 and 8 an iteration. Transformer-base (three shapes, 5 iterations): 168, and
//! those of `batched` (P = 96, B = 3): about 565.

use candle_core::{Result, Tensor};

use super::{each, full, select, squares, BatchRule, Directions, Plan, Saved};
use crate::config::MuonConfig;
use crate::optim::muon::{scale, takes, words, EPS, QUINTIC};
use crate::optim::{OptimizerState, StepContext};
use crate::params::Param;

/// The rule.
pub(in crate::optim) struct Muon {
    config: MuonConfig,
    m: Vec<Tensor>,
}

impl Muon {
    pub(in crate::optim) fn new(config: &MuonConfig) -> Self {
        Muon { config: config.clone(), m: Vec::new() }
    }
}

impl BatchRule for Muon {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn describe(&self) -> String {
        words(&self.config)
    }

    fn takes(&self, param: &Param) -> bool {
        takes(param)
    }

    fn start(&mut self, plan: &Plan) -> Result<()> {
        let zeros = |b: &super::Batch| Tensor::zeros((b.blocks.len(), b.rows, b.columns), plan.dtype, &plan.device);
        self.m = plan.batches.iter().map(zeros).collect::<Result<_>>()?;
        Ok(())
    }

    fn directions(&mut self, plan: &Plan, gradients: &[Tensor], _context: &StepContext<'_>) -> Result<Directions> {
        let MuonConfig { momentum, nesterov, iterations, scale: kind, .. } = self.config;
        let (mut updates, mut gains) = (Vec::new(), Vec::new());
        for ((m, g), batch) in self.m.iter_mut().zip(gradients).zip(&plan.batches) {
            let new = (g * (1.0 - momentum))?;
            *m = ((&*m * momentum)? + &new)?;
            let x = if nesterov { ((&*m * momentum)? + &new)? } else { m.clone() };
            updates.push(orthogonalize(x, iterations)?);
            let gain = scale(kind, batch.rows, batch.columns);
            gains.push(Tensor::zeros(batch.blocks.len(), plan.dtype, &plan.device)?.affine(0.0, gain)?);
        }
        Ok(Directions { updates, gains, failed: None, idle: None, residual: None })
    }

    fn settle(&mut self, plan: &Plan, kept: &Tensor) -> Result<()> {
        for (m, kept) in self.m.iter_mut().zip(plan.per_block(kept)?) {
            *m = select(&kept, m, &plan.zero, m)?;
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.m.clear();
    }

    fn save(&self, plan: &Plan, state: &mut OptimizerState) -> Result<()> {
        for taken in &plan.taken {
            let m = plan.matrix(&self.m, taken)?.contiguous()?.reshape((taken.rows, taken.columns))?;
            state.tensors.push((format!("{}.m", taken.name), m));
        }
        Ok(())
    }

    fn load(&mut self, plan: &Plan, saved: &mut Saved) -> Result<()> {
        let take = |taken: &super::Taken| saved.take(plan, &taken.name, "m", [taken.rows, taken.columns]);
        self.m = plan.gather_all(plan.taken.iter().map(take).collect::<Result<_>>()?)?;
        Ok(())
    }
}

/// The Newton–Schulz iteration on the shorter side of each matrix.
fn orthogonalize(x: Tensor, iterations: usize) -> Result<Tensor> {
    let (a, b, c) = QUINTIC;
    let (_, rows, columns) = x.dims3()?;
    let size = squares(&x)?.sqrt()?;
    let mut x = x.broadcast_div(&each(&size.maximum(&full(EPS, &size)?)?)?)?;
    for _ in 0..iterations {
        let s = if rows > columns { x.t()?.matmul(&x)? } else { x.matmul(&x.t()?)? };
        let p = ((&s * b)? + (s.matmul(&s)? * c)?)?;
        let turned = if rows > columns { x.matmul(&p)? } else { p.matmul(&x)? };
        x = ((&x * a)? + turned)?;
    }
    Ok(x)
}
