//! The form of `per_matrix` for accelerators: the same update of the same weights, as tensor operations on batches of
//! equal blocks (see [`Plan`]), with nothing read back in a step. A rule writes only its directions ([`BatchRule`]).
//!
//! ```text
//! U ← rule(G)                       not finite: the state of this matrix is reset, no update
//! U ← U · min(1, τ / rms(U))        trust clip, if the rule has one
//! W ← W − lr·(U + wd·W)
//! ```
//!
//! What the host form decides by looking is selected by masks here: the clip is a factor, a failure a mask that puts the
//! state back to its start, counters are sums on the device. Checkpoints are those of the host form: the same names and
//! shapes, each loads the other's.
//!
//! Launches of an update besides those of the rule, with P matrices taken in B batches: G and W gathered and W put back by
//! a copy each, 3·P (a table that is alone of its shape is put back only), 42 + 17·B for sizes, clip, decay, write and
//! health, and 2 for each frozen row. Transformer-base (6 + 6 layers, one shared table; P = 97, B = 2 with `hessian2`):
//! 289 + 76 + 2, and 5 more for decay and buffers: about 370. Counted in the code, kernels and copies on the device, from
//! what candle launches for each operation; not measured. The rules' own: `muon`, `soap`,
//! and `white_batched`, `kron_batched`, `rot_batched` in `hessian2`.

mod copy;
mod health;
mod muon;
mod plan;
mod saved;
mod soap;

use candle_core::{DType, Result, Tensor};

use super::per_matrix::describe;
use super::{decays, Adam, AdamRule, Gradients, Optimizer, OptimizerState, StepContext};
use crate::params::{Param, ParamKind, ParamSet};
pub(super) use copy::copy_into;
use health::{Health, Outcome, FIELDS};
pub(super) use muon::Muon;
pub(super) use plan::{each, full, least, power, select, squares, Batch, Plan, Taken};
pub(super) use saved::Saved;
pub(super) use soap::Soap;

/// How the gradients of all its matrices become their updates.
pub(super) trait BatchRule: Send {
    /// Of the optimizer, in config and reports.
    fn name(&self) -> &'static str;

    /// Its numbers, for the pre-flight table.
    fn describe(&self) -> String;

    /// Whether it is meant for this parameter, whose shape is `[rows, columns]`.
    fn takes(&self, param: &Param) -> bool;

    /// Most rows and most columns of a block of a weight or of a table.
    fn longest(&self, table: bool) -> [usize; 2] {
        let _ = table;
        [usize::MAX; 2]
    }

    /// τ of the trust clip.
    fn trust(&self) -> Option<f64> {
        None
    }

    /// See [`Optimizer::needs_inputs`].
    fn needs_inputs(&self, step: u64) -> bool {
        let _ = step;
        false
    }

    /// Called at the beginning of an update: statistics that several matrices share. Where [`BatchRule::takes`] answers
    /// otherwise after it, there is a new plan, and the state is carried over by `save`, `start` and `load`.
    fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        let _ = (params, context);
        Ok(())
    }

    /// State of parameters before the first update.
    fn start(&mut self, plan: &Plan) -> Result<()>;

    /// The directions to go against, without learning rate and decay.
    fn directions(&mut self, plan: &Plan, gradients: &[Tensor], context: &StepContext<'_>) -> Result<Directions>;

    /// The end of an update: state is put back to its start where `kept` (a number for each parameter) is 0.
    fn settle(&mut self, plan: &Plan, kept: &Tensor) -> Result<()>;

    /// Forgets all state.
    fn clear(&mut self);

    /// State of parameters by the names of the host form.
    fn save(&self, plan: &Plan, state: &mut OptimizerState) -> Result<()>;

    /// The inverse of [`BatchRule::save`].
    fn load(&mut self, plan: &Plan, saved: &mut Saved) -> Result<()>;

    /// State that several matrices share, by the names of the host form.
    fn save_shared(&self, state: &mut OptimizerState) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// Its inverse, called before there is a plan.
    fn load_shared(&mut self, params: &ParamSet, saved: &mut Saved) -> Result<()> {
        let _ = (params, saved);
        Ok(())
    }

    /// More numbers for the metrics.
    fn health(&self) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }
}

