//! `attentional` on the GPU: two products and two kernels a step.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use std::sync::{Mutex, PoisonError};

use super::columns::{column_sums, device_of, put};
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{cast, Buffer, Memory, Upload};
use super::product::{product, Mat, Store};
use super::recurrent::{gather, previous, scatter, state_gradients, Lanes};
use super::uploads::counts;
use crate::ops::recurrent::take_saved;
use crate::ops::{Attentional, Cell, Direction, Widths};

/// Threads of the block that attends for a lane.
pub(super) const THREADS: usize = 128;

/// What a forward pass keeps, in f32.
struct Saved {
    cells: Buffer,
    queries: Buffer,
    alphas: Buffer,
}

/// The parameters inside a flat tensor; the matrices in the type of activations.
pub(super) struct Weights {
    pub(super) context: Memory,
    /// `W_hh` over `W_q`.
    pub(super) state: Memory,
    pub(super) bias: Memory,
    pub(super) v: Memory,
    _rounded: [Option<Buffer>; 2],
}

impl Weights {
    pub(super) fn of(device: &CudaDevice, flat: Memory, widths: Widths, gates: usize, dtype: DType) -> Result<Self> {
        let Widths { hidden: h, attention: a, context: e } = widths;
        let (width, flat) = (gates * h, flat.single()?);
        let lengths = [width * e, (width + a) * h, width, a];
        if flat.len != lengths.iter().sum::<usize>() {
            bail!("attentional: weights has {} values instead of {lengths:?}", flat.len);
        }
        let (context, first) = cast(device, flat.part(0, width * e), dtype)?;
        let (state, second) = cast(device, flat.part(width * e, (width + a) * h), dtype)?;
        let bias = flat.part(width * e + (width + a) * h, width);
        let v = flat.part(width * e + (width + a) * h + width, a);
        Ok(Weights { context, state, bias, v, _rounded: [first, second] })
    }
}

/// Keys, values and initial states inside a flat tensor.
fn split(memory: Memory, widths: Widths, source: &[usize]) -> Result<[Memory; 3]> {
    let Widths { hidden: h, attention: a, context: e } = widths;
    let (tokens, sentences) = (source.last().copied().unwrap_or(0), source.len().saturating_sub(1));
    let lengths = [tokens * a, tokens * e, sentences * h];
    if memory.len != lengths.iter().sum::<usize>() {
        bail!("attentional: memory has {} values instead of {lengths:?}", memory.len);
    }
    Ok([
        memory.part(0, lengths[0]),
        memory.part(lengths[0], lengths[1]),
        memory.part(lengths[0] + lengths[1], lengths[2]),
    ])
}

/// The sentences' lanes, and where each one's source and weights are.
struct Readers {
    lanes: Lanes,
    firsts: Upload<i32>,
    counts: Upload<i32>,
    places: Upload<u32>,
    /// (target token, source token) pairs in all.
    pairs: usize,
    /// Of a source.
    longest: usize,
}

impl Readers {
    fn new(device: &CudaDevice, source: &[usize], target: &[usize]) -> Result<Self> {
        let lanes = Lanes::new(device, target)?;
        let lengths: Vec<usize> = source.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut places = Vec::with_capacity(lengths.len());
        let mut pairs = 0;
        for (length, target) in lengths.iter().zip(target.windows(2)) {
            places.push(pairs);
            pairs += length * (target[1] - target[0]);
        }
        let of_lane = |values: &[usize]| -> Vec<usize> { lanes.order.iter().map(|&s| values[s]).collect() };
        let words: Vec<u32> = of_lane(&places).iter().map(|&place| place as u32).collect();
        Ok(Readers {
            firsts: Upload::new(device, &counts(&of_lane(source)))?,
            counts: Upload::new(device, &counts(&of_lane(&lengths)))?,
            places: Upload::new(device, &words)?,
            lanes,
            pairs,
            longest: lengths.iter().copied().max().unwrap_or(0),
        })
    }
}

