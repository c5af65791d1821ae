//! The driver of all optimizers of single matrices: which weights, in which batches; the trust clip, decoupled weight decay,
//! the write, health, checkpoints; and Adam, at the same rate, for the parameters that the rule does not take.
//!
//! ```text
//! U ← rule(G)                       NaN or infinity: the state of this weight is reset, no update
//! U ← U · min(1, τ / rms(U))        trust clip, if the rule has one
//! W ← W − lr·(U + wd·W)
//! ```

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::algebra::{Mats, Number, Place};
use super::health::{Health, Outcome};
use super::plan::Plan;
use super::rule::{Direction, MatrixRule, Now};
use super::saved::Saved;
use super::share::{self, Share};
use super::slots::Slots;
use super::{Adam, AdamRule, Decay, Gradients, Optimizer, OptimizerState, StepContext};
use crate::params::{Param, ParamSet};

/// Settings that all of them have.
#[derive(Clone, Copy)]
pub(super) struct Common {
    /// β₁, β₂ and ε of Adam for the other parameters.
    pub(super) adam: (f64, f64, f64),
    pub(super) decay: Decay,
    /// For [`Optimizer::describe`] only.
    pub(super) lr: f64,
}

/// The optimizer that `$rule`, an expression for any kind of matrices, makes for parameters of this type on this device.
macro_rules! per_matrix {
    ($rule:expr, $common:expr, $dtype:expr, $device:expr) => {{
        use $crate::optim::algebra::Matrix;
        use $crate::optim::per_matrix::PerMatrix;
        let optimizer: Box<dyn $crate::optim::Optimizer> = match ($device, $dtype) {
            #[cfg(feature = "cuda")]
            (candle_core::Device::Cuda(_), _) => {
                Box::new(PerMatrix::<_, $crate::optim::algebra::Batch>::new($rule, $common))
            }
            (_, candle_core::DType::F64) => Box::new(PerMatrix::<_, Matrix<f64>>::new($rule, $common)),
            _ => Box::new(PerMatrix::<_, Matrix<f32>>::new($rule, $common)),
        };
        optimizer
    }};
}
pub(super) use per_matrix;

/// An optimizer made of a rule.
pub(super) struct PerMatrix<R, M: Mats> {
    rule: R,
    adam: Adam,
    common: Common,
    /// Of the weights that the rule takes; on the CPU each for itself, the largest first: one thread would end with it alone.
    units: Vec<Unit<M>>,
    health: Health<M::Number>,
}

/// Weights that are worked on together.
struct Unit<M: Mats> {
    plan: Plan<M>,
    /// Batch by batch.
    states: Vec<Slots<M>>,
}

impl<M: Mats, R: MatrixRule<M>> PerMatrix<R, M> {
    pub(super) fn new(rule: R, common: Common) -> Self {
        let (Common { decay, lr, .. }, (beta1, beta2, eps)) = (common, common.adam);
        let adam = AdamRule { name: "adam", beta1, beta2, eps, decay, decoupled: true, lr };
        PerMatrix { rule, adam: Adam::new(adam), common, units: Vec::new(), health: Health::default() }
    }

    fn takes(&self, param: &Param) -> bool {
        param.var.dims().len() == 2 && self.rule.takes(param)
    }

    fn start(&self, params: &ParamSet) -> Result<Vec<Unit<M>>> {
        let place = Place { dtype: params.dtype(), device: params.device().clone() };
        let mut taken: Vec<_> = params.iter().enumerate().filter(|(_, param)| self.takes(param)).collect();
        if M::ALONE {
            taken.sort_by_key(|(_, param)| std::cmp::Reverse(param.var.elem_count()));
        }
        let together = if M::ALONE { 1 } else { taken.len().max(1) };
        taken.chunks(together).map(|weights| self.unit(weights, &place)).collect()
    }

    fn unit(&self, weights: &[(usize, &Param)], place: &Place) -> Result<Unit<M>> {
        let plan = Plan::new(weights.iter().copied(), self.rule.longest(), place)?;
        let state = |shape: &super::plan::Shape| {
            let specs = self.rule.slots([shape.rows, shape.columns], shape.table);
            Slots::start(specs, self.rule.numbers(), shape.members.len(), place)
        };
        let states = plan.batches.iter().map(state).collect::<Result<_>>()?;
        Ok(Unit { plan, states })
    }