/// What a rule answers.
pub(super) struct Directions {
    /// Batch by batch, to be multiplied by `gains`.
    pub(super) updates: Vec<Tensor>,
    /// A factor for each block.
    pub(super) gains: Vec<Tensor>,
    /// 1 for a parameter whose state has failed: it gets no update and is reset. 0 for the others.
    pub(super) failed: Option<Tensor>,
    /// 1 for a parameter that has had nothing to measure with yet: it gets no update. 0 for the others.
    pub(super) idle: Option<Tensor>,
    /// How far the tracked curvature is from the truth, and 1 where that counts, when it was asked.
    pub(super) residual: Option<(Tensor, Tensor)>,
}

/// An optimizer made of a batch rule.
pub(super) struct Batched<R> {
    rule: R,
    /// For the parameters that the rule does not take.
    adam: Adam,
    weight_decay: f64,
    lr: f64,
    /// From the first update on.
    plan: Option<Plan>,
    health: Health,
}

impl<R: BatchRule> Batched<R> {
    /// As [`super::per_matrix::PerMatrix::new`].
    pub(super) fn new(rule: R, (beta1, beta2, eps): (f64, f64, f64), weight_decay: f64, lr: f64) -> Self {
        let adam = AdamRule { name: "adam", beta1, beta2, eps, weight_decay, decoupled: true, lr };
        Batched { rule, adam: Adam::new(adam), weight_decay, lr, plan: None, health: Health::default() }
    }

    fn takes(&self, param: &Param) -> bool {
        param.var.dims().len() == 2 && self.rule.takes(param)
    }

    fn plan(&self, params: &ParamSet) -> Result<Plan> {
        Plan::new(params, |param| self.takes(param), |table| self.rule.longest(table))
    }

    /// The plan of this update, with the state carried over from another one if it had to change.
    fn present_plan(&mut self, params: &ParamSet) -> Result<Plan> {
        let old = self.plan.take();
        let taken = params.iter().enumerate().filter(|(_, param)| self.takes(param)).map(|(index, _)| index);
        let holds = |old: &Plan| old.taken.iter().map(|taken| taken.index).eq(taken);
        match old {
            Some(old) if holds(&old) => Ok(old),
            old => {
                let mut state = OptimizerState::default();
                if let Some(old) = &old {
                    self.rule.save(old, &mut state)?;
                }
                let plan = self.plan(params)?;
                self.rule.start(&plan)?;
                if old.is_some() {
                    self.rule.load(&plan, &mut Saved::partial(state))?;
                }
                Ok(plan)
            }
        }
    }

