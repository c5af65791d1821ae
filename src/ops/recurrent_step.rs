//! Single steps of `recurrent` and `attentional` for decoding: all states go in and come out, nothing is on the tape.
//!
//! A row of a state is `[s]` for a GRU and `[s | c]` for an LSTM, `[B, h]` or `[B, 2h]`; weights and inputs are laid
//! out as in the operations over whole sequences, and so is the arithmetic.

use super::additive::attend;
use super::attentional::Widths;
use super::cell::Cell;
use super::gemm::{matmul, Mat, MatMut, Store, Threads};
use super::real::{tensor, values, with_real, Real};
use super::recurrent::split_weights;
use super::step_attention::Step;
use candle_core::{bail, Result, Tensor};
use std::ops::Range;

/// The next state of every row: `x [B, G·h]`, `weights` = `W_hh`, `b_hh` flat, `state [B, h or 2h]`.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn recurrent_step(cell: Cell, x: &Tensor, weights: &Tensor, state: &Tensor) -> Result<Tensor> {
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
    let mut alphas = Vec::new();
    for (row, &Range { start: from, end: to }) in ranges.iter().enumerate() {
        alphas.resize(to - from, T::zero());
        attend(
            &projected[row * (width + a) + width..][..a],
            &keys[from * a..to * a],
            &source_values[from * e..to * e],
            weights.v,
            &mut alphas,
            &mut contexts[row * e..][..e],
        );
    }
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
    let mut projected = vec![T::zero(); rows * out];
    matmul(
        MatMut::new(&mut projected, rows, out),
        Store::Set,
        T::one(),
        Mat::strided(states, rows, h, state_width),
        Mat::new(w, out, h).t(),
        Threads::All,
    );
    projected
}

/// Applies the cell to every row in place; `stride`: from row to row of `projected`.
fn advance<T: Real>(cell: Cell, x: &[T], projected: &[T], stride: usize, bias: &[T], states: &mut [T], h: usize) {
    let width = cell.gates() * h;
    let mut saved = vec![T::zero(); cell.saved_width(h)];
    for (row, state) in states.chunks_exact_mut(cell.state_width(h)).enumerate() {
        let (hidden, memory) = state.split_at_mut(h);
        let (x, g) = (&x[row * width..][..width], &projected[row * stride..][..width]);
        cell.forward(x, g, bias, hidden, memory, &mut saved);
    }
}