    /// Units for the weights that the rule takes now, with the state that there is.
    fn renew(&mut self, params: &ParamSet, share: Option<&dyn Share>) -> Result<()> {
        let taken = params.iter().enumerate().filter(|(_, param)| self.takes(param)).map(|(index, _)| index);
        let mut present: Vec<usize> =
            self.units.iter().flat_map(|unit| unit.plan.weights.iter().map(|weight| weight.index)).collect();
        present.sort_unstable();
        if taken.eq(present) {
            return Ok(());
        }
        if let Some(share) = share {
            self.collect(share)?;
        }
        let mut state = OptimizerState::default();
        self.units.iter().try_for_each(|unit| unit.save(&mut state, self.rule.longest().is_some()))?;
        let mut saved = Saved::partial(state);
        self.units = self.start(params)?;
        self.units.iter_mut().try_for_each(|unit| unit.load(&mut saved, self.rule.longest().is_some()))
    }

    /// The process that computes each unit.
    fn owners(&self, share: Option<&dyn Share>) -> Vec<usize> {
        let cost = |unit: &Unit<M>| {
            let of = |shape: &super::plan::Shape| (shape.rows * shape.columns * (shape.columns + shape.rows)) as u64;
            unit.plan.batches.iter().map(of).sum()
        };
        let costs: Vec<u64> = self.units.iter().map(cost).collect();
        share::owners(&costs, share.map_or(1, |share| share.size()))
    }

    /// Hands the new weights of one's own units to the others, and takes theirs; what became of all units.
    fn exchange(
        &self,
        params: &ParamSet,
        share: &dyn Share,
        owners: &[usize],
        own: &[Outcome<M::Number>],
    ) -> Result<Vec<Outcome<M::Number>>> {
        let vars: Vec<&Tensor> = params.iter().map(|param| param.var.as_tensor()).collect();
        let units = self.units.iter().zip(owners);
        let tensors = units.flat_map(|(unit, owner)| unit.plan.weights.iter().map(|w| (vars[w.index], *owner)));
        share::exchange(share, &tensors.collect::<Vec<_>>())?;
        let mut bytes = Vec::with_capacity(own.len() * 40);
        for outcome in own {
            bytes.extend(outcome.packed()?.into_iter().flat_map(f64::to_le_bytes));
        }
        let told = share.gather(&bytes)?;
        let mut lists: Vec<_> = told.iter().map(|bytes| bytes.chunks_exact(40)).collect();
        let number = |eight: &[u8]| f64::from_le_bytes(eight.try_into().unwrap_or_default());
        let next = |owner: &usize| {
            let Some(bytes) = lists[*owner].next() else { candle_core::bail!("a rank tells of too few matrices") };
            Outcome::unpacked(std::array::from_fn(|i| number(&bytes[8 * i..8 * i + 8])), params.device())
        };
        owners.iter().map(next).collect()
    }

