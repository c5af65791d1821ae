//! What all optimizers of single matrices share: state by name, all cores, the trust clip, decoupled weight decay, the
//! write, health; and Adam, at the same rate, for the parameters that the rule does not take.
//!
//! ```text
//! U ← rule(G)                       NaN or infinity: the state of this matrix is reset, no update
//! U ← U · min(1, τ / rms(U))        trust clip, if the rule has one
//! W ← W − lr·(U + wd·W)
//! ```

use candle_core::{bail, DType, Result, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

use super::inplace::with_slices;
use super::matrix::{rms, Matrix};
use super::{decays, Adam, AdamRule, Gradients, Optimizer, OptimizerState, StepContext};
use crate::ops::{values, Mat, Real};
use crate::params::{Param, ParamSet};
use crate::rng::{self, Purpose};

/// How the gradient of one matrix becomes its update.
pub(super) trait Rule<T: Real>: Send + Sync {
    type State: Named<T> + Send + Sync;

    /// Of the optimizer, in config and reports.
    fn name(&self) -> &'static str;

    /// Its numbers, for the pre-flight table.
    fn describe(&self) -> String;

    /// Whether it is meant for this parameter, whose shape is `[rows, columns]`.
    fn takes(&self, param: &Param) -> bool;

    /// State before the first update.
    fn start(&self, param: &Param, rows: usize, columns: usize) -> Self::State;

    /// The direction to go against, without learning rate and decay.
    fn direction(&self, state: &mut Self::State, gradient: &Gradient<'_, T>, at: &At<'_>) -> Result<Direction<T>>;

    /// τ of the trust clip.
    fn trust(&self) -> Option<f64> {
        None
    }

    /// See [`Optimizer::needs_inputs`].
    fn needs_inputs(&self, step: u64) -> bool {
        let _ = step;
        false
    }

    /// Called before the directions of an update: statistics that several matrices share.
    fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        let _ = (params, context);
        Ok(())
    }

    /// State that several matrices share, by name.
    fn shared(&self) -> Vec<(String, &dyn Named<T>)> {
        Vec::new()
    }

    /// Forgets the shared state and makes it ready to be filled: one entry for each of these names.
    fn shared_mut(&mut self, saved: &BTreeMap<String, Tensor>) -> Vec<(String, &mut dyn Named<T>)> {
        let _ = saved;
        Vec::new()
    }

    /// Numbers that several matrices share, by name.
    fn shared_scalars(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Their inverse; called when the shared state is filled.
    fn load_shared_scalars(&mut self, scalars: &[(String, f64)]) {
        let _ = scalars;
    }

    /// More numbers for the metrics.
    fn health(&self) -> Vec<(String, f64)> {
        Vec::new()
    }
}

/// State whose parts have names.
pub(super) trait Named<T> {
    fn matrices(&self) -> Vec<(String, &Matrix<T>)>;
    fn matrices_mut(&mut self) -> Vec<(String, &mut Matrix<T>)>;
    fn scalars(&self) -> Vec<(&'static str, f64)>;
    fn scalars_mut(&mut self) -> Vec<(&'static str, &mut f64)>;
}

/// Declares a state: matrices, then scalars.
macro_rules! state {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $matrix:ident),* $(,)?; $($(#[$note:meta])* $scalar:ident),* $(,)? }) => {
        $(#[$meta])*
        pub(in crate::optim) struct $name<T> {
            $($(#[$doc])* pub(in crate::optim) $matrix: $crate::optim::matrix::Matrix<T>,)*
            $($(#[$note])* pub(in crate::optim) $scalar: f64,)*
        }

        impl<T: $crate::ops::Real> $crate::optim::per_matrix::Named<T> for $name<T> {
            fn matrices(&self) -> Vec<(String, &$crate::optim::matrix::Matrix<T>)> {
                vec![$((stringify!($matrix).to_string(), &self.$matrix)),*]
            }

            fn matrices_mut(&mut self) -> Vec<(String, &mut $crate::optim::matrix::Matrix<T>)> {
                vec![$((stringify!($matrix).to_string(), &mut self.$matrix)),*]
            }

            fn scalars(&self) -> Vec<(&'static str, f64)> {
                vec![$((stringify!($scalar), self.$scalar)),*]
            }

            fn scalars_mut(&mut self) -> Vec<(&'static str, &mut f64)> {
                vec![$((stringify!($scalar), &mut self.$scalar)),*]
            }
        }
    };
}
pub(super) use state;

/// The gradient of one matrix.
pub(super) struct Gradient<'a, T> {
    pub(super) values: &'a [T],
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl<T: Real> Gradient<'_, T> {
    pub(super) fn view(&self) -> Mat<'_, T> {
        Mat::new(self.values, self.rows, self.columns)
    }

    pub(super) fn to_matrix(&self) -> Matrix<T> {
        Matrix { rows: self.rows, columns: self.columns, data: self.values.to_vec() }
    }

    pub(super) fn row(&self, i: usize) -> &[T] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }
}

/// Where in the run an update of one matrix stands.
pub(super) struct At<'a> {
    pub(super) param: &'a Param,
    /// Updates done by the run before this one.
    pub(super) step: u64,
    pub(super) seed: u64,
}

impl At<'_> {
    /// Random numbers of this update of this parameter.
    pub(super) fn random(&self) -> rng::Stream {
        probe_stream(self.seed, self.step, &self.param.name)
    }
}

/// The stream of sketches and probes for a parameter (or an input group) at an update; it does not depend on the order
/// of parameters.
pub fn probe_stream(seed: u64, step: u64, name: &str) -> rng::Stream {
    let name = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) & 0xff_ffff;
    rng::stream(seed, Purpose::Probe, (name << 24) ^ step)
}

/// What a rule answers.
pub(super) struct Direction<T> {
    pub(super) update: Matrix<T>,
    /// How far the tracked curvature is from the truth on a fresh probe, when it was asked.
    pub(super) residual: Option<f64>,
    /// A factor had failed and was reset.
    pub(super) reset: bool,
}

impl<T> Direction<T> {
    pub(super) fn plain(update: Matrix<T>) -> Self {
        Direction { update, residual: None, reset: false }
    }
}

/// One line for the pre-flight table.
pub(super) fn describe(name: &str, lr: f64, numbers: &str, weight_decay: f64) -> String {
    let decay = if weight_decay > 0.0 { format!(", weight decay {weight_decay}") } else { String::new() };
    format!("{name}, lr {lr}, {numbers}{decay}")
}

/// An optimizer made of a rule.
pub(super) struct PerMatrix<R: Rule<T>, T: Real> {
    rule: R,
    /// For the parameters that the rule does not take.
    adam: Adam,
    weight_decay: f64,
    lr: f64,
    states: BTreeMap<String, R::State>,
    health: Health,
}

/// Sums for the metrics; saved, so that a resumed run goes on with them.
#[derive(Clone, Debug, Default)]
struct Health {
    update_rms: f64,
    trust_clips: f64,
    resets: f64,
    residual: f64,
}

impl Health {
    fn fields(&mut self) -> [(&'static str, &mut f64); 4] {
        [
            ("update_rms", &mut self.update_rms),
            ("trust_clips", &mut self.trust_clips),
            ("resets", &mut self.resets),
            ("residual", &mut self.residual),
        ]
    }
}

/// What became of one matrix in one update.
struct Outcome {
    rms: f64,
    clipped: bool,
    reset: bool,
    residual: Option<f64>,
}

/// A [`PerMatrix`] for parameters of this number type.
pub(super) fn boxed<R: Rule<f32> + Rule<f64> + 'static>(
    rule: R,
    adam: (f64, f64, f64),
    weight_decay: f64,
    lr: f64,
    dtype: DType,
) -> Box<dyn Optimizer> {
    match dtype {
        DType::F64 => Box::new(PerMatrix::<_, f64>::new(rule, adam, weight_decay, lr)),
        _ => Box::new(PerMatrix::<_, f32>::new(rule, adam, weight_decay, lr)),
    }
}

impl<R: Rule<T>, T: Real> PerMatrix<R, T> {
    /// `adam` moves the other parameters; `weight_decay` is decoupled; `lr` is for [`Optimizer::describe`] only.
    pub(super) fn new(rule: R, (beta1, beta2, eps): (f64, f64, f64), weight_decay: f64, lr: f64) -> Self {
        let adam = AdamRule { name: "adam", beta1, beta2, eps, weight_decay, decoupled: true, lr };
        PerMatrix { rule, adam: Adam::new(adam), weight_decay, lr, states: BTreeMap::new(), health: Health::default() }
    }

    fn takes(&self, param: &Param) -> bool {
        param.var.dims().len() == 2 && self.rule.takes(param)
    }

    fn start(&self, param: &Param) -> Result<R::State> {
        let (rows, columns) = param.var.dims2()?;
        Ok(self.rule.start(param, rows, columns))
    }

    fn one(&self, param: &Param, gradient: &Tensor, state: &mut R::State, at: &StepContext<'_>) -> Result<Outcome> {
        let (rows, columns) = param.var.dims2()?;
        let gradient = values::<T>(gradient)?;
        let gradient = Gradient { values: &gradient, rows, columns };
        let at_param = At { param, step: at.step, seed: at.seed };
        let Direction { mut update, residual, reset } = self.rule.direction(state, &gradient, &at_param)?;
        let frozen = param.frozen_row.map(|row| row * columns..(row + 1) * columns).unwrap_or_default();
        update.data[frozen.clone()].fill(T::zero());
        let size = rms(&update.data);
        if !size.is_finite() {
            *state = self.start(param)?;
            return Ok(Outcome { rms: 0.0, clipped: false, reset: true, residual });
        }
        let trust = self.rule.trust().map_or(1.0, |most| (most / size).min(1.0));
        let decay = if decays(param.kind) { self.weight_decay } else { 0.0 };
        let lr = at.rate(param.kind);
        let (rate, shrink) = (T::from_f64(lr * trust), T::from_f64(lr * decay));
        with_slices(&[&param.var], Vec::new(), &mut |slices: Vec<&mut [T]>| {
            for w in slices {
                let mut write = |range: Range<usize>| {
                    let pairs = w[range.clone()].iter_mut().zip(&update.data[range]);
                    pairs.for_each(|(w, &u)| *w -= shrink * *w + rate * u);
                };
                write(0..frozen.start);
                write(frozen.end..update.data.len());
            }
            Ok(())
        })?;
        Ok(Outcome { rms: size * trust, clipped: trust < 1.0, reset, residual })
    }

    fn note(&mut self, outcomes: &[Outcome]) {
        let sum = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>();
        self.health.update_rms = sum(|o| o.rms) / outcomes.len().max(1) as f64;
        self.health.trust_clips += sum(|o| f64::from(o.clipped));
        self.health.resets += sum(|o| f64::from(o.reset));
        let residuals: Vec<f64> = outcomes.iter().filter_map(|o| o.residual).collect();
        if !residuals.is_empty() {
            self.health.residual = residuals.iter().sum::<f64>() / residuals.len() as f64;
        }
    }
}

impl<R: Rule<T>, T: Real> Optimizer for PerMatrix<R, T> {
    fn name(&self) -> &'static str {
        self.rule.name()
    }

    fn describe(&self) -> String {
        describe(self.rule.name(), self.lr, &self.rule.describe(), self.weight_decay)
    }

    fn needs_inputs(&self, step: u64) -> bool {
        self.rule.needs_inputs(step)
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        self.rule.observe(params, context)?;
        let rest = params.iter().zip(&gradients.tensors).filter(|(param, _)| !self.takes(param));
        let rest: Vec<_> = rest.collect();
        self.adam.step_some(rest.into_iter(), context)?;

        let mut states = std::mem::take(&mut self.states);
        let mut jobs = Vec::new();
        for (param, gradient) in params.iter().zip(&gradients.tensors).filter(|(param, _)| self.takes(param)) {
            let state = match states.remove(&param.name) {
                Some(state) => state,
                None => self.start(param)?,
            };
            jobs.push((param, gradient, state));
        }
        // the largest first, or one thread would end with it alone
        jobs.sort_by_key(|(param, ..)| std::cmp::Reverse(param.var.elem_count()));
        let outcomes = jobs
            .par_iter_mut()
            .with_max_len(1)
            .map(|(param, gradient, state)| self.one(param, gradient, state, context))
            .collect::<Result<Vec<_>>>();
        self.states = jobs.into_iter().map(|(param, _, state)| (param.name.clone(), state)).collect();
        self.note(&outcomes?);
        Ok(())
    }

    fn reset(&mut self) {
        self.health = Health::default();
        self.states.clear();
        self.adam.reset();
        self.rule.shared_mut(&BTreeMap::new());
    }

    fn health(&self) -> Vec<(String, f64)> {
        let mut health = self.health.clone();
        let own = health.fields().map(|(name, value)| (name.to_string(), *value));
        // rules that are never asked for a residual have none
        let known = own.into_iter().filter(|(name, value)| name != "residual" || *value != 0.0);
        known.chain(self.rule.health()).collect()
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.adam.state()?;
        state.scalars.extend(self.rule.shared_scalars());
        state.scalars.extend(self.health.clone().fields().map(|(name, value)| (name.to_string(), *value)));
        let own = self.states.iter().map(|(name, state)| (name.clone(), state as &dyn Named<T>));
        for (owner, named) in own.chain(self.rule.shared()) {
            for (name, matrix) in named.matrices() {
                let tensor =
                    Tensor::from_slice(&matrix.data, (matrix.rows, matrix.columns), &candle_core::Device::Cpu)?;
                state.tensors.push((format!("{owner}.{name}"), tensor));
            }
            state.scalars.extend(named.scalars().into_iter().map(|(name, value)| (format!("{owner}.{name}"), value)));
        }
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        self.reset();
        for (name, value) in self.health.fields() {
            *value = state.scalar(name)?;
        }
        let (adam_updates, scalars) = (state.scalar("t")? as u64, state.scalars);
        let mut saved: BTreeMap<String, Tensor> = state.tensors.into_iter().collect();
        for (owner, named) in self.rule.shared_mut(&saved) {
            fill(&owner, named, &mut saved, &scalars)?;
        }
        self.rule.load_shared_scalars(&scalars);
        let (taken, rest): (Vec<_>, Vec<_>) = params.iter().partition(|param| self.takes(param));
        self.adam.load_some(rest.into_iter(), &mut saved, adam_updates)?;
        for param in taken.into_iter().filter(|_| adam_updates > 0) {
            let mut fresh = self.start(param)?;
            fill(&param.name, &mut fresh, &mut saved, &scalars)?;
            self.states.insert(param.name.clone(), fresh);
        }
        Ok(())
    }
}

/// Puts saved tensors and scalars `OWNER.NAME` into a state.
fn fill<T: Real>(
    owner: &str,
    state: &mut dyn Named<T>,
    saved: &mut BTreeMap<String, Tensor>,
    scalars: &[(String, f64)],
) -> Result<()> {
    for (name, matrix) in state.matrices_mut() {
        let name = format!("{owner}.{name}");
        let Some(tensor) = saved.remove(&name) else {
            bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?");
        };
        if tensor.dims() != [matrix.rows, matrix.columns] || tensor.dtype() != T::DTYPE {
            let expected = [matrix.rows, matrix.columns];
            bail!("the saved optimizer state {name} is {:?} {:?}, not {expected:?}", tensor.dtype(), tensor.dims());
        }
        matrix.data = tensor.flatten_all()?.to_vec1()?;
    }
    for (name, value) in state.scalars_mut() {
        let name = format!("{owner}.{name}");
        let Some((_, saved)) = scalars.iter().find(|(n, _)| *n == name) else {
            bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?");
        };
        *value = *saved;
    }
    Ok(())
}
