//! Layer normalization and residuals on the GPU.

use candle_core::{DType, Result, Tensor};

use super::columns::{device_of, sum_chunks, CHUNK};
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};
use crate::ops::norm::{AddDropout, Norm};
use crate::ops::tape::{exactly, Computed, Done, OnGpu};
use crate::ops::Dropout;

/// Warps of a block; each does a row.
const WARPS: usize = 4;

fn grid(rows: usize) -> Grid {
    Grid::blocks(rows.div_ceil(WARPS), 1, 32 * WARPS)
}

impl OnGpu for Norm {
    fn forward_on_gpu(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let (x, f, [gain, shift]) = Norm::parts(inputs)?;
        let (device, (n, width)) = (device_of(x)?, x.dims2()?);
        let (x_memory, f) = (Memory::of_tensor(x)?, f.map(Memory::of_tensor).transpose()?);
        let gain = Memory::of_tensor(gain)?.single()?.holds(width)?;
        let shift = Memory::of_tensor(shift)?.single()?.holds(width)?;
        let y = Buffer::new(device, x_memory.dtype, n * width)?;
        let saved = Buffer::new(device, DType::F32, 2 * n)?;
        let args = args![y.memory(), saved.memory(), x_memory, f, gain, shift, n, width, self.eps; self.dropout];
        launch(device, Kernel(Module::Norm, "norm_forward", x_memory.dtype), grid(n), &args)?;
        Ok((y.storage(), x.shape().clone(), [Some(saved.tensor((n, 2))), None, None]))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let (parts, [saved], dropout) = (Norm::parts(done.inputs)?, done.saved()?, self.dropout);
        let (x, f, [gain, _]) = parts;
        let (device, (n, width)) = (device_of(x)?, x.dims2()?);
        let (dy, x) = (Memory::of_tensor(done.gradient)?, Memory::of_tensor(x)?);
        let (saved, gain) = (Memory::of_tensor(saved)?, Memory::of_tensor(gain)?);
        let f_memory = f.map(Memory::of_tensor).transpose()?;
        let dh = Buffer::new(device, dy.dtype, n * width)?;
        let differs = f.is_some_and(Tensor::track_op) && dropout.is_some();
        let df = differs.then(|| Buffer::new(device, dy.dtype, n * width)).transpose()?;
        let df_memory = df.as_ref().map(Buffer::memory);
        let args = args![dh.memory(), df_memory, dy, saved, x, f_memory, gain, n, width; dropout];
        launch(device, Kernel(Module::Norm, "norm_backward", dy.dtype), grid(n), &args)?;
        let chunks = n.div_ceil(CHUNK).max(1);
        let sums = Buffer::new(device, DType::F32, chunks * 2 * width)?;
        let args = args![sums.memory(), dy, saved, x, f_memory, n, width, CHUNK; dropout];
        launch(device, Kernel(Module::Norm, "norm_sums", dy.dtype), Grid::columns(width, chunks), &args)?;
        let sums = sum_chunks(device, sums, chunks, 2 * width)?.tensor(2 * width);
        let d_gain_shift = [sums.narrow(0, 0, width)?, sums.narrow(0, width, width)?];
        let df = df.map(|df| df.tensor((n, width)));
        Ok(Norm::in_order(parts, dh.tensor((n, width)), df, d_gain_shift))
    }
}

impl OnGpu for AddDropout {
    fn forward_on_gpu(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let [x, f] = exactly(inputs)?;
        let (device, shape) = (device_of(x)?, x.shape().clone());
        let (x, f) = (Memory::of_tensor(x)?, Memory::of_tensor(f)?);
        let h = Buffer::new(device, x.dtype, x.len)?;
        let args = args![h.memory(), x, f.holds(x.len)?, Arg::Size(x.len as u64); self.dropout];
        launch(device, Kernel(Module::Norm, "add_dropped", x.dtype), Grid::elements(x.len), &args)?;
        Ok((h.storage(), shape, Default::default()))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        self.gradients(done, |dropout| drop_out(done.gradient, dropout))
    }
}

/// x ⊙ m.
fn drop_out(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    let memory = Memory::of_tensor(x)?;
    let y = Buffer::new(device_of(x)?, memory.dtype, memory.len)?;
    let args = args![y.memory(), memory, Arg::Size(memory.len as u64); Some(dropout)];
    let kernel = Kernel(Module::Elementwise, "drop_out", memory.dtype);
    launch(device_of(x)?, kernel, Grid::elements(memory.len), &args)?;
    Ok(y.tensor(x.shape()))
}
