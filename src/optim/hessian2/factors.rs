//! The input side of curvature, A = E[xxᵀ] of each group of weights with one input, in blocks on the diagonal where the side
//! is long; and its inverse, tracked by block BFGS, with a probe that finds a failed one and starts it anew.
//!
//! ```text
//! A ← A + b·(X_sᵀX_s/N_s − A)      N_s random rows of the input, b = max(β_A, 1/(n + 1))
//! A_λ = A + λ·a₀·I,  a₀ = tr(A)/i           never formed
//! first: H = A_λ⁻¹ exactly; then at every update of A: S normal (i × k), Y = A_λ·S, block BFGS
//! probe, every 20: ‖H·A_λ·s − s‖/‖s‖ > ½ or not finite: H = A_λ⁻¹ exactly again
//! applied: (1 − ω)·M/a₀ + ω·M·H
//! ```
//!
//! A correction that can not be made leaves H as it was; on the CPU H is then made anew at once, elsewhere by the probe, the
//! only time that something is read back.

use candle_core::{bail, Result};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use super::bfgs::block_bfgs;
use super::inputs::{groups, Group};
use crate::config::Hessian2Config;
use crate::ops::blocks;
use crate::optim::algebra::{Mats, Number, Place, Start};
use crate::optim::rule::{Now, Slot};
use crate::optim::saved::Saved;
use crate::optim::slots::Slots;
use crate::optim::{OptimizerState, StepContext};
use crate::params::ParamSet;

/// Updates of a factor between two probes.
const PROBE: u64 = 20;
/// Of a parameter, in checkpoints: the place of its group in the order of their names.
const GROUP: &str = ".input_group";
/// Between the name of a group and the number of a block, in checkpoints.
const MARK: &str = ".input";

/// The factors of all groups.
pub(super) struct Factors<M: Mats> {
    config: Hessian2Config,
    /// The group of each parameter; a function of the model alone.
    of: BTreeMap<String, String>,
    /// On the CPU each block for itself, elsewhere those of one side together.
    units: Vec<Unit<M>>,
    /// Unit, and place there, of each block of a group.
    places: BTreeMap<String, Vec<(usize, usize)>>,
    resets: Option<M::Number>,
}

/// Blocks of one side.
struct Unit<M: Mats> {
    side: usize,
    /// Group and number among its blocks.
    members: Vec<(String, usize)>,
    /// A and H.
    state: Slots<M>,
    /// Some of them have no H yet.
    fresh: bool,
}