    fn update(
        &self,
        unit: &mut Unit<M>,
        params: &ParamSet,
        gradients: &Gradients,
        context: &StepContext<'_>,
    ) -> Result<Outcome<M::Number>> {
        let Unit { plan, states } = unit;
        let gradients: Vec<&Tensor> = plan.weights.iter().map(|weight| &gradients.tensors[weight.index]).collect();
        let held = M::hold(plan, &gradients)?;
        let view = |batch| M::held(&held, batch);
        let none = plan.of_weights(|_| 0.0)?;
        let size = match self.rule.wants_size() {
            true => rms(plan, (0..states.len()).map(|batch| M::squares(view(batch))))?,
            false => none.clone(),
        };
        let sizes = M::per_block(plan, &size)?;
        let (mut updates, mut idle, mut failed, mut residuals) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (batch, (state, size)) in states.iter_mut().zip(sizes).enumerate() {
            let name = |&(weight, block): &(usize, usize)| (plan.weights[weight].name.as_str(), block);
            let members: Vec<_> = plan.batches[batch].members.iter().map(name).collect();
            let mut now = Now::new(context, size, &members, &plan.place);
            let direction: Direction<M> = self.rule.direction(state, view(batch), &mut now)?;
            state.grow()?;
            updates.push(direction.update);
            idle.extend(direction.idle);
            failed.extend(direction.failed);
            residuals.extend(direction.residual);
        }
        for (batch, member, row) in plan.frozen() {
            updates[batch].clear_row(member, row)?;
        }

        // a number for each weight
        let any = |marks: &[M::Number]| match marks.len() == states.len() {
            true => M::per_weight(plan, marks).map(|count| count.is_zero().rest()),
            false => Ok(none.clone()),
        };
        let (idle, failed) = (any(&idle)?, any(&failed)?);
        let still = (idle + failed.clone()).is_zero().rest();
        let size = rms(plan, updates.iter().map(|update| M::squares(update.view())))?;
        // without an update there is nothing that may not be finite
        let size = still.choose(&none, &size);
        let finite = size.is_finite();
        let moves = finite.clone() * still.rest();
        let most = self.rule.trust().unwrap_or(f64::INFINITY);
        let one = plan.of_weights(|_| 1.0)?;
        // τ/0 is infinite, τ/NaN is not looked at
        let trust = moves.choose(&((one.clone() * most) / size.clone()).min(1.0), &one);

        let rate = plan.of_weights(|weight| context.rate(weight.kind))?;
        let shrink = plan.of_weights(|weight| context.rate(weight.kind) * self.common.decay.of(weight.kind))?;
        let rates = M::per_block(plan, &(rate * trust.clone() * moves.clone()))?;
        let shrinks = M::per_block(plan, &(shrink * finite.clone()))?;
        let steps: Vec<_> = rates.into_iter().zip(shrinks).collect();
        M::write(plan, params, &updates, &steps)?;

        let lost = (finite * failed.rest()).rest();
        for (state, lost) in states.iter_mut().zip(M::per_block(plan, &lost)?) {
            state.restart(&lost)?;
        }
        let residual = match residuals.len() == states.len() {
            true => Some(M::per_weight(plan, &residuals)? / plan.of_weights(|weight| weight.blocks.len() as f64)?),
            false => None,
        };
        Ok(Outcome {
            rms: moves.choose(&(size * trust.clone()), &none),
            clipped: trust.is_below(1.0),
            reset: lost,
            residual,
            weights: plan.weights.len(),
        })
    }
}

/// √(mean x²) of each weight, from Σx² of its blocks.
fn rms<M: Mats>(plan: &Plan<M>, squares: impl Iterator<Item = Result<M::Number>>) -> Result<M::Number> {
    let sums = M::per_weight(plan, &squares.collect::<Result<Vec<_>>>()?)?;
    Ok((sums / plan.of_weights(|weight| (weight.rows * weight.columns) as f64)?).sqrt())
}

impl<M: Mats> Unit<M> {
    fn suffix(numbered: bool, block: usize) -> String {
        if numbered {
            block.to_string()
        } else {
            String::new()
        }
    }

    /// `numbered`: whether the matrices of a block bear its number.
    fn save(&self, state: &mut OptimizerState, numbered: bool) -> Result<()> {
        let Unit { plan, states } = self;
        let values = states.iter().map(Slots::values).collect::<Result<Vec<_>>>()?;
        for (index, weight) in plan.weights.iter().enumerate() {
            let Some(first) = weight.blocks.first() else { continue };
            for (slot, spec) in states[first.batch].specs().iter().enumerate().filter(|(_, spec)| spec.of_weight) {
                let of_batches: Vec<&M> = states.iter().map(|state| state.matrix(slot)).collect();
                state.tensors.push((format!("{}.{}", weight.name, spec.name), M::whole(plan, &of_batches, index)?));
            }
            for (number, block) in weight.blocks.iter().enumerate() {
                states[block.batch].save(block.at, &weight.name, &Self::suffix(numbered, number), state)?;
            }
            let own = values[first.batch].iter().map(|(name, values)| (*name, values[first.at]));
            state.scalars.extend(own.map(|(name, value)| (format!("{}.{name}", weight.name), value)));
        }
        Ok(())
    }

    fn load(&mut self, saved: &mut Saved, numbered: bool) -> Result<()> {
        let Unit { plan, states } = self;
        let Some(first) = states.first() else { return Ok(()) };
        let of_weights = first.specs().iter().enumerate().filter(|(_, spec)| spec.of_weight);
        let of_weights: Vec<(usize, &str)> = of_weights.map(|(slot, spec)| (slot, spec.name)).collect();
        for (slot, name) in of_weights {
            let whole = plan.weights.iter().map(|weight| {
                saved.take(&format!("{}.{name}", weight.name), [weight.rows, weight.columns], &plan.place)
            });
            let whole = whole.collect::<Result<Vec<_>>>()?;
            let held = M::hold(plan, &whole.iter().collect::<Vec<_>>())?;
            for (batch, state) in states.iter_mut().enumerate() {
                *state.matrix_mut(slot) = M::of(M::held(&held, batch))?;
            }
        }
        for (shape, state) in plan.batches.iter().zip(states) {
            let owner =
                |&(weight, block): &(usize, usize)| (plan.weights[weight].name.as_str(), Self::suffix(numbered, block));
            let owners: Vec<_> = shape.members.iter().map(owner).collect();
            state.load(&owners, &plan.place, saved)?;
        }
        Ok(())
    }
}

