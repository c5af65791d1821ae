//! State of the input side for all groups of weights: which weight belongs to which, blocks, saving.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;

use super::inputs::{self, Group};
use crate::config::Hessian2Config;
use crate::ops::{Mat, Real};
use crate::optim::matrix::{blocks, product, Matrix};
use crate::optim::per_matrix::{probe_stream, Named};
use crate::optim::StepContext;
use crate::params::ParamSet;
use crate::rng::Stream;

/// What is kept for one block on the diagonal of E[xxᵀ].
pub(super) trait Block<T: Real>: Named<T> + Send + Sync + Sized {
    /// From the first statistics (n × n).
    fn first(now: Matrix<T>, config: &Hessian2Config) -> Result<Self>;

    /// To be filled from a checkpoint.
    fn unfilled(n: usize) -> Self;

    /// Takes in new statistics; whether something had failed and was reset.
    fn update(&mut self, now: &Matrix<T>, config: &Hessian2Config, random: &mut Stream) -> Result<bool>;

    /// Called at updates without statistics.
    fn rest(&mut self) {}

    /// Of the last probe.
    fn residual(&self) -> f64;
}

/// The blocks of all groups.
pub(super) struct Groups<B> {
    config: Hessian2Config,
    blocks: BTreeMap<String, Vec<B>>,
    /// The group of each parameter; a function of the model alone.
    of: BTreeMap<String, String>,
    resets: f64,
}

impl<B> Groups<B> {
    pub(super) fn new(config: &Hessian2Config) -> Self {
        Groups { config: config.clone(), blocks: BTreeMap::new(), of: BTreeMap::new(), resets: 0.0 }
    }

    /// The blocks for this parameter, if its input was seen.
    pub(super) fn of(&self, param: &str) -> Option<&[B]> {
        self.of.get(param).and_then(|group| self.blocks.get(group)).map(Vec::as_slice)
    }

    /// Takes in the inputs of this update, if there are any.
    pub(super) fn observe<T: Real>(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()>
    where
        B: Block<T>,
    {
        if context.inputs.is_empty() {
            self.blocks.values_mut().flatten().for_each(B::rest);
            return Ok(());
        }
        let found = inputs::groups(params, context.inputs);
        for group in &found {
            for member in &group.members {
                self.of.insert(member.clone(), group.name.clone());
            }
        }
        let mut jobs: Vec<(&Group<'_>, Vec<B>)> = Vec::new();
        for group in &found {
            jobs.push((group, self.blocks.remove(&group.name).unwrap_or_default()));
        }
        let config = &self.config;
        let resets = jobs
            .par_iter_mut()
            .with_max_len(1)
            .map(|(group, blocks)| update(group, blocks, config, context))
            .collect::<Result<Vec<f64>>>();
        self.blocks.extend(jobs.into_iter().map(|(group, blocks)| (group.name.clone(), blocks)));
        self.resets += resets?.into_iter().sum::<f64>();
        Ok(())
    }

    pub(super) fn health<T: Real>(&self) -> Vec<(String, f64)>
    where
        B: Block<T>,
    {
        let worst = self.blocks.values().flatten().map(B::residual).fold(0.0, f64::max);
        vec![("input_residual".to_string(), worst), ("input_resets".to_string(), self.resets)]
    }

    /// Which parameter belongs to which group, and the resets.
    pub(super) fn scalars(&self) -> Vec<(String, f64)> {
        let place = |group: &String| self.blocks.keys().position(|name| name == group).unwrap_or_default();
        let members = self.of.iter().map(|(param, group)| (format!("{param}{GROUP}"), place(group) as f64));
        members.chain([("input_resets".to_string(), self.resets)]).collect()
    }

    /// The inverse of [`Groups::scalars`], when the blocks are there.
    pub(super) fn load_scalars(&mut self, scalars: &[(String, f64)]) {
        for (name, value) in scalars {
            if let Some(param) = name.strip_suffix(GROUP) {
                let group = self.blocks.keys().nth(*value as usize).cloned();
                self.of.extend(group.map(|group| (param.to_string(), group)));
            } else if name == "input_resets" {
                self.resets = *value;
            }
        }
    }

    pub(super) fn shared<T: Real>(&self) -> Vec<(String, &dyn Named<T>)>
    where
        B: Block<T>,
    {
        let mut all: Vec<(String, &dyn Named<T>)> = Vec::new();
        for (group, blocks) in &self.blocks {
            all.extend(blocks.iter().enumerate().map(|(i, block)| (format!("{group}{MARK}{i}"), block as _)));
        }
        all
    }

    pub(super) fn shared_mut<T: Real>(&mut self, saved: &BTreeMap<String, Tensor>) -> Vec<(String, &mut dyn Named<T>)>
    where
        B: Block<T>,
    {
        (self.blocks, self.of, self.resets) = (BTreeMap::new(), BTreeMap::new(), 0.0);
        let mut sides: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        for (key, tensor) in saved {
            let block = key.strip_suffix(".a").and_then(|owner| owner.rsplit_once(MARK));
            if let Some((group, Ok(index))) = block.map(|(group, index)| (group, index.parse())) {
                sides.insert((group, index), tensor.dims()[0]);
            }
        }
        for ((group, _), side) in sides {
            self.blocks.entry(group.to_string()).or_default().push(B::unfilled(side));
        }
        let mut all: Vec<(String, &mut dyn Named<T>)> = Vec::new();
        for (group, blocks) in &mut self.blocks {
            all.extend(blocks.iter_mut().enumerate().map(|(i, block)| (format!("{group}{MARK}{i}"), block as _)));
        }
        all
    }
}

/// Of a parameter, in checkpoints: the place of its group in the order of their names.
pub(super) const GROUP: &str = ".input_group";
/// Between the name of a group and the number of a block, in checkpoints.
pub(super) const MARK: &str = ".input";

/// One update of a group's blocks; the number of resets.
fn update<T: Real, B: Block<T>>(
    group: &Group<'_>,
    blocks_of_group: &mut Vec<B>,
    config: &Hessian2Config,
    context: &StepContext<'_>,
) -> Result<f64> {
    let statistics = group.statistics(&blocks(group.width()?, config.block_size), config, context)?;
    // another stream than the one that chose the rows
    let mut random = probe_stream(context.seed.wrapping_add(1), context.step, &group.name);
    let mut resets = 0.0;
    for (i, now) in statistics.into_iter().enumerate() {
        match blocks_of_group.get_mut(i) {
            Some(block) => resets += f64::from(block.update(&now, config, &mut random)?),
            None => blocks_of_group.push(B::first(now, config)?),
        }
    }
    Ok(resets)
}

/// `m · diag(Bᵢ)`: each range of columns times the matrix of its block.
pub(super) fn times_blocks<'a, T: Real>(m: &Matrix<T>, blocks: impl Iterator<Item = Mat<'a, T>>) -> Matrix<T> {
    let mut result = Matrix::zeros(m.rows, m.columns);
    let mut start = 0;
    for block in blocks {
        let range = start..start + block.rows();
        start = range.end;
        let part = product(m.part(0..m.rows, range.clone()).view(), block);
        result.set_part(0..m.rows, range, &part);
    }
    result
}
