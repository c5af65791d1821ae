//! Sums, and cutting and joining by columns, on the GPU.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, CudaStorage, DType, Device, Result, Tensor};

use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};
use crate::ops::Dropout;

/// Rows that one block sums up before the blocks' results are summed.
pub(super) const CHUNK: usize = 512;

/// The GPU a tensor is on.
pub(in crate::ops) fn device_of(tensor: &Tensor) -> Result<&CudaDevice> {
    match tensor.device() {
        Device::Cuda(device) => Ok(device),
        other => bail!("a tensor of shape {:?} is on {other:?}, not on the GPU", tensor.dims()),
    }
}

/// Σ over rows of `columns` numbers that are `stride` apart, in f32.
pub(super) fn column_sums(
    device: &CudaDevice,
    x: Memory,
    rows: usize,
    columns: usize,
    stride: usize,
) -> Result<Buffer> {
    let chunks = rows.div_ceil(CHUNK).max(1);
    let sums = Buffer::new(device, DType::F32, chunks * columns)?;
    let args = args![sums.memory(), x, rows, columns, stride, CHUNK];
    let kernel = Kernel(Module::Elementwise, "column_sums", x.dtype);
    launch(device, kernel, Grid::columns(columns, chunks), &args)?;
    sum_chunks(device, sums, chunks, columns)
}

/// Σ of the chunks' sums.
pub(super) fn sum_chunks(device: &CudaDevice, sums: Buffer, chunks: usize, columns: usize) -> Result<Buffer> {
    if chunks == 1 {
        return Ok(sums);
    }
    let total = Buffer::new(device, DType::F32, columns)?;
    let args = args![total.memory(), sums.memory(), chunks, columns, columns, chunks];
    let kernel = Kernel(Module::Elementwise, "column_sums", DType::F32);
    launch(device, kernel, Grid::columns(columns, 1), &args)?;
    Ok(total)
}

/// a + b in new memory.
pub(in crate::ops) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let device = device_of(a)?;
    let x = Memory::of_tensor(a)?;
    let sum = Buffer::new(device, x.dtype, x.len)?;
    add_into(device, sum.memory(), x, Memory::of_tensor(b)?)?;
    Ok(sum.tensor(a.shape()))
}

/// a += b.
pub(in crate::ops) fn add_in_place(a: &Tensor, b: &Tensor) -> Result<()> {
    let sum = Memory::of_tensor(a)?;
    add_into(device_of(a)?, sum, sum, Memory::of_tensor(b)?)
}

fn add_into(device: &CudaDevice, sum: Memory, a: Memory, b: Memory) -> Result<()> {
    if a.dtype != b.dtype {
        bail!("gradients of types {:?} and {:?} meet at one tensor", a.dtype, b.dtype);
    }
    let args = args![sum, a, b, Arg::Size(a.len as u64)];
    launch(device, Kernel(Module::Elementwise, "add", a.dtype), Grid::elements(a.len), &args)
}

/// x *= factor.
pub(in crate::ops) fn multiply(x: &Tensor, factor: f64) -> Result<()> {
    let memory = Memory::of_tensor(x)?;
    let args = args![memory, memory, Arg::Size(memory.len as u64), factor];
    launch(device_of(x)?, Kernel(Module::Elementwise, "multiply", memory.dtype), Grid::elements(memory.len), &args)
}

/// Where a copy of columns comes from or goes to.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) memory: Memory,
    /// Numbers a row.
    pub(super) all: usize,
    pub(super) start: usize,
}

/// Which side's element index names the dropout mask.
#[derive(Clone, Copy)]
pub(super) enum MaskOf {
    None,
    Source,
    Target,
}

pub(super) fn copy(
    device: &CudaDevice,
    [to, from]: [Columns; 2],
    rows: usize,
    width: usize,
    mask: MaskOf,
    dropout: Option<Dropout>,
) -> Result<()> {
    let masked = match mask {
        MaskOf::None => 0usize,
        MaskOf::Source => 1,
        MaskOf::Target => 2,
    };
    let args = args![to.memory, from.memory, rows, width, to.all, to.start, from.all, from.start, masked; dropout];
    let kernel = Kernel(Module::Elementwise, "copy_columns", from.memory.dtype);
    launch(device, kernel, Grid::elements(rows * width), &args)
}

