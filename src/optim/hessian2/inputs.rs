//! What enters linear maps: one group for each tensor, shared by all weights that it meets (queries, keys and values; keys
//! and values of all decoder layers).

use candle_core::{Result, Tensor};

use crate::config::Hessian2Config;
use crate::ops::LinearInput;
use crate::optim::rule::probe_stream;
use crate::optim::StepContext;
use crate::params::{Param, ParamSet};

/// Updates at the beginning that all take statistics.
const EARLY: u64 = 50;

/// Whether the update after `step` updates takes statistics.
pub(super) fn is_due(step: u64, config: &Hessian2Config) -> bool {
    step < EARLY || step.is_multiple_of(config.statistics_freq)
}

/// One tensor that enters linear maps at this update.
pub(super) struct Group<'a> {
    /// Name of the first parameter it meets, in the order of the parameters' names.
    pub(super) name: String,
    /// All of them.
    pub(super) members: Vec<String>,
    /// `[tokens, width]`.
    pub(super) input: &'a Tensor,
}

/// The groups of this update, by name.
pub(super) fn groups<'a>(params: &ParamSet, inputs: &'a [LinearInput]) -> Vec<Group<'a>> {
    let mut found: Vec<Group<'a>> = Vec::new();
    for LinearInput { input, weights, .. } in inputs {
        let is_member = |param: &&Param| weights.iter().any(|w| w.id() == param.var.id());
        let members = params.iter().filter(is_member).map(|param| param.name.clone());
        match found.iter_mut().find(|group| group.input.id() == input.id()) {
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
    /// Rows of the input that are looked at. `None`: all, as there are few; a sample with replacement would repeat some.
    pub(super) fn sample(&self, config: &Hessian2Config, context: &StepContext<'_>) -> Result<Option<Vec<usize>>> {
        let rows = self.input.dim(0)?;
        if rows <= config.statistics_rows {
            return Ok(None);
        }
        let mut random = probe_stream(context.seed, context.step, &self.name);
        Ok(Some((0..config.statistics_rows).map(|_| random.below(rows)).collect()))
    }
}