impl<M: Mats> Factors<M> {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        Factors {
            config: config.clone(),
            of: BTreeMap::new(),
            units: Vec::new(),
            places: BTreeMap::new(),
            resets: None,
        }
    }

    /// Whether the input of this parameter was seen.
    pub(super) fn knows(&self, param: &str) -> bool {
        self.of.contains_key(param)
    }

    /// Takes in the inputs of this update, if there are any.
    pub(super) fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        if context.inputs.is_empty() {
            return Ok(());
        }
        let place = Place { dtype: params.dtype(), device: params.device().clone() };
        let found = groups(params, context.inputs);
        for group in &found {
            self.of.extend(group.members.iter().map(|member| (member.clone(), group.name.clone())));
        }
        let config = &self.config.clone();
        let moments = |group: &Group<'_>| {
            let ranges: Vec<Range<usize>> = blocks(group.input.dim(1)?, config.block_size).collect();
            let rows = group.sample(config, context)?;
            M::moments(group.input, rows.as_deref(), &ranges, &place)
        };
        let moments = match M::ALONE {
            true => found.par_iter().with_max_len(1).map(moments).collect::<Result<Vec<_>>>()?,
            false => found.iter().map(moments).collect::<Result<Vec<_>>>()?,
        };
        let mut seen: BTreeMap<(String, usize), M> = BTreeMap::new();
        for (group, moments) in found.iter().zip(moments) {
            seen.extend(moments.into_iter().enumerate().map(|(i, moment)| ((group.name.clone(), i), moment)));
        }
        self.renew(&seen, &place)?;
        let mut jobs = Vec::new();
        for unit in &mut self.units {
            let a = unit.state.matrix(0);
            let absent: Vec<f64> =
                unit.members.iter().map(|member| f64::from(u8::from(!seen.contains_key(member)))).collect();
            if absent.contains(&0.0) {
                let part = |(at, member): (usize, &(String, usize))| seen.get(member).map_or((a, at), |own| (own, 0));
                let parts: Vec<(&M, usize)> = unit.members.iter().enumerate().map(part).collect();
                let moment = M::gather(&parts, &place)?.into_owned();
                let absent =
                    if absent.contains(&1.0) { Some(Number::from_values(&absent, &place.device)?) } else { None };
                jobs.push((unit, moment, absent));
            }
        }
        let update = |(unit, moment, absent): &mut (&mut Unit<M>, M, Option<M::Number>)| {
            let Some(absent) = absent else { return Ok(unit.update(moment, config, context, &place)?.sum()) };
            // a group without an input now stays as it is
            let before = unit.state.copy()?;
            let lost = unit.update(moment, config, context, &place)?;
            unit.state.put_back(absent, before)?;
            Ok((lost * absent.clone().rest()).sum())
        };
        let resets = match M::ALONE {
            true => jobs.par_iter_mut().with_max_len(1).map(update).collect::<Result<Vec<_>>>()?,
            false => jobs.iter_mut().map(update).collect::<Result<Vec<_>>>()?,
        };
        self.resets = self.resets.take().into_iter().chain(resets).reduce(|a, b| a + b);
        Ok(())
    }

    /// Units of these blocks and of those that there are.
    fn renew(&mut self, seen: &BTreeMap<(String, usize), M>, place: &Place) -> Result<()> {
        if seen.keys().all(|(group, _)| self.places.contains_key(group)) {
            return Ok(());
        }
        let mut sides: BTreeMap<(String, usize), usize> =
            seen.iter().map(|(member, moment)| (member.clone(), moment.rows())).collect();
        for unit in &self.units {
            sides.extend(unit.members.iter().map(|member| (member.clone(), unit.side)));
        }
        let mut state = OptimizerState::default();
        self.save_units(&mut state)?;
        self.start(sides, place)?;
        self.load_units(place, &mut Saved::partial(state))
    }

    /// Blocks of these sides, with nothing learned.
    fn start(&mut self, sides: BTreeMap<(String, usize), usize>, place: &Place) -> Result<()> {
        let mut alone = Vec::new();
        let mut together: BTreeMap<usize, Vec<(String, usize)>> = BTreeMap::new();
        for (member, side) in sides {
            match M::ALONE {
                true => alone.push((side, vec![member])),
                false => together.entry(side).or_default().push(member),
            }
        }
        (self.units, self.places) = (Vec::new(), BTreeMap::new());
        for (side, members) in alone.into_iter().chain(together) {
            // in the order of their groups' blocks
            for (at, (group, _)) in members.iter().enumerate() {
                self.places.entry(group.clone()).or_default().push((self.units.len(), at));
            }
            let slot = |name, start| Slot::new(name, [side, side], start);
            let slots = vec![slot("a", Start::Zeros), slot("inverse", Start::Identity)];
            let state = Slots::start(slots, &["n", "residual"], members.len(), place)?;
            self.units.push(Unit { side, members, state, fresh: true });
        }
        // blocks of one group may have two sides, in units of their own
        for places in self.places.values_mut() {
            places.sort_by_key(|&(unit, at)| self.units[unit].members[at].1);
        }
        Ok(())
    }

    /// `(1 − ω)·x/a₀ + ω·x·H`, block by block; `x` are matrices of these weights. `None` where no input was seen.
    pub(super) fn apply(&self, x: M::View<'_>, omega: f64, now: &Now<'_, M>) -> Result<Option<M>> {
        let Some(group) = now.members.iter().find_map(|(name, _)| self.of.get(*name)) else { return Ok(None) };
        let blocks = self.places.get(group).map(Vec::as_slice).unwrap_or_default();
        let white = |x: M::View<'_>, unit: usize, number: usize| -> Result<M> {
            let (h, scale) = self.of_weights(unit, number, now)?;
            let mut white = M::product(x, h.view())?;
            if omega < 1.0 {
                white.scale(&now.number(omega)?)?;
                white.add(&(now.number(1.0 - omega)? / scale.max(M::least(now.place))), x)?;
            }
            Ok(white)
        };
        if let [(unit, _)] = *blocks {
            return white(x, unit, 0).map(Some);
        }
        let mut result = M::of(x)?;
        let mut start = 0;
        for (number, &(unit, _)) in blocks.iter().enumerate() {
            let range = start..start + self.units[unit].side;
            start = range.end;
            let part = M::columns_of(x, range.clone())?;
            result.set_columns(range, &white(part.view(), unit, number)?)?;
        }
        Ok(Some(result))
    }

    /// H and a₀ of a block for each weight of a batch; I and 1 for one whose input was not seen.
    fn of_weights(&self, unit: usize, number: usize, now: &Now<'_, M>) -> Result<(Cow<'_, M>, M::Number)> {
        let place_of = |(name, _): &(&str, usize)| {
            let (own, at) = *self.places.get(self.of.get(*name)?)?.get(number)?;
            (own == unit).then_some(at)
        };
        let places: Vec<Option<usize>> = now.members.iter().map(place_of).collect();
        let Unit { side, state, .. } = &self.units[unit];
        let (a, h) = (state.matrix(0), state.matrix(1));
        if places.iter().all(Option::is_some) {
            let parts = |of| places.iter().flatten().map(|&at| (of, at)).collect::<Vec<_>>();
            let scale = M::gather(&parts(a), now.place)?.mean_diagonal()?;
            return Ok((M::gather(&parts(h), now.place)?, scale));
        }
        let eye = M::start(Start::Identity, 1, [*side, *side], now.place)?;
        let parts = |of| places.iter().map(|place| place.map_or((&eye, 0), |at| (of, at))).collect::<Vec<_>>();
        let scale = M::gather(&parts(a), now.place)?.mean_diagonal()?;
        Ok((Cow::Owned(M::gather(&parts(h), now.place)?.into_owned()), scale))
    }

    /// The worst residual of the last probes, and how many factors were made anew.
    pub(super) fn health(&self) -> Result<Vec<(String, f64)>> {
        let mut worst = 0.0;
        for unit in &self.units {
            for (_, values) in unit.state.values()?.into_iter().filter(|(name, _)| *name == "residual") {
                worst = values.into_iter().fold(worst, f64::max);
            }
        }
        Ok(vec![("input_residual".to_string(), worst), ("input_resets".to_string(), self.resets()?)])
    }

    fn resets(&self) -> Result<f64> {
        let values = self.resets.as_ref().map(Number::values).transpose()?;
        Ok(values.into_iter().flatten().sum())
    }

    pub(super) fn save(&self, state: &mut OptimizerState) -> Result<()> {
        let place = |group: &String| self.places.keys().position(|name| name == group).unwrap_or_default();
        let members = self.of.iter().map(|(param, group)| (format!("{param}{GROUP}"), place(group) as f64));
        state.scalars.extend(members.chain([("input_resets".to_string(), self.resets()?)]));
        self.save_units(state)
    }

    fn save_units(&self, state: &mut OptimizerState) -> Result<()> {
        for unit in &self.units {
            let values = unit.state.values()?;
            for (at, (group, number)) in unit.members.iter().enumerate() {
                let owner = format!("{group}{MARK}{number}");
                unit.state.save(at, &owner, "", state)?;
                let own = values.iter().map(|(name, values)| (format!("{owner}.{name}"), values[at]));
                state.scalars.extend(own);
            }
        }
        Ok(())
    }

    /// The inverse of [`Factors::save`].
    pub(super) fn load(&mut self, place: &Place, saved: &mut Saved) -> Result<()> {
        let mut sides = BTreeMap::new();
        for (key, tensor) in &saved.tensors {
            let block = key.strip_suffix(".a").and_then(|owner| owner.rsplit_once(MARK));
            if let Some((group, Ok(number))) = block.map(|(group, number)| (group, number.parse())) {
                sides.insert((group.to_string(), number), tensor.dim(0)?);
            }
        }
        self.start(sides, place)?;
        self.load_units(place, saved)?;
        for (name, value) in &saved.scalars {
            if let Some(param) = name.strip_suffix(GROUP) {
                let group = self.places.keys().nth(*value as usize);
                self.of.extend(group.map(|group| (param.to_string(), group.clone())));
            } else if name == "input_resets" {
                self.resets = Some(Number::from_values(&[*value], &place.device)?);
            }
        }
        Ok(())
    }

    fn load_units(&mut self, place: &Place, saved: &mut Saved) -> Result<()> {
        for Unit { members, state, fresh, .. } in &mut self.units {
            let owners: Vec<String> = members.iter().map(|(group, number)| format!("{group}{MARK}{number}")).collect();
            let owners: Vec<_> = owners.iter().map(|owner| (owner.as_str(), String::new())).collect();
            state.load(&owners, place, saved)?;
            *fresh = state.values()?.iter().any(|(name, values)| *name == "n" && values.contains(&0.0));
        }
        Ok(())
    }
}

