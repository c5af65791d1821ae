//! A checkpoint on its way into an optimizer.

use candle_core::{bail, Device, Result, Tensor};
use std::collections::BTreeMap;

use super::algebra::Place;
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
    pub(super) fn take(&mut self, name: &str, shape: [usize; 2], place: &Place) -> Result<Tensor> {
        // tensors of nothing are an error on some devices
        let device = if shape.contains(&0) { &Device::Cpu } else { &place.device };
        let tensor = match self.tensors.remove(name) {
            Some(tensor) => tensor,
            None if self.partial => return Tensor::zeros((shape[0], shape[1]), place.dtype, device),
            None => bail!("the saved optimizer state has no {name}; was it saved by another optimizer or model?"),
        };
        if tensor.dims() != shape || tensor.dtype() != place.dtype {
            bail!("the saved optimizer state {name} is {:?} {:?}, not {shape:?}", tensor.dtype(), tensor.dims());
        }
        tensor.to_device(device)?.contiguous()
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
