//! What is kept for one tensor, and its step.

use candle_core::{DType, Device, Result, Storage, Tensor, Var};
use std::collections::BTreeMap;
use std::ops::Range;

use super::super::inplace::{owned, with_slices, Real};
use super::super::{decays, take_named};
use super::choose::Choice;
use super::forms;
use super::history::History;
use super::passes::{self, Diagonal, DiagonalLiteral, Moments, Move, Products};
use crate::config::{HvrConfig, HvrForm, HvrTruncation};
use crate::params::{Param, ParamKind};

/// State of one tensor of n elements.
pub(super) struct Block {
    pub(super) rule: Rule,
    /// First moment; not for diag, which has that of its window.
    pub(super) m: Option<Var>,
    /// Second moment; not for the forms on the diagonal.
    pub(super) v: Option<Var>,
    /// Γ `[window, n]`; not for tensors under Adam.
    pub(super) gamma: Option<Var>,
    pub(super) history: History,
    choice: Choice,
    pub(super) counts: Counts,
    /// Of the last step; not saved.
    pub(super) effective_rank: f64,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Rule {
    Adam,
    LowRank,
    Diagonal,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) cholesky_failures: u64,
    /// Windows forgotten because no solve succeeded.
    pub(super) cleared_windows: u64,
    /// Truncated Gram matrices that had lost positive semi-definiteness.
    pub(super) psd_shifts: u64,
}

/// What an update is, for all tensors.
pub(super) struct Update<'a> {
    pub(super) config: &'a HvrConfig,
    pub(super) weight_decay: f64,
    pub(super) lr: f64,
    /// Updates done, this one included.
    pub(super) t: u64,
}

impl Update<'_> {
    pub(super) fn moments(&self) -> Moments {
        let HvrConfig { beta1, beta2, eps, form, .. } = *self.config;
        let t = self.t as f64;
        Moments {
            beta1,
            beta2,
            eps,
            m_correction: 1.0 - beta1.powf(t),
            root_correction: (1.0 - beta2.powf(t)).sqrt(),
            normalized: form != HvrForm::Literal,
        }
    }

    /// lr · weight decay, where it reaches.
    pub(super) fn shrink(&self, param: &Param) -> f64 {
        if decays(param.kind) {
            self.lr * self.weight_decay
        } else {
            0.0
        }
    }

    pub(super) fn truncates_entries(&self) -> bool {
        self.config.truncation == HvrTruncation::Entries
    }
}

impl Block {
    /// Zeros for a parameter.
    pub(super) fn new(config: &HvrConfig, param: &Param) -> Result<Self> {
        let rule = match config.form {
            // in these forms the step's unit is that of gradients: Adam's beside it would need a rate of its own
            HvrForm::Literal => Rule::LowRank,
            HvrForm::DiagLiteral => Rule::Diagonal,
            _ if param.kind == ParamKind::Vector => Rule::Adam,
            HvrForm::Diag => Rule::Diagonal,
            _ => Rule::LowRank,
        };
        let (n, dtype, device) = (param.var.elem_count(), param.var.dtype(), param.var.device());
        let zeros = || Var::zeros(param.var.shape(), dtype, device);
        let gamma = || Var::zeros((config.window, n), dtype, device);
        Ok(Block {
            rule,
            m: if rule == Rule::Diagonal && config.form == HvrForm::Diag { None } else { Some(zeros()?) },
            v: if rule == Rule::Diagonal { None } else { Some(zeros()?) },
            gamma: if rule == Rule::Adam { None } else { Some(gamma()?) },
            history: History::new(if rule == Rule::Adam { 0 } else { config.window }),
            choice: Choice::new(config),
            counts: Counts::default(),
            effective_rank: 0.0,
        })
    }

    /// The window in use and its damping; `None` under Adam.
    pub(super) fn present(&self) -> Option<(usize, f64)> {
        (self.rule != Rule::Adam).then(|| (self.choice.window(), self.choice.lambda_rel()))
    }

