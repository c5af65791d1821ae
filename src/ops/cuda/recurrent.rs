//! `recurrent` on the GPU: a product and a kernel a step, over all sentences that still run; then products over all
//! tokens, as on the CPU.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor};
use std::sync::{Mutex, PoisonError};

use super::columns::{column_sums, device_of, put};
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{cast, Buffer, Memory, Upload};
use super::product::{product, Mat, Store};
use super::uploads::counts;
use crate::ops::recurrent::take_saved;
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
    to: Memory,
    (from, stride): (Memory, usize),
    first: Option<Memory>,
    index: &Upload<i32>,
    [rows, width]: [usize; 2],
) -> Result<()> {
    let args = args![to, from, first, index.arg(), rows, width, stride];
    launch(device, Kernel(Module::Recurrent, "gather_rows", to.dtype), Grid::elements(rows * width), &args)
}

/// Rows of `from` (f32) to rows `index` of a new buffer.
pub(super) fn scatter(
    device: &CudaDevice,
    to: Memory,
    from: Memory,
    index: &Upload<i32>,
    [rows, width]: [usize; 2],
) -> Result<()> {
    let args = args![to, from, index.arg(), rows, width];
    launch(device, Kernel(Module::Recurrent, "scatter_rows", to.dtype), Grid::elements(rows * width), &args)
}

/// Weights of the states' projection, `W_hh` and `b_hh` flat, and the widths they fit.
struct Weights {
    matrix: Memory,
    bias: Memory,
    h: usize,
    _rounded: Option<Buffer>,
}

fn weights(device: &CudaDevice, flat: Memory, width: usize, gates: usize, dtype: DType) -> Result<Weights> {
    let h = width / gates;
    if h * gates != width || flat.len != width * (h + 1) {
        bail!("recurrent: {} weights do not fit projections of width {width} and {gates} gates", flat.len);
    }
    let flat = flat.single()?;
    let (matrix, _rounded) = cast(device, flat.part(0, width * h), dtype)?;
    Ok(Weights { matrix, bias: flat.part(width * h, width), h, _rounded })
}

/// States after each token, and what the cell saved of each.
fn forward(
    device: &CudaDevice,
    recurrence: &Recurrence,
    x: Memory,
    [n, width]: [usize; 2],
    flat: Memory,
    initial: Option<Memory>,
) -> Result<(CudaStorage, Tensor)> {
    let Recurrence { cell, direction, offsets } = recurrence;
    let Weights { matrix, bias, h, _rounded } = weights(device, flat, width, cell.gates(), x.dtype)?;
    if offsets.last() != Some(&n) || initial.is_some_and(|s| s.len != (offsets.len() - 1) * h) {
        bail!("recurrent: {n} rows do not fit {} sentences", offsets.len().saturating_sub(1));
    }
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
            product(device, target, Store::Set, states, Mat::new(matrix, width, h).t())?;
        }
        let projection = projects.then(|| projected.memory());
        let args = args![
            out.memory(),
            saved.memory(),
            hidden.memory(),
            memory.memory(),
            x,
            None::<Memory>,
            projection,
            bias,
            lanes.starts.arg(),
            lanes.counts.arg(),
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
    Ok((out.storage(), saved.tensor((n, saved_width))))
}

/// Gradients of inputs, weights and initial states.
fn backward(
    recurrence: &Recurrence,
    flat: &Tensor,
    initial: Option<&Tensor>,
    out: &Tensor,
    grad: &Tensor,
    saved: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let Recurrence { cell, direction, offsets } = recurrence;
    let (device, (n, h)) = (device_of(out)?, out.dims2()?);
    let (width, sentences) = (cell.gates() * h, offsets.len() - 1);
    let grad = grad.contiguous()?;
    let (out, grad, saved) = (Memory::of_tensor(out)?, Memory::of_tensor(&grad)?, Memory::of_tensor(saved)?);
    let dtype = out.dtype;
    let Weights { matrix, _rounded, .. } = weights(device, Memory::of_tensor(flat)?, width, cell.gates(), dtype)?;
    let first = initial.map(Memory::of_tensor).transpose()?;
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
            None::<Memory>,
            dprojected.memory(),
            own_memory,
            dh.memory(),
            dm.memory(),
            grad,
            saved,
            before.memory(),
            lanes.starts.arg(),
            lanes.counts.arg(),
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
        if t > 0 || initial.is_some() {
            let target = Mat::new(dh.memory(), alive, h);
            let upstream = Mat::new(dprojected.memory(), alive, width);
            product(device, target, Store::Add, upstream, Mat::new(matrix, width, h))?;
        }
    }
    let dweights = Buffer::new(device, DType::F32, width * (h + 1))?;
    let (dw, db) = (dweights.memory().part(0, width * h), dweights.memory().part(width * h, width));
    state_gradients(device, [dw, db], [dx.memory(), dg.memory()], before.memory(), [n, h, width, own, own])?;
    let dinitial = Buffer::new(device, dtype, sentences * h)?;
    scatter(device, dinitial.memory(), dh.memory(), &lanes.sentences, [sentences, h])?;
    Ok((dx.tensor((n, width)), dweights.tensor(width * (h + 1)), dinitial.tensor((sentences, h))))
}

/// Gradients of the states' projection and its bias: those of the projections are `dx` but for its last `own` columns,
/// which `dg` holds, with more columns after them (`rest` in all) if the projection has more rows.
pub(super) fn state_gradients(
    device: &CudaDevice,
    [dw, db]: [Memory; 2],
    [dx, dg]: [Memory; 2],
    before: Memory,
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

/// The node on the tape, whatever the type of the activations.
pub(in crate::ops) struct Operation {
    recurrence: Recurrence,
    saved: Mutex<Option<Tensor>>,
}

impl Operation {
    pub(in crate::ops) fn new(recurrence: Recurrence) -> Self {
        Operation { recurrence, saved: Mutex::new(None) }
    }

    fn forward(
        &self,
        x: (&CudaStorage, &Layout),
        w: (&CudaStorage, &Layout),
        initial: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, width) = x.1.shape().dims2()?;
        let initial = initial.map(|(initial, layout)| Memory::of(initial, layout)).transpose()?;
        let (inputs, weights) = (Memory::of(x.0, x.1)?, Memory::of(w.0, w.1)?);
        let device = &x.0.device;
        let (out, saved) = forward(device, &self.recurrence, inputs, [n, width], weights, initial)?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        Ok((out, (n, width / self.recurrence.cell.gates()).into()))
    }

    fn backward(
        &self,
        weights: &Tensor,
        initial: Option<&Tensor>,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let saved = take_saved(&self.saved, "recurrent")?;
        backward(&self.recurrence, weights, initial, res, grad, &saved)
    }
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        "recurrent"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("recurrent: made for a GPU, called on the CPU")
    }

    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward((x, xl), (w, wl), None)
    }

    fn bwd(&self, _: &Tensor, w: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(w, None, res, grad)?;
        Ok((Some(dx), Some(dw)))
    }
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        "recurrent"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("recurrent: made for a GPU, called on the CPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        w: &CudaStorage,
        wl: &Layout,
        s: &CudaStorage,
        sl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward((x, xl), (w, wl), Some((s, sl)))
    }

    fn bwd(
        &self,
        _: &Tensor,
        w: &Tensor,
        s: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, ds) = self.backward(w, Some(s), res, grad)?;
        Ok((Some(dx), Some(dw), Some(ds)))
    }
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
