//! A whole GRU or LSTM layer over packed sentences as one node.
//!
//! ```text
//! s_t = cell(x_t, W_hh·s_{t−1} + b_hh)      t along the sentence, or against it
//! ```
//! (formulas and gate order in `cell.rs`; G = 3 gates for a GRU, 4 for an LSTM)
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `x` | `[N, G·h]` | projections of the inputs, bias included, made by one `linear` over all tokens |
//! | `weights` | `[G·h·h + G·h]` | `W_hh [G·h, h]` and `b_hh [G·h]` flat, see [`flatten`] |
//! | `initial` | `[B, h]` | the state before the first step, zero if absent; an LSTM's cell starts at zero |
//! | result | `[N, h]` | the state after each token |
//!
//! Forward: at step t the sentences still alive form one `[B_t, h]·[h, G·h]` product. Backward: a loop over the steps
//! in reverse with one `[B_t, G·h]·[G·h, h]` product each, then a single product `dW_hh = dGᵀ·S'` over all N tokens.
//! Saved for backward: four values a unit and token, and an LSTM's cells.

use super::cell::{Before, Cell, Gradients, SAVED};
use super::gemm::{matmul, Mat, MatMut, Store, Threads};
use super::real::{simd, slice, tensor, values, with_real, Real};
use super::schedule::{Direction, Schedule};
use super::tape;
use candle_core::{bail, CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// How a recurrence runs.
#[derive(Clone, Debug)]
pub struct Recurrence {
    pub cell: Cell,
    pub direction: Direction,
    /// Borders of the packed sentences.
    pub offsets: Arc<Vec<usize>>,
}

/// Runs the recurrence; shapes in the module's documentation.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn recurrent(x: &Tensor, weights: &Tensor, initial: Option<&Tensor>, recurrence: Recurrence) -> Result<Tensor> {
    with_real!(x, T => {
        let op = Op::<T> { recurrence, saved: Mutex::new(None) };
        let (x, weights) = (x.contiguous()?, weights.contiguous()?);
        match initial {
            Some(initial) => tape::apply3(&x, &weights, &initial.contiguous()?, op),
            None => tape::apply2(&x, &weights, op),
        }
    })
}

struct Op<T> {
    recurrence: Recurrence,
    saved: Mutex<Option<Saved<T>>>,
}

/// Time-major, see [`Schedule`].
struct Saved<T> {
    schedule: Schedule,
    /// `[N, 4·h]`.
    gates: Vec<T>,
    /// `[N, h]` of an LSTM, else empty.
    cells: Vec<T>,
}

/// Hands out what a forward pass saved; the second backward pass of one graph finds nothing.
pub(super) fn take_saved<S>(saved: &Mutex<Option<S>>, op: &str) -> Result<S> {
    match saved.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(saved) => Ok(saved),
        None => bail!("{op}: backward ran twice on one graph; run the forward pass again"),
    }
}

/// `W_hh` and `b_hh` in `weights`, and the hidden width that makes them fit.
pub(super) fn split_weights<T>(weights: &[T], gates_width: usize, gates: usize) -> Result<(&[T], &[T], usize)> {
    let h = gates_width / gates;
    if h * gates != gates_width || weights.len() != gates_width * (h + 1) {
        bail!("recurrent: {} weights do not fit projections of width {gates_width} and {gates} gates", weights.len());
    }
    let (w, b) = weights.split_at(gates_width * h);
    Ok((w, b, h))
}

/// Rows of `[B, h]` in the order of the ranks; zeros if there are none.
pub(super) fn by_rank<T: Real>(rows: Option<&[T]>, order: &[usize], h: usize) -> Vec<T> {
    let Some(rows) = rows else { return vec![T::zero(); order.len() * h] };
    order.iter().flat_map(|&s| &rows[s * h..][..h]).copied().collect()
}