    /// Writes the weights; returns what became of them, and 0 for the parameters to be reset.
    fn write(
        &self,
        plan: &Plan,
        params: &ParamSet,
        directions: Directions,
        context: &StepContext<'_>,
    ) -> Result<(Outcome, Tensor)> {
        let Directions { updates, gains, failed, idle, residual } = directions;
        let frozen = plan.frozen();
        for &(batch, row) in &frozen {
            let columns = plan.batches[batch].columns;
            let zero = Tensor::zeros((1, columns), plan.dtype, &plan.device)?;
            updates[batch].reshape(((), columns))?.slice_set(&zero, 0, row)?;
        }
        let sums = updates.iter().zip(&gains).map(|(update, gain)| squares(update)? * gain.sqr()?);
        let size = plan.rms(&sums.collect::<Result<Vec<_>>>()?)?;
        let none = &plan.zeros;
        let still = match (&failed, &idle) {
            (Some(failed), Some(idle)) => (failed + idle)?,
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => none.clone(),
        };
        // without an update there is nothing that may not be finite
        let size = still.to_dtype(DType::U8)?.where_cond(none, &size)?;
        let finite = plan.is_finite(&size)?.to_dtype(plan.dtype)?;
        let kept = match &failed {
            Some(failed) => (&finite * failed.affine(-1.0, 1.0)?)?,
            None => finite.clone(),
        };
        // τ/0 is infinite and τ/NaN is not looked at
        let most = self.rule.trust().unwrap_or(f64::INFINITY);
        let (trust, one) = ((size.recip()? * most)?, plan.full(1.0)?);
        let clips = trust.lt(&one)?;
        let trust = clips.where_cond(&trust, &one)?;
        let moves = (&finite * still.affine(-1.0, 1.0)?)?;

        let (rates, moves_of) = (plan.per_block(&trust)?, plan.per_block(&moves)?);
        let decays_of = plan.per_block(&finite)?;
        let vars: Vec<Tensor> = params.iter().map(|param| param.var.as_detached_tensor()).collect();
        let mut weights = plan.gather(|taken| vars[taken.index].clone())?;
        for (b, (update, gain)) in updates.into_iter().zip(gains).enumerate() {
            // a table's kind carries no more than its being one here
            let kind = if plan.batches[b].table { ParamKind::Table { tied: false } } else { ParamKind::Matrix };
            let (lr, decay) = (context.rate(kind), if decays(kind) { self.weight_decay } else { 0.0 });
            let gain = (gain * &rates[b])?;
            let update = select(&moves_of[b], &update, &plan.zero, &update)?;
            let rate = select(&moves_of[b], &each(&gain)?, &plan.zero, &each(&gain)?)?;
            let mut change = update.broadcast_mul(&(rate * lr)?)?;
            if decay > 0.0 {
                change = (change + weights[b].broadcast_mul(&each(&(&decays_of[b] * (lr * decay))?)?)?)?;
                for &(_, row) in frozen.iter().filter(|(batch, _)| *batch == b) {
                    let columns = plan.batches[b].columns;
                    let none = Tensor::zeros((1, columns), plan.dtype, &plan.device)?;
                    change.reshape(((), columns))?.slice_set(&none, 0, row)?;
                }
            }
            weights[b] = (&weights[b] - change)?;
        }
        plan.scatter(&weights, params)?;

        let outcome = Outcome {
            rms: moves.to_dtype(DType::U8)?.where_cond(&(&size * &trust)?, none)?,
            clipped: (clips.to_dtype(plan.dtype)? * &moves)?,
            reset: kept.affine(-1.0, 1.0)?,
            residual,
        };
        Ok((outcome, kept))
    }
}

impl<R: BatchRule> Optimizer for Batched<R> {
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
        let rest: Vec<_> = params.iter().zip(&gradients.tensors).filter(|(param, _)| !self.takes(param)).collect();
        self.adam.step_some(rest.into_iter(), context)?;
        let plan = self.present_plan(params)?;
        if !plan.taken.is_empty() {
            let batches = plan.gather(|taken| gradients.tensors[taken.index].clone())?;
            let directions = self.rule.directions(&plan, &batches, context)?;
            let (outcome, kept) = self.write(&plan, params, directions, context)?;
            self.rule.settle(&plan, &kept)?;
            self.health.note(&outcome)?;
        }
        self.plan = Some(plan);
        Ok(())
    }

    fn reset(&mut self) {
        self.health = Health::default();
        self.plan = None;
        self.rule.clear();
        self.adam.reset();
    }

    fn health(&self) -> Vec<(String, f64)> {
        let values = self.health.read().unwrap_or([f64::NAN; FIELDS.len()]);
        let named = FIELDS.iter().zip(values).map(|(name, value)| ((*name).to_string(), value));
        // rules that are never asked for a residual have none
        let own = named.filter(|(name, value)| name != "residual" || *value != 0.0);
        own.chain(self.rule.health().unwrap_or_default()).collect()
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.adam.state()?;
        let values = self.health.read()?;
        state.scalars.extend(FIELDS.iter().zip(values).map(|(name, value)| ((*name).to_string(), value)));
        if let Some(plan) = &self.plan {
            self.rule.save(plan, &mut state)?;
        }
        self.rule.save_shared(&mut state)?;
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        self.reset();
        let mut values = [0.0; FIELDS.len()];
        for (value, name) in values.iter_mut().zip(FIELDS) {
            *value = state.scalar(name)?;
        }
        let updates = state.scalar("t")? as u64;
        let mut saved = Saved::whole(state);
        self.rule.load_shared(params, &mut saved)?;
        let rest: Vec<&Param> = params.iter().filter(|param| !self.takes(param)).collect();
        self.adam.load_some(rest.into_iter(), &mut saved.tensors, updates)?;
        if updates > 0 {
            let plan = self.plan(params)?;
            self.rule.start(&plan)?;
            self.rule.load(&plan, &mut saved)?;
            self.health = Health::load(&values, &plan.device)?;
            self.plan = Some(plan);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