/// States and contexts side by side, and what is saved.
fn forward(
    device: &CudaDevice,
    recurrence: &Attentional,
    x: Memory,
    [n, width]: [usize; 2],
    memory: Memory,
    flat: Memory,
) -> Result<(CudaStorage, Saved)> {
    let Attentional { cell, widths, source, target } = recurrence;
    let Widths { hidden: h, attention: a, context: e } = *widths;
    if width != cell.gates() * h || source.len() != target.len() || target.last() != Some(&n) {
        bail!("attentional: inputs [{n}, {width}] do not fit a state of {h} and {} sentences", target.len());
    }
    let dtype = x.dtype;
    let weights = Weights::of(device, flat, *widths, cell.gates(), dtype)?;
    let [keys, values, initial] = split(memory, *widths, source)?;
    let readers = Readers::new(device, source, target)?;
    let (lanes, all) = (&readers.lanes, readers.lanes.order.len());
    let out = Buffer::new(device, dtype, n * (h + e))?;
    let saved = Saved {
        cells: Buffer::new(device, DType::F32, n * cell.saved_width(h))?,
        queries: Buffer::new(device, DType::F32, n * a)?,
        alphas: Buffer::new(device, DType::F32, readers.pairs)?,
    };
    let hidden = Buffer::new(device, dtype, all * h)?;
    gather(device, hidden.memory(), (initial, h), None, &lanes.sentences, [all, h])?;
    let cell_memory = Buffer::zeros(device, DType::F32, all * cell.memory_width(h))?;
    let projected = Buffer::new(device, DType::F32, all * (width + a))?;
    let contexts = Buffer::new(device, dtype, all * e)?;
    let extra = Buffer::new(device, DType::F32, all * width)?;
    for t in 0..lanes.steps() {
        let alive = lanes.alive(t);
        let target = Mat::new(projected.memory(), alive, width + a);
        let states = Mat::new(hidden.memory(), alive, h);
        product(device, target, Store::Set, states, Mat::new(weights.state, width + a, h).t())?;
        let args = args![
            contexts.memory(),
            out.memory(),
            saved.queries.memory(),
            saved.alphas.memory(),
            projected.memory(),
            keys,
            values,
            weights.v,
            lanes.starts.arg(),
            readers.firsts.arg(),
            readers.counts.arg(),
            readers.places.arg(),
            t,
            a,
            e,
            width + a,
            width,
            h + e,
            h
        ];
        let grid = Grid::blocks(alive, 1, THREADS).sharing(readers.longest);
        launch(device, Kernel(Module::Recurrent, "additive_forward", dtype), grid, &args)?;
        let read = Mat::new(contexts.memory(), alive, e);
        let target = Mat::new(extra.memory(), alive, width);
        product(device, target, Store::Set, read, Mat::new(weights.context, width, e).t())?;
        let args = args![
            out.memory(),
            saved.cells.memory(),
            hidden.memory(),
            cell_memory.memory(),
            x,
            extra.memory(),
            projected.memory(),
            weights.bias,
            lanes.starts.arg(),
            lanes.counts.arg(),
            t,
            false,
            alive,
            h,
            *cell == Cell::Lstm,
            width + a,
            h + e
        ];
        launch(device, Kernel(Module::Recurrent, "cell_forward", dtype), Grid::elements(alive * h), &args)?;
    }
    Ok((out.storage(), saved))
}

