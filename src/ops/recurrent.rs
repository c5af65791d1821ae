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
//! | `W_hh`, `b_hh` | `[G·h, h]`, `[G·h]` | the projection of the states |
//! | `initial` | `[B, h]` | the state before the first step, zero if absent; an LSTM's cell starts at zero |
//! | result | `[N, h]` | the state after each token |
//!
//! Forward: each job takes some sentences through all their steps, with one `[B_t, h]·[h, G·h]` product a step over
//! those still alive. Backward: the same in reverse, with one `[B_t, G·h]·[G·h, h]` product a step, then a single
//! product `dW_hh = dGᵀ·S'` over all N tokens. Saved for backward: four values a unit and token, and an LSTM's cells.
//! Neither results nor gradients depend on the number of threads.

use super::cell::{Cell, Gradients};
use super::gemm::{matmul_packed, Arithmetic, Mat, MatMut, Packed, Store, Threads};
use super::lanes::{self, alive, Direction, Lane};
use super::linear::column_sums;
use super::real::{simd, storage, tensor, values, with_real, Real};
use super::rows;
use super::tape::{self, Computed, Done, Op};
use super::unwritten::{Blank, Unwritten};
use candle_core::{bail, Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// How a recurrence runs.
#[derive(Clone, Debug)]
pub struct Recurrence {
    /// The gated cell.
    pub cell: Cell,
    /// In which sentences are read.
    pub direction: Direction,
    /// Borders of the packed sentences.
    pub offsets: Arc<Vec<usize>>,
}

/// Runs the recurrence; shapes in the module's documentation.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn recurrent(
    x: &Tensor,
    [w_hh, b_hh]: [&Tensor; 2],
    initial: Option<&Tensor>,
    recurrence: Recurrence,
) -> Result<Tensor> {
    let ((n, width), offsets) = (x.dims2()?, &recurrence.offsets);
    let h = hidden_width([w_hh, b_hh], width, recurrence.cell)?;
    let sentences = offsets.len().saturating_sub(1);
    if offsets.last().is_some_and(|&end| end != n) || initial.is_some_and(|s| s.dims() != [sentences, h]) {
        bail!("recurrent: {n} rows do not fit {sentences} sentences, {:?}", offsets.last());
    }
    tape::apply(recurrence, &[&[x, w_hh, b_hh], initial.as_slice()].concat())
}

/// Width of the state whose projection `W_hh` and `b_hh` make, of `width` columns for all gates.
pub(super) fn hidden_width([w, b]: [&Tensor; 2], width: usize, cell: Cell) -> Result<usize> {
    let h = width / cell.gates();
    if h * cell.gates() != width || w.dims() != [width, h] || b.dims() != [width] {
        bail!("recurrent: weights {:?} and {:?} do not fit projections of width {width}", w.dims(), b.dims());
    }
    Ok(h)
}

