//! `linear` on the GPU: cuBLAS, and one kernel before or after it.

use candle_core::{DType, Result, Tensor};

use super::columns::{cast, column_sums, concatenate, device_of};
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};
use super::product::{product, Mat, Store};
use crate::ops::linear::Linear;
use crate::ops::tape::{Computed, Done, OnGpu};
use crate::ops::Activation;

fn number(activation: Activation) -> usize {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
        Activation::Swish => 3,
        Activation::Tanh => 4,
    }
}

impl OnGpu for Linear {
    /// Saved: z where it is needed, and the weight where it had to be put together, or rounded to the type of activations.
    fn forward_on_gpu(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        let Linear { n, inner, outer, maps, activation, dropout } = *self;
        let (weights, biases) = inputs[1..].split_at(maps);
        let (device, x) = (device_of(&inputs[0])?, Memory::of_tensor(&inputs[0])?);
        let together = |parts: &[Tensor]| (parts.len() > 1).then(|| concatenate(parts)).transpose();
        let (joint_weight, joint_bias) = (together(weights)?, together(biases)?);
        let weight = match &joint_weight {
            Some(joint) => joint.memory(),
            None => Memory::of_tensor(&weights[0])?,
        };
        let bias = match (&joint_bias, biases.first()) {
            (Some(joint), _) => Some(joint.memory()),
            (None, single) => single.map(Memory::of_tensor).transpose()?,
        };
        let bias = bias.map(|bias| bias.single()?.holds(outer)).transpose()?;
        let rounded = cast(device, weight, x.dtype)?;
        let y = Buffer::new(device, x.dtype, n * outer)?;
        let z = (tracked && self.needs_z()).then(|| Buffer::new(device, x.dtype, n * outer)).transpose()?;
        let (target, w) = (Mat::new(y.memory(), n, outer), Mat::new(rounded.memory(), outer, inner));
        product(device, target, Store::Set, Mat::new(x, n, inner), w.t())?;
        if bias.is_some() || activation != Activation::Identity || dropout.is_some() {
            let (size, z) = (Arg::Size((n * outer) as u64), z.as_ref().map(Buffer::memory));
            let args = args![y.memory(), bias, z, size, outer, number(activation); dropout];
            launch(device, Kernel(Module::Linear, "finish", x.dtype), Grid::elements(n * outer), &args)?;
        }
        let kept = rounded.buffer().or(joint_weight).filter(|_| tracked);
        let saved = [z.map(|z| z.tensor((n, outer))), kept.map(|weight| weight.tensor((outer, inner))), None];
        Ok((y.storage(), (n, outer).into(), saved))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let Linear { n, inner, outer, maps, activation, dropout } = *self;
        let Done { inputs, output, saved: [z, weight, _], gradient } = done;
        let (weights, biases) = inputs[1..].split_at(maps);
        let wants = |parts: &[Tensor]| parts.iter().any(Tensor::track_op);
        let (device, x) = (device_of(&inputs[0])?, Memory::of_tensor(&inputs[0])?);
        let mut dz = Memory::of_tensor(gradient)?.holds(n * outer)?;
        let dtype = dz.dtype;
        let own;
        if activation != Activation::Identity || dropout.is_some() {
            let z = Memory::of_tensor(z.as_ref().unwrap_or(output))?.holds(n * outer)?;
            own = Buffer::new(device, dtype, n * outer)?;
            let size = Arg::Size((n * outer) as u64);
            let args = args![own.memory(), dz, z, size, number(activation); dropout];
            launch(device, Kernel(Module::Linear, "differentiate", dtype), Grid::elements(n * outer), &args)?;
            dz = own.memory();
        }
        let (x, dz_mat) = (Mat::new(x, n, inner), Mat::new(dz, n, outer));
        let dx = match inputs[0].track_op() {
            false => None,
            true => {
                let weight = cast(device, Memory::of_tensor(weight.as_ref().unwrap_or(&weights[0]))?, dtype)?;
                let dx = Buffer::new(device, dtype, n * inner)?;
                let (target, weight) = (Mat::new(dx.memory(), n, inner), Mat::new(weight.memory(), outer, inner));
                product(device, target, Store::Set, dz_mat, weight)?;
                Some(dx.tensor((n, inner)))
            }
        };
        let dw = match wants(weights) {
            false => None,
            true => {
                let dw = Buffer::new(device, DType::F32, outer * inner)?;
                product(device, Mat::new(dw.memory(), outer, inner), Store::Set, dz_mat.t(), x)?;
                Some(dw.tensor((outer, inner)))
            }
        };
        let db = match wants(biases) {
            false => None,
            true => Some(column_sums(device, dz, n, outer, outer)?.tensor(outer)),
        };
        Ok([vec![dx], self.split(dw, weights)?, self.split(db, biases)?].concat())
    }
}
