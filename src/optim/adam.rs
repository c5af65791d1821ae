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
//! PyTorch's default, weight decay leaves vectors and embedding tables alone ([`super::decays`]).

use candle_core::{Result, Tensor, Var};
use std::collections::BTreeMap;

use super::inplace::{owned, updates, Elementwise, Real};
use super::{decays, take_named, Gradients, Optimizer, OptimizerState, StepContext};
use crate::params::{Param, ParamSet};

/// Adam and its kin.
pub struct Adam {
    rule: AdamRule,
    updates: u64,
    moments: BTreeMap<String, Moments>,
}

/// What an [`Adam`] does.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamRule {
    /// Name in config and reports.
    pub name: &'static str,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Decay taken from the weights instead of added to the gradient.
    pub decoupled: bool,
    /// Rate at the top of the schedule, for [`Optimizer::describe`] only.
    pub lr: f64,
}

struct Moments {
    m: Var,
    v: Var,
}

impl Adam {
    pub fn new(rule: AdamRule) -> Self {
        Adam { rule, updates: 0, moments: BTreeMap::new() }
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
                if !self.moments.contains_key(&param.name) {
                    let zeros = || Var::zeros(param.var.shape(), param.var.dtype(), param.var.device());
                    self.moments.insert(param.name.clone(), Moments { m: zeros()?, v: zeros()? });
                }
                let Moments { m, v } = &self.moments[&param.name];
                let kernel = self.rule.kernel(context.rate(param.kind), self.updates, decays(param.kind));
                updates.add(&kernel, Some(param), [&param.var, m, v], gradient)?;
            }
            Ok(())
        })
    }

    /// As [`Optimizer::load_state`], of these parameters; takes its tensors out of `saved`.
    pub(super) fn load_some<'a>(
        &mut self,
        params: impl Iterator<Item = &'a Param>,
        saved: &mut BTreeMap<String, Tensor>,
        updates: u64,
    ) -> Result<()> {
        let mut moments = BTreeMap::new();
        for param in params.filter(|_| updates > 0) {
            let m = owned(&take_named(saved, param, "m")?)?;
            let v = owned(&take_named(saved, param, "v")?)?;
            moments.insert(param.name.clone(), Moments { m, v });
        }
        (self.updates, self.moments) = (updates, moments);
        Ok(())
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        self.rule.name
    }

    fn describe(&self) -> String {
        let AdamRule { name, beta1, beta2, eps, weight_decay, lr, .. } = &self.rule;
        let decay = if *weight_decay > 0.0 { format!(", weight decay {weight_decay}") } else { String::new() };
        format!("{name}, lr {lr}, betas ({beta1}, {beta2}), eps {eps:e}{decay}")
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        self.step_some(params.iter().zip(&gradients.tensors), context)
    }

    fn reset(&mut self) {
        self.updates = 0;
        self.moments.clear();
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = OptimizerState { tensors: Vec::new(), scalars: vec![("t".to_string(), self.updates as f64)] };
        for (name, Moments { m, v }) in &self.moments {
            state.tensors.push((format!("{name}.m"), m.as_detached_tensor()));
            state.tensors.push((format!("{name}.v"), v.as_detached_tensor()));
        }
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        let updates = state.scalar("t")? as u64;
        self.load_some(params.iter(), &mut state.tensors.into_iter().collect(), updates)
    }
}

impl AdamRule {
    fn kernel(&self, lr: f64, t: u64, decays: bool) -> Kernel {
        let decay = if decays { self.weight_decay } else { 0.0 };
        Kernel {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            coupled: if self.decoupled { 0.0 } else { decay },
            shrink: if self.decoupled { lr * decay } else { 0.0 },
            rate: lr / (1.0 - self.beta1.powf(t as f64)),
            root_correction: (1.0 - self.beta2.powf(t as f64)).sqrt(),
        }
    }
}

/// The update of one element; scalars are computed in f64 and rounded once.
struct Kernel {
    beta1: f64,
    beta2: f64,
    eps: f64,
    /// Share of w added to g.
    coupled: f64,
    /// Share of w taken from w.
    shrink: f64,
    rate: f64,
    root_correction: f64,
}

impl Elementwise<3> for Kernel {
    fn apply<T: Real>(&self, [w, m, v]: [&mut [T]; 3], g: &[T]) {
        let (one_minus_beta1, beta2) = (T::from_f64(1.0 - self.beta1), T::from_f64(self.beta2));
        let (one_minus_beta2, eps) = (T::from_f64(1.0 - self.beta2), T::from_f64(self.eps));
        let (coupled, shrink) = (T::from_f64(self.coupled), T::from_f64(self.shrink));
        let (rate, root_correction) = (T::from_f64(self.rate), T::from_f64(self.root_correction));
        for (((w, m), v), &g) in w.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(g) {
            let g = g + coupled * *w;
            *m += one_minus_beta1 * (g - *m);
            *v = beta2 * *v + one_minus_beta2 * (g * g);
            // One rounding of 1 − lr·wd would be a bias of the decay; the sum below has none.
            *w -= shrink * *w + rate * (*m / (v.sqrt() / root_correction + eps));
        }
    }

    fn kernel(&self) -> (&'static str, Vec<f64>) {
        let Kernel { beta1, beta2, eps, coupled, shrink, rate, root_correction } = *self;
        ("adam", vec![coupled, 1.0 - beta1, beta2, 1.0 - beta2, eps, root_correction, shrink, rate])
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
            let rule = AdamRule { name: "", beta1, beta2, eps: 1e-9, weight_decay, decoupled, lr: 0.0 };
            agrees_on_gpu(&rule.kernel(0.01, 2, true))?;
        }
        Ok(())
    }
}
