//! What is kept for one tensor, and what its window makes of a gradient.

use candle_core::{bail, DType, Device, Result, Tensor, Var};

use super::super::inplace::frozen;
use super::super::kept::zeros;
use super::super::saved::Saved;
use super::super::OptimizerState;
use super::choose::Choice;
use super::forms::{self, Met};
use super::history::History;
use super::passes::Products;
use crate::config::{HvrConfig, HvrForm};
use crate::ops::Windowed;
use crate::optim::algebra::Place;
use crate::params::{Param, ParamKind};

/// State of one tensor of n elements.
pub(super) struct Block {
    config: HvrConfig,
    /// The parameter.
    name: String,
    pub(super) rule: Rule,
    /// First moment; not for diag, which has that of its window.
    m: Option<Var>,
    /// Second moment; not for the forms on the diagonal.
    v: Option<Var>,
    /// Γ `[window, n]`; not for tensors under Adam.
    gamma: Option<Var>,
    pub(super) history: History,
    pub(super) choice: Choice,
    pub(super) met: Met,
}

/// What moves a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    Adam,
    /// Adam's direction turned by the window, or made of it alone.
    LowRank,
    Diagonal,
    DiagonalLiteral,
}

impl Rule {
    /// Whether it begins with Adam's direction.
    pub(super) fn turns(self) -> bool {
        matches!(self, Rule::Adam | Rule::LowRank)
    }
}

impl Block {
    /// Zeros for a parameter.
    pub(super) fn new(config: &HvrConfig, param: &Param) -> Result<Self> {
        let rule = match config.form {
            // in these forms the step's unit is that of gradients: Adam's beside it would need a rate of its own
            HvrForm::Literal => Rule::LowRank,
            HvrForm::DiagLiteral => Rule::DiagonalLiteral,
            _ if param.kind == ParamKind::Vector => Rule::Adam,
            HvrForm::Diag => Rule::Diagonal,
            _ => Rule::LowRank,
        };
        let windowed = rule != Rule::Adam;
        let gamma = || Var::zeros((config.window, param.var.elem_count()), param.var.dtype(), param.var.device());
        Ok(Block {
            config: config.clone(),
            name: param.name.clone(),
            rule,
            m: (rule != Rule::Diagonal).then(|| zeros(param)).transpose()?,
            v: rule.turns().then(|| zeros(param)).transpose()?,
            gamma: windowed.then(gamma).transpose()?,
            history: History::new(if windowed { config.window } else { 0 }),
            choice: Choice::new(config),
            met: Met::default(),
        })
    }

    /// What the passes of update t = 1, 2, … work on. `shrink`: lr · weight decay.
    pub(super) fn windowed(&self, param: &Param, gradient: &Tensor, t: f64, lr: f64, shrink: f64) -> Windowed {
        let HvrConfig { beta1, beta2, eps, form, .. } = self.config;
        let (m_scale, root_correction) = (1.0 / (1.0 - beta1.powf(t)), (1.0 - beta2.powf(t)).sqrt());
        let share = |held: usize| 1.0 / held.max(1) as f64;
        let scalars = match self.rule {
            Rule::Adam | Rule::LowRank => [1.0 - beta1, beta2, 1.0 - beta2, eps, root_correction, m_scale, lr, shrink],
            Rule::Diagonal => [eps, share(self.with_this().len()), 0.0, 0.0, lr, shrink, 0.0, 0.0],
            Rule::DiagonalLiteral => [1.0 - beta1, m_scale, share(self.history.filled), lr, shrink, 0.0, 0.0, 0.0],
        };
        let tensor = |var: &Option<Var>| var.as_ref().map(Var::as_detached_tensor);
        Windowed {
            weight: param.var.as_detached_tensor(),
            gradient: gradient.clone(),
            m: tensor(&self.m),
            v: tensor(&self.v),
            gamma: tensor(&self.gamma),
            frozen: frozen(param),
            weights: if self.rule == Rule::Diagonal { self.of_mean() } else { Vec::new() },
            next: self.history.next,
            normalized: form != HvrForm::Literal,
            scalars,
        }
    }

    /// Slots of the window of diag: that of the present gradient first.
    fn with_this(&self) -> Vec<usize> {
        let History { next, slots, .. } = self.history;
        std::iter::once(next).chain(self.history.latest(slots - 1)).collect()
    }

