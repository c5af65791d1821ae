//! What an element-wise optimizer keeps for each parameter: variables of its shape, saved as `PARAMETER.STATE`.

use candle_core::{bail, Result, Var};
use std::collections::btree_map::{BTreeMap, Entry};

use super::saved::Saved;
use super::OptimizerState;
use crate::params::Param;

/// `N` variables for each parameter that was updated, by its name.
pub(super) struct Kept<const N: usize> {
    /// Names of the variables in checkpoints.
    states: [&'static str; N],
    vars: BTreeMap<String, [Var; N]>,
}

impl<const N: usize> Kept<N> {
    pub(super) fn new(states: [&'static str; N]) -> Self {
        Kept { states, vars: BTreeMap::new() }
    }

    pub(super) fn get(&self, param: &Param) -> Option<&[Var; N]> {
        self.vars.get(&param.name)
    }

    /// The variables of a parameter; the first time they are made by `start` from their names.
    pub(super) fn of(&mut self, param: &Param, start: impl Fn(&str) -> Result<Var>) -> Result<&[Var; N]> {
        Ok(match self.vars.entry(param.name.clone()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(each(self.states, start)?),
        })
    }

    pub(super) fn clear(&mut self) {
        self.vars.clear();
    }

    pub(super) fn save(&self, state: &mut OptimizerState) {
        for (name, vars) in &self.vars {
            self.states.iter().zip(vars).for_each(|(kept, var)| state.add(name, kept, var.as_detached_tensor()));
        }
    }

    /// The inverse of [`Kept::save`], of these parameters.
    pub(super) fn load<'a>(&mut self, params: impl IntoIterator<Item = &'a Param>, saved: &mut Saved) -> Result<()> {
        let load = |param: &Param| {
            Ok((param.name.clone(), each(self.states, |kept| saved.var(&param.name, kept, &param.var))?))
        };
        self.vars = params.into_iter().map(load).collect::<Result<_>>()?;
        Ok(())
    }
}

/// Variables that begin at zero.
pub(super) fn zeros(param: &Param) -> Result<Var> {
    Var::zeros(param.var.shape(), param.var.dtype(), param.var.device())
}

fn each<const N: usize>(states: [&str; N], one: impl FnMut(&str) -> Result<Var>) -> Result<[Var; N]> {
    match states.into_iter().map(one).collect::<Result<Vec<_>>>()?.try_into() {
        Ok(vars) => Ok(vars),
        Err(_) => bail!("as many variables as names"),
    }
}
