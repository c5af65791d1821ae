//! `variant = "lm"`: L-BFGS in the space that Adam scales, over all parameters in scope at once.
//!
//! ```text
//! m, v: Adam's moments;  D = √v̂ + ε
//! every `secant_freq` updates: s = w⁺ − w,  y = ∇f(w⁺) − ∇f(w) on the same batches with the same dropout
//!     τ = max(|sᵀy| / sᵀDs, 10⁻³);  y ← y/τ;  Powell: if sᵀy < ¼·sᵀDs, y is mixed with D·s until it is equal
//!     the last `history` pairs are kept
//! u = two-loop recursion (Nocedal 1980) on m̂ with H₀ = D⁻¹, as long as m̂/D
//! uᵀm̂ ≤ 0.01·‖u‖·‖m̂‖: all pairs are dropped, u = m̂/D
//! w ← w − lr·(u + wd·w)
//! ```
//!
//! An honest negative: a handful of pairs corrects a handful of directions, the ones in which the momentum swings anyway,
//! and does nothing about the noise of gradients.

use candle_core::{bail, Result, Tensor};
use std::collections::BTreeMap;

use super::in_scope;
use crate::config::Hessian2Config;
use crate::ops::{dot, values, Real};
use crate::optim::inplace::with_slices;
use crate::optim::{decays, Adam, AdamRule, Gradients, Optimizer, OptimizerState, StepContext};
use crate::params::{Param, ParamSet};

/// The optimizer; vectors over all parameters in scope, in the order of their names.
pub(super) struct Lm<T> {
    config: Hessian2Config,
    weight_decay: f64,
    lr: f64,
    adam: Adam,
    t: f64,
    m: Vec<T>,
    v: Vec<T>,
    /// Oldest first.
    pairs: Vec<Pair<T>>,
    resets: f64,
}

struct Pair<T> {
    s: Vec<T>,
    y: Vec<T>,
}

impl<T: Real> Lm<T> {
    pub(super) fn new(config: Hessian2Config, weight_decay: f64, lr: f64) -> Self {
        let Hessian2Config { beta1, beta2, eps, .. } = config;
        let adam = Adam::new(AdamRule { name: "adam", beta1, beta2, eps, weight_decay, decoupled: true, lr });
        Lm { config, weight_decay, lr, adam, t: 0.0, m: Vec::new(), v: Vec::new(), pairs: Vec::new(), resets: 0.0 }
    }

    fn takes(&self, param: &Param) -> bool {
        in_scope(&self.config, param.kind)
    }

    /// Indices of the parameters in scope, in the order of their names.
    fn order(&self, params: &ParamSet) -> Vec<usize> {
        let mut order: Vec<(usize, &Param)> =
            params.iter().enumerate().filter(|(_, param)| self.takes(param)).collect();
        order.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        order.into_iter().map(|(i, _)| i).collect()
    }

    /// The two-loop recursion: H·q with H₀ = diag(1/d).
    fn two_loop(&self, mut q: Vec<T>, d: &[T]) -> Vec<T> {
        let mut alphas = Vec::new();
        for Pair { s, y } in self.pairs.iter().rev() {
            let alpha = sum(s, &q) / sum(s, y);
            add(&mut q, -alpha, y);
            alphas.push(alpha);
        }
        q.iter_mut().zip(d).for_each(|(q, &d)| *q /= d);
        for (Pair { s, y }, alpha) in self.pairs.iter().zip(alphas.into_iter().rev()) {
            let beta = sum(y, &q) / sum(s, y);
            add(&mut q, alpha - beta, s);
        }
        q
    }

    /// Keeps a pair, damped so that sᵀy ≥ ¼·sᵀDs after scaling.
    fn keep(&mut self, s: Vec<T>, mut y: Vec<T>, d: &[T]) {
        let ds: Vec<T> = s.iter().zip(d).map(|(&s, &d)| s * d).collect();
        let (sds, sy) = (sum(&s, &ds), sum(&s, &y));
        if !(sds > 0.0 && sy.is_finite()) {
            return;
        }
        let tau = (sy.abs() / sds).max(1e-3);
        y.iter_mut().for_each(|y| *y /= T::from_f64(tau));
        let sy = sy / tau;
        if sy < 0.25 * sds {
            let theta = 0.75 * sds / (sds - sy);
            let (theta, rest) = (T::from_f64(theta), T::from_f64(1.0 - theta));
            y.iter_mut().zip(&ds).for_each(|(y, &ds)| *y = theta * *y + rest * ds);
        }
        self.pairs.push(Pair { s, y });
        if self.pairs.len() > self.config.history {
            self.pairs.remove(0);
        }
    }

