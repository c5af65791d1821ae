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
//! In candle's operations on one vector for all parameters, on any device. Once there are pairs, the host waits for four
//! numbers an update, and for two more where a pair is measured.
//!
//! An honest negative: a handful of pairs corrects a handful of directions, the ones in which the momentum swings anyway,
//! and does nothing about the noise of gradients.

use candle_core::{bail, DType, Result, Tensor};
use std::collections::BTreeMap;

use super::in_scope;
use crate::config::Hessian2Config;
use crate::optim::{decays, Adam, AdamRule, Gradients, Optimizer, OptimizerState, StepContext};
use crate::params::{Param, ParamSet};

/// The optimizer; vectors `[n]` over all parameters in scope, in the order of their names.
pub(super) struct Lm {
    config: Hessian2Config,
    weight_decay: f64,
    lr: f64,
    adam: Adam,
    t: f64,
    /// m and v, from the first update on.
    moments: Option<[Tensor; 2]>,
    /// Oldest first.
    pairs: Vec<Pair>,
    resets: f64,
}

struct Pair {
    s: Tensor,
    y: Tensor,
    /// sᵀy, as [`sum`] gives it.
    sy: Tensor,
}

impl Pair {
    fn new(s: Tensor, y: Tensor) -> Result<Self> {
        Ok(Pair { sy: sum(&s, &y)?, s, y })
    }
}

impl Lm {
    pub(super) fn new(config: Hessian2Config, weight_decay: f64, lr: f64) -> Self {
        let Hessian2Config { beta1, beta2, eps, .. } = config;
        let adam = Adam::new(AdamRule { name: "adam", beta1, beta2, eps, weight_decay, decoupled: true, lr });
        Lm { config, weight_decay, lr, adam, t: 0.0, moments: None, pairs: Vec::new(), resets: 0.0 }
    }

    fn takes(&self, param: &Param) -> bool {
        in_scope(&self.config, param.kind)
    }

    /// The parameters in scope and their indices, in the order of their names.
    fn order<'a>(&self, params: &'a ParamSet) -> Vec<(usize, &'a Param)> {
        let mut order: Vec<(usize, &Param)> =
            params.iter().enumerate().filter(|(_, param)| self.takes(param)).collect();
        order.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        order
    }

    /// The two-loop recursion: H·q with H₀ = diag(1/d).
    fn two_loop(&self, q: &Tensor, d: &Tensor) -> Result<Tensor> {
        let mut q = q.clone();
        let mut alphas = Vec::new();
        for Pair { s, y, sy } in self.pairs.iter().rev() {
            let alpha = (sum(s, &q)? / sy)?;
            q = (&q - scaled(y, &alpha)?)?;
            alphas.push(alpha);
        }
        q = (q / d)?;
        for (Pair { s, y, sy }, alpha) in self.pairs.iter().zip(alphas.into_iter().rev()) {
            let beta = (sum(y, &q)? / sy)?;
            q = (&q + scaled(s, &(alpha - beta)?)?)?;
        }
        Ok(q)
    }

    /// The direction from Adam's scaled momentum.
    fn direction(&mut self, m: &Tensor, d: &Tensor) -> Result<Tensor> {
        let adam = (m / d)?;
        if self.pairs.is_empty() {
            return Ok(adam);
        }
        let update = self.two_loop(m, d)?;
        let sums = [sum(&adam, &adam)?, sum(&update, &update)?, sum(&update, m)?, sum(m, m)?];
        let sums = Tensor::cat(&sums, 0)?.to_vec1::<f64>()?;
        let (size, own, along, momentum) = (sums[0].sqrt(), sums[1].sqrt(), sums[2], sums[3].sqrt());
        if along > 0.01 * own * momentum && own.is_finite() {
            return update * (size / own);
        }
        self.resets += 1.0;
        self.pairs.clear();
        Ok(adam)
    }

    /// Keeps a pair, damped so that sᵀy ≥ ¼·sᵀDs after scaling.
    fn keep(&mut self, s: Tensor, y: &Tensor, d: &Tensor) -> Result<()> {
        let ds = (&s * d)?;
        let sums = Tensor::cat(&[sum(&s, &ds)?, sum(&s, y)?], 0)?.to_vec1::<f64>()?;
        let (sds, sy) = (sums[0], sums[1]);
        if !(sds > 0.0 && sy.is_finite()) {
            return Ok(());
        }
        let tau = (sy.abs() / sds).max(1e-3);
        let (mut y, sy) = ((y / tau)?, sy / tau);
        if sy < 0.25 * sds {
            let theta = 0.75 * sds / (sds - sy);
            y = ((y * theta)? + (ds * (1.0 - theta))?)?;
        }
        self.pairs.push(Pair::new(s, y)?);
        if self.pairs.len() > self.config.history {
            self.pairs.remove(0);
        }
        Ok(())
    }

    /// Vectors of the state with their names.
    fn vectors(&self) -> Vec<(String, &Tensor)> {
        let moments = self.moments.iter().flat_map(|[m, v]| [("lm.m".to_string(), m), ("lm.v".to_string(), v)]);
        let pairs = self.pairs.iter().enumerate();
        let pairs = pairs.flat_map(|(i, pair)| [(format!("lm.s{i}"), &pair.s), (format!("lm.y{i}"), &pair.y)]);
        moments.chain(pairs).collect()
    }
}

