//! [`super::outputs`] for accelerators: the inverses of all weights with as many rows are one tensor and are corrected
//! together. What the host form decides by looking (pairs that are not finite, or carry nothing) is a mask.
//!
//! Every `secant_freq` updates, besides the second gradient: 4 launches for each input, 13 for each weight with a bias,
//! and 93 for each number of rows. Counted in the code, not measured. Nothing is read.

use candle_core::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;

use super::inputs;
use super::outputs::{DECAY, STRENGTH};
use crate::config::Hessian2Config;
use crate::optim::batched::{each, full, select, squares, Plan, Saved};
use crate::optim::{Gradients, OptimizerState, StepContext};
use crate::params::ParamSet;

/// A weight between its update and the second gradient; see [`super::outputs`]. In f64: s is a small difference.
struct Pending {
    weight: String,
    bias: String,
    /// `[columns, 1]`.
    x: Tensor,
    /// `[rows, 1]`.
    z: Tensor,
}

/// Weights with as many rows.
struct Family {
    rows: usize,
    weights: Vec<String>,
    /// `[weights, rows, rows]`.
    inverse: Tensor,
    /// `[weights, 1, rows]`.
    s: Tensor,
    y: Tensor,
    /// `[weights]`; where it is 0 there is no inverse yet.
    pairs: Tensor,
}

/// Where the blocks of a batch of weights find their inverses.
pub(super) struct Lookup {
    family: usize,
    ids: Tensor,
    /// 1 for a block that has one.
    there: Tensor,
}

/// The output sides of all weights with a bias.
pub(super) struct OutputsBatched {
    freq: u64,
    families: Vec<Family>,
    pending: Vec<Pending>,
}