    /// One update of the parameter in place.
    pub(super) fn step(&mut self, param: &Param, gradient: &Tensor, update: &Update<'_>) -> Result<()> {
        match (gradient.device(), gradient.dtype()) {
            (Device::Cpu, DType::F32) => self.step_cpu::<f32>(param, gradient, update),
            (Device::Cpu, DType::F64) => self.step_cpu::<f64>(param, gradient, update),
            (device, dtype) => {
                candle_core::bail!("hvr: a gradient of type {dtype:?} on {device:?}")
            }
        }
    }

    fn step_cpu<T: Real>(&mut self, param: &Param, gradient: &Tensor, update: &Update<'_>) -> Result<()> {
        let (storage, layout) = gradient.storage_and_layout();
        let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
            candle_core::bail!("the gradient must be contiguous and on the CPU");
        };
        let g = &storage.as_slice::<T>()?[from..to];
        if g.len() != param.var.elem_count() {
            candle_core::bail!("a gradient of {} elements for {} values", g.len(), param.var.elem_count());
        }
        let frozen = frozen(param)?;
        let shrink = update.shrink(param);
        let (m, v, gamma) = (self.m.clone(), self.v.clone(), self.gamma.clone());
        let tensors: Vec<&Tensor> = [Some(&param.var), m.as_ref(), v.as_ref(), gamma.as_ref()]
            .into_iter()
            .flatten()
            .map(|var| &**var)
            .collect();
        with_slices(&tensors, Vec::new(), &mut |slices: Vec<&mut [T]>| {
            let mut slices = slices.into_iter();
            let mut next = |there: bool| if there { slices.next().unwrap_or_default() } else { Default::default() };
            let (w, m) = (next(true), next(m.is_some()));
            let (v, gamma) = (next(v.is_some()), next(gamma.is_some()));
            // decay would move the frozen row
            let kept = w[frozen.clone()].to_vec();
            match self.rule {
                Rule::Diagonal if update.config.form == HvrForm::DiagLiteral => {
                    self.diagonal_literal(update, shrink, w, (m, g), gamma);
                }
                Rule::Diagonal => self.diagonal(update, shrink, w, g, gamma),
                _ => self.low_rank(update, shrink, w, (m, v, g), gamma),
            }
            w[frozen.clone()].copy_from_slice(&kept);
            Ok(())
        })
    }

    /// Adam's direction, turned by the window.
    fn low_rank<T: Real>(
        &mut self,
        update: &Update<'_>,
        shrink: f64,
        w: &mut [T],
        (m, v, g): (&mut [T], &mut [T], &[T]),
        gamma: &mut [T],
    ) {
        let moments = update.moments();
        let products = passes::observe(&moments, m, v, g, gamma);
        let weights = self.turn(update.config, &products, g.len());
        let step = Move { lr: update.lr, shrink, with_q: moments.normalized, weights: &weights };
        passes::apply(&moments, &step, w, (m, v, g), gamma, self.history.next());
        self.push(&products);
    }

    /// The weight of each slot of Γ in the direction. A window that can not be solved is forgotten.
    pub(super) fn turn(&mut self, config: &HvrConfig, products: &Products, n: usize) -> Vec<f64> {
        let mut weights = vec![0.0; self.history.slots()];
        if self.rule != Rule::LowRank {
            return weights;
        }
        let literal = config.form == HvrForm::Literal;
        let mut failed = false;
        if self.history.filled() > 0 {
            let slots = self.history.latest(self.choice.window());
            let gram = self.history.gram(&slots);
            let c: Vec<f64> = slots.iter().map(|&slot| products.direction[slot]).collect();
            let found = if literal {
                Some(self.literal(config.literal_cap, &gram, &c, products.adam_square))
            } else {
                self.sound(config, &gram, &c, n)
            };
            failed = found.is_none();
            for (slot, weight) in slots.into_iter().zip(found.unwrap_or_default()) {
                weights[slot] = weight;
            }
        }
        if !literal {
            self.choice.observe(&self.history, &products.gradient, products.square, n);
        }
        if failed {
            self.history.clear();
        }
        weights
    }

    /// After Γ has taken in the gradient.
    pub(super) fn push(&mut self, products: &Products) {
        if self.rule == Rule::LowRank {
            self.history.push(&products.gradient, products.square);
        }
    }

    /// Weights of the gradients of inv or isqrt; `None` when no solve succeeded.
    fn sound(&mut self, config: &HvrConfig, gram: &[f64], c: &[f64], n: usize) -> Option<Vec<f64>> {
        let solved = forms::sound(config, self.choice.lambda_rel(), gram, c, n);
        self.effective_rank = solved.effective_rank;
        self.counts.cholesky_failures += solved.cholesky_failures;
        self.counts.psd_shifts += u64::from(solved.shifted);
        self.counts.cleared_windows += u64::from(solved.weights.is_none());
        solved.weights
    }

    /// Weights of the gradients of the literal form, its direction no longer than `cap` times Adam's.
    fn literal(&mut self, cap: f64, gram: &[f64], c: &[f64], adam_square: f64) -> Vec<f64> {
        let (mut weights, square) = forms::literal(gram, c);
        self.effective_rank = forms::effective_rank(gram, c.len());
        if cap > 0.0 && square > cap * cap * adam_square {
            let factor = cap * (adam_square / square).sqrt();
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
        weights
    }

    fn diagonal<T: Real>(&mut self, update: &Update<'_>, shrink: f64, w: &mut [T], g: &[T], gamma: &mut [T]) {
        let next = self.history.next();
        let held = self.held();
        let extent = update.truncates_entries().then(|| passes::diagonal_extent(held, g, gamma, next));
        passes::diagonal(&self.diagonal_rule(update, shrink, extent), w, g, gamma, next);
        self.push_alone();
    }

    /// Gradients in the window of diag, the present one included.
    pub(super) fn held(&self) -> usize {
        self.history.latest(self.history.slots() - 1).len() + 1
    }

    /// `extent`: largest and mean entry of the diagonal, where small ones are replaced.
    pub(super) fn diagonal_rule(&self, update: &Update<'_>, shrink: f64, extent: Option<(f64, f64)>) -> Diagonal {
        let HvrConfig { beta1, eps, window, threshold, lambda_rel, .. } = *update.config;
        let (next, held) = (self.history.next(), self.held());
        let mut weights = vec![0.0; window];
        for (age, slot) in std::iter::once(next).chain(self.history.latest(window - 1)).enumerate() {
            weights[slot] = (1.0 - beta1) * beta1.powf(age as f64) / (1.0 - beta1.powf(held as f64));
        }
        let floor = extent.map(|(max, mean)| (threshold * max, lambda_rel * mean));
        Diagonal { eps, weights, held, floor, lr: update.lr, shrink }
    }

    fn diagonal_literal<T: Real>(
        &mut self,
        update: &Update<'_>,
        shrink: f64,
        w: &mut [T],
        (m, g): (&mut [T], &[T]),
        gamma: &mut [T],
    ) {
        passes::diagonal_literal(&self.literal_rule(update, shrink), w, m, g, gamma, self.history.next());
        self.push_alone();
    }

    pub(super) fn literal_rule(&self, update: &Update<'_>, shrink: f64) -> DiagonalLiteral {
        let beta1 = update.config.beta1;
        let m_correction = 1.0 - beta1.powf(update.t as f64);
        DiagonalLiteral { beta1, m_correction, held: self.history.filled(), lr: update.lr, shrink }
    }

    /// The forms on the diagonal need no Gram matrix, only whose turn it is.
    pub(super) fn push_alone(&mut self) {
        self.history.push(&[], 0.0);
    }
}