impl Recurrence {
    fn forward_of<T: Real>(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        let Recurrence { cell, direction, offsets } = self;
        let (n, width) = inputs[0].dims2()?;
        let h = width / cell.gates();
        let all = inputs.iter().map(values::<T>).collect::<Result<Vec<_>>>()?;
        let [x, w, bias]: [&[T]; 3] = [&all[0], &all[1], &all[2]];
        let initial: Option<&[T]> = all.get(3).map(|initial| &**initial);
        let w = pack(Mat::new(w, width, h).t());
        let (memory_width, saved_width) = (cell.memory_width(h), cell.saved_width(h));
        let mut out = Unwritten::new(n * h);
        let mut saved = Unwritten::new(if tracked { n * saved_width } else { 0 });
        let lanes = offsets
            .windows(2)
            .zip(out.all().sentences(offsets, h))
            .zip(saved.all().sentences(offsets, if tracked { saved_width } else { 0 }))
            .enumerate()
            .map(|(sentence, ((ends, out), saved))| Ahead { sentence, tokens: ends[0]..ends[1], out, saved })
            .collect();
        lanes::run(lanes, n * width, |mut lanes: Vec<Ahead<'_, T>>, threads| {
            let mut hidden = vec![T::zero(); lanes.len() * h];
            if let Some(initial) = initial {
                gather(&mut hidden, initial, lanes.iter().map(|lane| lane.sentence), h);
            }
            let mut memory = vec![T::zero(); lanes.len() * memory_width];
            let mut projected = vec![T::zero(); lanes.len() * width];
            let mut forgotten = vec![T::zero(); saved_width];
            for t in 0..lanes[0].steps() {
                let lanes = alive(&mut lanes, t);
                if t > 0 || initial.is_some() {
                    matmul_packed(
                        MatMut::new(&mut projected, lanes.len(), width),
                        Store::Set,
                        Mat::new(&hidden, lanes.len(), h),
                        &w,
                        threads,
                        |_| (),
                    );
                }
                for (rank, lane) in lanes.iter_mut().enumerate() {
                    let i = direction.token(t, lane.steps());
                    let state = row_mut(&mut hidden, rank, h);
                    let saved = match tracked {
                        true => lane.saved.take(saved_width, direction.end()).zeros(),
                        false => &mut forgotten,
                    };
                    cell.forward(
                        row(x, lane.tokens.start + i, width),
                        row(&projected, rank, width),
                        bias,
                        state,
                        row_mut(&mut memory, rank, memory_width),
                        saved,
                    );
                    lane.out.take(h, direction.end()).copy_of(state);
                }
            }
        });
        let saved = tracked.then(|| tensor(saved.done(), (n, saved_width)));
        Ok((storage(out.done()), (n, h).into(), [saved, None, None]))
    }

    fn backward_of<T: Real>(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let Recurrence { cell, direction, offsets } = self;
        let [saved] = done.saved()?;
        let (n, h) = done.output.dims2()?;
        let (width, sentences) = (cell.gates() * h, offsets.len().saturating_sub(1));
        let (memory_width, saved_width) = (cell.memory_width(h), cell.saved_width(h));
        let (out, grad, saved) = (values::<T>(done.output)?, values::<T>(done.gradient)?, values::<T>(saved)?);
        let (weights, initial) = (values::<T>(&done.inputs[1])?, done.inputs.get(3).map(values::<T>).transpose()?);
        let (out, grad, saved, initial): (&[T], &[T], &[T], _) = (&out, &grad, &saved, initial.as_deref());
        let w = pack(Mat::new(&weights, width, h));
        let (first_state, first_memory) = (vec![T::zero(); h], vec![T::zero(); memory_width]);
        let mut before = Unwritten::new(n * h);
        let mut dx = Unwritten::new(n * width);
        let own = cell.own_columns(h);
        let mut dg = Unwritten::new(n * own);
        let mut dinitial = vec![T::zero(); sentences * h];
        let lanes = offsets
            .windows(2)
            .zip(before.all().sentences(offsets, h))
            .zip(dx.all().sentences(offsets, width))
            .zip(dg.all().sentences(offsets, own))
            .zip(dinitial.chunks_exact_mut(h.max(1)))
            .enumerate()
            .map(|(sentence, ((((ends, before), dx), dg), dinitial))| Back {
                sentence,
                tokens: ends[0]..ends[1],
                before,
                dx,
                dg,
                dinitial,
            })
            .collect();
        lanes::run(lanes, n * width, |mut lanes: Vec<Back<'_, T>>, threads| {
            let mut dh = vec![T::zero(); lanes.len() * h];
            let mut dm = vec![T::zero(); lanes.len() * memory_width];
            let mut dprojected = vec![T::zero(); lanes.len() * width];
            for t in (0..lanes[0].steps()).rev() {
                let lanes = alive(&mut lanes, t);
                for (rank, lane) in lanes.iter_mut().enumerate() {
                    let (start, steps) = (lane.tokens.start, lane.steps());
                    let i = direction.token(t, steps);
                    let dh = row_mut(&mut dh, rank, h);
                    add_to(dh, row(grad, start + i, h));
                    let last = t.checked_sub(1).map(|t| start + direction.token(t, steps));
                    let first = || initial.map_or(&first_state[..], |states| row(states, lane.sentence, h));
                    let before = last.map_or_else(first, |last| row(out, last, h));
                    let memory = last.map_or(&first_memory[..], |last| &row(saved, last, saved_width)[4 * h..]);
                    let dg = row_mut(&mut dprojected, rank, width);
                    let dm = row_mut(&mut dm, rank, memory_width);
                    let dx = lane.dx.take(width, direction.other_end()).zeros();
                    let saved = row(saved, start + i, saved_width);
                    cell.backward(saved, before, memory, Gradients { dh, dm, dx, dg });
                    lane.before.take(h, direction.other_end()).copy_of(before);
                    lane.dg.take(own, direction.other_end()).copy_of(&dg[width - own..]);
                }
                if t > 0 || initial.is_some() {
                    matmul_packed(
                        MatMut::new(&mut dh, lanes.len(), h),
                        Store::Add,
                        Mat::new(&dprojected, lanes.len(), width),
                        &w,
                        threads,
                        |_| (),
                    );
                }
            }
            for (lane, dh) in lanes.iter_mut().zip(dh.chunks_exact(h)) {
                lane.dinitial.copy_from_slice(dh);
            }
        });
        let (dx, dg) = (dx.done(), dg.done());
        let [dw, db] = state_gradients([&dx, &dg], &before.done(), [h, width, own, own]);
        let mut gradients = vec![tensor(dx, (n, width)), tensor(dw, (width, h)), tensor(db, width)];
        gradients.extend(initial.map(|_| tensor(dinitial, (sentences, h))));
        Ok(gradients.into_iter().map(Some).collect())
    }
}

