//! `linear` on the GPU: cuBLAS, and one kernel before or after it.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{CudaStorage, DType, Result, Tensor};

use super::columns::{column_sums, device_of};
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{cast, Buffer, Memory};
use super::product::{product, Mat, Store};
use crate::ops::{Activation, Dropout};

/// What a linear map is.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Shape {
    pub(in crate::ops) n: usize,
    pub(in crate::ops) inner: usize,
    pub(in crate::ops) outer: usize,
    pub(in crate::ops) activation: Activation,
    pub(in crate::ops) dropout: Option<Dropout>,
}

/// What a forward pass keeps.
pub(in crate::ops) struct Saved {
    /// For activations whose derivative y does not tell.
    z: Option<Tensor>,
    /// The weight in the type of activations, if that is another one.
    weight: Option<Tensor>,
}

fn number(activation: Activation) -> usize {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
        Activation::Swish => 3,
        Activation::Tanh => 4,
    }
}

impl Shape {
    /// φ′ can be read off y.
    fn needs_no_z(&self) -> bool {
        matches!(self.activation, Activation::Identity | Activation::Relu)
    }

    /// y, and what is kept for the backward pass.
    pub(in crate::ops) fn forward(
        &self,
        device: &CudaDevice,
        x: Memory,
        weight: Memory,
        bias: Option<Memory>,
    ) -> Result<(CudaStorage, Saved)> {
        let Shape { n, inner, outer, activation, dropout } = *self;
        let (weight, rounded) = cast(device, weight, x.dtype)?;
        let bias = bias.map(Memory::single).transpose()?;
        let y = Buffer::new(device, x.dtype, n * outer)?;
        let z = if self.needs_no_z() { None } else { Some(Buffer::new(device, x.dtype, n * outer)?) };
        let target = Mat::new(y.memory(), n, outer);
        product(device, target, Store::Set, Mat::new(x, n, inner), Mat::new(weight, outer, inner).t())?;
        if bias.is_some() || activation != Activation::Identity || dropout.is_some() {
            let size = Arg::Size((n * outer) as u64);
            let saved = z.as_ref().map(Buffer::memory);
            let args = args![y.memory(), bias, saved, size, outer, number(activation); dropout];
            launch(device, Kernel(Module::Linear, "finish", x.dtype), Grid::elements(n * outer), &args)?;
        }
        let saved =
            Saved { z: z.map(|z| z.tensor((n, outer))), weight: rounded.map(|weight| weight.tensor((outer, inner))) };
        Ok((y.storage(), saved))
    }

    /// Gradients of x, weight and bias, as they are needed.
    pub(in crate::ops) fn backward(
        &self,
        [x, weight]: [&Tensor; 2],
        bias: bool,
        [y, dy]: [&Tensor; 2],
        saved: Option<&Saved>,
    ) -> Result<[Option<Tensor>; 3]> {
        let Shape { n, inner, outer, activation, dropout } = *self;
        let device = device_of(x)?;
        let (dy, x_memory) = (dy.contiguous()?, Memory::of_tensor(x)?);
        let mut dz = Memory::of_tensor(&dy)?;
        let dtype = dz.dtype;
        let own;
        if activation != Activation::Identity || dropout.is_some() {
            let z = match saved.and_then(|saved| saved.z.as_ref()) {
                _ if self.needs_no_z() => y,
                Some(z) => z,
                None => candle_core::bail!("linear: backward without a forward pass"),
            };
            own = Buffer::new(device, dtype, n * outer)?;
            let size = Arg::Size((n * outer) as u64);
            let args = args![own.memory(), dz, Memory::of_tensor(z)?, size, number(activation); dropout];
            launch(device, Kernel(Module::Linear, "differentiate", dtype), Grid::elements(n * outer), &args)?;
            dz = own.memory();
        }
        let dz = Mat::new(dz, n, outer);
        let dx = match x.track_op() {
            false => None,
            true => {
                let kept = saved.and_then(|saved| saved.weight.as_ref());
                let (weight, _rounded) = cast(device, Memory::of_tensor(kept.unwrap_or(weight))?, dtype)?;
                let dx = Buffer::new(device, dtype, n * inner)?;
                let target = Mat::new(dx.memory(), n, inner);
                product(device, target, Store::Set, dz, Mat::new(weight, outer, inner))?;
                Some(dx.tensor((n, inner)))
            }
        };
        let dw = match weight.track_op() {
            false => None,
            true => {
                let dw = Buffer::new(device, DType::F32, outer * inner)?;
                let target = Mat::new(dw.memory(), outer, inner);
                product(device, target, Store::Set, dz.t(), Mat::new(x_memory, n, inner))?;
                Some(dw.tensor((outer, inner)))
            }
        };
        let db = match bias {
            false => None,
            true => Some(column_sums(device, dz.memory(), n, outer, outer)?.tensor(outer)),
        };
        Ok([dx, dw, db])
    }
}