impl<T: Real> Op<T> {
    fn forward(&self, x: &[T], shape: &Shape, weights: &[T], initial: Option<&[T]>) -> Result<(CpuStorage, Shape)> {
        let Recurrence { cell, direction, offsets } = &self.recurrence;
        let (n, width) = shape.dims2()?;
        let (w, bias, h) = split_weights(weights, width, cell.gates())?;
        let schedule = Schedule::new(offsets, *direction);
        let sentences = schedule.order.len();
        if schedule.tokens.len() != n || initial.is_some_and(|s| s.len() != sentences * h) {
            bail!("recurrent: {n} rows do not fit {sentences} sentences of {} tokens", schedule.tokens.len());
        }
        let mut hidden = by_rank(initial, &schedule.order, h);
        let lstm_width = if *cell == Cell::Lstm { h } else { 0 };
        let mut memory = vec![T::zero(); sentences * lstm_width];
        let mut projected = vec![T::zero(); sentences * width];
        let mut out = vec![T::zero(); n * h];
        let mut gates = vec![T::zero(); n * SAVED * h];
        let mut cells = vec![T::zero(); n * lstm_width];
        for t in 0..schedule.steps() {
            let alive = schedule.alive(t);
            matmul(
                MatMut::new(&mut projected, alive, width),
                Store::Set,
                T::one(),
                Mat::new(&hidden, alive, h),
                Mat::new(w, width, h).t(),
                Threads::All,
            );
            for (rank, row) in schedule.rows(t).enumerate() {
                let token = schedule.tokens[row];
                let hidden = &mut hidden[rank * h..][..h];
                let memory = &mut memory[rank * lstm_width..][..lstm_width];
                cell.forward(
                    &x[token * width..][..width],
                    &projected[rank * width..][..width],
                    bias,
                    hidden,
                    memory,
                    &mut gates[row * SAVED * h..][..SAVED * h],
                );
                out[token * h..][..h].copy_from_slice(hidden);
                cells[row * lstm_width..][..lstm_width].copy_from_slice(memory);
            }
        }
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Saved { schedule, gates, cells });
        Ok((T::to_cpu_storage_owned(out), (n, h).into()))
    }

    /// Gradients of `x`, `weights` and `initial`.
    fn backward(
        &self,
        weights: &Tensor,
        initial: Option<&Tensor>,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let cell = self.recurrence.cell;
        let Saved { schedule, gates, cells } = take_saved(&self.saved, "recurrent")?;
        let (n, h) = res.dims2()?;
        let width = cell.gates() * h;
        let sentences = schedule.order.len();
        let grad = grad.contiguous()?;
        let (out, grad, weights) = (values::<T>(res)?, values::<T>(&grad)?, values::<T>(weights)?);
        let w = &weights[..width * h];
        let before = match initial {
            Some(initial) => states_before(&schedule, &out, Some(&values::<T>(initial)?), h),
            None => states_before(&schedule, &out, None, h),
        };
        let lstm_width = if cell == Cell::Lstm { h } else { 0 };
        let zeros = vec![T::zero(); lstm_width];
        let mut dh = vec![T::zero(); sentences * h];
        let mut dm = vec![T::zero(); sentences * lstm_width];
        let mut dx = vec![T::zero(); n * width];
        let mut dg = vec![T::zero(); n * width];
        for t in (0..schedule.steps()).rev() {
            let rows = schedule.rows(t);
            for (rank, row) in rows.clone().enumerate() {
                let token = schedule.tokens[row];
                let dh = &mut dh[rank * h..][..h];
                add_to(dh, &grad[token * h..][..h]);
                let cell_at = |row: usize| &cells[row * lstm_width..][..lstm_width];
                cell.backward(
                    &gates[row * SAVED * h..][..SAVED * h],
                    Before {
                        hidden: &before[row * h..][..h],
                        memory: if t == 0 { &zeros } else { cell_at(schedule.before(t) + rank) },
                        memory_after: cell_at(row),
                    },
                    Gradients {
                        dh,
                        dm: &mut dm[rank * lstm_width..][..lstm_width],
                        dx: &mut dx[token * width..][..width],
                        dg: &mut dg[row * width..][..width],
                    },
                );
            }
            matmul(
                MatMut::new(&mut dh, rows.len(), h),
                Store::Add,
                T::one(),
                Mat::new(&dg[rows.start * width..], rows.len(), width),
                Mat::new(w, width, h),
                Threads::All,
            );
        }
        let mut dweights = vec![T::zero(); weights.len()];
        let (dw, db) = dweights.split_at_mut(width * h);
        matmul(
            MatMut::new(dw, width, h),
            Store::Set,
            T::one(),
            Mat::new(&dg, n, width).t(),
            Mat::new(&before, n, h),
            Threads::All,
        );
        add_rows(db, &dg);
        let dinitial = to_sentences(&dh, &schedule.order, h);
        let count = weights.len();
        Ok((tensor(dx, (n, width)), tensor(dweights, count), tensor(dinitial, (sentences, h))))
    }
}

