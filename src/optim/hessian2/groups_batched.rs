//! State of the input side for accelerators, as [`super::groups`] keeps it: blocks of all groups with the same side are one
//! family, tensors `[members, ...]` that are updated together.
//!
//! Counters are numbers on the host, one for each family. All groups are seen in every forward pass, so a family stays
//! whole; where one is seen without another, or begins later, they are families of their own from then on.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

use super::groups::{GROUP, MARK};
use super::inputs;
use super::inputs_batched::{statistics, Member, Statistics};
use super::white_draws::upload;
use crate::config::Hessian2Config;
use crate::optim::batched::{Plan, Saved};
use crate::optim::per_matrix::probe_stream;
use crate::optim::{OptimizerState, StepContext};
use crate::params::ParamSet;
use crate::rng::Stream;

/// What is kept for blocks on the diagonals of E[xxᵀ].
pub(super) trait Blocks: Send + Sync + Sized {
    /// Names in checkpoints, and whether n × n (else 1 × n); the first is the second moment.
    const MATRICES: &'static [(&'static str, bool)];
    /// Names in checkpoints, besides the count of updates.
    const SCALARS: &'static [&'static str];

    /// From the first statistics `[members, n, n]`.
    fn first(now: Tensor, config: &Hessian2Config) -> Result<Self>;

    /// The random numbers of one block for its update number `updates`.
    fn draw(side: usize, updates: f64, config: &Hessian2Config, random: &mut Stream) -> Vec<f64> {
        let _ = (side, updates, config, random);
        Vec::new()
    }

    /// Takes in new statistics with the random numbers `[members, ...]`, if there are any. Answers with 1 for each member
    /// that has failed and was reset, 0 for the others.
    fn update(
        &mut self,
        now: &Tensor,
        updates: f64,
        random: Option<&Tensor>,
        config: &Hessian2Config,
    ) -> Result<Option<Tensor>>;

    /// Called at updates without statistics.
    fn rest(&mut self) {}

    /// In the order of the names.
    fn matrices(&self) -> Vec<&Tensor>;

    /// In the order of the names; read from the device.
    fn scalars(&self) -> Result<Vec<Vec<f64>>>;

    /// The inverse of the two.
    fn restored(matrices: Vec<Tensor>, scalars: Vec<Vec<f64>>, config: &Hessian2Config) -> Result<Self>;

    /// Of the last probe, of each member.
    fn residuals(&self) -> Result<Vec<f64>>;
}

/// I of one side, and where its diagonal lies: made once, as both are copies to the device.
pub(super) struct Identity {
    /// `[1, n, n]`.
    pub(super) eye: Tensor,
    places: Tensor,
}

impl Identity {
    pub(super) fn new(n: usize, dtype: DType, device: &Device) -> Result<Self> {
        let places: Vec<u32> = (0..n).map(|i| (i * (n + 1)) as u32).collect();
        let eye = Tensor::eye(n, dtype, device)?.unsqueeze(0)?;
        Ok(Identity { eye, places: Tensor::from_vec(places, n, device)? })
    }

    /// The diagonals `[members, n]` of `x` `[members, n, n]`.
    pub(super) fn diagonal(&self, x: &Tensor) -> Result<Tensor> {
        x.reshape((x.dim(0)?, ()))?.index_select(&self.places, 1)
    }
}

/// Blocks of one side with as many updates.
pub(super) struct Family<B> {
    side: usize,
    members: Vec<Member>,
    updates: f64,
    pub(super) blocks: B,
}

/// The blocks of all groups.
pub(super) struct GroupsBatched<B> {
    config: Hessian2Config,
    families: Vec<Family<B>>,
    /// Family of each block of a group, and place in it.
    places: BTreeMap<String, Vec<(usize, usize)>>,
    /// The group of each parameter.
    of: BTreeMap<String, String>,
    /// Before this process, and since, on the device.
    resets: (f64, Option<Tensor>),
}

/// Where the blocks of a batch of weights find theirs.
pub(super) struct Lookup {
    /// Families that are laid below each other, behind them one for weights without a group.
    families: Vec<usize>,
    ids: Tensor,
    /// 1 for a block that has one, if there are others.
    pub(super) there: Option<Tensor>,
}

