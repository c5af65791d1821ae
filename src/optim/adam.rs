//! `adam`, `clipped-adam` (the same update behind clipping, see [`super::clip_norm`]) and `adamw`.
//!
//! With g the gradient, t = 1, 2, … the updates done by this optimizer:
//!
//! ```text
//! g ← g + wd·w                                 adam, clipped-adam (L2 penalty)
//! w ← w·(1 − lr·wd)                            adamw (decoupled)
//! m ← m + (1 − β₁)·(g − m)
//! v ← β₂·v + (1 − β₂)·g²
//! w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//! ```
//!
//! Kingma & Ba 2015; Loshchilov & Hutter 2019. As in PyTorch, ε is added after the bias correction of v. Unlike
//! PyTorch's default, weight decay leaves vectors alone, and tables have their own ([`super::Decay`]).

use candle_core::{Result, Tensor};

use super::inplace::{frozen, updates, Elementwise, Real};
use super::kept::{zeros, Kept};
use super::saved::Saved;
use super::{Decay, Gradients, Optimizer, OptimizerState, StepContext};
use crate::params::{Param, ParamKind, ParamSet};

/// Adam and its kin.
pub struct Adam {
    rule: AdamRule,
    updates: u64,
    /// m and v.
    moments: Kept<2>,
}

/// What an [`Adam`] does.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamRule {
    /// Name in config and reports.
    pub name: &'static str,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Of weights and tables.
    pub decay: Decay,
    /// Decay taken from the weights instead of added to the gradient.
    pub decoupled: bool,
    /// Rate at the top of the schedule, for [`Optimizer::describe`] only.
    pub lr: f64,
}

impl Adam {
    /// Without state yet.
    pub fn new(rule: AdamRule) -> Self {
        Adam { rule, updates: 0, moments: Kept::new(["m", "v"]) }
    }

    /// One update of these parameters; always the same ones.
    pub(super) fn step_some<'a>(
        &mut self,
        params: impl Iterator<Item = (&'a Param, &'a Tensor)>,
        context: &StepContext<'_>,
    ) -> Result<()> {
        self.updates += 1;
        updates(|updates| {
            for (param, gradient) in params {
                let [m, v] = self.moments.of(param, |_| zeros(param))?;
                let scalars = self.rule.scalars(context.rate(param.kind), self.updates, param.kind);
                updates.add(Step, scalars, frozen(param), [&param.var, m, v], gradient)?;
            }
            Ok(())
        })
    }

    /// As [`Optimizer::load_state`], of these parameters; takes its tensors out of `saved`.
    pub(super) fn load_some<'a>(&mut self, params: impl Iterator<Item = &'a Param>, saved: &mut Saved) -> Result<()> {
        let updates = saved.scalar("t")? as u64;
        self.moments.load(params.filter(|_| updates > 0), saved)?;
        self.updates = updates;
        Ok(())
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        self.rule.name
    }

    fn describe(&self) -> String {
        let AdamRule { name, beta1, beta2, eps, decay, lr, .. } = &self.rule;
        format!("{name}, lr {lr}, betas ({beta1}, {beta2}), eps {eps:e}{}", decay.told())
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        self.step_some(params.iter().zip(&gradients.tensors), context)
    }

    fn reset(&mut self) {
        self.updates = 0;
        self.moments.clear();
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = OptimizerState::of([("t", self.updates as f64)]);
        self.moments.save(&mut state);
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        self.load_some(params.iter(), &mut Saved::whole(state))
    }
}

impl AdamRule {
    /// Of [`Step`].
    fn scalars(&self, lr: f64, t: u64, kind: ParamKind) -> [f64; 8] {
        let AdamRule { beta1, beta2, eps, decay, decoupled, .. } = *self;
        let (t, decay) = (t as f64, decay.of(kind));
        let (coupled, shrink) = if decoupled { (0.0, lr * decay) } else { (decay, 0.0) };
        let rate = lr / (1.0 - beta1.powf(t));
        [coupled, 1.0 - beta1, beta2, 1.0 - beta2, eps, (1.0 - beta2.powf(t)).sqrt(), shrink, rate]
    }
}

/// The update of one element.
#[derive(Clone, Copy)]
struct Step;

impl Elementwise<3, 8> for Step {
    const NAME: &'static str = "adam";

    fn element<T: Real>(scalars: [T; 8], [w, m, v]: [T; 3], g: T) -> [T; 3] {
        let [coupled, one_minus_beta1, beta2, one_minus_beta2, eps, root_correction, shrink, rate] = scalars;
        let g = g + coupled * w;
        let m = m + one_minus_beta1 * (g - m);
        let v = beta2 * v + one_minus_beta2 * (g * g);
        // one rounding of 1 − lr·wd would be a bias of the decay; this sum has none
        [w - (shrink * w + rate * (m / (v.sqrt() / root_correction + eps))), m, v]
    }
}

#[cfg(test)]
mod tests {
    use super::super::inplace::tests::agrees_on_gpu;
    use super::*;

    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn the_kernel_does_the_same() -> Result<()> {
        for decoupled in [false, true] {
            let (beta1, beta2, weight_decay) = (0.9, 0.98, 0.1);
            let decay = Decay { weights: weight_decay, tables: 0.0 };
            let rule = AdamRule { name: "", beta1, beta2, eps: 1e-9, decay, decoupled, lr: 0.0 };
            agrees_on_gpu(Step, rule.scalars(0.01, 2, ParamKind::Matrix))?;
        }
        Ok(())
    }
}
