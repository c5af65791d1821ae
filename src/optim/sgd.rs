//! `sgd`, as in PyTorch.
//!
//! ```text
//! g ← g + wd·w
//! b ← g                              first update of a parameter
//! b ← momentum·b + (1 − dampening)·g  later ones
//! w ← w − lr·b        or, Nesterov,  w ← w − lr·(g + momentum·b)
//! ```
//!
//! Without momentum b is g and nothing is stored. Weight decay leaves vectors alone, and tables have their own
//! ([`super::Decay`]), unlike PyTorch's default.

use candle_core::Result;

use super::inplace::{frozen, updates, Elementwise, Real};
use super::kept::{zeros, Kept};
use super::saved::Saved;
use super::{Decay, Gradients, Optimizer, OptimizerState, StepContext};
use crate::config::SgdConfig;
use crate::params::ParamSet;

/// Stochastic gradient descent.
pub struct Sgd {
    config: SgdConfig,
    decay: Decay,
    lr: f64,
    /// b.
    buffers: Kept<1>,
}

impl Sgd {
    /// `lr`: for [`Optimizer::describe`] only.
    pub fn new(config: SgdConfig, decay: Decay, lr: f64) -> Self {
        Sgd { config, decay, lr, buffers: Kept::new(["momentum"]) }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn describe(&self) -> String {
        let SgdConfig { momentum, dampening, nesterov } = self.config;
        let dampening = if dampening > 0.0 { format!(", dampening {dampening}") } else { String::new() };
        let nesterov = if nesterov { ", Nesterov" } else { "" };
        format!("sgd, lr {}, momentum {momentum}{dampening}{nesterov}{}", self.lr, self.decay.told())
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let SgdConfig { momentum, dampening, nesterov } = self.config;
        if momentum == 0.0 {
            return plain(params, gradients, context, self.decay);
        }
        // w ← w − lr·(s·g + r·b) is both forms without a branch
        let (s, r) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        updates(|updates| {
            for (param, gradient) in params.iter().zip(&gradients.tensors) {
                let take = if self.buffers.get(param).is_none() { 1.0 } else { 1.0 - dampening };
                let [b] = self.buffers.of(param, |_| zeros(param))?;
                let (lr, decay) = (context.rate(param.kind), self.decay.of(param.kind));
                let scalars = [lr, decay, momentum, take, s, r];
                updates.add(Momentum, scalars, frozen(param), [&param.var, b], gradient)?;
            }
            Ok(())
        })
    }

    fn reset(&mut self) {
        self.buffers.clear();
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = OptimizerState::default();
        self.buffers.save(&mut state);
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        let begun = !state.tensors.is_empty();
        self.buffers.load(params.iter().filter(|_| begun), &mut Saved::whole(state))
    }
}

/// An update without momentum.
pub(super) fn plain(params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>, decay: Decay) -> Result<()> {
    updates(|updates| {
        for (param, gradient) in params.iter().zip(&gradients.tensors) {
            let scalars = [context.rate(param.kind), decay.of(param.kind)];
            updates.add(Plain, scalars, frozen(param), [&param.var], gradient)?;
        }
        Ok(())
    })
}

#[derive(Clone, Copy)]
struct Plain;

impl Elementwise<1, 2> for Plain {
    const NAME: &'static str = "sgd";

    fn element<T: Real>([lr, decay]: [T; 2], [w]: [T; 1], g: T) -> [T; 1] {
        [w - lr * (g + decay * w)]
    }
}

#[derive(Clone, Copy)]
struct Momentum;

impl Elementwise<2, 6> for Momentum {
    const NAME: &'static str = "momentum";

    fn element<T: Real>([lr, decay, momentum, take, s, r]: [T; 6], [w, b]: [T; 2], g: T) -> [T; 2] {
        let g = g + decay * w;
        let b = momentum * b + take * g;
        [w - lr * (s * g + r * b), b]
    }
}

#[cfg(test)]
mod tests {
    use super::super::inplace::tests::agrees_on_gpu;
    use super::*;

    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn the_kernels_do_the_same() -> Result<()> {
        for (s, r) in [(0.0, 1.0), (1.0, 0.9)] {
            agrees_on_gpu(Momentum, [0.1, 0.01, 0.9, 0.5, s, r])?;
        }
        agrees_on_gpu(Plain, [0.1, 0.01])
    }
}