/// `width` columns from `start` of `x`.
pub(in crate::ops) fn cut(
    device: &CudaDevice,
    x: Memory,
    [rows, all]: [usize; 2],
    start: usize,
    width: usize,
) -> Result<CudaStorage> {
    let y = Buffer::new(device, x.dtype, rows * width)?;
    let sides = [Columns { memory: y.memory(), all: width, start: 0 }, Columns { memory: x, all, start }];
    copy(device, sides, rows, width, MaskOf::None, None)?;
    Ok(y.storage())
}

/// Its gradient: zeros but for these columns.
pub(in crate::ops) fn uncut(dy: &Tensor, all: usize, start: usize) -> Result<Tensor> {
    let (device, (rows, width)) = (device_of(dy)?, dy.dims2()?);
    let dx = Buffer::zeros(device, dy.dtype(), rows * all)?;
    let from = Columns { memory: Memory::of_tensor(dy)?, all: width, start: 0 };
    let to = Columns { memory: dx.memory(), all, start };
    copy(device, [to, from], rows, width, MaskOf::None, None)?;
    Ok(dx.tensor((rows, all)))
}

/// Parts `[rows, width]` side by side, then dropout.
pub(in crate::ops) fn join(
    device: &CudaDevice,
    parts: &[(Memory, usize)],
    rows: usize,
    dropout: Option<Dropout>,
) -> Result<CudaStorage> {
    let all = parts.iter().map(|(_, width)| width).sum();
    let y = Buffer::new(device, parts[0].0.dtype, rows * all)?;
    let mask = if dropout.is_some() { MaskOf::Target } else { MaskOf::None };
    let mut start = 0;
    for &(memory, width) in parts {
        let to = Columns { memory: y.memory(), all, start };
        copy(device, [to, Columns { memory, all: width, start: 0 }], rows, width, mask, dropout)?;
        start += width;
    }
    Ok(y.storage())
}

/// The gradient of a part of `width` columns from `start` of what was joined.
pub(in crate::ops) fn part(dy: &Tensor, start: usize, width: usize, dropout: Option<Dropout>) -> Result<Tensor> {
    let (device, (rows, all)) = (device_of(dy)?, dy.dims2()?);
    let dx = Buffer::new(device, dy.dtype(), rows * width)?;
    let mask = if dropout.is_some() { MaskOf::Source } else { MaskOf::None };
    let from = Columns { memory: Memory::of_tensor(dy)?, all, start };
    let to = Columns { memory: dx.memory(), all: width, start: 0 };
    copy(device, [to, from], rows, width, mask, dropout)?;
    Ok(dx.tensor((rows, width)))
}

/// Tensors that one launch puts end to end.
const PARTS: usize = 8;

/// Tensors end to end.
pub(in crate::ops) fn concatenate(tensors: &[Tensor]) -> Result<CudaStorage> {
    let Some(first) = tensors.first() else { bail!("nothing to concatenate") };
    let (device, dtype) = (device_of(first)?, first.dtype());
    let joined = Buffer::new(device, dtype, tensors.iter().map(Tensor::elem_count).sum())?;
    let mut start = 0;
    for tensors in tensors.chunks(PARTS) {
        let (mut parts, mut ends, mut end) = ([Arg::Pointer(0); PARTS], [Arg::Size(0); PARTS], 0);
        for (i, tensor) in tensors.iter().enumerate() {
            let from = Memory::of_tensor(tensor)?;
            if from.dtype != dtype {
                bail!("numbers of types {dtype:?} and {:?} do not go together", from.dtype);
            }
            end += from.len;
            parts[i] = from.into();
            ends[i..].fill(Arg::Size(end as u64));
        }
        let mut args = vec![joined.memory().part(start, end).into()];
        args.extend(parts.into_iter().chain(ends));
        launch(device, Kernel(Module::Elementwise, "concatenate", dtype), Grid::elements(end), &args)?;
        start += end;
    }
    Ok(joined.storage())
}

/// Copies numbers of one type.
pub(super) fn put(device: &CudaDevice, to: Memory, from: Memory) -> Result<()> {
    let sides = [to, from].map(|memory| Columns { memory, all: from.len, start: 0 });
    copy(device, sides, 1, from.len, MaskOf::None, None)
}
