//! A checkpoint on its way into a rule.

use candle_core::{bail, DType, Device, Result, Tensor};
use std::collections::BTreeMap;

use super::{Plan, Taken};
use crate::optim::OptimizerState;

/// Tensors that nobody has taken yet, and scalars.
pub(in crate::optim) struct Saved {
    pub(super) tensors: BTreeMap<String, Tensor>,
    scalars: Vec<(String, f64)>,
    /// What is missing is zero.
    partial: bool,
}

impl Saved {
    /// All of a checkpoint.
    pub(super) fn whole(state: OptimizerState) -> Self {
        Saved { tensors: state.tensors.into_iter().collect(), scalars: state.scalars, partial: false }
    }

    /// State of some parameters; the others begin, with zeros.
    pub(super) fn partial(state: OptimizerState) -> Self {
        Saved { partial: true, ..Self::whole(state) }
    }

    /// Takes out a tensor `OWNER.NAME`, checked and moved to the plan's device.
    pub(in crate::optim) fn take(&mut self, plan: &Plan, owner: &str, name: &str, dims: [usize; 2]) -> Result<Tensor> {
        self.take_to((plan.dtype, &plan.device), owner, name, dims)
    }

    /// [`Saved::take`] for this type and device.
    pub(in crate::optim) fn take_to(
        &mut self,
        (dtype, device): (DType, &Device),
        owner: &str,
        name: &str,
        dims: [usize; 2],
    ) -> Result<Tensor> {
        let name = format!("{owner}.{name}");
        let tensor = match self.tensors.remove(&name) {
            Some(tensor) => tensor,
            None if self.partial => return Tensor::zeros((dims[0], dims[1]), dtype, device),
            None => bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?"),
        };
        if tensor.dims() != dims || tensor.dtype() != dtype {
            bail!("the saved optimizer state {name} is {:?} {:?}, not {dims:?}", tensor.dtype(), tensor.dims());
        }
        // tensors of nothing are an error on some devices
        let device = if tensor.elem_count() == 0 { &Device::Cpu } else { device };
        tensor.to_device(device)?.contiguous()
    }

    /// A scalar `OWNER.NAME`.
    pub(in crate::optim) fn scalar(&self, owner: &str, name: &str) -> Result<f64> {
        let name = format!("{owner}.{name}");
        match self.scalars.iter().find(|(n, _)| *n == name) {
            Some((_, value)) => Ok(*value),
            None if self.partial => Ok(0.0),
            None => bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?"),
        }
    }

    /// A scalar `OWNER.NAME` of each parameter.
    pub(in crate::optim) fn scalars(&self, plan: &Plan, name: &str) -> Result<Vec<f64>> {
        plan.taken.iter().map(|taken: &Taken| self.scalar(&taken.name, name)).collect()
    }

    /// Tensors that are left, by name, and all scalars.
    pub(in crate::optim) fn all(&self) -> (&BTreeMap<String, Tensor>, &[(String, f64)]) {
        (&self.tensors, &self.scalars)
    }
}