impl<M: Mats> Unit<M> {
    /// Takes in new statistics; 1 where a factor had failed.
    fn update(
        &mut self,
        moment: &M,
        config: &Hessian2Config,
        context: &StepContext<'_>,
        place: &Place,
    ) -> Result<M::Number> {
        let members: Vec<_> = self.members.iter().map(|(name, block)| (name.as_str(), *block)).collect();
        // another stream than the one that chose the rows
        let context = StepContext { seed: context.seed.wrapping_add(1), ..*context };
        let mut now: Now<'_, M> = Now::new(&context, Number::filled(0.0, 1, &place.device)?, &members, place);
        let (first, probes) = (self.state.age == 0, (self.state.age + 1).is_multiple_of(PROBE));
        let (side, fresh) = (self.side, std::mem::take(&mut self.fresh));
        let ([a, h], [n, residual]) = self.state.parts()?;
        let unborn = n.is_zero();
        a.toward(moment.view(), &(n.clone() + 1.0).recip().max(config.input_beta))?;
        *n = n.clone() + 1.0;
        let mut lost = n.clone() * 0.0;
        if first {
            *h = exact(a, config.input_damping)?;
        } else {
            let floor = a.mean_diagonal()? * config.input_damping;
            let times = |s: &M| -> Result<M> {
                let mut y = M::product(s.view(), a.view())?;
                y.add(&floor, s.view())?;
                Ok(y)
            };
            let s = now.normals(directions(config, side), side)?;
            let good = block_bfgs(h, &s, &times(&s)?, &now.number(1.0)?)?;
            lost = good.clone().rest();
            if probes {
                let s = now.normals(1, side)?;
                let mut back = M::product(times(&s)?.view(), h.view())?;
                back.add(&now.number(-1.0)?, s.view())?;
                let found = (M::squares(back.view())? / M::squares(s.view())?).sqrt();
                let sound = found.is_below(0.5);
                *residual = good.choose(&found, residual);
                lost = (sound * good).rest();
            }
            let lost_any = (M::ALONE || probes) && lost.values()?.contains(&1.0);
            if lost_any {
                h.replace(&lost, exact(a, config.input_damping)?)?;
            }
        }
        if fresh && !first {
            h.replace(&unborn, exact(a, config.input_damping)?)?;
        }
        self.state.grow()?;
        Ok(lost)
    }
}

/// Columns of S for a side of `n`.
fn directions(config: &Hessian2Config, n: usize) -> usize {
    let k = if config.rank > 0 { config.rank / 2 } else { (n / config.sketch_divisor).max(8) };
    k.min(n)
}

/// (A + λ·a₀·I)⁻¹; of nothing but zeros, the identity. Waits.
fn exact<M: Mats>(a: &M, damping: f64) -> Result<M> {
    let scale = a.mean_diagonal()?;
    let one = scale.clone() * 0.0 + 1.0;
    let floor = scale.is_zero().choose(&one, &(scale.clone() * damping));
    let inverse = a.inverse(&one, &floor)?;
    if inverse.is_finite()?.values()?.contains(&0.0) {
        bail!("hessian2: the second moment of an input is not positive definite");
    }
    Ok(inverse)
}
