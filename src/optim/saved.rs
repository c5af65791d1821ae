//! A checkpoint on its way into an optimizer.

use candle_core::{bail, Device, Result, Tensor, Var};
use std::collections::BTreeMap;

use super::algebra::Place;
use super::inplace::owned;
use super::OptimizerState;

/// Tensors that nobody has taken yet, and scalars.
pub(super) struct Saved {
    pub(super) tensors: BTreeMap<String, Tensor>,
    pub(super) scalars: Vec<(String, f64)>,
    /// What is missing has not begun.
    partial: bool,
}

impl Saved {
    /// All of a checkpoint.
    pub(super) fn whole(state: OptimizerState) -> Self {
        Saved { tensors: state.tensors.into_iter().collect(), scalars: state.scalars, partial: false }
    }

    /// State of some parameters; the others begin.
    pub(super) fn partial(state: OptimizerState) -> Self {
        Saved { partial: true, ..Self::whole(state) }
    }

    /// Takes out a tensor, checked and moved.
    pub(super) fn take(&mut self, name: &str, shape: impl AsRef<[usize]>, place: &Place) -> Result<Tensor> {
        let shape = shape.as_ref();
        // tensors of nothing are an error on some devices
        let device = if shape.contains(&0) { &Device::Cpu } else { &place.device };
        let tensor = match self.tensors.remove(name) {
            Some(tensor) => tensor,
            None if self.partial => return Tensor::zeros(shape, place.dtype, device),
            None => bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?"),
        };
        if tensor.dims() != shape || tensor.dtype() != place.dtype {
            let (dtype, dims) = (tensor.dtype(), tensor.dims());
            bail!("the saved optimizer state {name} is {dtype:?} {dims:?}, expected {:?} {shape:?}", place.dtype);
        }
        tensor.to_device(device)?.contiguous()
    }

    /// Takes out `OWNER.STATE`, shaped and placed like another tensor, as a variable.
    pub(super) fn var(&mut self, owner: &str, state: &str, like: &Tensor) -> Result<Var> {
        let place = Place { dtype: like.dtype(), device: like.device().clone() };
        owned(&self.take(&format!("{owner}.{state}"), like.dims(), &place)?)
    }

    /// A scalar.
    pub(super) fn scalar(&self, name: &str) -> Result<f64> {
        match self.scalars.iter().find(|(n, _)| n == name) {
            Some((_, value)) => Ok(*value),
            None if self.partial => Ok(0.0),
            None => bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?"),
        }
    }
}