/// The state before each step, time-major `[N, h]`, from the packed states and the initial ones.
pub(super) fn states_before<T: Real>(schedule: &Schedule, out: &[T], initial: Option<&[T]>, h: usize) -> Vec<T> {
    let mut before = vec![T::zero(); schedule.tokens.len() * h];
    let mut rows = before.chunks_exact_mut(h.max(1));
    for t in 0..schedule.steps() {
        for (rank, row) in rows.by_ref().take(schedule.alive(t)).enumerate() {
            match (t, initial) {
                (0, Some(initial)) => row.copy_from_slice(&initial[schedule.order[rank] * h..][..h]),
                (0, None) => {}
                _ => row.copy_from_slice(&out[schedule.tokens[schedule.before(t) + rank] * h..][..h]),
            }
        }
    }
    before
}

/// Rows by rank back in the order of the sentences.
pub(super) fn to_sentences<T: Real>(rows: &[T], order: &[usize], h: usize) -> Vec<T> {
    let mut sentences = vec![T::zero(); rows.len()];
    for (rank, &s) in order.iter().enumerate() {
        sentences[s * h..][..h].copy_from_slice(&rows[rank * h..][..h]);
    }
    sentences
}

simd! {
/// `sum += x`.
pub(super) fn add_to<T: Real>(sum: &mut [T], x: &[T]) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}
}

simd! {
/// `sums[j] += Σ_i rows[i, j]`.
pub(super) fn add_rows<T: Real>(sums: &mut [T], rows: &[T]) {
    for row in rows.chunks_exact(sums.len().max(1)) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}
}

impl<T: Real> CustomOp2 for Op<T> {
    fn name(&self) -> &'static str {
        "recurrent"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(slice(x, xl, "recurrent")?, xl.shape(), slice(w, wl, "recurrent")?, None)
    }

    fn bwd(&self, _: &Tensor, w: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(w, None, res, grad)?;
        Ok((Some(dx), Some(dw)))
    }
}

impl<T: Real> CustomOp3 for Op<T> {
    fn name(&self) -> &'static str {
        "recurrent"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        s: &CpuStorage,
        sl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let initial = slice(s, sl, "recurrent")?;
        self.forward(slice(x, xl, "recurrent")?, xl.shape(), slice(w, wl, "recurrent")?, Some(initial))
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
    use super::super::cell::reference::step;
    use super::*;
    use crate::ops::check::{agree, agree_with_differences, random, Input};
    use candle_core::{DType, Device};

    fn offsets(lengths: &[usize]) -> Arc<Vec<usize>> {
        let mut offsets = vec![0];
        lengths.iter().for_each(|n| offsets.push(offsets[offsets.len() - 1] + n));
        Arc::new(offsets)
    }

