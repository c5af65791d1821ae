//! `sgd`, as in PyTorch.
//!
//! ```text
//! g ← g + wd·w
//! b ← g                              first update of a parameter
//! b ← momentum·b + (1 − dampening)·g  later ones
//! w ← w − lr·b        or, Nesterov,  w ← w − lr·(g + momentum·b)
//! ```
//!
//! Without momentum b is g and nothing is stored. Weight decay leaves vectors and embedding tables alone
//! ([`super::decays`]), unlike PyTorch's default.

use candle_core::{Result, Var};
use std::collections::BTreeMap;

use super::inplace::{owned, updates, Elementwise, Real};
use super::{decays, take_named, Gradients, Optimizer, OptimizerState, StepContext};
use crate::config::SgdConfig;
use crate::params::ParamSet;

/// Stochastic gradient descent.
pub struct Sgd {
    config: SgdConfig,
    weight_decay: f64,
    lr: f64,
    buffers: BTreeMap<String, Var>,
}

impl Sgd {
    /// `lr`: for [`Optimizer::describe`] only.
    pub fn new(config: SgdConfig, weight_decay: f64, lr: f64) -> Self {
        Sgd { config, weight_decay, lr, buffers: BTreeMap::new() }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn describe(&self) -> String {
        let mut text = format!("sgd, lr {}, momentum {}", self.lr, self.config.momentum);
        if self.config.dampening > 0.0 {
            text += &format!(", dampening {}", self.config.dampening);
        }
        if self.config.nesterov {
            text += ", Nesterov";
        }
        if self.weight_decay > 0.0 {
            text += &format!(", weight decay {}", self.weight_decay);
        }
        text
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let SgdConfig { momentum, dampening, nesterov } = self.config;
        updates(|updates| {
            for (param, gradient) in params.iter().zip(&gradients.tensors) {
                let decay = if decays(param.kind) { self.weight_decay } else { 0.0 };
                if momentum == 0.0 {
                    updates.add(&Plain { lr: context.rate(param.kind), decay }, Some(param), [&param.var], gradient)?;
                    continue;
                }
                let first = !self.buffers.contains_key(&param.name);
                if first {
                    let zeros = Var::zeros(param.var.shape(), param.var.dtype(), param.var.device())?;
                    self.buffers.insert(param.name.clone(), zeros);
                }
                let take = if first { 1.0 } else { 1.0 - dampening };
                let kernel = Momentum { lr: context.rate(param.kind), decay, momentum, take, nesterov };
                updates.add(&kernel, Some(param), [&param.var, &self.buffers[&param.name]], gradient)?;
            }
            Ok(())
        })
    }

    fn reset(&mut self) {
        self.buffers.clear();
    }

    fn state(&self) -> Result<OptimizerState> {
        let named = |(name, buffer): (&String, &Var)| (format!("{name}.momentum"), buffer.as_detached_tensor());
        Ok(OptimizerState { tensors: self.buffers.iter().map(named).collect(), scalars: Vec::new() })
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        let mut buffers = BTreeMap::new();
        let mut saved = state.tensors.into_iter().collect::<BTreeMap<_, _>>();
        if !saved.is_empty() {
            for param in params {
                buffers.insert(param.name.clone(), owned(&take_named(&mut saved, param, "momentum")?)?);
            }
        }
        self.buffers = buffers;
        Ok(())
    }
}

/// w ← w − lr·(g + decay·w).
pub(super) struct Plain {
    pub(super) lr: f64,
    pub(super) decay: f64,
}

impl Elementwise<1> for Plain {
    fn apply<T: Real>(&self, [w]: [&mut [T]; 1], g: &[T]) {
        let (lr, decay) = (T::from_f64(self.lr), T::from_f64(self.decay));
        for (w, &g) in w.iter_mut().zip(g) {
            *w -= lr * (g + decay * *w);
        }
    }

    fn kernel(&self) -> (&'static str, Vec<f64>) {
        ("sgd", vec![self.lr, self.decay])
    }
}

struct Momentum {
    lr: f64,
    decay: f64,
    momentum: f64,
    /// Share of the gradient that enters the buffer.
    take: f64,
    nesterov: bool,
}

impl Elementwise<2> for Momentum {
    fn apply<T: Real>(&self, [w, b]: [&mut [T]; 2], g: &[T]) {
        let (lr, decay) = (T::from_f64(self.lr), T::from_f64(self.decay));
        let (momentum, take) = (T::from_f64(self.momentum), T::from_f64(self.take));
        // w ← w − lr·(s·g + r·b) is both forms without a branch.
        let (s, r) = if self.nesterov { (T::one(), momentum) } else { (T::zero(), T::one()) };
        for ((w, b), &g) in w.iter_mut().zip(b.iter_mut()).zip(g) {
            let g = g + decay * *w;
            *b = momentum * *b + take * g;
            *w -= lr * (s * g + r * *b);
        }
    }

    fn kernel(&self) -> (&'static str, Vec<f64>) {
        let Momentum { lr, decay, momentum, take, nesterov } = *self;
        let (gradient, buffer) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        ("momentum", vec![lr, decay, momentum, take, gradient, buffer])
    }
}

#[cfg(test)]
mod tests {
    use super::super::inplace::tests::agrees_on_gpu;
    use super::*;

    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn the_kernels_do_the_same() -> Result<()> {
        for nesterov in [false, true] {
            agrees_on_gpu(&Momentum { lr: 0.1, decay: 0.01, momentum: 0.9, take: 0.5, nesterov })?;
        }
        agrees_on_gpu(&Plain { lr: 0.1, decay: 0.01 })
    }
}