/// Σ a·b as `[1]` in f64, over partial sums of fixed order.
fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const PART: usize = 1 << 12;
    let product = (a * b)?;
    let n = product.dim(0)?;
    let whole = n / PART * PART;
    let rest = |from: usize| product.narrow(0, from, n - from)?.sum_keepdim(0)?.to_dtype(DType::F64);
    if whole == 0 {
        return rest(0);
    }
    let parts = product.narrow(0, 0, whole)?.reshape(((), PART))?.sum(1)?;
    let parts = parts.to_dtype(DType::F64)?.sum_keepdim(0)?;
    if whole == n {
        Ok(parts)
    } else {
        parts + rest(whole)?
    }
}

/// `factor`·x, for a factor of [`sum`]'s kind.
fn scaled(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&factor.to_dtype(x.dtype())?)
}

/// The gradients in this order, end to end.
fn flatten(gradients: &Gradients, order: &[(usize, &Param)]) -> Result<Tensor> {
    let flat = order.iter().map(|&(i, _)| gradients.tensors[i].flatten_all());
    Tensor::cat(&flat.collect::<Result<Vec<_>>>()?, 0)
}

impl Optimizer for Lm {
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
        let Hessian2Config { beta1, beta2, eps, secant_freq, .. } = self.config;
        let rest: Vec<_> = params.iter().zip(&gradients.tensors).filter(|(param, _)| !self.takes(param)).collect();
        self.adam.step_some(rest.into_iter(), context)?;
        let order = self.order(params);
        if order.is_empty() {
            return Ok(());
        }
        let g = flatten(gradients, &order)?;
        self.t += 1.0;
        let [m, v] = match self.moments.take() {
            Some(moments) => moments,
            None => [g.zeros_like()?, g.zeros_like()?],
        };
        let m = (&m + ((&g - &m)? * (1.0 - beta1))?)?;
        let v = (&v + ((g.sqr()? - &v)? * (1.0 - beta2))?)?;
        let d = v.sqrt()?.affine(1.0 / (1.0 - beta2.powf(self.t)).sqrt(), eps)?;
        let update = self.direction(&(&m * (1.0 / (1.0 - beta1.powf(self.t))))?, &d)?;
        self.moments = Some([m, v]);

        let mut start = 0;
        let mut moved = Vec::with_capacity(order.len());
        for (_, param) in &order {
            let decay = if decays(param.kind) { self.weight_decay } else { 0.0 };
            let lr = context.rate(param.kind);
            let w = param.var.as_detached_tensor();
            let update = update.narrow(0, start, w.elem_count())?.reshape(w.shape())?;
            let change = ((update * -lr)? - (&w * (lr * decay))?)?;
            if let Some(row) = param.frozen_row {
                change.slice_set(&change.narrow(0, row, 1)?.zeros_like()?, 0, row)?;
            }
            start += w.elem_count();
            param.var.set(&(w + &change)?)?;
            moved.push(change.flatten_all()?);
        }
        if let (true, Some(again)) = (context.step.is_multiple_of(secant_freq), context.again) {
            let y = (flatten(&again()?, &order)? - g)?;
            self.keep(Tensor::cat(&moved, 0)?, &y, &d)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        (self.t, self.resets) = (0.0, 0.0);
        (self.moments, self.pairs) = (None, Vec::new());
        self.adam.reset();
    }

