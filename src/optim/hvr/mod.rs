//! `hvr`: curvature from the history of gradients, after the document that calls it Hessian-inverse rank-2 correction,
//! "HVR". Γ holds the last B gradients of a tensor, A = Γ·Γᵀ/B.
//!
//! ```text
//! literal       u = A·m̂                                      the document's H⁻¹ ≈ A, its §3
//! diag-literal  u = (mean of g∘g over the window)∘m̂           the A of its program, over time as its §3 says
//! code          w ← w − lr·g; mean(g∘g) of each tensor logged   its program as it behaves
//! diag          u = m̂/(√(mean of g∘g over the window) + ε)     sound: RMSProp over a window
//! inv           u = λ(λI + A)⁻¹·m̂/(√v̂ + ε)                     sound: B×B solves, see forms.rs
//! isqrt         u = √λ(λI + A)^-½·m̂/(√v̂ + ε)                   sound, the default
//! ```
//!
//! and w ← w − lr·(u + wd·w). m̂, v̂: Adam's moments, bias corrected. The document takes H⁻¹ ≈ A, but A estimates the
//! curvature itself (the empirical Fisher), so that the literal forms amplify what should be damped, and their unit is
//! gradient³: they are kept for comparison. The sound low-rank forms work in Adam's space (Γ holds g/(√v̂ + ε)) with
//! gradients centred on their mean, so that A is the noise about it (momentum lies in the span of an uncentred window,
//! and its inverse would remove the signal); λ = `lambda_rel`·tr(A)/n; their gain is 1 outside of the window's span and
//! below inside, and no norm is grafted on. Windows hold gradients before the present one, the document's θ − Δθₜ.
//!
//! diag has the present gradient in its window, and m̂ is the weighted mean of that window only (weights ∝ β₁^age): an
//! element whose gradients have just left, or have just come, would else be divided by almost 0. So |u| is at most
//! √(B·Σ weights²), about 1.
//!
//! Vectors (biases, gains) are under Adam in inv, isqrt and diag; the other forms treat all tensors alike, since Adam
//! would need another rate. Costs: B + 2 numbers a weight, two passes over Γ and a B×B decomposition a tensor and step.

mod block;
mod choose;
mod forms;
mod history;
#[cfg(feature = "cuda")]
mod on_gpu;
mod passes;
mod truncate;

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;

use super::clip::sums_of_squares;
use super::inplace::updates;
use super::sgd::Plain;
use super::{decays, Gradients, Optimizer, OptimizerState, StepContext};
use crate::config::{HvrAutomatic, HvrConfig, HvrForm, HvrTruncation};
use crate::params::{Param, ParamSet};
use block::{Block, Update};

/// See the module.
pub struct Hvr {
    config: HvrConfig,
    weight_decay: f64,
    lr: f64,
    updates: u64,
    /// In the order of the parameters; empty before the first update and in the form `code`.
    blocks: Vec<(String, Block)>,
    /// `code`: what its program computes as A and never uses, by parameter: the mean of g∘g.
    logged: Vec<(String, f64)>,
}

impl Hvr {
    /// `lr`: for [`Optimizer::describe`] only.
    pub fn new(config: HvrConfig, weight_decay: f64, lr: f64) -> Self {
        Hvr { config, weight_decay, lr, updates: 0, blocks: Vec::new(), logged: Vec::new() }
    }

    /// Plain SGD, and the log.
    fn code(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let squares = params.iter().zip(sums_of_squares(&gradients.tensors)?).zip(&gradients.tensors);
        let mean = |((param, square), gradient): ((&Param, f64), &Tensor)| {
            (format!("mean_square.{}", param.name), square / gradient.elem_count().max(1) as f64)
        };
        self.logged = squares.map(mean).collect();
        updates(|updates| {
            for (param, gradient) in params.iter().zip(&gradients.tensors) {
                let decay = if decays(param.kind) { self.weight_decay } else { 0.0 };
                updates.add(&Plain { lr: context.rate(param.kind), decay }, Some(param), [&param.var], gradient)?;
            }
            Ok(())
        })
    }
}

