//! Layer normalization and residuals on the GPU.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{CudaStorage, DType, Result, Tensor};

use super::columns::{device_of, sum_chunks, CHUNK};
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};
use crate::ops::Dropout;

/// Warps of a block; each does a row.
const WARPS: usize = 4;

/// A normalization of rows of this width.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Rows {
    pub(in crate::ops) width: usize,
    pub(in crate::ops) eps: f64,
    pub(in crate::ops) dropout: Option<Dropout>,
}

impl Rows {
    fn grid(rows: usize) -> Grid {
        Grid::blocks(rows.div_ceil(WARPS), 1, 32 * WARPS)
    }

    /// y, and means and deviations `[N, 2]`.
    pub(in crate::ops) fn forward(
        &self,
        device: &CudaDevice,
        x: Memory,
        f: Option<Memory>,
        gain_shift: Memory,
    ) -> Result<(CudaStorage, Tensor)> {
        let (n, gain_shift) = (x.len / self.width, gain_shift.single()?);
        let y = Buffer::new(device, x.dtype, x.len)?;
        let saved = Buffer::new(device, DType::F32, 2 * n)?;
        let args = args![y.memory(), saved.memory(), x, f, gain_shift, n, self.width, self.eps; self.dropout];
        launch(device, Kernel(Module::Norm, "norm_forward", x.dtype), Self::grid(n), &args)?;
        Ok((y.storage(), saved.tensor((n, 2))))
    }

    /// Gradients of x, f, and gain and shift, as they are needed.
    pub(in crate::ops) fn backward(
        &self,
        x: &Tensor,
        f: Option<&Tensor>,
        gain_shift: &Tensor,
        saved: &Tensor,
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (device, (n, width), dropout) = (device_of(x)?, x.dims2()?, self.dropout);
        let dy = dy.contiguous()?;
        let (dy, x_memory, saved) = (Memory::of_tensor(&dy)?, Memory::of_tensor(x)?, Memory::of_tensor(saved)?);
        let (f_memory, gain) = (f.map(Memory::of_tensor).transpose()?, Memory::of_tensor(gain_shift)?);
        let f_wants = f.is_some_and(Tensor::track_op);
        let dh = Buffer::new(device, dy.dtype, n * width)?;
        let df = match f_wants && dropout.is_some() {
            true => Some(Buffer::new(device, dy.dtype, n * width)?),
            false => None,
        };
        let df_memory = df.as_ref().map(Buffer::memory);
        let args = args![dh.memory(), df_memory, dy, saved, x_memory, f_memory, gain, n, width; dropout];
        launch(device, Kernel(Module::Norm, "norm_backward", dy.dtype), Self::grid(n), &args)?;
        let d_gain = match gain_shift.track_op() {
            false => None,
            true => {
                let chunks = n.div_ceil(CHUNK).max(1);
                let sums = Buffer::new(device, DType::F32, chunks * 2 * width)?;
                let args = args![sums.memory(), dy, saved, x_memory, f_memory, n, width, CHUNK; dropout];
                launch(device, Kernel(Module::Norm, "norm_sums", dy.dtype), Grid::columns(width, chunks), &args)?;
                Some(sum_chunks(device, sums, chunks, 2 * width)?.tensor(2 * width))
            }
        };
        let dh = dh.tensor((n, width));
        let df = match df {
            Some(df) => Some(df.tensor((n, width))),
            None => f_wants.then(|| dh.clone()),
        };
        Ok([x.track_op().then_some(dh), df, d_gain])
    }
}

/// x + dropout(f).
pub(in crate::ops) fn add_dropped(
    device: &CudaDevice,
    x: Memory,
    f: Memory,
    dropout: Option<Dropout>,
) -> Result<CudaStorage> {
    let h = Buffer::new(device, x.dtype, x.len)?;
    let args = args![h.memory(), x, f, Arg::Size(x.len as u64); dropout];
    launch(device, Kernel(Module::Norm, "add_dropped", x.dtype), Grid::elements(x.len), &args)?;
    Ok(h.storage())
}

/// x ⊙ m.
pub(in crate::ops) fn drop_out(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    let device = device_of(x)?;
    let x_memory = Memory::of_tensor(x)?;
    let y = Buffer::new(device, x_memory.dtype, x_memory.len)?;
    let args = args![y.memory(), x_memory, Arg::Size(x_memory.len as u64); Some(dropout)];
    let kernel = Kernel(Module::Elementwise, "drop_out", x_memory.dtype);
    launch(device, kernel, Grid::elements(x_memory.len), &args)?;
    Ok(y.tensor(x.shape()))
}
