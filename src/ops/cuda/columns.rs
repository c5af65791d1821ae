//! Sums and casts, and cutting and joining by columns, on the GPU.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, DType, Device, Result, Tensor};

use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};
use crate::ops::columns as op;
use crate::ops::tape::{exactly, Computed, Done, OnGpu};
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
    x: Memory<'_>,
    rows: usize,
    columns: usize,
    stride: usize,
) -> Result<Buffer> {
    let x = x.holds(rows.saturating_sub(1) * stride + columns.min(rows * columns))?;
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

fn add_into(device: &CudaDevice, sum: Memory<'_>, a: Memory<'_>, b: Memory<'_>) -> Result<()> {
    if a.dtype != b.dtype {
        bail!("gradients of types {:?} and {:?} meet at one tensor", a.dtype, b.dtype);
    }
    let args = args![sum.holds(a.len)?, a, b.holds(a.len)?, Arg::Size(a.len as u64)];
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
pub(super) struct Side<'a> {
    pub(super) memory: Memory<'a>,
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
    [to, from]: [Side<'_>; 2],
    rows: usize,
    width: usize,
    mask: MaskOf,
    dropout: Option<Dropout>,
) -> Result<()> {
    for side in [to, from] {
        side.memory.holds(if width == 0 { 0 } else { rows.saturating_sub(1) * side.all + side.start + width })?;
    }
    let masked = match mask {
        MaskOf::None => 0usize,
        MaskOf::Source => 1,
        MaskOf::Target => 2,
    };
    let args = args![to.memory, from.memory, rows, width, to.all, to.start, from.all, from.start, masked; dropout];
    let kernel = Kernel(Module::Elementwise, "copy_columns", from.memory.dtype);
    launch(device, kernel, Grid::elements(rows * width), &args)
}

impl OnGpu for op::Columns {
    fn forward_on_gpu(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let [x] = exactly(inputs)?;
        let (device, (rows, all), &op::Columns { start, width }) = (device_of(x)?, x.dims2()?, self);
        let y = Buffer::new(device, x.dtype(), rows * width)?;
        let to = Side { memory: y.memory(), all: width, start: 0 };
        copy(device, [to, Side { memory: Memory::of_tensor(x)?, all, start }], rows, width, MaskOf::None, None)?;
        Ok((y.storage(), (rows, width).into(), Default::default()))
    }

    /// Zeros but for these columns.
    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let ([x], dy) = (exactly(done.inputs)?, done.gradient);
        let (device, (rows, all), width) = (device_of(dy)?, x.dims2()?, self.width);
        let dx = Buffer::zeros(device, dy.dtype(), rows * all)?;
        let from = Side { memory: Memory::of_tensor(dy)?, all: width, start: 0 };
        let to = Side { memory: dx.memory(), all, start: self.start };
        copy(device, [to, from], rows, width, MaskOf::None, None)?;
        Ok(vec![Some(dx.tensor((rows, all)))])
    }
}

impl OnGpu for op::Join {
    fn forward_on_gpu(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let (device, rows) = (device_of(&inputs[0])?, inputs[0].dim(0)?);
        let all = inputs.iter().map(|input| input.dims()[1]).sum();
        let y = Buffer::new(device, inputs[0].dtype(), rows * all)?;
        let mask = if self.dropout.is_some() { MaskOf::Target } else { MaskOf::None };
        let mut start = 0;
        for input in inputs {
            let (memory, width) = (Memory::of_tensor(input)?, input.dims()[1]);
            let to = Side { memory: y.memory(), all, start };
            copy(device, [to, Side { memory, all: width, start: 0 }], rows, width, mask, self.dropout)?;
            start += width;
        }
        Ok((y.storage(), (rows, all).into(), Default::default()))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let dy = done.gradient;
        let (device, (rows, all)) = (device_of(dy)?, dy.dims2()?);
        let mask = if self.dropout.is_some() { MaskOf::Source } else { MaskOf::None };
        op::Join::parts(done.inputs, |start, width| {
            let dx = Buffer::new(device, dy.dtype(), rows * width)?;
            let from = Side { memory: Memory::of_tensor(dy)?, all, start };
            let to = Side { memory: dx.memory(), all: width, start: 0 };
            copy(device, [to, from], rows, width, mask, self.dropout)?;
            Ok(dx.tensor((rows, width)))
        })
    }
}

/// Numbers in another type, or themselves if it is theirs.
pub(super) enum Cast<'a> {
    Same(Memory<'a>),
    Other(Buffer),
}

impl Cast<'_> {
    pub(super) fn memory(&self) -> Memory<'_> {
        match self {
            Cast::Same(memory) => *memory,
            Cast::Other(buffer) => buffer.memory(),
        }
    }

    /// New memory, if there is any.
    pub(super) fn buffer(self) -> Option<Buffer> {
        match self {
            Cast::Same(_) => None,
            Cast::Other(buffer) => Some(buffer),
        }
    }
}

/// The same numbers in another type.
pub(super) fn cast<'a>(device: &CudaDevice, from: Memory<'a>, dtype: DType) -> Result<Cast<'a>> {
    if from.dtype == dtype {
        return Ok(Cast::Same(from));
    }
    let (name, instance) = match (from.dtype, dtype) {
        (DType::F32, DType::BF16) => ("from_f32", DType::BF16),
        (DType::BF16, DType::F32) => ("to_f32", DType::BF16),
        (from, to) => bail!("no cast from {from:?} to {to:?} on the GPU"),
    };
    let to = Buffer::new(device, dtype, from.len)?;
    let args = args![to.memory(), from, Arg::Size(from.len as u64)];
    launch(device, Kernel(Module::Elementwise, name, instance), Grid::elements(from.len), &args)?;
    Ok(Cast::Other(to))
}

/// As [`cast`], of memory that nobody else needs.
pub(super) fn cast_own(device: &CudaDevice, from: Buffer, dtype: DType) -> Result<Buffer> {
    let other = cast(device, from.memory(), dtype)?.buffer();
    Ok(other.unwrap_or(from))
}

/// Tensors that one launch puts end to end.
const PARTS: usize = 8;

/// Tensors end to end.
pub(super) fn concatenate(tensors: &[Tensor]) -> Result<Buffer> {
    let Some(first) = tensors.first() else { bail!("nothing to concatenate") };
    let (device, dtype) = (device_of(first)?, first.dtype());
    let joined = Buffer::new(device, dtype, tensors.iter().map(Tensor::elem_count).sum())?;
    let mut start = 0;
    for tensors in tensors.chunks(PARTS) {
        let (mut parts, mut ends, mut end) = ([Arg::Pointer(None); PARTS], [Arg::Size(0); PARTS], 0);
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
    Ok(joined)
}

/// Copies numbers of one type.
pub(super) fn put(device: &CudaDevice, to: Memory<'_>, from: Memory<'_>) -> Result<()> {
    let sides = [to, from].map(|memory| Side { memory, all: from.len, start: 0 });
    copy(device, sides, 1, from.len, MaskOf::None, None)
}