impl<B: Blocks> GroupsBatched<B> {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        let (places, of) = (BTreeMap::new(), BTreeMap::new());
        GroupsBatched { config: config.clone(), families: Vec::new(), places, of, resets: (0.0, None) }
    }

    /// Whether the input of this parameter was seen.
    pub(super) fn knows(&self, param: &str) -> bool {
        self.of.contains_key(param)
    }

    /// Takes in the inputs of this update, if there are any; whether a [`Lookup`] of before is of no use now.
    pub(super) fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<bool> {
        self.families.iter_mut().for_each(|family| family.blocks.rest());
        if context.inputs.is_empty() {
            return Ok(false);
        }
        let groups = inputs::groups(params, context.inputs);
        let known = self.of.len();
        for group in &groups {
            self.of.extend(group.members.iter().map(|member| (member.clone(), group.name.clone())));
        }
        let (dtype, device) = (params.dtype(), params.device());
        let found = statistics(&groups, &self.config, (dtype, device), context)?;
        let mut changed = self.separate(&groups.iter().map(|group| group.name.as_str()).collect())?;
        let random = self.draw(&groups, context);

        for Statistics { side, members, moments } in found {
            let place: BTreeMap<&Member, usize> = members.iter().enumerate().map(|(at, member)| (member, at)).collect();
            let mut left: BTreeSet<usize> = (0..members.len()).collect();
            for family in self.families.iter_mut().filter(|family| family.side == side) {
                let Some(order) = family.members.iter().map(|m| place.get(m).copied()).collect::<Option<Vec<_>>>()
                else {
                    continue;
                };
                order.iter().for_each(|at| _ = left.remove(at));
                let now = arranged(&moments, &order)?;
                let numbers: Vec<f64> = family.members.iter().flat_map(|m| &random[m]).copied().collect();
                let numbers = if numbers.is_empty() { None } else { Some(upload(numbers, dtype, device)?) };
                let numbers = numbers.map(|all| all.reshape((order.len(), ()))).transpose()?;
                family.updates += 1.0;
                let resets = family.blocks.update(&now, family.updates, numbers.as_ref(), &self.config)?;
                if let Some(resets) = resets {
                    let sum = resets.to_dtype(DType::F64)?.sum_all()?;
                    self.resets.1 = Some(match self.resets.1.take() {
                        Some(before) => (before + sum)?,
                        None => sum,
                    });
                }
            }
            if !left.is_empty() {
                let order: Vec<usize> = left.into_iter().collect();
                let blocks = B::first(arranged(&moments, &order)?, &self.config)?;
                let members = order.into_iter().map(|at| members[at].clone()).collect();
                self.families.push(Family { side, members, updates: 1.0, blocks });
                changed = true;
            }
        }
        if changed {
            self.index();
        }
        Ok(changed || known != self.of.len())
    }

    /// Families of which only a part is seen become two; whether there were any.
    fn separate(&mut self, seen: &BTreeSet<&str>) -> Result<bool> {
        let before = self.families.len();
        let mut all = Vec::new();
        for family in std::mem::take(&mut self.families) {
            let places: Vec<usize> = (0..family.members.len()).collect();
            let parts: (Vec<usize>, Vec<usize>) =
                places.into_iter().partition(|&at| seen.contains(family.members[at].0.as_str()));
            if parts.0.is_empty() || parts.1.is_empty() {
                all.push(family);
                continue;
            }
            for part in [parts.0, parts.1] {
                let matrices = family.blocks.matrices().into_iter().map(|matrix| picked(matrix, &part));
                let scalars = family.blocks.scalars()?.into_iter().map(|all| part.iter().map(|&at| all[at]).collect());
                let blocks = B::restored(matrices.collect::<Result<_>>()?, scalars.collect(), &self.config)?;
                let members = part.iter().map(|&at| family.members[at].clone()).collect();
                all.push(Family { side: family.side, members, updates: family.updates, blocks });
            }
        }
        self.families = all;
        if before != self.families.len() {
            self.index();
        }
        Ok(before != self.families.len())
    }

    fn index(&mut self) {
        self.places.clear();
        let mut all: BTreeMap<&Member, (usize, usize)> = BTreeMap::new();
        for (f, family) in self.families.iter().enumerate() {
            all.extend(family.members.iter().enumerate().map(|(at, member)| (member, (f, at))));
        }
        for ((group, _), place) in all {
            self.places.entry(group.clone()).or_default().push(place);
        }
    }

    /// The random numbers of all blocks that are there already, a stream for each group.
    fn draw(&self, groups: &[inputs::Group<'_>], context: &StepContext<'_>) -> BTreeMap<Member, Vec<f64>> {
        let of_group = |group: &inputs::Group<'_>| -> Vec<(Member, Vec<f64>)> {
            // another stream than the one that chose the rows
            let mut random = probe_stream(context.seed.wrapping_add(1), context.step, &group.name);
            let places = self.places.get(&group.name).map_or(&[][..], Vec::as_slice);
            let numbers = |(number, &(family, _)): (usize, &(usize, usize))| {
                let Family { side, updates, .. } = self.families[family];
                ((group.name.clone(), number), B::draw(side, updates + 1.0, &self.config, &mut random))
            };
            places.iter().enumerate().map(numbers).collect()
        };
        groups.par_iter().flat_map_iter(of_group).collect()
    }

    /// For each batch of weights, where its blocks find theirs; `None` where none has any.
    pub(super) fn lookups(&self, plan: &Plan) -> Result<Vec<Option<Lookup>>> {
        let mut lookups = Vec::with_capacity(plan.batches.len());
        for batch in &plan.batches {
            let place = |&(param, number): &(usize, usize)| {
                let taken = &plan.taken[param];
                let group = self.of.get(&taken.name).and_then(|group| self.places.get(group))?;
                // all rows of blocks meet the same columns
                group.get(number % taken.grid.1).copied()
            };
            let places: Vec<Option<(usize, usize)>> = batch.blocks.iter().map(place).collect();
            let families: BTreeSet<usize> = places.iter().flatten().map(|&(family, _)| family).collect();
            let families: Vec<usize> = families.into_iter().collect();
            if families.is_empty() {
                lookups.push(None);
                continue;
            }
            let mut starts = BTreeMap::new();
            let mut start = 0;
            for &family in &families {
                starts.insert(family, start);
                start += self.families[family].members.len();
            }
            let id = |place: &Option<(usize, usize)>| match place {
                Some((family, at)) => (starts[family] + at) as u32,
                None => start as u32,
            };
            let ids: Vec<u32> = places.iter().map(id).collect();
            let there: Vec<u8> = places.iter().map(|place| u8::from(place.is_some())).collect();
            let there = there.contains(&0).then(|| Tensor::from_vec(there, places.len(), &plan.device)).transpose()?;
            lookups.push(Some(Lookup { families, ids: Tensor::from_vec(ids, places.len(), &plan.device)?, there }));
        }
        Ok(lookups)
    }

    /// What `of` gives of a family, `[members, ...]`, for each block of a batch; `none` gives `[1, ...]` for those without.
    pub(super) fn gather(
        &self,
        lookup: &Lookup,
        of: impl Fn(&B) -> Result<Tensor>,
        none: impl Fn(&B) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let families = lookup.families.iter().map(|&family| of(&self.families[family].blocks));
        let mut all: Vec<Tensor> = families.collect::<Result<_>>()?;
        if let (Some(_), Some(&family)) = (&lookup.there, lookup.families.first()) {
            all.push(none(&self.families[family].blocks)?);
        }
        let whole = if all.len() == 1 { all.remove(0) } else { Tensor::cat(&all, 0)? };
        whole.index_select(&lookup.ids, 0)
    }

    fn resets(&self) -> Result<f64> {
        let (before, since) = &self.resets;
        Ok(before + since.as_ref().map_or(Ok(0.0), Tensor::to_scalar::<f64>)?)
    }

    pub(super) fn health(&self) -> Result<Vec<(String, f64)>> {
        let residuals: Vec<Vec<f64>> = self.families.iter().map(|f| f.blocks.residuals()).collect::<Result<_>>()?;
        let worst = residuals.into_iter().flatten().fold(0.0, f64::max);
        Ok(vec![("input_residual".to_string(), worst), ("input_resets".to_string(), self.resets()?)])
    }

    /// All state, by the names of the host form.
    pub(super) fn save(&self, state: &mut OptimizerState) -> Result<()> {
        let place = |group: &String| self.places.keys().position(|name| name == group).unwrap_or_default();
        let members = self.of.iter().map(|(param, group)| (format!("{param}{GROUP}"), place(group) as f64));
        state.scalars.extend(members.chain([("input_resets".to_string(), self.resets()?)]));
        for Family { members, updates, blocks, .. } in &self.families {
            let scalars = blocks.scalars()?;
            for (at, (group, number)) in members.iter().enumerate() {
                let name = |part: &str| format!("{group}{MARK}{number}.{part}");
                for (&(part, square), all) in B::MATRICES.iter().zip(blocks.matrices()) {
                    let one = all.get(at)?;
                    let one = if square { one } else { one.reshape((1, ()))? };
                    state.tensors.push((name(part), one));
                }
                state.scalars.push((name("n"), *updates));
                state.scalars.extend(B::SCALARS.iter().zip(&scalars).map(|(part, all)| (name(part), all[at])));
            }
        }
        Ok(())
    }

    /// The inverse of [`GroupsBatched::save`].
    pub(super) fn load(&mut self, (dtype, device): (DType, &Device), saved: &mut Saved) -> Result<()> {
        *self = Self::new(&self.config);
        let (tensors, scalars) = saved.all();
        let mut sides: BTreeMap<Member, usize> = BTreeMap::new();
        for (key, tensor) in tensors {
            let member = key.strip_suffix(".a").and_then(|owner| owner.rsplit_once(MARK));
            if let Some((group, Ok(number))) = member.map(|(group, number)| (group, number.parse())) {
                sides.insert((group.to_string(), number), tensor.dims()[0]);
            }
        }
        let groups: BTreeSet<&String> = sides.keys().map(|(group, _)| group).collect();
        let groups: Vec<&String> = groups.into_iter().collect();
        for (name, value) in scalars {
            if let Some(param) = name.strip_suffix(GROUP) {
                let group = groups.get(*value as usize);
                self.of.extend(group.map(|group| (param.to_string(), (*group).clone())));
            } else if name == "input_resets" {
                self.resets.0 = *value;
            }
        }
        let owner = |(group, number): &Member| format!("{group}{MARK}{number}");
        // counts are whole numbers
        let mut families: BTreeMap<(usize, u64), Vec<Member>> = BTreeMap::new();
        for (member, side) in &sides {
            let updates = saved.scalar(&owner(member), "n")?;
            families.entry((*side, updates as u64)).or_default().push(member.clone());
        }
        for ((side, updates), members) in families {
            let (mut matrices, mut scalars) = (Vec::new(), Vec::new());
            for &(part, square) in B::MATRICES {
                let dims = [if square { side } else { 1 }, side];
                let mut take = |m: &Member| saved.take_to((dtype, device), &owner(m), part, dims)?.unsqueeze(0);
                let all: Vec<Tensor> = members.iter().map(&mut take).collect::<Result<_>>()?;
                matrices.push(Tensor::cat(&all, 0)?);
            }
            for part in B::SCALARS {
                scalars.push(members.iter().map(|m| saved.scalar(&owner(m), part)).collect::<Result<_>>()?);
            }
            let blocks = B::restored(matrices, scalars, &self.config)?;
            self.families.push(Family { side, members, updates: updates as f64, blocks });
        }
        self.index();
        Ok(())
    }
}

/// These of `all`, in this order.
fn arranged(all: &Tensor, order: &[usize]) -> Result<Tensor> {
    if order.len() == all.dim(0)? && order.iter().enumerate().all(|(at, &from)| at == from) {
        return Ok(all.clone());
    }
    picked(all, order)
}

fn picked(all: &Tensor, order: &[usize]) -> Result<Tensor> {
    let ids: Vec<u32> = order.iter().map(|&at| at as u32).collect();
    all.index_select(&Tensor::from_vec(ids, order.len(), all.device())?, 0)
}
