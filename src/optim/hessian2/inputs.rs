//! The input side of curvature: A = E[xxᵀ] of every tensor that enters linear maps, shared by all weights it meets
//! (queries, keys and values; keys and values of all decoder layers), in blocks on the diagonal where the side is long.
//!
//! ```text
//! A ← A + b·(X_sᵀX_s/N_s − A)      N_s random rows of the input, b = max(β_A, 1/(n + 1))
//! ```

use candle_core::{Result, Tensor};

use crate::config::Hessian2Config;
use crate::ops::{values, LinearInput, Real};
use crate::optim::matrix::{product, Matrix};
use crate::optim::per_matrix::probe_stream;
use crate::optim::StepContext;
use crate::params::ParamSet;
use std::collections::BTreeMap;

/// Updates at the beginning that all take statistics.
const EARLY: u64 = 50;

/// Whether the update after `step` updates takes statistics.
pub(super) fn is_due(step: u64, config: &Hessian2Config) -> bool {
    step < EARLY || step.is_multiple_of(config.statistics_freq)
}

/// Numbers of the variants that look at inputs, for the pre-flight table.
pub(super) fn words(config: &Hessian2Config) -> String {
    let Hessian2Config { beta1, beta2, input_beta, input_damping, .. } = config;
    let title = config.title();
    format!("{title}, betas ({beta1}, {beta2}), input beta {input_beta}, damping {input_damping}")
}

/// One tensor that enters linear maps at this update.
pub(super) struct Group<'a> {
    /// Name of the first parameter it meets, in the order of the parameters' names.
    pub(super) name: String,
    /// All of them.
    pub(super) members: Vec<String>,
    input: &'a LinearInput,
}

/// The groups of this update, by name.
pub(super) fn groups<'a>(params: &ParamSet, inputs: &'a [LinearInput]) -> Vec<Group<'a>> {
    let mut found: Vec<Group<'a>> = Vec::new();
    for input in inputs {
        let is_member = |name: &&crate::params::Param| input.weights.iter().any(|w| w.id() == name.var.id());
        let members = params.iter().filter(is_member).map(|param| param.name.clone());
        match found.iter_mut().find(|group| group.input.input.id() == input.input.id()) {
            Some(group) => group.members.extend(members),
            None => found.push(Group { name: String::new(), members: members.collect(), input }),
        }
    }
    found.retain(|group| !group.members.is_empty());
    for group in &mut found {
        group.members.sort();
        group.members.dedup();
        group.name = group.members[0].clone();
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Group<'_> {
    /// X_sᵀX_s/N_s, one block for each of `blocks` (column ranges).
    pub(super) fn statistics<T: Real>(
        &self,
        blocks: &[std::ops::Range<usize>],
        config: &Hessian2Config,
        context: &StepContext<'_>,
    ) -> Result<Vec<Matrix<T>>> {
        let (rows, width) = self.input.input.dims2()?;
        let input = values::<T>(&self.input.input)?;
        let chosen = self.sample(config, context)?.unwrap_or_else(|| (0..rows).collect());
        let of_block = |block: &std::ops::Range<usize>| {
            let mut x = Matrix::zeros(chosen.len(), block.len());
            for (x, &row) in x.rows_mut().zip(&chosen) {
                x.copy_from_slice(&input[row * width..][block.clone()]);
            }
            let mut gram = product(x.t(), x.view());
            gram.scale(1.0 / chosen.len().max(1) as f64);
            gram
        };
        Ok(blocks.iter().map(of_block).collect())
    }

    /// Rows of the input that are looked at. `None`: all, as there are few; a sample with replacement would repeat some.
    pub(super) fn sample(&self, config: &Hessian2Config, context: &StepContext<'_>) -> Result<Option<Vec<usize>>> {
        let rows = self.input.input.dim(0)?;
        if rows <= config.statistics_rows {
            return Ok(None);
        }
        let mut random = probe_stream(context.seed, context.step, &self.name);
        Ok(Some((0..config.statistics_rows).map(|_| random.below(rows)).collect()))
    }

    /// The input, off the tape.
    pub(super) fn input(&self) -> Tensor {
        self.input.input.detach()
    }

    /// Width of the input.
    pub(super) fn width(&self) -> Result<usize> {
        self.input.input.dim(1)
    }

    /// The mean row of the input.
    pub(super) fn mean<T: Real>(&self) -> Result<Vec<f64>> {
        let (rows, width) = self.input.input.dims2()?;
        let input = values::<T>(&self.input.input)?;
        let mut mean = vec![0.0; width];
        for row in input.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(m, x)| *m += x.to_f64());
        }
        mean.iter_mut().for_each(|m| *m /= rows as f64);
        Ok(mean)
    }

    /// The bias that belongs to each member, where there is one.
    pub(super) fn biases(&self, params: &ParamSet) -> BTreeMap<String, String> {
        let named = |id| params.iter().find(|param| param.var.id() == id).map(|param| param.name.clone());
        let pairs = self.input.weights.iter().zip(&self.input.biases);
        pairs.filter_map(|(w, b)| Some((named(w.id())?, named(b.id())?))).collect()
    }
}