    /// The weight of each slot in diag's mean: ∝ β₁^age.
    fn of_mean(&self) -> Vec<f64> {
        let (beta1, slots) = (self.config.beta1, self.with_this());
        let mut weights = vec![0.0; self.history.slots];
        for (age, &slot) in slots.iter().enumerate() {
            weights[slot] = (1.0 - beta1) * beta1.powf(age as f64) / (1.0 - beta1.powf(slots.len() as f64));
        }
        weights
    }

    /// Entries of diag's mean of squares below the first number become the second. `max` and `sum`: of the squares in
    /// the window, over n elements.
    pub(super) fn replaced(&self, (max, sum): (f64, f64), n: usize) -> [f64; 2] {
        let HvrConfig { threshold, lambda_rel, .. } = self.config;
        let held = self.with_this().len();
        [threshold * (max / held as f64), lambda_rel * (sum / (held * n.max(1)) as f64)]
    }

    /// The weight of each slot of Γ in the direction, and the slot to be written. A window that can not be solved is
    /// forgotten.
    pub(super) fn turn(&mut self, products: &Products, n: usize) -> (Vec<f64>, usize) {
        let Block { config, rule, history, choice, met, .. } = self;
        let mut weights = vec![0.0; history.slots];
        if *rule == Rule::LowRank {
            let literal = config.form == HvrForm::Literal;
            let slots = history.latest(choice.window());
            let gram = history.gram(&slots);
            let c: Vec<f64> = slots.iter().map(|&slot| products.direction[slot]).collect();
            let found = match literal {
                _ if slots.is_empty() => Some(Vec::new()),
                true => Some(forms::literal(config.literal_cap, &gram, &c, products.adam_square, met)),
                false => forms::sound(config, choice.lambda_rel(), &gram, &c, n, met),
            };
            if !literal {
                choice.observe(history, &products.gradient, products.square, n);
            }
            match found {
                Some(found) => slots.iter().zip(found).for_each(|(&slot, weight)| weights[slot] = weight),
                None => {
                    met.cleared_windows += 1.0;
                    history.clear();
                }
            }
        }
        (weights, history.next)
    }

    /// Named tensors of everything that must survive.
    pub(super) fn save(&self, state: &mut OptimizerState) -> Result<()> {
        for (kept, var) in [("m", &self.m), ("v", &self.v), ("gamma", &self.gamma)] {
            if let Some(var) = var {
                state.add(&self.name, kept, var.as_detached_tensor());
            }
        }
        if self.gamma.is_none() {
            return Ok(());
        }
        let Block { history, choice, met, .. } = self;
        let place = [history.filled, history.next, choice.window, choice.lambda].map(|x| x as f64);
        let counts = [choice.seen as f64, met.cholesky_failures, met.cleared_windows, met.psd_shifts];
        let gram = Tensor::from_slice(&history.gram, (history.slots, history.slots), &Device::Cpu)?;
        state.add(&self.name, "gram", gram);
        state.add(&self.name, "scores", Tensor::new(&choice.scores[..], &Device::Cpu)?);
        state.add(&self.name, "counters", Tensor::new(&[place, counts].concat()[..], &Device::Cpu)?);
        Ok(())
    }

    /// The inverse of [`Block::save`].
    pub(super) fn load(config: &HvrConfig, param: &Param, saved: &mut Saved) -> Result<Self> {
        let mut block = Block::new(config, param)?;
        for (kept, var) in [("m", &mut block.m), ("v", &mut block.v), ("gamma", &mut block.gamma)] {
            if let Some(var) = var {
                *var = saved.var(&param.name, kept, var)?;
            }
        }
        if block.gamma.is_none() {
            return Ok(block);
        }
        let Block { history, choice, met, .. } = &mut block;
        let host = Place { dtype: DType::F64, device: Device::Cpu };
        let mut take = |kept: &str, dims: &[usize]| -> Result<Vec<f64>> {
            saved.take(&format!("{}.{kept}", param.name), dims, &host)?.flatten_all()?.to_vec1()
        };
        history.gram = take("gram", &[history.slots, history.slots])?;
        choice.scores = take("scores", &[choice.scores.len()])?;
        let [filled, next, window, lambda, seen, cholesky_failures, cleared_windows, psd_shifts] =
            take("counters", &[8])?[..]
        else {
            bail!("eight counters of {}", param.name);
        };
        (history.filled, history.next) = ((filled as usize).min(history.slots), next as usize % history.slots.max(1));
        choice.restore(window as usize, lambda as usize, seen as u64);
        *met = Met { effective_rank: 0.0, cholesky_failures, cleared_windows, psd_shifts };
        Ok(block)
    }
}