/// Elements that stay.
pub(super) fn frozen(param: &Param) -> Result<Range<usize>> {
    let Some(row) = param.frozen_row else { return Ok(0..0) };
    let width = param.var.elem_count() / param.var.dim(0)?.max(1);
    Ok(row * width..(row + 1) * width)
}

/// Order of the saved counters.
const COUNTERS: usize = 8;

impl Block {
    /// Named tensors of everything that must survive.
    pub(super) fn save(&self, name: &str, tensors: &mut Vec<(String, Tensor)>) -> Result<()> {
        let mut add = |state: &str, tensor: Tensor| tensors.push((format!("{name}.{state}"), tensor));
        if let Some(m) = &self.m {
            add("m", m.as_detached_tensor());
        }
        if let Some(v) = &self.v {
            add("v", v.as_detached_tensor());
        }
        if let Some(gamma) = &self.gamma {
            let (history, choice) = (&self.history, &self.choice);
            let [window, lambda, seen] = choice.counters();
            let Counts { cholesky_failures, cleared_windows, psd_shifts } = self.counts;
            let counters: [f64; COUNTERS] = [
                history.filled() as f64,
                history.next() as f64,
                window,
                lambda,
                seen,
                cholesky_failures as f64,
                cleared_windows as f64,
                psd_shifts as f64,
            ];
            let slots = history.slots();
            add("gamma", gamma.as_detached_tensor());
            add("gram", Tensor::from_slice(history.whole_gram(), (slots, slots), &Device::Cpu)?);
            add("scores", Tensor::from_slice(choice.scores(), choice.scores().len(), &Device::Cpu)?);
            add("counters", Tensor::from_slice(&counters, COUNTERS, &Device::Cpu)?);
        }
        Ok(())
    }