impl OutputsBatched {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        OutputsBatched { freq: config.secant_freq, families: Vec::new(), pending: Vec::new() }
    }

    /// As [`super::outputs::Outputs::before`].
    pub(super) fn before(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        self.pending.clear();
        if !context.step.is_multiple_of(self.freq) || context.again.is_none() {
            return Ok(());
        }
        for group in inputs::groups(params, context.inputs) {
            let input = group.input().to_dtype(params.dtype())?;
            let x = input.mean_keepdim(0)?.to_dtype(DType::F64)?.t()?;
            for (weight, bias) in group.biases(params) {
                let z = pre_activation(params, &weight, &bias, &x)?;
                self.pending.push(Pending { weight, bias, x: x.clone(), z });
            }
        }
        Ok(())
    }

    /// As [`super::outputs::Outputs::after`]; whether a [`Lookup`] of before is of no use now.
    pub(super) fn after(&mut self, params: &ParamSet, old: &Gradients, context: &StepContext<'_>) -> Result<bool> {
        let (false, Some(again)) = (self.pending.is_empty(), context.again) else { return Ok(false) };
        let new = again()?;
        let mut found: BTreeMap<usize, BTreeMap<String, (Tensor, Tensor)>> = BTreeMap::new();
        for Pending { weight, bias, x, z } in std::mem::take(&mut self.pending) {
            let Some(index) = params.iter().position(|param| param.name == bias) else { continue };
            let s = (pre_activation(params, &weight, &bias, &x)? - z)?.to_dtype(params.dtype())?.t()?;
            let y = (&new.tensors[index] - &old.tensors[index])?.unsqueeze(0)?;
            found.entry(s.dim(1)?).or_default().insert(weight, (s, y));
        }
        let mut changed = false;
        for (rows, pairs) in found {
            let at = self.families.iter().position(|family| family.rows == rows);
            let known = |weight: &&String| at.is_some_and(|at| self.families[at].weights.contains(*weight));
            let more: Vec<String> = pairs.keys().filter(|weight| !known(weight)).cloned().collect();
            if !more.is_empty() {
                changed = true;
                let more = Family::new(rows, more, (params.dtype(), params.device()))?;
                match at {
                    Some(at) => self.families[at].append(more)?,
                    None => self.families.push(more),
                }
            }
            if let Some(family) = self.families.iter_mut().find(|family| family.rows == rows) {
                family.take_in(&pairs)?;
            }
        }
        Ok(changed)
    }

    /// For each batch of weights with inverses, where they are.
    pub(super) fn lookups(&self, plan: &Plan) -> Result<Vec<Option<Lookup>>> {
        let of = |batch: &crate::optim::batched::Batch| -> Result<Option<Lookup>> {
            let Some(family) = self.families.iter().position(|family| family.rows == batch.rows) else {
                return Ok(None);
            };
            let place = |&(param, _): &(usize, usize)| {
                self.families[family].weights.iter().position(|weight| *weight == plan.taken[param].name)
            };
            let places: Vec<Option<usize>> = batch.blocks.iter().map(place).collect();
            let ids: Vec<u32> = places.iter().map(|place| place.unwrap_or(0) as u32).collect();
            let there: Vec<f64> = places.iter().map(|place| f64::from(u8::from(place.is_some()))).collect();
            if !there.contains(&1.0) {
                return Ok(None);
            }
            let there = Tensor::from_vec(there, places.len(), &plan.device)?;
            Ok(Some(Lookup { family, ids: Tensor::from_vec(ids, places.len(), &plan.device)?, there }))
        };
        plan.batches.iter().map(of).collect()
    }

    /// The inverse for each block, and 1 where there is one.
    pub(super) fn of(&self, lookup: &Lookup) -> Result<(Tensor, Tensor)> {
        let Family { inverse, pairs, .. } = &self.families[lookup.family];
        let known = pairs.index_select(&lookup.ids, 0)?;
        let known = (known.ne(&known.zeros_like()?)?.to_dtype(DType::F64)? * &lookup.there)?;
        Ok((inverse.index_select(&lookup.ids, 0)?, known))
    }

    pub(super) fn save(&self, state: &mut OptimizerState) -> Result<()> {
        for Family { weights, inverse, s, y, pairs, .. } in &self.families {
            let pairs = pairs.to_vec1::<f64>()?;
            for (at, (weight, pairs)) in weights.iter().zip(pairs).enumerate().filter(|(_, (_, pairs))| *pairs > 0.0) {
                let parts = [("output_inverse", inverse), ("s", s), ("y", y)];
                for (name, all) in parts {
                    state.tensors.push((format!("{weight}.{name}"), all.get(at)?));
                }
                state.scalars.push((format!("{weight}.pairs"), pairs));
            }
        }
        Ok(())
    }

    pub(super) fn load(&mut self, like: (DType, &Device), saved: &mut Saved) -> Result<()> {
        (self.families, self.pending) = (Vec::new(), Vec::new());
        let mut found: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (key, tensor) in saved.all().0 {
            if let Some(weight) = key.strip_suffix(".output_inverse") {
                found.entry(tensor.dims()[0]).or_default().push(weight.to_string());
            }
        }
        for (rows, weights) in found {
            let mut take = |name: &str, height: usize| -> Result<Tensor> {
                let one = |weight: &String| saved.take_to(like, weight, name, [height, rows])?.unsqueeze(0);
                Tensor::cat(&weights.iter().map(one).collect::<Result<Vec<_>>>()?, 0)
            };
            let (inverse, s, y) = (take("output_inverse", rows)?, take("s", 1)?, take("y", 1)?);
            let pairs = weights.iter().map(|weight| saved.scalar(weight, "pairs")).collect::<Result<Vec<_>>>()?;
            let pairs = Tensor::from_vec(pairs, weights.len(), like.1)?;
            self.families.push(Family { rows, weights, inverse, s, y, pairs });
        }
        Ok(())
    }
}

impl Family {
    fn new(rows: usize, weights: Vec<String>, (dtype, device): (DType, &Device)) -> Result<Self> {
        let n = weights.len();
        let inverse = Tensor::eye(rows, dtype, device)?.broadcast_as((n, rows, rows))?.contiguous()?;
        let none = || Tensor::zeros((n, 1, rows), dtype, device);
        Ok(Family { rows, weights, inverse, s: none()?, y: none()?, pairs: Tensor::zeros(n, DType::F64, device)? })
    }

    fn append(&mut self, more: Family) -> Result<()> {
        self.weights.extend(more.weights);
        let parts = [(&mut self.inverse, more.inverse), (&mut self.s, more.s), (&mut self.y, more.y)];
        for (own, more) in parts.into_iter().chain([(&mut self.pairs, more.pairs)]) {
            *own = Tensor::cat(&[&*own, &more], 0)?;
        }
        Ok(())
    }

