//! `attentional` on the GPU: two products and two kernels a step.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, DType, Result, Tensor};

use super::columns::{cast, cast_own, column_sums, concatenate, device_of, Cast};
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};
use super::product::{product, Mat, Store};
use super::recurrent::{gather, previous, scatter, state_gradients, Lanes};
use super::uploads::counts;
use crate::ops::tape::{Computed, Done, OnGpu};
use crate::ops::{Attentional, Cell, Direction, Widths};

/// Threads of the block that attends for a lane.
pub(super) const THREADS: usize = 128;

/// The parameters; the matrices in the type of activations.
pub(super) struct Weights<'a> {
    pub(super) context: Cast<'a>,
    /// `W_hh` over `W_q`.
    pub(super) state: Buffer,
    pub(super) bias: Memory<'a>,
    pub(super) v: Memory<'a>,
}

impl<'a> Weights<'a> {
    /// Of `[W_c, W_hh, W_q, b_hh, v]`.
    pub(super) fn of(device: &CudaDevice, weights: &[&'a Tensor; 5], dtype: DType) -> Result<Self> {
        let [context, w_hh, w_query, bias, v] = *weights;
        let single = |x: &'a Tensor| Memory::of_tensor(x)?.single();
        let state = concatenate(&[w_hh.clone(), w_query.clone()])?;
        Ok(Weights {
            context: cast(device, single(context)?, dtype)?,
            state: cast_own(device, state, dtype)?,
            bias: single(bias)?,
            v: single(v)?,
        })
    }
}

/// Inputs, keys, values and initial states, and the weights.
type Inputs<'a> = ([Memory<'a>; 4], Weights<'a>);

fn inputs<'a>(device: &CudaDevice, inputs: &'a [Tensor], dtype: DType) -> Result<Inputs<'a>> {
    let [x, keys, values, initial, w_context, w_hh, w_query, bias, v] = inputs else {
        bail!("attentional: {} inputs", inputs.len());
    };
    let [x, keys, values, initial] = [x, keys, values, initial].map(Memory::of_tensor);
    let weights = Weights::of(device, &[w_context, w_hh, w_query, bias, v], dtype)?;
    Ok(([x?, keys?, values?, initial?], weights))
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

impl OnGpu for Attentional {
    fn forward_on_gpu(&self, all_inputs: &[Tensor], _: bool) -> Result<Computed> {
        let Attentional { cell, widths, source, target } = self;
        let Widths { hidden: h, attention: a, context: e } = *widths;
        let (device, (n, width)) = (device_of(&all_inputs[0])?, all_inputs[0].dims2()?);
        let dtype = all_inputs[0].dtype();
        let ([x, keys, values, initial], weights) = inputs(device, all_inputs, dtype)?;
        let readers = Readers::new(device, source, target)?;
        let (lanes, all) = (&readers.lanes, readers.lanes.order.len());
        let out = Buffer::new(device, dtype, n * (h + e))?;
        let cells = Buffer::new(device, DType::F32, n * cell.saved_width(h))?;
        let queries = Buffer::new(device, DType::F32, n * a)?;
        let alphas = Buffer::new(device, DType::F32, readers.pairs)?;
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
            product(device, target, Store::Set, states, Mat::new(weights.state.memory(), width + a, h).t())?;
            let args = args![
                contexts.memory(),
                out.memory(),
                queries.memory(),
                alphas.memory(),
                projected.memory(),
                keys,
                values,
                weights.v,
                lanes.starts.pointer(),
                readers.firsts.pointer(),
                readers.counts.pointer(),
                readers.places.pointer(),
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
            product(device, target, Store::Set, read, Mat::new(weights.context.memory(), width, e).t())?;
            let args = args![
                out.memory(),
                cells.memory(),
                hidden.memory(),
                cell_memory.memory(),
                x,
                extra.memory(),
                projected.memory(),
                weights.bias,
                lanes.starts.pointer(),
                lanes.counts.pointer(),
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
        let saved = [cells.tensor((n, cell.saved_width(h))), queries.tensor((n, a)), alphas.tensor(readers.pairs)];
        Ok((out.storage(), (n, h + e).into(), saved.map(Some)))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let Attentional { cell, widths, source, target } = self;
        let Widths { hidden: h, attention: a, context: e } = *widths;
        let (device, dtype) = (device_of(done.output)?, done.output.dtype());
        let (n, width) = (target.last().copied().unwrap_or(0), cell.gates() * h);
        let (out, grad) = (Memory::of_tensor(done.output)?, Memory::of_tensor(done.gradient)?.holds(n * (h + e))?);
        let ([_, keys, values, initial], weights) = inputs(device, done.inputs, dtype)?;
        let [cells, queries, alphas] = done.saved()?;
        let [cells, queries, alphas] = [cells, queries, alphas].map(Memory::of_tensor);
        let (cells, queries, alphas) = (cells?, queries?, alphas?);
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
            let args = args![dcontexts.memory(), grad, lanes.starts.pointer(), t, alive, e, h + e, h];
            launch(device, Kernel(Module::Recurrent, "take_step", dtype), Grid::elements(alive * e), &args)?;
            let args = args![
                dx.memory(),
                dinputs.memory(),
                dprojected.memory(),
                own_memory,
                dh.memory(),
                dm.memory(),
                grad,
                cells,
                before.memory(),
                lanes.starts.pointer(),
                lanes.counts.pointer(),
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
            product(device, target, Store::Add, upstream, Mat::new(weights.context.memory(), width, e))?;
            let args = args![
                dkeys.memory(),
                dvalues.memory(),
                dv.memory(),
                dprojected.memory(),
                by_token.memory(),
                dcontexts.memory(),
                queries,
                alphas,
                keys,
                values,
                weights.v,
                lanes.starts.pointer(),
                readers.firsts.pointer(),
                readers.counts.pointer(),
                readers.places.pointer(),
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
            product(device, target, Store::Add, upstream, Mat::new(weights.state.memory(), width + a, h))?;
        }

        let dw_context = Buffer::new(device, DType::F32, width * e)?;
        let contexts = Mat::strided(out.part(h.min(out.len), out.len - h.min(out.len)), n, e, h + e);
        let dx_mat = Mat::new(dx.memory(), n, width);
        product(device, Mat::new(dw_context.memory(), width, e), Store::Set, dx_mat.t(), contexts)?;
        let (dw, db) = (Buffer::new(device, DType::F32, (width + a) * h)?, Buffer::new(device, DType::F32, width)?);
        let of = [dx.memory(), by_token.memory()];
        state_gradients(device, [dw.memory(), db.memory()], of, before.memory(), [n, h, width, own, own + a])?;
        let dw = dw.tensor((width + a, h));
        let dv = column_sums(device, dv.memory(), all, a, a)?.tensor(a);

        let dinitial = Buffer::new(device, dtype, all * h)?;
        scatter(device, dinitial.memory(), dh.memory(), &lanes.sentences, [all, h])?;
        let gradients = [
            dx.tensor((n, width)),
            cast_own(device, dkeys, dtype)?.tensor(done.inputs[1].shape()),
            cast_own(device, dvalues, dtype)?.tensor(done.inputs[2].shape()),
            dinitial.tensor((all, h)),
            dw_context.tensor((width, e)),
            dw.narrow(0, 0, width)?,
            dw.narrow(0, width, a)?,
            db.tensor(width),
            dv,
        ];
        Ok(gradients.into_iter().map(Some).collect())
    }
}