    /// The recurrence in plain candle, sentence by sentence.
    fn plain(inputs: &[Tensor], r: &Recurrence, h: usize) -> Result<Tensor> {
        let (x, w, b) = (&inputs[0], &inputs[1], inputs[2].unsqueeze(0)?);
        let mut rows = vec![];
        for s in 0..r.offsets.len() - 1 {
            let zero = Tensor::zeros((1, h), x.dtype(), x.device())?;
            let (mut state, mut memory) = (inputs.get(3).map_or(Ok(zero.clone()), |i| i.narrow(0, s, 1))?, zero);
            let mut tokens: Vec<usize> = (r.offsets[s]..r.offsets[s + 1]).collect();
            if r.direction == Direction::Reverse {
                tokens.reverse();
            }
            for token in tokens {
                let g = (state.matmul(&w.t()?)? + &b)?;
                (state, memory) = step(r.cell, &x.narrow(0, token, 1)?, &g, &state, &memory)?;
                rows.push((token, state.clone()));
            }
        }
        rows.sort_by_key(|(token, _)| *token);
        Tensor::cat(&rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>(), 0)
    }

    fn fused(inputs: &[Tensor], r: &Recurrence) -> Result<Tensor> {
        recurrent(&inputs[0], &tape::flatten(&[&inputs[1], &inputs[2]])?, inputs.get(3), r.clone())
    }

    /// Every cell and direction, with and without an initial state; inputs x, W_hh, b_hh and the state.
    fn cases(lengths: &[usize], h: usize) -> Vec<(Recurrence, Vec<Input>)> {
        let mut cases = vec![];
        let offsets = offsets(lengths);
        for (seed, cell) in [Cell::Gru, Cell::Lstm].into_iter().enumerate() {
            for direction in [Direction::Forward, Direction::Reverse] {
                let width = cell.gates() * h;
                for initial in [vec![], vec![vec![lengths.len(), h]]] {
                    let mut shapes = vec![vec![offsets[lengths.len()], width], vec![width, h], vec![width]];
                    shapes.extend(initial);
                    let inputs = shapes.iter().map(|shape| random(shape, (h + seed) as u64)).collect();
                    cases.push((Recurrence { cell, direction, offsets: offsets.clone() }, inputs));
                }
            }
        }
        cases
    }

    #[test]
    fn states_and_gradients_agree_with_plain_candle() {
        for (lengths, h) in
            [(&[1][..], 1), (&[5], 3), (&[1, 1, 1], 2), (&[2, 7, 1, 4, 7], 5), (&[3, 9, 1], 17), (&[2, 0, 3], 4)]
        {
            for (r, inputs) in cases(lengths, h) {
                agree(&inputs, |x| fused(x, &r), |x| plain(x, &r, h));
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for (r, inputs) in cases(&[3, 1, 4], 3) {
            agree_with_differences(&inputs, |x| fused(x, &r));
        }
    }

    #[test]
    fn a_second_backward_pass_is_refused() -> Result<()> {
        let recurrence = Recurrence { cell: Cell::Gru, direction: Direction::Forward, offsets: offsets(&[2]) };
        let weights = candle_core::Var::zeros(18, DType::F32, &Device::Cpu)?;
        let x = Tensor::ones((2, 6), DType::F32, &Device::Cpu)?;
        let loss = recurrent(&x, &weights, None, recurrence)?.sum_all()?;
        loss.backward()?;
        let message = loss.backward().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("backward ran twice"), "{message}");
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() -> Result<()> {
        let r = Recurrence { cell: Cell::Gru, direction: Direction::Forward, offsets: offsets(&[2, 2]) };
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        assert!(recurrent(&zeros(&[4, 6])?, &zeros(&[18])?, None, r.clone()).is_ok());
        assert!(recurrent(&zeros(&[4, 7])?, &zeros(&[18])?, None, r.clone()).is_err());
        assert!(recurrent(&zeros(&[4, 6])?, &zeros(&[17])?, None, r.clone()).is_err());
        assert!(recurrent(&zeros(&[3, 6])?, &zeros(&[18])?, None, r.clone()).is_err());
        assert!(recurrent(&zeros(&[4, 6])?, &zeros(&[18])?, Some(&zeros(&[3, 2])?), r).is_err());
        Ok(())
    }
}
