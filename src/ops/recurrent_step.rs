//! Single steps of `recurrent` and `attentional` for decoding: all states go in and come out, nothing is on the tape.
//!
//! A row of a state is `[s]` for a GRU and `[s | c]` for an LSTM, `[B, h]` or `[B, 2h]`; weights and inputs are laid
//! out as in the operations over whole sequences, and so is the arithmetic.

use super::additive::attend;
use super::attentional::Widths;
use super::cell::Cell;
use super::gemm::{matmul, product, Mat, MatMut, Store, Threads};
use super::real::{tensor, values, with_real, Real};
use super::recurrent::{hidden_width, row};
use super::rows;
use super::step_attention::Step;
use candle_core::{bail, Result, Tensor};
use std::ops::Range;

/// Rows of a job.
const ROWS: usize = 16;

/// The next state of every row: `x [B, G·h]`, weights `W_hh`, `b_hh`, `state [B, h or 2h]`.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn recurrent_step(cell: Cell, x: &Tensor, weights: [&Tensor; 2], state: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    check_state(cell, state, rows, hidden_width(weights, width, cell)?)?;
    let (x, state) = (x.contiguous()?, state.contiguous()?);
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::recurrent_step::plain(cell, &x, weights, &state);
    }
    with_real!(x, T => plain_step::<T>(cell, &x, weights, &state))
}

fn plain_step<T: Real>(cell: Cell, x: &Tensor, [w, bias]: [&Tensor; 2], state: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let h = width / cell.gates();
    let mut states = values::<T>(state)?.to_vec();
    let projected = project(&states, rows, cell.state_width(h), &values::<T>(w)?, width, h);
    advance(cell, &values::<T>(x)?, &projected, &values::<T>(bias)?, &mut states, h);
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
    weights: [&Tensor; 5],
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (rows, width) = x.dims2()?;
    let h = width / cell.gates();
    let ((tokens, a), (value_tokens, e)) = (memory.0.dims2()?, memory.1.dims2()?);
    Widths { hidden: h, attention: a, context: e }.check(weights, width, cell)?;
    check_state(cell, state, rows, h)?;
    if ranges.len() != rows || tokens != value_tokens || ranges.iter().any(|r| r.end > tokens || r.start > r.end) {
        bail!("attentional: {rows} rows, {} ranges, {tokens} keys, {value_tokens} values", ranges.len());
    }
    let (x, state) = (x.contiguous()?, state.contiguous()?);
    let memory = (memory.0.contiguous()?, memory.1.contiguous()?);
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::recurrent_step::reading(cell, &x, &memory, ranges, weights, &state);
    }
    with_real!(x, T => reading_step::<T>(cell, &x, &memory, ranges, weights, &state))
}

fn reading_step<T: Real>(
    cell: Cell,
    x: &Tensor,
    (keys, source_values): &Step,
    ranges: &[Range<usize>],
    [w_context, w_hh, w_query, bias, v]: [&Tensor; 5],
    state: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let ((rows, width), (_, a), (_, e)) = (x.dims2()?, keys.dims2()?, source_values.dims2()?);
    let (h, state_width) = (width / cell.gates(), cell.state_width(width / cell.gates()));
    let (keys, source_values, v) = (values::<T>(keys)?, values::<T>(source_values)?, values::<T>(v)?);
    let (keys, source_values, v): (&[T], &[T], &[T]) = (&keys, &source_values, &v);
    let mut states = values::<T>(state)?.to_vec();
    let queries = project(&states, rows, state_width, &values::<T>(w_query)?, a, h);
    let projected = project(&states, rows, state_width, &values::<T>(w_hh)?, width, h);
    let mut contexts = vec![T::zero(); rows * e];
    let jobs = contexts.chunks_mut(ROWS * e).zip(ranges.chunks(ROWS)).enumerate().collect();
    let read: usize = ranges.iter().map(Range::len).sum();
    rows::run(jobs, read * (a + e), |(block, (contexts, ranges)): (usize, (&mut [T], &[Range<usize>]))| {
        let mut alphas = Vec::new();
        for (i, (context, range)) in contexts.chunks_exact_mut(e).zip(ranges).enumerate() {
            alphas.resize(range.len(), T::zero());
            attend(
                row(&queries, block * ROWS + i, a),
                &keys[range.start * a..range.end * a],
                &source_values[range.start * e..range.end * e],
                v,
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
        Mat::new(&values::<T>(w_context)?, width, e).t(),
        Threads::All,
    );
    advance(cell, &inputs, &projected, &values::<T>(bias)?, &mut states, h);
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

/// Applies the cell to every row in place.
fn advance<T: Real>(cell: Cell, x: &[T], projected: &[T], bias: &[T], states: &mut [T], h: usize) {
    let (width, state_width) = (cell.gates() * h, cell.state_width(h));
    let jobs = states.chunks_mut(ROWS * state_width).enumerate().collect();
    rows::run(jobs, x.len(), |(block, states): (usize, &mut [T])| {
        let mut saved = vec![T::zero(); cell.saved_width(h)];
        for (i, state) in states.chunks_exact_mut(state_width).enumerate() {
            let (hidden, memory) = state.split_at_mut(h);
            let i = block * ROWS + i;
            cell.forward(row(x, i, width), row(projected, i, width), bias, hidden, memory, &mut saved);
        }
    });
}