    /// Averages the pairs, and corrects with them.
    fn take_in(&mut self, pairs: &BTreeMap<String, (Tensor, Tensor)>) -> Result<()> {
        let none = full(f64::NAN, &self.s.narrow(0, 0, 1)?)?;
        let stacked = |of: fn(&(Tensor, Tensor)) -> &Tensor| -> Result<Tensor> {
            let one =
                |weight: &String| pairs.get(weight).map_or_else(|| Ok(none.clone()), |pair| of(pair).unsqueeze(0));
            Tensor::cat(&self.weights.iter().map(one).collect::<Result<Vec<_>>>()?, 0)
        };
        let (s, y) = (stacked(|pair| &pair.0)?, stacked(|pair| &pair.1)?);
        let size = (s.abs()?.sum(2)? + y.abs()?.sum(2)?)?.squeeze(1)?.to_dtype(DType::F64)?;
        let finite = is_finite(&size)?;
        let fresh = self.pairs.eq(&self.pairs.zeros_like()?)?;
        let share = fresh.where_cond(&full(1.0, &self.pairs)?, &full(1.0 - DECAY, &self.pairs)?)?;
        let share = each(&share.to_dtype(s.dtype())?)?;
        for (own, now) in [(&mut self.s, s), (&mut self.y, y)] {
            let moved = (&*own + (now - &*own)?.broadcast_mul(&share)?)?;
            *own = select(&finite, &moved, own, own)?;
        }
        self.pairs = (&self.pairs + finite.to_dtype(DType::F64)?)?;
        let (corrected, good) = soft_secant(&self.inverse, &self.s, &self.y)?;
        let whole = is_finite(&squares(&corrected)?.to_dtype(DType::F64)?)?;
        let good = ((good * whole.to_dtype(DType::F64)?)? * finite.to_dtype(DType::F64)?)?;
        self.inverse = select(&good, &corrected, &self.inverse, &corrected)?;
        Ok(())
    }
}

/// Corrects all of `h` with a pair each, see [`super::bfgs`]; 0 for pairs that carry nothing.
fn soft_secant(h: &Tensor, s: &Tensor, y: &Tensor) -> Result<(Tensor, Tensor)> {
    let inner = |a: &Tensor, b: &Tensor| (a * b)?.sum(2)?.squeeze(1)?.to_dtype(DType::F64);
    let narrow = |x: &Tensor| each(&x.to_dtype(h.dtype())?);
    let (yhy, sy) = (inner(&y.matmul(h)?, y)?, inner(s, y)?.sqr()?);
    let none = yhy.zeros_like()?;
    let c = ((((yhy.sqr()? + (&sy * (2.0 * STRENGTH))?)?.sqrt()? - &yhy)?) / &sy)?;
    let c = sy.gt(&none)?.where_cond(&c, &(yhy.recip()? * STRENGTH)?)?;
    let positive = |x: &Tensor| x.gt(&none)?.to_dtype(DType::F64);
    let good = ((positive(&c)? * positive(&yhy)?)? * is_finite(&c)?.to_dtype(DType::F64)?)?;
    let n = (h + s.t()?.matmul(&s.broadcast_mul(&narrow(&(&c * 0.5)?)?)?)?)?;
    let ny = y.matmul(&n)?;
    let twice_alpha = (((inner(&ny, y)? * &c)? * 2.0)? + 1.0)?.sqrt()?.affine(1.0, 1.0)?;
    let factor = ((&c * 2.0)? / twice_alpha.sqr()?)?;
    let corrected = (&n - ny.t()?.matmul(&ny.broadcast_mul(&narrow(&factor)?)?)?)?;
    Ok((((&corrected + corrected.t()?)? * 0.5)?, good))
}

/// Of numbers in f64, as u8.
fn is_finite(x: &Tensor) -> Result<Tensor> {
    x.abs()?.le(&full(f64::MAX, x)?)
}

/// W·x̄ + b `[rows, 1]`, in f64.
fn pre_activation(params: &ParamSet, weight: &str, bias: &str, x: &Tensor) -> Result<Tensor> {
    let (Some(weight), Some(bias)) = (params.get(weight), params.get(bias)) else {
        candle_core::bail!("hessian2: {weight} or {bias} is not a parameter");
    };
    let wide = |var: &candle_core::Var| var.as_detached_tensor().to_dtype(DType::F64);
    wide(&weight.var)?.matmul(x)? + wide(&bias.var)?.unsqueeze(1)?
}