/// One line for the pre-flight table.
fn describe(name: &str, settings: &str, common: Common) -> String {
    let Common { lr, decay, .. } = common;
    format!("{name}, lr {lr}, {settings}{}", decay.told())
}

impl<M: Mats, R: MatrixRule<M>> Optimizer for PerMatrix<R, M> {
    fn name(&self) -> &'static str {
        self.rule.name()
    }

    fn describe(&self) -> String {
        describe(self.rule.name(), &self.rule.describe(), self.common)
    }

    fn needs_inputs(&self, step: u64) -> bool {
        self.rule.needs_inputs(step)
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        self.rule.observe(params, context)?;
        let rest: Vec<_> = params.iter().zip(&gradients.tensors).filter(|(param, _)| !self.takes(param)).collect();
        self.adam.step_some(rest.into_iter(), context)?;
        let share = context.share.filter(|_| M::ALONE);
        self.renew(params, share)?;
        let owners = self.owners(share);
        let mine = |(unit, owner): (_, &usize)| share.is_none_or(|share| share.rank() == *owner).then_some(unit);
        let mut units = std::mem::take(&mut self.units);
        let update = |unit: &mut Unit<M>| self.update(unit, params, gradients, context);
        let mut own: Vec<&mut Unit<M>> = units.iter_mut().zip(&owners).filter_map(mine).collect();
        let outcomes = match &mut own[..] {
            [unit] => update(unit).map(|outcome| vec![outcome]),
            own => own.par_iter_mut().with_max_len(1).map(|unit| update(unit)).collect::<Result<Vec<_>>>(),
        };
        self.units = units;
        let outcomes = match share {
            Some(share) => self.exchange(params, share, &owners, &outcomes?)?,
            None => outcomes?,
        };
        self.health.note(&outcomes)
    }

    fn can_share(&self) -> bool {
        M::ALONE
    }

    fn collect(&mut self, share: &dyn Share) -> Result<()> {
        if !M::ALONE || self.units.is_empty() {
            return Ok(());
        }
        let owners = self.owners(Some(share));
        let numbered = self.rule.longest().is_some();
        let mut own = OptimizerState::default();
        let mine = self.units.iter().zip(&owners).filter(|(_, owner)| **owner == share.rank());
        mine.map(|(unit, _)| unit).try_for_each(|unit| unit.save(&mut own, numbered))?;
        let mut all = Saved::whole(share::join(share, &own)?);
        self.units.iter_mut().try_for_each(|unit| unit.load(&mut all, numbered))
    }

    fn reset(&mut self) {
        self.health = Health::default();
        self.units.clear();
        self.adam.reset();
        self.rule.clear_shared();
    }

    fn health(&self) -> Vec<(String, f64)> {
        // rules that are never asked for a residual have none
        let own = self.health.values().into_iter().flatten();
        let own = own.filter(|(name, value)| *name != "residual" || *value != 0.0);
        let own = own.map(|(name, value)| (name.to_string(), value));
        own.chain(self.rule.health().unwrap_or_default()).collect()
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.adam.state()?;
        state.scalars.extend(self.health.values()?.into_iter().map(|(name, value)| (name.to_string(), value)));
        self.units.iter().try_for_each(|unit| unit.save(&mut state, self.rule.longest().is_some()))?;
        self.rule.save_shared(&mut state)?;
        Ok(state)
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        self.reset();
        self.health = Health::load(&state, params.device())?;
        let updates = state.scalar("t")? as u64;
        let mut saved = Saved::whole(state);
        let place = Place { dtype: params.dtype(), device: params.device().clone() };
        self.rule.load_shared(&place, &mut saved)?;
        let rest: Vec<&Param> = params.iter().filter(|param| !self.takes(param)).collect();
        self.adam.load_some(rest.into_iter(), &mut saved)?;
        if updates > 0 {
            self.units = self.start(params)?;
            self.units.iter_mut().try_for_each(|unit| unit.load(&mut saved, self.rule.longest().is_some()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