/// Gradients of inputs, memory and weights.
fn backward(
    recurrence: &Attentional,
    memory: &Tensor,
    flat: &Tensor,
    out: &Tensor,
    grad: &Tensor,
    saved: &Saved,
) -> Result<[Tensor; 3]> {
    let Attentional { cell, widths, source, target } = recurrence;
    let Widths { hidden: h, attention: a, context: e } = *widths;
    let (device, n, width) = (device_of(out)?, target.last().copied().unwrap_or(0), cell.gates() * h);
    let grad = grad.contiguous()?;
    let (flat_memory, all_memory) = (Memory::of_tensor(flat)?, Memory::of_tensor(memory)?);
    let (out, grad) = (Memory::of_tensor(out)?, Memory::of_tensor(&grad)?);
    let dtype = out.dtype;
    let weights = Weights::of(device, flat_memory, *widths, cell.gates(), dtype)?;
    let [keys, values, initial] = split(all_memory, *widths, source)?;
    let readers = Readers::new(device, source, target)?;
    let (lanes, all) = (&readers.lanes, readers.lanes.order.len());
    let before = Buffer::new(device, dtype, n * h)?;
    let index = Upload::new(device, &previous(target, Direction::Forward))?;
    gather(device, before.memory(), (out, h + e), Some(initial), &index, [n, h])?;

    let own = cell.own_columns(h);
    let dx = Buffer::new(device, dtype, n * width)?;
    let by_token = Buffer::new(device, dtype, n * (own + a))?;
    let own_memory = (own > 0).then(|| by_token.memory());
    let dh = Buffer::zeros(device, DType::F32, all * h)?;
    let dm = Buffer::zeros(device, DType::F32, all * cell.memory_width(h))?;
    let dinputs = Buffer::new(device, dtype, all * width)?;
    let dprojected = Buffer::new(device, dtype, all * (width + a))?;
    let dcontexts = Buffer::new(device, DType::F32, all * e)?;
    // sources that no target token reads keep zeros
    let dkeys = Buffer::zeros(device, DType::F32, keys.len)?;
    let dvalues = Buffer::zeros(device, DType::F32, values.len)?;
    let dv = Buffer::zeros(device, DType::F32, all * a)?;
    for t in (0..lanes.steps()).rev() {
        let alive = lanes.alive(t);
        let args = args![dcontexts.memory(), grad, lanes.starts.arg(), t, alive, e, h + e, h];
        launch(device, Kernel(Module::Recurrent, "take_step", dtype), Grid::elements(alive * e), &args)?;
        let args = args![
            dx.memory(),
            dinputs.memory(),
            dprojected.memory(),
            own_memory,
            dh.memory(),
            dm.memory(),
            grad,
            saved.cells.memory(),
            before.memory(),
            lanes.starts.arg(),
            lanes.counts.arg(),
            t,
            false,
            alive,
            h,
            *cell == Cell::Lstm,
            width + a,
            own + a,
            h + e
        ];
        launch(device, Kernel(Module::Recurrent, "cell_backward", dtype), Grid::elements(alive * h), &args)?;
        let upstream = Mat::new(dinputs.memory(), alive, width);
        let target = Mat::new(dcontexts.memory(), alive, e);
        product(device, target, Store::Add, upstream, Mat::new(weights.context, width, e))?;
        let args = args![
            dkeys.memory(),
            dvalues.memory(),
            dv.memory(),
            dprojected.memory(),
            by_token.memory(),
            dcontexts.memory(),
            saved.queries.memory(),
            saved.alphas.memory(),
            keys,
            values,
            weights.v,
            lanes.starts.arg(),
            readers.firsts.arg(),
            readers.counts.arg(),
            readers.places.arg(),
            t,
            a,
            e,
            width + a,
            width,
            own
        ];
        let grid = Grid::blocks(alive, 1, THREADS).sharing(readers.longest);
        launch(device, Kernel(Module::Recurrent, "additive_backward", dtype), grid, &args)?;
        let upstream = Mat::new(dprojected.memory(), alive, width + a);
        let target = Mat::new(dh.memory(), alive, h);
        product(device, target, Store::Add, upstream, Mat::new(weights.state, width + a, h))?;
    }

    let dweights = Buffer::new(device, DType::F32, flat_memory.len)?;
    let (at_state, at_bias) = (width * e, width * e + (width + a) * h);
    let parts = dweights.memory();
    let contexts = Mat::strided(out.part(h.min(out.len), out.len - h.min(out.len)), n, e, h + e);
    let dx_mat = Mat::new(dx.memory(), n, width);
    product(device, Mat::new(parts.part(0, width * e), width, e), Store::Set, dx_mat.t(), contexts)?;
    let (dw, db) = (parts.part(at_state, (width + a) * h), parts.part(at_bias, width));
    state_gradients(device, [dw, db], [dx.memory(), by_token.memory()], before.memory(), [n, h, width, own, own + a])?;
    put(device, parts.part(at_bias + width, a), column_sums(device, dv.memory(), all, a, a)?.memory().part(0, a))?;

    let dmemory = Buffer::new(device, dtype, all_memory.len)?;
    let [to_keys, to_values, to_initial] = split(dmemory.memory(), *widths, source)?;
    for (to, from) in [(to_keys, dkeys.memory()), (to_values, dvalues.memory())] {
        let (rounded, _own) = cast(device, from, dtype)?;
        put(device, to, rounded)?;
    }
    scatter(device, to_initial, dh.memory(), &lanes.sentences, [all, h])?;
    Ok([dx.tensor((n, width)), dmemory.tensor(memory.shape()), dweights.tensor(flat.shape())])
}

/// The node on the tape, whatever the type of the activations.
pub(in crate::ops) struct Operation {
    recurrence: Attentional,
    saved: Mutex<Option<Saved>>,
}

impl Operation {
    pub(in crate::ops) fn new(recurrence: Attentional) -> Self {
        Operation { recurrence, saved: Mutex::new(None) }
    }
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        "attentional"
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
        bail!("attentional: made for a GPU, called on the CPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        m: &CudaStorage,
        ml: &Layout,
        w: &CudaStorage,
        wl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (n, width) = xl.shape().dims2()?;
        let (inputs, memory, weights) = (Memory::of(x, xl)?, Memory::of(m, ml)?, Memory::of(w, wl)?);
        let (out, saved) = forward(&x.device, &self.recurrence, inputs, [n, width], memory, weights)?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        let Widths { hidden, context, .. } = self.recurrence.widths;
        Ok((out, (n, hidden + context).into()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        memory: &Tensor,
        weights: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let saved = take_saved(&self.saved, "attentional")?;
        let [dx, dm, dw] = backward(&self.recurrence, memory, weights, res, grad, &saved)?;
        Ok((Some(dx), Some(dm), Some(dw)))
    }
}
