//! What is kept for one tensor, and its step.

use candle_core::{DType, Device, Result, Storage, Tensor, Var};
use std::collections::BTreeMap;

use super::super::inplace::{owned, with_slices, Real};
use super::super::{decays, take_named};
use super::choose::Choice;
use super::forms;
use super::history::History;
use super::passes::{self, Diagonal, DiagonalLiteral, Moments, Move};
use crate::config::{HvrConfig, HvrForm, HvrTruncation};
use crate::params::{Param, ParamKind};

/// State of one tensor of n elements.
pub(super) struct Block {
    rule: Rule,
    /// First moment; not for diag, which has that of its window.
    m: Option<Var>,
    /// Second moment; not for the forms on the diagonal.
    v: Option<Var>,
    /// Γ `[window, n]`; not for tensors under Adam.
    gamma: Option<Var>,
    history: History,
    choice: Choice,
    pub(super) counts: Counts,
    /// Of the last step; not saved.
    pub(super) effective_rank: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
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
                candle_core::bail!("hvr works on f32 and f64 on the CPU, not on {dtype:?} on {device:?}")
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
        let frozen = match param.frozen_row {
            Some(row) => {
                let width = g.len() / param.var.dim(0)?.max(1);
                row * width..(row + 1) * width
            }
            None => 0..0,
        };
        let shrink = if decays(param.kind) { update.lr * update.weight_decay } else { 0.0 };
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
        let Update { config, lr, t, .. } = *update;
        let literal = config.form == HvrForm::Literal;
        let moments = Moments {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            m_correction: 1.0 - config.beta1.powf(t as f64),
            root_correction: (1.0 - config.beta2.powf(t as f64)).sqrt(),
            normalized: !literal,
        };
        let products = passes::observe(&moments, m, v, g, gamma);
        let mut weights = vec![0.0; self.history.slots()];
        let mut failed = false;
        if self.rule == Rule::LowRank && self.history.filled() > 0 {
            let slots = self.history.latest(self.choice.window());
            let gram = self.history.gram(&slots);
            let c: Vec<f64> = slots.iter().map(|&slot| products.direction[slot]).collect();
            let found = if literal {
                Some(self.literal(config.literal_cap, &gram, &c, products.adam_square))
            } else {
                self.sound(config, &gram, &c, g.len())
            };
            failed = found.is_none();
            for (slot, weight) in slots.into_iter().zip(found.unwrap_or_default()) {
                weights[slot] = weight;
            }
        }
        if self.rule == Rule::LowRank && !literal {
            self.choice.observe(&self.history, &products.gradient, products.square, g.len());
        }
        if failed {
            self.history.clear();
        }
        let step = Move { lr, shrink, with_q: !literal, weights: &weights };
        passes::apply(&moments, &step, w, (m, v, g), gamma, self.history.next());
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
        let Update { config, lr, .. } = *update;
        let HvrConfig { beta1, eps, window, threshold, lambda_rel, truncation, .. } = *config;
        let next = self.history.next();
        let earlier = self.history.latest(window - 1);
        let held = earlier.len() + 1;
        let mut weights = vec![0.0; window];
        for (age, slot) in std::iter::once(next).chain(earlier).enumerate() {
            weights[slot] = (1.0 - beta1) * beta1.powf(age as f64) / (1.0 - beta1.powf(held as f64));
        }
        let floor = (truncation == HvrTruncation::Entries).then(|| {
            let (max, mean) = passes::diagonal_extent(held, g, gamma, next);
            (threshold * max, lambda_rel * mean)
        });
        passes::diagonal(&Diagonal { eps, weights: &weights, held, floor, lr, shrink }, w, g, gamma, next);
        // no Gram matrix is needed, only whose turn it is
        self.history.push(&[], 0.0);
    }

    fn diagonal_literal<T: Real>(
        &mut self,
        update: &Update<'_>,
        shrink: f64,
        w: &mut [T],
        (m, g): (&mut [T], &[T]),
        gamma: &mut [T],
    ) {
        let Update { config: HvrConfig { beta1, .. }, lr, t, .. } = *update;
        let (beta1, held) = (*beta1, self.history.filled());
        let rule = DiagonalLiteral { beta1, m_correction: 1.0 - beta1.powf(t as f64), held, lr, shrink };
        passes::diagonal_literal(&rule, w, m, g, gamma, self.history.next());
        self.history.push(&[], 0.0);
    }
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
