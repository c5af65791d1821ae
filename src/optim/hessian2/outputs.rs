//! The output side of `kbfgs`: a tracked inverse from measured pairs of pre-activations and their gradients.
//!
//! Every `secant_freq` updates the gradient is computed once more after the update, on the same batches with the same
//! dropout. Because z = W·x + b is linear, the means over tokens need no hooks: z̄ = W·x̄ + b, and the gradient of b is the
//! sum of δ over tokens.
//!
//! ```text
//! s = (W⁺·x̄ + b⁺) − (W·x̄ + b),  y = ∂L⁺/∂b − ∂L/∂b;  both averaged with 0.9
//! H_G corrected by the soft secant (see `bfgs`), c·q = 10
//! ```
//!
//! Differences from K-BFGS (arXiv 2006.08877): x̄ is that of before the update, the secant is soft instead of doubly
//! damped, the second gradient comes every 20 updates instead of every one. Weights without a bias have no output side.

use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

use super::bfgs::soft_secant;
use super::inputs;
use crate::config::Hessian2Config;
use crate::ops::{values, Real};
use crate::optim::matrix::Matrix;
use crate::optim::per_matrix::{state, Named};
use crate::optim::{Gradients, StepContext};
use crate::params::ParamSet;

/// Weight of a pair against what is known: nearly all.
pub(super) const STRENGTH: f64 = 10.0;
/// Decay of the averaged pairs.
pub(super) const DECAY: f64 = 0.9;

state! {
    /// The tracked inverse (o × o) and the averaged pair (1 × o each).
    Output { output_inverse, s, y; pairs }
}

/// A weight between its update and the second gradient.
struct Pending {
    weight: String,
    bias: String,
    /// Mean input.
    x: Vec<f64>,
    /// Mean pre-activation before the update.
    z: Vec<f64>,
}

/// The output sides of all weights with a bias.
pub(super) struct Outputs<T> {
    freq: u64,
    outputs: BTreeMap<String, Output<T>>,
    pending: Vec<Pending>,
}

impl<T: Real> Outputs<T> {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        Outputs { freq: config.secant_freq, outputs: BTreeMap::new(), pending: Vec::new() }
    }

    /// The inverse for this weight, once there is one.
    pub(super) fn of(&self, weight: &str) -> Option<&Matrix<T>> {
        self.outputs.get(weight).map(|output| &output.output_inverse)
    }

    /// Before the update: where the mean pre-activations are.
    pub(super) fn before(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        self.pending.clear();
        if !context.step.is_multiple_of(self.freq) || context.again.is_none() {
            return Ok(());
        }
        for group in inputs::groups(params, context.inputs) {
            let x = group.mean::<T>()?;
            for (weight, bias) in group.biases(params) {
                let z = pre_activation::<T>(params, &weight, &bias, &x)?;
                self.pending.push(Pending { weight, bias, x: x.clone(), z });
            }
        }
        Ok(())
    }

    /// After it: the second gradient, and the corrections.
    pub(super) fn after(&mut self, params: &ParamSet, old: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let (false, Some(again)) = (self.pending.is_empty(), context.again) else { return Ok(()) };
        let new = again()?;
        for Pending { weight, bias, x, z } in std::mem::take(&mut self.pending) {
            let Some(index) = params.iter().position(|param| param.name == bias) else { continue };
            let (old, new) = (values::<T>(&old.tensors[index])?, values::<T>(&new.tensors[index])?);
            let moved = pre_activation::<T>(params, &weight, &bias, &x)?;
            let s: Vec<T> = moved.iter().zip(&z).map(|(after, before)| T::from_f64(after - before)).collect();
            let y: Vec<T> = new.iter().zip(old.iter()).map(|(&new, &old)| new - old).collect();
            if s.iter().chain(&y).any(|x| !x.to_f64().is_finite()) {
                continue;
            }
            let n = s.len();
            let output = self.outputs.entry(weight).or_insert_with(|| {
                let mut output = unfilled(n);
                output.output_inverse.set_identity(1.0);
                output
            });
            let share = if output.pairs == 0.0 { 1.0 } else { 1.0 - DECAY };
            output.s.toward(&s, share);
            output.y.toward(&y, share);
            output.pairs += 1.0;
            let before = output.output_inverse.clone();
            let (s, y) = (output.s.data.clone(), output.y.data.clone());
            if !soft_secant(&mut output.output_inverse, &s, &y, STRENGTH) || !output.output_inverse.is_finite() {
                output.output_inverse = before;
            }
        }
        Ok(())
    }

    pub(super) fn shared(&self) -> Vec<(String, &dyn Named<T>)> {
        self.outputs.iter().map(|(name, output)| (name.clone(), output as &dyn Named<T>)).collect()
    }

    pub(super) fn shared_mut(&mut self, saved: &BTreeMap<String, Tensor>) -> Vec<(String, &mut dyn Named<T>)> {
        self.outputs.clear();
        self.pending.clear();
        for (key, tensor) in saved {
            if let Some(weight) = key.strip_suffix(".output_inverse") {
                self.outputs.insert(weight.to_string(), unfilled(tensor.dims()[0]));
            }
        }
        self.outputs.iter_mut().map(|(name, output)| (name.clone(), output as &mut dyn Named<T>)).collect()
    }
}

fn unfilled<T: Real>(n: usize) -> Output<T> {
    Output { output_inverse: Matrix::zeros(n, n), s: Matrix::zeros(1, n), y: Matrix::zeros(1, n), pairs: 0.0 }
}

/// W·x̄ + b.
fn pre_activation<T: Real>(params: &ParamSet, weight: &str, bias: &str, x: &[f64]) -> Result<Vec<f64>> {
    let (Some(weight), Some(bias)) = (params.get(weight), params.get(bias)) else {
        candle_core::bail!("hessian2: {weight} or {bias} is not a parameter");
    };
    let (w, b) = (values::<T>(&weight.var)?, values::<T>(&bias.var)?);
    let dot = |row: &[T]| row.iter().zip(x).map(|(w, x)| w.to_f64() * x).sum::<f64>();
    Ok(w.chunks_exact(x.len()).zip(b.iter()).map(|(row, b)| dot(row) + b.to_f64()).collect())
}
