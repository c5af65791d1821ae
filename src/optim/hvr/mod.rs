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
//!
//! | file | owns |
//! |---|---|
//! | `block` | what is kept for one tensor, and what its window makes of a gradient |
//! | `choose` | how many gradients to look back, and how much to damp, chosen by prediction |
//! | `forms` | the B×B work of the forms: from Γᵀ·q to the weights of the gradients |
//! | `history` | which slot of Γ holds which gradient, and their Gram matrix |
//! | `passes` | the passes over the elements of tensors and their windows Γ `[window, n]` |
//! | `truncate` | dropping small parts of A (the document on Hessian-2, its §3.1) |

mod block;
mod choose;
mod forms;
mod history;
mod passes;
mod truncate;

use candle_core::{Result, Tensor};

use super::clip::sums_of_squares;
use super::saved::Saved;
use super::sgd::plain;
use super::{Decay, Gradients, Optimizer, OptimizerState, StepContext};
use crate::config::{HvrAutomatic, HvrConfig, HvrForm, HvrTruncation};
use crate::ops::{rows, Windowed};
use crate::params::{Param, ParamSet};
use block::{Block, Rule};

/// See the module.
pub struct Hvr {
    config: HvrConfig,
    decay: Decay,
    lr: f64,
    updates: u64,
    /// In the order of the parameters; empty before the first update and in the form `code`.
    blocks: Vec<Block>,
    /// `code`: what its program computes as A and never uses, by parameter: the mean of g∘g.
    logged: Vec<(String, f64)>,
}

impl Hvr {
    /// `lr`: for [`Optimizer::describe`] only.
    pub fn new(config: HvrConfig, decay: Decay, lr: f64) -> Self {
        Hvr { config, decay, lr, updates: 0, blocks: Vec::new(), logged: Vec::new() }
    }

    /// Plain SGD, and the log.
    fn code(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let squares = params.iter().zip(sums_of_squares(&gradients.tensors)?).zip(&gradients.tensors);
        let mean = |((param, square), gradient): ((&Param, f64), &Tensor)| {
            (format!("mean_square.{}", param.name), square / gradient.elem_count().max(1) as f64)
        };
        self.logged = squares.map(mean).collect();
        plain(params, gradients, context, self.decay)
    }
}

/// Adam's directions, turned by the windows: B×B work for each tensor between the two passes.
fn low_rank(mut blocks: Vec<&mut Block>, mut tensors: Vec<Windowed>) -> Result<()> {
    let products = passes::observe(&tensors)?;
    let elements = tensors.iter().map(|x| x.gradient.elem_count()).sum();
    let turns = blocks.iter_mut().zip(&mut tensors).zip(&products).collect();
    rows::run(turns, elements, |((block, x), products)| {
        (x.weights, x.next) = block.turn(products, x.gradient.elem_count());
    });
    passes::apply(Rule::LowRank, &tensors)?;
    for (block, products) in blocks.iter_mut().zip(&products).filter(|(block, _)| block.rule == Rule::LowRank) {
        block.history.push(&products.gradient, products.square);
    }
    Ok(())
}

/// The forms on the diagonal; `entries`: small ones are replaced.
fn diagonal(mut blocks: Vec<&mut Block>, mut tensors: Vec<Windowed>, entries: bool) -> Result<()> {
    let Some(rule) = blocks.first().map(|block| block.rule) else { return Ok(()) };
    if entries && rule == Rule::Diagonal {
        let extents = passes::extents(&tensors)?;
        for ((block, x), extent) in blocks.iter().zip(&mut tensors).zip(extents) {
            [x.scalars[2], x.scalars[3]] = block.replaced(extent, x.gradient.elem_count());
        }
    }
    passes::apply(rule, &tensors)?;
    // no Gram matrix, only whose turn it is
    blocks.iter_mut().for_each(|block| block.history.push(&[], 0.0));
    Ok(())
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
        text + &self.decay.told()
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        self.updates += 1;
        if self.config.form == HvrForm::Code {
            return self.code(params, gradients, context);
        }
        if self.blocks.is_empty() {
            self.blocks = params.iter().map(|param| Block::new(&self.config, param)).collect::<Result<_>>()?;
        }
        let (decay, t) = (self.decay, self.updates as f64);
        let jobs = self.blocks.iter_mut().zip(params).zip(&gradients.tensors).map(|((block, param), gradient)| {
            let lr = context.rate(param.kind);
            let tensors = block.windowed(param, gradient, t, lr, lr * decay.of(param.kind));
            (block, tensors)
        });
        let (turned, others): (Vec<_>, Vec<_>) = jobs.partition(|(block, _)| block.rule.turns());
        let (blocks, tensors) = turned.into_iter().unzip();
        low_rank(blocks, tensors)?;
        let (blocks, tensors) = others.into_iter().unzip();
        diagonal(blocks, tensors, self.config.truncation == HvrTruncation::Entries)
    }

    fn reset(&mut self) {
        self.updates = 0;
        self.blocks.clear();
    }

    fn health(&self) -> Vec<(String, f64)> {
        if self.config.form == HvrForm::Code {
            return self.logged.clone();
        }
        let windows: Vec<&Block> = self.blocks.iter().filter(|block| block.rule == Rule::LowRank).collect();
        if windows.is_empty() {
            return Vec::new();
        }
        let sum = |of: fn(&Block) -> f64| windows.iter().map(|block| of(block)).sum::<f64>();
        let mean = |of| sum(of) / windows.len() as f64;
        let numbers = [
            ("window", mean(|block| block.choice.window() as f64)),
            ("effective_rank", mean(|block| block.met.effective_rank)),
            ("lambda_rel", mean(|block| block.choice.lambda_rel().ln()).exp()),
            ("cholesky_failures", sum(|block| block.met.cholesky_failures)),
            ("cleared_windows", sum(|block| block.met.cleared_windows)),
            ("psd_shifts", sum(|block| block.met.psd_shifts)),
        ];
        // the literal form damps and solves nothing
        let told = if self.config.form == HvrForm::Literal { 2 } else { numbers.len() };
        numbers[..told].iter().map(|(name, value)| ((*name).to_string(), *value)).collect()
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = OptimizerState::of([("t", self.updates as f64)]);
        self.blocks.iter().try_for_each(|block| block.save(&mut state))?;
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        let mut saved = Saved::whole(state);
        let updates = saved.scalar("t")? as u64;
        let kept = params.iter().filter(|_| updates > 0 && self.config.form != HvrForm::Code);
        let blocks = kept.map(|param| Block::load(&self.config, param, &mut saved)).collect::<Result<_>>()?;
        (self.updates, self.blocks) = (updates, blocks);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
