//! `recurrent` on the GPU: a product and a kernel a step, over all sentences that still run; then products over all
//! tokens, as on the CPU.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{DType, Result, Tensor};

use super::columns::{cast, column_sums, device_of, put};
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};
use super::product::{product, Mat, Store};
use super::uploads::counts;
use crate::ops::tape::{Computed, Done, OnGpu};
use crate::ops::{Cell, Direction, Recurrence};

/// Sentences in the order in which they take part: longest first, equal ones in their own order.
pub(super) struct Lanes {
    /// Steps of each lane.
    pub(super) lengths: Vec<usize>,
    /// Sentence of each lane.
    pub(super) order: Vec<usize>,
    pub(super) sentences: Upload<i32>,
    pub(super) starts: Upload<i32>,
    pub(super) counts: Upload<i32>,
}

impl Lanes {
    pub(super) fn new(device: &CudaDevice, offsets: &[usize]) -> Result<Self> {
        let length = |sentence: usize| offsets[sentence + 1] - offsets[sentence];
        let mut order: Vec<usize> = (0..offsets.len() - 1).collect();
        order.sort_by_key(|&sentence| std::cmp::Reverse(length(sentence)));
        let lengths: Vec<usize> = order.iter().map(|&sentence| length(sentence)).collect();
        let starts: Vec<usize> = order.iter().map(|&sentence| offsets[sentence]).collect();
        Ok(Lanes {
            sentences: Upload::new(device, &counts(&order))?,
            starts: Upload::new(device, &counts(&starts))?,
            counts: Upload::new(device, &counts(&lengths))?,
            lengths,
            order,
        })
    }

    pub(super) fn steps(&self) -> usize {
        self.lengths.first().copied().unwrap_or(0)
    }

    /// Lanes that have a step `t`.
    pub(super) fn alive(&self, t: usize) -> usize {
        self.lengths.partition_point(|&length| length > t)
    }
}

/// For each token the one before it in the direction of the recurrence; −1 − s for the first of sentence s.
pub(super) fn previous(offsets: &[usize], direction: Direction) -> Vec<i32> {
    let mut previous = vec![0; offsets.last().copied().unwrap_or(0)];
    for (sentence, pair) in offsets.windows(2).enumerate() {
        let steps = pair[1] - pair[0];
        for t in 0..steps {
            let before = match t {
                0 => -1 - sentence as i32,
                _ => (pair[0] + direction.token(t - 1, steps)) as i32,
            };
            previous[pair[0] + direction.token(t, steps)] = before;
        }
    }
    previous
}