    fn health(&self) -> Vec<(String, f64)> {
        vec![("pairs".to_string(), self.pairs.len() as f64), ("resets".to_string(), self.resets)]
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.adam.state()?;
        let own = [("lm.t", self.t), ("lm.pairs", self.pairs.len() as f64), ("lm.resets", self.resets)];
        state.scalars.extend(own.map(|(name, value)| (name.to_string(), value)));
        state.tensors.extend(self.vectors().into_iter().map(|(name, vector)| (name, vector.clone())));
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
        let mut take = |name: String| -> Result<Tensor> {
            match saved.remove(&name) {
                Some(tensor) if tensor.dims() == [n] && tensor.dtype() == params.dtype() => {
                    tensor.to_device(params.device())
                }
                Some(tensor) => bail!("the saved optimizer state {name} is {:?}, not [{n}]", tensor.dims()),
                None => bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?"),
            }
        };
        self.moments = Some([take("lm.m".to_string())?, take("lm.v".to_string())?]);
        for i in 0..pairs as usize {
            self.pairs.push(Pair::new(take(format!("lm.s{i}"))?, take(format!("lm.y{i}"))?)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn lm(history: usize) -> Lm {
        Lm::new(Hessian2Config { history, ..Hessian2Config::default() }, 0.0, 0.0)
    }

    fn vector(values: &[f64]) -> Result<Tensor> {
        Tensor::new(values, &Device::Cpu)
    }

    /// With exact pairs of a quadratic along every axis, the recursion is its inverse.
    #[test]
    fn the_recursion_inverts_a_quadratic() -> Result<()> {
        let mut lm = lm(3);
        let curvature = [2.0, 5.0, 10.0];
        for i in 0..3 {
            let mut s = [0.0; 3];
            s[i] = 0.1;
            let y: Vec<f64> = s.iter().zip(curvature).map(|(s, c)| s * c).collect();
            lm.pairs.push(Pair::new(vector(&s)?, vector(&y)?)?);
        }
        let step: Vec<f64> = lm.two_loop(&vector(&curvature)?, &vector(&[1.0; 3])?)?.to_vec1()?;
        step.iter().for_each(|u| assert!((u - 1.0).abs() < 1e-12, "{step:?}"));
        Ok(())
    }

    #[test]
    fn negative_curvature_is_damped_and_old_pairs_go() -> Result<()> {
        let mut lm = lm(2);
        for i in 0..3 {
            lm.keep(vector(&[1.0, f64::from(i)])?, &vector(&[-3.0, 0.5])?, &vector(&[1.0, 2.0])?)?;
        }
        assert_eq!(lm.pairs.len(), 2);
        for Pair { s, y, sy } in &lm.pairs {
            let sds = (s.sqr()? * vector(&[1.0, 2.0])?)?.sum_all()?.to_scalar::<f64>()?;
            let sy = sy.to_vec1::<f64>()?[0];
            assert!((sy - 0.25 * sds).abs() < 1e-12 || sy > 0.25 * sds, "{s:?} {y:?}");
        }
        Ok(())
    }

    #[test]
    fn sums_are_whole_whatever_the_length() -> Result<()> {
        for n in [1, 4095, 4096, 4097, 3 * 4096 + 7] {
            let x = Tensor::arange(0.0, n as f64, &Device::Cpu)?;
            let expected = (0..n).map(|i| i as f64).sum::<f64>();
            assert_eq!(sum(&x, &x.ones_like()?)?.to_vec1::<f64>()?, [expected], "{n}");
        }
        Ok(())
    }
}