    /// Vectors of the state with their names.
    fn vectors(&self) -> Vec<(String, &Vec<T>)> {
        let pairs = self.pairs.iter().enumerate();
        let pairs = pairs.flat_map(|(i, pair)| [(format!("lm.s{i}"), &pair.s), (format!("lm.y{i}"), &pair.y)]);
        [("lm.m".to_string(), &self.m), ("lm.v".to_string(), &self.v)].into_iter().chain(pairs).collect()
    }
}

/// Σ a·b, in f64 over partial sums of fixed order.
fn sum<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.chunks(1 << 12).zip(b.chunks(1 << 12)).map(|(a, b)| dot(a, b).to_f64()).sum()
}

fn add<T: Real>(to: &mut [T], factor: f64, from: &[T]) {
    let factor = T::from_f64(factor);
    to.iter_mut().zip(from).for_each(|(to, &from)| *to += factor * from);
}

/// The gradients in this order, end to end.
fn flatten<T: Real>(gradients: &Gradients, order: &[usize]) -> Result<Vec<T>> {
    let mut flat = Vec::new();
    for &i in order {
        flat.extend_from_slice(&values::<T>(&gradients.tensors[i])?);
    }
    Ok(flat)
}

impl<T: Real> Optimizer for Lm<T> {
    fn name(&self) -> &'static str {
        "hessian2"
    }

    fn describe(&self) -> String {
        let Hessian2Config { beta1, beta2, history, secant_freq, .. } = self.config;
        let title = self.config.title();
        format!(
            "hessian2, lr {}, {title}, betas ({beta1}, {beta2}), {history} pairs, one every {secant_freq} updates",
            self.lr
        )
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let Hessian2Config { beta1, beta2, eps, .. } = self.config;
        let rest: Vec<_> = params.iter().zip(&gradients.tensors).filter(|(param, _)| !self.takes(param)).collect();
        self.adam.step_some(rest.into_iter(), context)?;
        let order = self.order(params);
        let g: Vec<T> = flatten(gradients, &order)?;
        self.t += 1.0;
        self.m.resize(g.len(), T::zero());
        self.v.resize(g.len(), T::zero());
        let (share1, share2) = (T::from_f64(1.0 - beta1), T::from_f64(1.0 - beta2));
        self.m.iter_mut().zip(&g).for_each(|(m, &g)| *m += share1 * (g - *m));
        self.v.iter_mut().zip(&g).for_each(|(v, &g)| *v += share2 * (g * g - *v));
        let correction = T::from_f64(1.0 / (1.0 - beta1.powf(self.t)));
        let (root, eps) = (T::from_f64((1.0 - beta2.powf(self.t)).sqrt()), T::from_f64(eps));
        let m: Vec<T> = self.m.iter().map(|&m| correction * m).collect();
        let d: Vec<T> = self.v.iter().map(|&v| v.sqrt() / root + eps).collect();

        let adam: Vec<T> = m.iter().zip(&d).map(|(&m, &d)| m / d).collect();
        let mut update = self.two_loop(m.clone(), &d);
        let (size, own) = (sum(&adam, &adam).sqrt(), sum(&update, &update).sqrt());
        let along = sum(&update, &m);
        if along > 0.01 * own * sum(&m, &m).sqrt() && own.is_finite() {
            update.iter_mut().for_each(|u| *u *= T::from_f64(size / own));
        } else {
            self.resets += f64::from(!self.pairs.is_empty());
            self.pairs.clear();
            update = adam;
        }

        let mut start = 0;
        let mut moved = Vec::with_capacity(g.len());
        for &i in &order {
            let Some(param) = params.iter().nth(i) else { bail!("the order of parameters changed") };
            let decay = if decays(param.kind) { self.weight_decay } else { 0.0 };
            let lr = context.rate(param.kind);
            let (rate, shrink) = (T::from_f64(lr), T::from_f64(lr * decay));
            let n = param.var.elem_count();
            let frozen = param.frozen_row.map(|row| (row * n / param.var.dims()[0], n / param.var.dims()[0]));
            let update = &update[start..start + n];
            start += n;
            with_slices(&[&param.var], Vec::new(), &mut |slices: Vec<&mut [T]>| {
                for w in slices {
                    for (j, (w, &u)) in w.iter_mut().zip(update).enumerate() {
                        let still = frozen.is_some_and(|(from, width)| (from..from + width).contains(&j));
                        let change = if still { T::zero() } else { -(shrink * *w + rate * u) };
                        *w += change;
                        moved.push(change);
                    }
                }
                Ok(())
            })?;
        }
        if let (true, Some(again)) = (context.step.is_multiple_of(self.config.secant_freq), context.again) {
            let mut y: Vec<T> = flatten(&again()?, &order)?;
            add(&mut y, -1.0, &g);
            self.keep(moved, y, &d);
        }
        Ok(())
    }

    fn reset(&mut self) {
        (self.t, self.resets) = (0.0, 0.0);
        (self.m, self.v, self.pairs) = (Vec::new(), Vec::new(), Vec::new());
        self.adam.reset();
    }

    fn health(&self) -> Vec<(String, f64)> {
        vec![("pairs".to_string(), self.pairs.len() as f64), ("resets".to_string(), self.resets)]
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.adam.state()?;
        let own = [("lm.t", self.t), ("lm.pairs", self.pairs.len() as f64), ("lm.resets", self.resets)];
        state.scalars.extend(own.map(|(name, value)| (name.to_string(), value)));
        for (name, vector) in self.vectors().into_iter().filter(|_| self.t > 0.0) {
            let tensor = Tensor::from_slice(vector, vector.len(), &candle_core::Device::Cpu)?;
            state.tensors.push((name, tensor));
        }
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        self.reset();
        let (t, pairs, resets) = (state.scalar("lm.t")?, state.scalar("lm.pairs")?, state.scalar("lm.resets")?);
        let adam_updates = state.scalar("t")? as u64;
        let mut saved: BTreeMap<String, Tensor> = state.tensors.into_iter().collect();
        let rest: Vec<&Param> = params.iter().filter(|param| !self.takes(param)).collect();
        self.adam.load_some(rest.into_iter(), &mut saved, adam_updates)?;
        (self.t, self.resets) = (t, resets);
        if t == 0.0 {
            return Ok(());
        }
        let n: usize = params.iter().filter(|param| self.takes(param)).map(|param| param.var.elem_count()).sum();
        let mut take = |name: String| -> Result<Vec<T>> {
            match saved.remove(&name) {
                Some(tensor) if tensor.dims() == [n] && tensor.dtype() == T::DTYPE => tensor.to_vec1(),
                Some(tensor) => bail!("the saved optimizer state {name} is {:?}, not [{n}]", tensor.dims()),
                None => bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?"),
            }
        };
        (self.m, self.v) = (take("lm.m".to_string())?, take("lm.v".to_string())?);
        for i in 0..pairs as usize {
            self.pairs.push(Pair { s: take(format!("lm.s{i}"))?, y: take(format!("lm.y{i}"))? });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With exact pairs of a quadratic along every axis, the recursion is its inverse.
    #[test]
    fn the_recursion_inverts_a_quadratic() {
        let config = Hessian2Config { history: 3, ..Hessian2Config::default() };
        let mut lm: Lm<f64> = Lm::new(config, 0.0, 0.0);
        let curvature = [2.0, 5.0, 10.0];
        for i in 0..3 {
            let mut s = vec![0.0; 3];
            s[i] = 0.1;
            let y = s.iter().zip(curvature).map(|(s, c)| s * c).collect();
            lm.pairs.push(Pair { s, y });
        }
        let step = lm.two_loop(vec![2.0, 5.0, 10.0], &[1.0; 3]);
        step.iter().for_each(|u| assert!((u - 1.0).abs() < 1e-12, "{step:?}"));
    }

    #[test]
    fn negative_curvature_is_damped_and_old_pairs_go() {
        let config = Hessian2Config { history: 2, ..Hessian2Config::default() };
        let mut lm: Lm<f64> = Lm::new(config, 0.0, 0.0);
        for i in 0..3 {
            lm.keep(vec![1.0, f64::from(i)], vec![-3.0, 0.5], &[1.0, 2.0]);
        }
        assert_eq!(lm.pairs.len(), 2);
        for Pair { s, y } in &lm.pairs {
            let sds = s[0] * s[0] + 2.0 * s[1] * s[1];
            assert!((sum(s, y) - 0.25 * sds).abs() < 1e-12 || sum(s, y) > 0.25 * sds, "{s:?} {y:?}");
        }
    }
}