/// Rows `index` of `from`, or of `first`; see `gather_rows` in recurrent.cu.
pub(super) fn gather(
    device: &CudaDevice,
    to: Memory<'_>,
    (from, stride): (Memory<'_>, usize),
    first: Option<Memory<'_>>,
    index: &Upload<i32>,
    [rows, width]: [usize; 2],
) -> Result<()> {
    let args = args![to.holds(rows * width)?, from, first, index.pointer(), rows, width, stride];
    launch(device, Kernel(Module::Recurrent, "gather_rows", to.dtype), Grid::elements(rows * width), &args)
}

/// Rows of `from` (f32) to rows `index` of a new buffer.
pub(super) fn scatter(
    device: &CudaDevice,
    to: Memory<'_>,
    from: Memory<'_>,
    index: &Upload<i32>,
    [rows, width]: [usize; 2],
) -> Result<()> {
    let args = args![to, from.holds(rows * width)?, index.pointer(), rows, width];
    launch(device, Kernel(Module::Recurrent, "scatter_rows", to.dtype), Grid::elements(rows * width), &args)
}

impl OnGpu for Recurrence {
    fn forward_on_gpu(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let Recurrence { cell, direction, offsets } = self;
        let (device, (n, width)) = (device_of(&inputs[0])?, inputs[0].dims2()?);
        let h = width / cell.gates();
        let (x, bias) = (Memory::of_tensor(&inputs[0])?, Memory::of_tensor(&inputs[2])?.single()?);
        let initial = inputs.get(3).map(Memory::of_tensor).transpose()?;
        let matrix = cast(device, Memory::of_tensor(&inputs[1])?.single()?, x.dtype)?;
        let lanes = Lanes::new(device, offsets)?;
        let all = lanes.order.len();
        let saved_width = cell.saved_width(h);
        let (out, saved) = (Buffer::new(device, x.dtype, n * h)?, Buffer::new(device, DType::F32, n * saved_width)?);
        let hidden = match initial {
            None => Buffer::zeros(device, x.dtype, all * h)?,
            Some(initial) => {
                let hidden = Buffer::new(device, x.dtype, all * h)?;
                gather(device, hidden.memory(), (initial, h), None, &lanes.sentences, [all, h])?;
                hidden
            }
        };
        let memory = Buffer::zeros(device, DType::F32, all * cell.memory_width(h))?;
        let projected = Buffer::new(device, DType::F32, all * width)?;
        let (lstm, reverse) = (*cell == Cell::Lstm, *direction == Direction::Reverse);
        for t in 0..lanes.steps() {
            let alive = lanes.alive(t);
            let projects = t > 0 || initial.is_some();
            if projects {
                let states = Mat::new(hidden.memory(), alive, h);
                let target = Mat::new(projected.memory(), alive, width);
                product(device, target, Store::Set, states, Mat::new(matrix.memory(), width, h).t())?;
            }
            let projection = projects.then(|| projected.memory());
            let args = args![
                out.memory(),
                saved.memory(),
                hidden.memory(),
                memory.memory(),
                x,
                None::<Memory<'_>>,
                projection,
                bias,
                lanes.starts.pointer(),
                lanes.counts.pointer(),
                t,
                reverse,
                alive,
                h,
                lstm,
                width,
                h
            ];
            launch(device, Kernel(Module::Recurrent, "cell_forward", x.dtype), Grid::elements(alive * h), &args)?;
        }
        Ok((out.storage(), (n, h).into(), [Some(saved.tensor((n, saved_width))), None, None]))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let Recurrence { cell, direction, offsets } = self;
        let (device, (n, h), [saved]) = (device_of(done.output)?, done.output.dims2()?, done.saved()?);
        let (width, sentences) = (cell.gates() * h, offsets.len() - 1);
        let (out, grad) = (Memory::of_tensor(done.output)?, Memory::of_tensor(done.gradient)?.holds(n * h)?);
        let (dtype, saved) = (out.dtype, Memory::of_tensor(saved)?);
        let matrix = cast(device, Memory::of_tensor(&done.inputs[1])?, dtype)?;
        let first = done.inputs.get(3).map(Memory::of_tensor).transpose()?;
        let lanes = Lanes::new(device, offsets)?;
        let before = Buffer::new(device, dtype, n * h)?;
        let index = Upload::new(device, &previous(offsets, *direction))?;
        gather(device, before.memory(), (out, h), first, &index, [n, h])?;

        let own = cell.own_columns(h);
        let (dx, dg) = (Buffer::new(device, dtype, n * width)?, Buffer::new(device, dtype, n * own)?);
        let dh = Buffer::zeros(device, DType::F32, sentences * h)?;
        let dm = Buffer::zeros(device, DType::F32, sentences * cell.memory_width(h))?;
        let dprojected = Buffer::new(device, dtype, sentences * width)?;
        let (lstm, reverse) = (*cell == Cell::Lstm, *direction == Direction::Reverse);
        let own_memory = (own > 0).then(|| dg.memory());
        for t in (0..lanes.steps()).rev() {
            let alive = lanes.alive(t);
            let args = args![
                dx.memory(),
                None::<Memory<'_>>,
                dprojected.memory(),
                own_memory,
                dh.memory(),
                dm.memory(),
                grad,
                saved,
                before.memory(),
                lanes.starts.pointer(),
                lanes.counts.pointer(),
                t,
                reverse,
                alive,
                h,
                lstm,
                width,
                own,
                h
            ];
            launch(device, Kernel(Module::Recurrent, "cell_backward", dtype), Grid::elements(alive * h), &args)?;
            if t > 0 || first.is_some() {
                let target = Mat::new(dh.memory(), alive, h);
                let upstream = Mat::new(dprojected.memory(), alive, width);
                product(device, target, Store::Add, upstream, Mat::new(matrix.memory(), width, h))?;
            }
        }
        let (dw, db) = (Buffer::new(device, DType::F32, width * h)?, Buffer::new(device, DType::F32, width)?);
        let of = [dx.memory(), dg.memory()];
        state_gradients(device, [dw.memory(), db.memory()], of, before.memory(), [n, h, width, own, own])?;
        let dinitial = match first {
            None => None,
            Some(_) => {
                let dinitial = Buffer::new(device, dtype, sentences * h)?;
                scatter(device, dinitial.memory(), dh.memory(), &lanes.sentences, [sentences, h])?;
                Some(dinitial.tensor((sentences, h)))
            }
        };
        let gradients = [dx.tensor((n, width)), dw.tensor((width, h)), db.tensor(width)];
        Ok(gradients.into_iter().chain(dinitial).map(Some).collect())
    }
}

/// Gradients of the states' projection and its bias: those of the projections are `dx` but for its last `own` columns,
/// which `dg` holds, with more columns after them (`rest` in all) if the projection has more rows.
pub(super) fn state_gradients(
    device: &CudaDevice,
    [dw, db]: [Memory<'_>; 2],
    [dx, dg]: [Memory<'_>; 2],
    before: Memory<'_>,
    [n, h, width, own, rest]: [usize; 5],
) -> Result<()> {
    let shared = width - own;
    let states = Mat::new(before, n, h);
    for (dw, gradient, rows, stride) in
        [(dw.part(0, shared * h), dx, shared, width), (dw.part(shared * h, rest * h), dg, rest, rest)]
    {
        if rows > 0 {
            let gradient = Mat::strided(gradient, n, rows, stride);
            product(device, Mat::new(dw, rows, h), Store::Set, gradient.t(), states)?;
        }
    }
    for (db, gradient, columns, stride) in
        [(db.part(0, shared), dx, shared, width), (db.part(shared, own), dg, own, rest)]
    {
        if columns > 0 {
            let sums = column_sums(device, gradient, n, columns, stride)?;
            put(device, db, sums.memory().part(0, columns))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_before_follows_the_direction() {
        let offsets = [0, 3, 3, 5];
        assert_eq!(previous(&offsets, Direction::Forward), [-1, 0, 1, -3, 3]);
        assert_eq!(previous(&offsets, Direction::Reverse), [1, 2, -1, 4, -3]);
    }
}