impl Op for Recurrence {
    fn name(&self) -> &'static str {
        "recurrent"
    }

    fn forward(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(inputs, tracked))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        with_real!(done.output, T => self.backward_of::<T>(done))
    }
}

/// A sentence on its way forward.
struct Ahead<'a, T> {
    sentence: usize,
    tokens: Range<usize>,
    out: Blank<'a, T>,
    saved: Blank<'a, T>,
}

impl<T: Real> Lane for Ahead<'_, T> {
    fn steps(&self) -> usize {
        self.tokens.len()
    }
}

/// A sentence on its way back.
struct Back<'a, T> {
    sentence: usize,
    tokens: Range<usize>,
    /// The state before each token.
    before: Blank<'a, T>,
    dx: Blank<'a, T>,
    /// Gradients of the states' projections where they are not `dx`.
    dg: Blank<'a, T>,
    dinitial: &'a mut [T],
}

impl<T: Real> Lane for Back<'_, T> {
    fn steps(&self) -> usize {
        self.tokens.len()
    }
}

/// Row `i` of a matrix of `width` columns.
pub(super) fn row<T>(matrix: &[T], i: usize, width: usize) -> &[T] {
    &matrix[i * width..][..width]
}

/// Row `i` of a matrix of `width` columns, to write to.
pub(super) fn row_mut<T>(matrix: &mut [T], i: usize, width: usize) -> &mut [T] {
    &mut matrix[i * width..][..width]
}

/// Packs a right operand for all products of a pass: the one place that decides what the recurrences' products are
/// rounded to.
pub(super) fn pack<T: Real>(b: Mat<'_, T>) -> Packed<T> {
    Packed::of(Arithmetic::in_force(), b, Threads::All)
}

/// Copies the rows of the chosen sentences.
pub(super) fn gather<T: Real>(to: &mut [T], from: &[T], sentences: impl Iterator<Item = usize>, h: usize) {
    for (to, sentence) in to.chunks_exact_mut(h).zip(sentences) {
        to.copy_from_slice(row(from, sentence, h));
    }
}

