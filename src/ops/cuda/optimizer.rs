//! Element-wise updates of parameters, and norms of gradients, on the GPU.

use candle_core::{bail, DType, Result, Tensor};
use std::ops::Range;

use super::columns::device_of;
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};

/// Scalars of a kernel in optimizer.cu.
const SCALARS: usize = 9;
/// Tensors that it writes.
const WRITTEN: usize = 3;
/// Blocks of a tensor whose squares are summed, and elements that are worth one.
const BLOCKS: usize = 256;
const WORTH: usize = 4096;

/// Runs the kernel `name` of optimizer.cu over f32 tensors of one size; `frozen`: elements that stay.
pub(crate) fn step(
    name: &'static str,
    written: &[&Tensor],
    read: &Tensor,
    frozen: Option<Range<usize>>,
    scalars: &[f64],
) -> Result<()> {
    let (device, n) = (device_of(read)?, read.elem_count());
    let mut args = Vec::with_capacity(WRITTEN + SCALARS + 4);
    for tensor in written {
        if tensor.elem_count() != n || tensor.dtype() != DType::F32 || read.dtype() != DType::F32 {
            bail!(
                "{name}: {:?} {:?} is updated with {:?} {:?}",
                tensor.dtype(),
                tensor.dims(),
                read.dtype(),
                read.dims()
            );
        }
        args.push(Arg::from(Memory::of_tensor(tensor)?));
    }
    args.resize(WRITTEN, Arg::Pointer(0));
    let frozen = frozen.unwrap_or(0..0);
    let sizes = [n, frozen.start, frozen.end].map(|size| Arg::Size(size as u64));
    args.push(Memory::of_tensor(read)?.into());
    args.extend(sizes);
    args.extend((0..SCALARS).map(|i| Arg::from(scalars.get(i).copied().unwrap_or(0.0))));
    launch(device, Kernel(Module::Optimizer, name, DType::F32), Grid::elements(n), &args)
}

/// x *= factor, f32.
pub(crate) fn scale(x: &Tensor, factor: f64) -> Result<()> {
    let memory = Memory::of_tensor(x)?;
    let args = args![memory, memory, Arg::Size(memory.len as u64), factor];
    let kernel = Kernel(Module::Elementwise, "multiply", memory.dtype);
    launch(device_of(x)?, kernel, Grid::elements(memory.len), &args)
}

/// Σx² of each tensor; the host waits for all of them at once.
pub(crate) fn squares(tensors: &[Tensor]) -> Result<Vec<f64>> {
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    let device = device_of(first)?;
    let blocks = |tensor: &Tensor| tensor.elem_count().div_ceil(WORTH).clamp(1, BLOCKS);
    let mut starts = vec![0usize];
    for tensor in tensors {
        starts.push(starts[starts.len() - 1] + blocks(tensor));
    }
    let parts = Buffer::new(device, DType::F64, starts[tensors.len()])?;
    for (tensor, start) in tensors.iter().zip(&starts) {
        let x = Memory::of_tensor(tensor)?;
        let args = args![parts.memory().part(*start, blocks(tensor)), x, Arg::Size(x.len as u64)];
        let grid = Grid::blocks(blocks(tensor), 1, 256);
        launch(device, Kernel(Module::Optimizer, "squares", DType::F32), grid, &args)?;
    }
    let totals = Buffer::new(device, DType::F64, tensors.len())?;
    let starts = Upload::new(device, &super::uploads::counts(&starts))?;
    let args = args![totals.memory(), parts.memory(), starts.arg()];
    launch(device, Kernel(Module::Optimizer, "totals", DType::F32), Grid::blocks(tensors.len(), 1, 1), &args)?;
    totals.tensor(tensors.len()).to_vec1()
}