impl Optimizer for Hvr {
    fn name(&self) -> &'static str {
        "hvr"
    }

    fn describe(&self) -> String {
        let HvrConfig { form, window, automatic, lambda_rel, truncation, threshold, literal_cap, .. } = &self.config;
        let mut text = format!("hvr {}, lr {}", form.name(), self.lr);
        if *form != HvrForm::Code {
            text += &format!(", window {window}");
        }
        if form.is_sound_low_rank() {
            text += match automatic {
                HvrAutomatic::Off => "",
                HvrAutomatic::Window => " at most",
                HvrAutomatic::WindowAndLambda => " at most, damping chosen too",
            };
            text += &format!(", lambda_rel {lambda_rel}");
        }
        match truncation {
            HvrTruncation::None => (),
            HvrTruncation::Spectral => text += &format!(", spectral truncation {threshold}"),
            HvrTruncation::Elementwise => text += &format!(", elementwise truncation {threshold}"),
            HvrTruncation::Entries => text += &format!(", truncation of entries {threshold}"),
        }
        if *form == HvrForm::Literal && *literal_cap > 0.0 {
            text += &format!(", at most {literal_cap} times Adam's direction");
        }
        if self.weight_decay > 0.0 {
            text += &format!(", weight decay {}", self.weight_decay);
        }
        text
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        self.updates += 1;
        if self.config.form == HvrForm::Code {
            return self.code(params, gradients, context);
        }
        if self.blocks.is_empty() {
            let block = |param: &Param| Ok((String::clone(&param.name), Block::new(&self.config, param)?));
            self.blocks = params.iter().map(block).collect::<Result<_>>()?;
        }
        let Hvr { config, weight_decay, updates: t, blocks, .. } = self;
        let (config, weight_decay, t) = (&*config, *weight_decay, *t);
        #[cfg(feature = "cuda")]
        if params.device().is_cuda() {
            let update = |param: &Param| Update { config, weight_decay, lr: context.rate(param.kind), t };
            return on_gpu::step(blocks, params, gradients, update);
        }
        let jobs = blocks.par_iter_mut().zip(params.iter().as_slice()).zip(&gradients.tensors);
        jobs.with_max_len(1).try_for_each(|(((_, block), param), gradient)| {
            block.step(param, gradient, &Update { config, weight_decay, lr: context.rate(param.kind), t })
        })
    }

    fn reset(&mut self) {
        self.updates = 0;
        self.blocks.clear();
    }

    fn health(&self) -> Vec<(String, f64)> {
        if self.config.form == HvrForm::Code {
            return self.logged.clone();
        }
        let used: Vec<(&Block, (usize, f64))> =
            self.blocks.iter().filter_map(|(_, block)| Some((block, block.present()?))).collect();
        if used.is_empty() || !(self.config.form.is_sound_low_rank() || self.config.form == HvrForm::Literal) {
            return Vec::new();
        }
        let mean = |of: &dyn Fn(&Block, usize, f64) -> f64| {
            used.iter().map(|(block, (window, lambda))| of(block, *window, *lambda)).sum::<f64>() / used.len() as f64
        };
        let sum = |of: &dyn Fn(&Block) -> u64| used.iter().map(|(block, _)| of(block)).sum::<u64>() as f64;
        let numbers = [
            ("window", mean(&|_, window, _| window as f64)),
            ("effective_rank", mean(&|block, _, _| block.effective_rank)),
            ("lambda_rel", mean(&|_, _, lambda| lambda.ln()).exp()),
            ("cholesky_failures", sum(&|block| block.counts.cholesky_failures)),
            ("cleared_windows", sum(&|block| block.counts.cleared_windows)),
            ("psd_shifts", sum(&|block| block.counts.psd_shifts)),
        ];
        // the literal form damps and solves nothing
        let told = if self.config.form == HvrForm::Literal { 2 } else { numbers.len() };
        numbers[..told].iter().map(|(name, value)| ((*name).to_string(), *value)).collect()
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = OptimizerState { tensors: Vec::new(), scalars: vec![("t".to_string(), self.updates as f64)] };
        for (name, block) in &self.blocks {
            block.save(name, &mut state.tensors)?;
        }
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        let updates = state.scalar("t")? as u64;
        let mut saved = state.tensors.into_iter().collect::<BTreeMap<_, _>>();
        let mut blocks = Vec::new();
        if updates > 0 && self.config.form != HvrForm::Code {
            for param in params {
                blocks.push((param.name.clone(), Block::load(&self.config, param, &mut saved)?));
            }
        }
        (self.updates, self.blocks) = (updates, blocks);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