/// Gradients of `W_hh` (and of the rows after it, if `dg` has more columns) and `b_hh`. Those of the states' projections, of
/// `width` columns, are `dx` but for the last `own` columns: rows of `dg` hold these, and columns after them, `rest` in all.
pub(super) fn state_gradients<T: Real>(
    [dx, dg]: [&[T]; 2],
    before: &[T],
    [h, width, own, rest]: [usize; 4],
) -> [Vec<T>; 2] {
    let (n, shared) = (before.len() / h, width - own);
    let before = pack(Mat::new(before, n, h));
    let mut dw = vec![T::zero(); (shared + rest) * h];
    let (of_shared, of_rest) = dw.split_at_mut(shared * h);
    for (dw, dg) in [(of_shared, Mat::strided(dx, n, shared, width)), (of_rest, Mat::new(dg, n, rest))] {
        matmul_packed(MatMut::new(dw, dg.columns(), h), Store::Set, dg.t(), &before, Threads::All, |_| ());
    }
    let mut db = bias_gradient(dx, width);
    db.truncate(shared);
    db.extend(bias_gradient(dg, rest).into_iter().take(own));
    [dw, db]
}

/// Gradient of a bias: sums over rows of `width` values.
pub(super) fn bias_gradient<T: Real>(rows: &[T], width: usize) -> Vec<T> {
    let jobs = rows.chunks(rows::BLOCK * width.max(1)).collect();
    let mut sums = rows::sum_in_order(rows::map(jobs, rows.len(), |rows| column_sums(rows, width.max(1))));
    sums.resize(width, T::zero());
    sums
}

simd! {
/// `sum += x`.
pub(super) fn add_to<T: Real>(sum: &mut [T], x: &[T]) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum += x;
    }
}
}

#[cfg(test)]
mod tests {
    use super::super::cell::reference::step;
    use super::*;
    use crate::ops::check::{agree, agree_with_differences, random, same_for_any_threads, Input};
    use candle_core::{DType, Device};
    use proptest::prelude::*;

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
        recurrent(&inputs[0], [&inputs[1], &inputs[2]], inputs.get(3), r.clone())
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
                agree(&inputs, 1..3, |x| fused(x, &r), |x| plain(x, &r, h));
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for (r, inputs) in cases(&[3, 1, 4], 3) {
            agree_with_differences(&inputs, |x| fused(x, &r));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_lengths_agree_with_plain_candle(lengths in prop::collection::vec(0usize..6, 1..40), h in 1usize..9) {
            prop_assume!(lengths.iter().any(|&n| n > 0));
            for (r, inputs) in cases(&lengths, h) {
                agree(&inputs, 1..3, |x| fused(x, &r), |x| plain(x, &r, h));
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let lengths: Vec<usize> = (0..50).map(|i| i * 5 % 7).collect();
        for (r, inputs) in cases(&lengths, 48) {
            same_for_any_threads(&inputs, |x| fused(x, &r));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() -> Result<()> {
        let r = Recurrence { cell: Cell::Gru, direction: Direction::Forward, offsets: offsets(&[2, 2]) };
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let (w, b) = (zeros(&[6, 2])?, zeros(&[6])?);
        assert!(recurrent(&zeros(&[4, 6])?, [&w, &b], None, r.clone()).is_ok());
        assert!(recurrent(&zeros(&[4, 7])?, [&w, &b], None, r.clone()).is_err());
        assert!(recurrent(&zeros(&[4, 6])?, [&w, &zeros(&[5])?], None, r.clone()).is_err());
        assert!(recurrent(&zeros(&[3, 6])?, [&w, &b], None, r.clone()).is_err());
        assert!(recurrent(&zeros(&[4, 6])?, [&w, &b], Some(&zeros(&[3, 2])?), r).is_err());
        Ok(())
    }
}