    /// The inverse of [`Block::save`].
    pub(super) fn load(config: &HvrConfig, param: &Param, saved: &mut BTreeMap<String, Tensor>) -> Result<Self> {
        let mut block = Block::new(config, param)?;
        if block.m.is_some() {
            block.m = Some(owned(&take_named(saved, param, "m")?)?);
        }
        if block.v.is_some() {
            block.v = Some(owned(&take_named(saved, param, "v")?)?);
        }
        if let Some(zeros) = &block.gamma {
            let slots = block.history.slots();
            let gamma = take_shaped(saved, param, "gamma", zeros.dims(), zeros.dtype())?;
            let gram = take_shaped(saved, param, "gram", &[slots, slots], DType::F64)?.flatten_all()?.to_vec1()?;
            let scores = take_shaped(saved, param, "scores", &[block.choice.scores().len()], DType::F64)?.to_vec1()?;
            let counters: Vec<f64> = take_shaped(saved, param, "counters", &[COUNTERS], DType::F64)?.to_vec1()?;
            let count = |i: usize| counters[i] as u64;
            block.history = History::restored(slots, (count(0) as usize, count(1) as usize), gram);
            block.choice.restore([counters[2], counters[3], counters[4]], scores);
            block.counts = Counts { cholesky_failures: count(5), cleared_windows: count(6), psd_shifts: count(7) };
            block.gamma = Some(owned(&gamma.to_device(param.var.device())?)?);
        }
        Ok(block)
    }
}

/// As [`take_named`] for a tensor that is not shaped like its parameter.
fn take_shaped(
    saved: &mut BTreeMap<String, Tensor>,
    param: &Param,
    state: &str,
    dims: &[usize],
    dtype: DType,
) -> Result<Tensor> {
    let name = format!("{}.{state}", param.name);
    let Some(tensor) = saved.remove(&name) else {
        candle_core::bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?");
    };
    if tensor.dims() != dims || tensor.dtype() != dtype {
        let (was, found) = (tensor.dims(), tensor.dtype());
        candle_core::bail!("the saved optimizer state {name} is {found:?} {was:?}, expected {dtype:?} {dims:?}");
    }
    Ok(tensor)
}
