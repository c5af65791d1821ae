//! Single steps of recurrences on the GPU: the kernels of whole sequences, a lane a row.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, DType, Result, Tensor};
use std::ops::Range;

use super::attentional::{Weights, THREADS};
use super::columns::{cast, cast_own, copy, device_of, MaskOf, Side};
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};
use super::product::{product, Mat, Store};
use super::uploads::counts;
use crate::ops::{Cell, Step};

/// Hidden states and cells of rows, apart.
struct States {
    hidden: Buffer,
    /// In f32.
    memory: Buffer,
}

impl States {
    /// Of rows `[s]` or `[s | c]`.
    fn of(device: &CudaDevice, cell: Cell, state: &Tensor, rows: usize, h: usize) -> Result<Self> {
        let width = cell.state_width(h);
        if state.dims() != [rows, width] {
            bail!("recurrent: state {:?} instead of [{rows}, {width}]", state.dims());
        }
        let from = Memory::of_tensor(state)?;
        let part = |start: usize| -> Result<Buffer> {
            let part = Buffer::new(device, from.dtype, rows * h)?;
            let to = Side { memory: part.memory(), all: h, start: 0 };
            copy(device, [to, Side { memory: from, all: width, start }], rows, h, MaskOf::None, None)?;
            Ok(part)
        };
        let memory = match cell.memory_width(h) {
            0 => Buffer::new(device, DType::F32, 1)?,
            _ => cast_own(device, part(h)?, DType::F32)?,
        };
        Ok(States { hidden: part(0)?, memory })
    }

    /// The inverse of [`States::of`].
    fn join(&self, device: &CudaDevice, cell: Cell, rows: usize, h: usize) -> Result<Tensor> {
        let (width, dtype) = (cell.state_width(h), self.hidden.memory().dtype);
        let state = Buffer::new(device, dtype, rows * width)?;
        let put = |from: Memory<'_>, start: usize| {
            let to = Side { memory: state.memory(), all: width, start };
            copy(device, [to, Side { memory: from, all: h, start: 0 }], rows, h, MaskOf::None, None)
        };
        put(self.hidden.memory(), 0)?;
        if cell.memory_width(h) > 0 {
            put(cast(device, self.memory.memory(), dtype)?.memory(), h)?;
        }
        Ok(state.tensor((rows, width)))
    }

    /// One step of every row; `extra`: more input, `stride`: from row to row of `projected`.
    #[expect(clippy::too_many_arguments, reason = "what the cell reads")]
    fn advance(
        &self,
        device: &CudaDevice,
        cell: Cell,
        x: Memory<'_>,
        extra: Option<Memory<'_>>,
        (projected, stride): (Memory<'_>, usize),
        bias: Memory<'_>,
        starts: &Upload<i32>,
        [rows, h]: [usize; 2],
    ) -> Result<()> {
        let out = Buffer::new(device, x.dtype, rows * h)?;
        let saved = Buffer::new(device, DType::F32, rows * cell.saved_width(h))?;
        // rows are tokens of sentences of one token
        let args = args![
            out.memory(),
            saved.memory(),
            self.hidden.memory(),
            self.memory.memory(),
            x,
            extra,
            projected,
            bias,
            starts.pointer(),
            starts.pointer(),
            0usize,
            false,
            rows,
            h,
            cell == Cell::Lstm,
            stride,
            h
        ];
        launch(device, Kernel(Module::Recurrent, "cell_forward", x.dtype), Grid::elements(rows * h), &args)
    }
}

/// 0, 1, …: each row's own token.
fn own_tokens(device: &CudaDevice, rows: usize) -> Result<Upload<i32>> {
    Upload::new(device, &(0..rows as i32).collect::<Vec<_>>())
}

/// See [`recurrent_step`](crate::ops::recurrent_step).
pub(in crate::ops) fn plain(cell: Cell, x: &Tensor, [w, bias]: [&Tensor; 2], state: &Tensor) -> Result<Tensor> {
    let (device, (rows, width)) = (device_of(x)?, x.dims2()?);
    let (h, x, bias) = (width / cell.gates(), Memory::of_tensor(x)?, Memory::of_tensor(bias)?.single()?);
    let states = States::of(device, cell, state, rows, h)?;
    let w = cast(device, Memory::of_tensor(w)?.single()?, x.dtype)?;
    let projected = Buffer::new(device, DType::F32, rows * width)?;
    let hidden = Mat::new(states.hidden.memory(), rows, h);
    product(device, Mat::new(projected.memory(), rows, width), Store::Set, hidden, Mat::new(w.memory(), width, h).t())?;
    let starts = own_tokens(device, rows)?;
    states.advance(device, cell, x, None, (projected.memory(), width), bias, &starts, [rows, h])?;
    states.join(device, cell, rows, h)
}

/// See [`attentional_step`](crate::ops::attentional_step).
pub(in crate::ops) fn reading(
    cell: Cell,
    x: &Tensor,
    (keys, values): &Step,
    ranges: &[Range<usize>],
    weights: [&Tensor; 5],
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (device, (rows, width)) = (device_of(x)?, x.dims2()?);
    let (h, (_, a), (_, e)) = (width / cell.gates(), keys.dims2()?, values.dims2()?);
    let x = Memory::of_tensor(x)?;
    let weights = Weights::of(device, &weights, x.dtype)?;
    let states = States::of(device, cell, state, rows, h)?;
    let projected = Buffer::new(device, DType::F32, rows * (width + a))?;
    let hidden = Mat::new(states.hidden.memory(), rows, h);
    let target = Mat::new(projected.memory(), rows, width + a);
    product(device, target, Store::Set, hidden, Mat::new(weights.state.memory(), width + a, h).t())?;

    let starts = own_tokens(device, rows)?;
    let firsts = Upload::new(device, &counts(&ranges.iter().map(|r| r.start).collect::<Vec<_>>()))?;
    let lengths: Vec<usize> = ranges.iter().map(Range::len).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let lengths = Upload::new(device, &counts(&lengths))?;
    let contexts = Buffer::new(device, x.dtype, rows * e)?;
    let (keys, values, nothing) = (Memory::of_tensor(keys)?, Memory::of_tensor(values)?, None::<Memory<'_>>);
    // no weights are kept, so nothing reads their places
    let args = args![
        contexts.memory(),
        nothing,
        nothing,
        nothing,
        projected.memory(),
        keys,
        values,
        weights.v,
        starts.pointer(),
        firsts.pointer(),
        lengths.pointer(),
        nothing,
        0usize,
        a,
        e,
        width + a,
        width,
        0usize,
        0usize
    ];
    let grid = Grid::blocks(rows, 1, THREADS).sharing(longest);
    launch(device, Kernel(Module::Recurrent, "additive_forward", x.dtype), grid, &args)?;

    let extra = Buffer::new(device, DType::F32, rows * width)?;
    let read = Mat::new(contexts.memory(), rows, e);
    product(
        device,
        Mat::new(extra.memory(), rows, width),
        Store::Set,
        read,
        Mat::new(weights.context.memory(), width, e).t(),
    )?;
    let projection = (projected.memory(), width + a);
    let bias = weights.bias;
    states.advance(device, cell, x, Some(extra.memory()), projection, bias, &starts, [rows, h])?;
    Ok((states.join(device, cell, rows, h)?, contexts.tensor((rows, e))))
}
