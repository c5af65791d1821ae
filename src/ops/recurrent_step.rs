//! Single steps of `recurrent` and `attentional` for decoding: all states go in and come out, nothing is on the tape.
//!
//! A row of a state is `[s]` for a GRU and `[s | c]` for an LSTM, `[B, h]` or `[B, 2h]`; weights and inputs are laid
//! out as in the operations over whole sequences, and so is the arithmetic.

use super::additive::attend;
use super::attentional::Widths;
use super::cell::Cell;
use super::gemm::{matmul, product, Mat, MatMut, Store, Threads};
use super::real::{tensor, values, with_real, Real};
use super::recurrent::{row, split_weights};
use super::rows;
use super::step_attention::Step;
use candle_core::{bail, Result, Tensor};
use std::ops::Range;

/// Rows of a job.
const ROWS: usize = 16;

/// The next state of every row: `x [B, G·h]`, `weights` = `W_hh`, `b_hh` flat, `state [B, h or 2h]`.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn recurrent_step(cell: Cell, x: &Tensor, weights: &Tensor, state: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::recurrent_step::plain(
            cell,
            &x.contiguous()?,
            &weights.contiguous()?,
            &state.contiguous()?,
        );
    }
    with_real!(x, T => plain_step::<T>(cell, &x.contiguous()?, &weights.contiguous()?, &state.contiguous()?))
}

fn plain_step<T: Real>(cell: Cell, x: &Tensor, weights: &Tensor, state: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let weights = values::<T>(weights)?;
    let (w, bias, h) = split_weights(&weights, width, cell.gates())?;
    check_state(cell, state, rows, h)?;
    let mut states = values::<T>(state)?.to_vec();
    let projected = project(&states, rows, cell.state_width(h), w, width, h);
    advance(cell, &values::<T>(x)?, &projected, width, bias, &mut states, h);
    Ok(tensor(states, (rows, cell.state_width(h))))
}

/// The next state of every row, and what it read `[B, e]`: `x [B, G·h]`, keys `[S, a]` and values `[S, e]`, `weights`
/// as in [`attentional`](super::attentional), `state [B, h or 2h]`. Row i reads rows `ranges[i]` of keys and values.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn attentional_step(
    cell: Cell,
    x: &Tensor,
    memory: &Step,
    ranges: &[Range<usize>],
    weights: &Tensor,
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let memory = (memory.0.contiguous()?, memory.1.contiguous()?);
        let (weights, state) = (weights.contiguous()?, state.contiguous()?);
        return super::cuda::recurrent_step::reading(cell, &x.contiguous()?, &memory, ranges, &weights, &state);
    }
    with_real!(x, T => {
        let (weights, state) = (weights.contiguous()?, state.contiguous()?);
        reading_step::<T>(cell, &x.contiguous()?, memory, ranges, &weights, &state)
    })
}

fn reading_step<T: Real>(
    cell: Cell,
    x: &Tensor,
    (keys, source_values): &Step,
    ranges: &[Range<usize>],
    weights: &Tensor,
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (rows, width) = x.dims2()?;
    let h = width / cell.gates();
    let ((tokens, a), (value_tokens, e)) = (keys.dims2()?, source_values.dims2()?);
    let widths = Widths { hidden: h, attention: a, context: e };
    check_state(cell, state, rows, h)?;
    if ranges.len() != rows || tokens != value_tokens || ranges.iter().any(|r| r.end > tokens || r.start > r.end) {
        bail!("attentional: {rows} rows, {} ranges, {tokens} keys, {value_tokens} values", ranges.len());
    }
    let (keys, source_values) = (keys.contiguous()?, source_values.contiguous()?);
    let (flat, keys, source_values) = (values::<T>(weights)?, values::<T>(&keys)?, values::<T>(&source_values)?);
    let weights = widths.weights(&flat, cell)?;
    let mut states = values::<T>(state)?.to_vec();
    let projected = project(&states, rows, cell.state_width(h), weights.state, width + a, h);
    let mut contexts = vec![T::zero(); rows * e];
    let jobs = contexts.chunks_mut(ROWS * e).zip(ranges.chunks(ROWS)).enumerate().collect();
    let read: usize = ranges.iter().map(Range::len).sum();
    rows::run(jobs, read * (a + e), |(block, (contexts, ranges)): (usize, (&mut [T], &[Range<usize>]))| {
        let mut alphas = Vec::new();
        for (i, (context, range)) in contexts.chunks_exact_mut(e).zip(ranges).enumerate() {
            alphas.resize(range.len(), T::zero());
            attend(
                &row(&projected, block * ROWS + i, width + a)[width..],
                &keys[range.start * a..range.end * a],
                &source_values[range.start * e..range.end * e],
                weights.v,
                &mut alphas,
                context,
            );
        }
    });
    let mut inputs = values::<T>(x)?.to_vec();
    matmul(
        MatMut::new(&mut inputs, rows, width),
        Store::Add,
        T::one(),
        Mat::new(&contexts, rows, e),
        Mat::new(weights.context, width, e).t(),
        Threads::All,
    );
    advance(cell, &inputs, &projected, width + a, weights.bias, &mut states, h);
    Ok((tensor(states, (rows, cell.state_width(h))), tensor(contexts, (rows, e))))
}

fn check_state(cell: Cell, state: &Tensor, rows: usize, h: usize) -> Result<()> {
    if state.dims() != [rows, cell.state_width(h)] {
        bail!("recurrent: state {:?} instead of [{rows}, {}]", state.dims(), cell.state_width(h));
    }
    Ok(())
}

/// `W·s` of every row: `[rows, out]`.
fn project<T: Real>(states: &[T], rows: usize, state_width: usize, w: &[T], out: usize, h: usize) -> Vec<T> {
    product(T::one(), Mat::strided(states, rows, h, state_width), Mat::new(w, out, h).t(), Threads::All)
}

/// Applies the cell to every row in place; `stride`: from row to row of `projected`.
fn advance<T: Real>(cell: Cell, x: &[T], projected: &[T], stride: usize, bias: &[T], states: &mut [T], h: usize) {
    let (width, state_width) = (cell.gates() * h, cell.state_width(h));
    let jobs = states.chunks_mut(ROWS * state_width).enumerate().collect();
    rows::run(jobs, x.len(), |(block, states): (usize, &mut [T])| {
        let mut saved = vec![T::zero(); cell.saved_width(h)];
        for (i, state) in states.chunks_exact_mut(state_width).enumerate() {
            let (hidden, memory) = state.split_at_mut(h);
            let i = block * ROWS + i;
            cell.forward(row(x, i, width), &row(projected, i, stride)[..width], bias, hidden, memory, &mut saved);
        }
    });
}
