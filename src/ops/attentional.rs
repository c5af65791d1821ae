//! The decoder recurrence of Bahdanau, Cho & Bengio 2014 (arXiv:1409.0473, appendix A) over packed sentences as one
//! node: each step attends to the source from the state before and feeds what it read into the cell.
//!
//! ```text
//! e_i = vᵀ tanh(W_q·s_{t−1} + key_i)      i over the tokens of the step's own source sentence
//! α   = softmax(e)
//! c_t = Σ_i α_i · value_i
//! s_t = cell(x_t + W_c·c_t, W_hh·s_{t−1} + b_hh)
//! ```
//! (cell formulas and gate order in `cell.rs`; G = 3 gates for a GRU, 4 for an LSTM)
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `x` | `[N, G·h]` | projections of the target embeddings, bias included |
//! | `memory` | flat | keys `[S, a]`, values `[S, e]`, initial states `[B, h]` ([`flatten`](super::flatten)) |
//! | `weights` | flat | `W_c [G·h, e]`, `W_hh [G·h, h]`, `W_q [a, h]`, `b_hh [G·h]`, `v [a]` |
//! | result | `[N, h + e]` | states and contexts side by side |
//!
//! An LSTM's cell starts at zero. A sentence without source tokens reads zeros. `W_hh` and `W_q` lie end to end so that
//! one product a step projects the state for both. Each job takes some sentences through all their steps; gradients of
//! weights are single products over all N tokens. Saved for backward: four values a unit and token, an LSTM's cells,
//! the queries and the weights α; the tanh of the scores are computed again, which costs no more than reading them.
//! Where no gradient is wanted, each step overwrites what the one before saved: α of all steps would grow with the square
//! of the length.

use super::additive::{attend, attend_values_backward, scores_backward};
use super::cell::{Cell, Gradients};
use super::gemm::{matmul, matmul_packed, Mat, MatMut, Packed, Store, Threads};
use super::real::{slice, tensor, values, with_real, Real};
use super::recurrent::{add_to, bias_gradient, gather, row, row_mut, state_gradients, states_before, take_saved};
use super::rows::{split_sentences, Blank, End, Unwritten};
use super::schedule::{self, alive, Direction, Lane};
use super::tape;
use candle_core::{bail, CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Widths of an attentional recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// The state, `h`.
    pub hidden: usize,
    /// Keys and queries, `a`.
    pub attention: usize,
    /// Values and contexts, `e`.
    pub context: usize,
}

/// How an attentional recurrence runs.
#[derive(Clone, Debug)]
pub struct Attentional {
    pub cell: Cell,
    pub widths: Widths,
    /// Borders of the packed source sentences.
    pub source: Arc<Vec<usize>>,
    /// Borders of the packed target sentences; as many as source sentences.
    pub target: Arc<Vec<usize>>,
}

/// Runs the recurrence; shapes in the module's documentation.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn attentional(x: &Tensor, memory: &Tensor, weights: &Tensor, recurrence: Attentional) -> Result<Tensor> {
    let (x, memory, weights) = (x.contiguous()?, memory.contiguous()?, weights.contiguous()?);
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return tape::apply3(&x, &memory, &weights, super::cuda::attentional::Operation::new(recurrence));
    }
    let tracked = tape::tracks(&[&x, &memory, &weights]);
    with_real!(x, T => tape::apply3(&x, &memory, &weights, Op::<T> { recurrence, tracked, saved: Mutex::new(None) }))
}

struct Op<T> {
    recurrence: Attentional,
    /// Whether there may be a backward pass.
    tracked: bool,
    saved: Mutex<Option<Saved<T>>>,
}

/// In the order of the target tokens.
struct Saved<T> {
    /// What the cell saved of each token.
    cells: Vec<T>,
    /// `[N, a]`.
    queries: Vec<T>,
    /// α of each token over its source sentence, end to end.
    alphas: Vec<T>,
}

/// The parameters inside a flat tensor.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a, T> {
    /// `W_c [G·h, e]`.
    pub(super) context: &'a [T],
    /// `W_hh` over `W_q`: `[G·h + a, h]`.
    pub(super) state: &'a [T],
    pub(super) bias: &'a [T],
    pub(super) v: &'a [T],
}

/// The source inside a flat tensor.
#[derive(Clone, Copy)]
struct Memory<'a, T> {
    keys: &'a [T],
    values: &'a [T],
    initial: &'a [T],
}

/// Cuts a flat tensor into parts of these lengths.
fn cut<'a, T, const K: usize>(flat: &'a [T], lengths: [usize; K], what: &str) -> Result<[&'a [T]; K]> {
    let all: usize = lengths.iter().sum();
    if all != flat.len() {
        bail!("attentional: {what} has {} values instead of {lengths:?} = {all}", flat.len());
    }
    let mut rest = flat;
    Ok(lengths.map(|n| {
        let (part, after) = rest.split_at(n);
        rest = after;
        part
    }))
}

impl Widths {
    pub(super) fn weights<T>(self, flat: &[T], cell: Cell) -> Result<Weights<'_, T>> {
        let Widths { hidden: h, attention: a, context: e } = self;
        let gates = cell.gates() * h;
        let [context, state, bias, v] = cut(flat, [gates * e, (gates + a) * h, gates, a], "weights")?;
        Ok(Weights { context, state, bias, v })
    }

    fn memory<'a, T>(self, flat: &'a [T], source: &[usize]) -> Result<Memory<'a, T>> {
        let tokens = source.last().copied().unwrap_or(0);
        let sentences = source.len().saturating_sub(1);
        let lengths = [tokens * self.attention, tokens * self.context, sentences * self.hidden];
        let [keys, values, initial] = cut(flat, lengths, "memory")?;
        Ok(Memory { keys, values, initial })
    }
}

impl<T: Real> Op<T> {
    fn forward(&self, x: &[T], shape: &Shape, memory: &[T], weights: &[T]) -> Result<(CpuStorage, Shape)> {
        let Attentional { cell, widths, source, target } = &self.recurrence;
        let Widths { hidden: h, attention: a, context: e } = *widths;
        let (n, width) = shape.dims2()?;
        let weights = widths.weights(weights, *cell)?;
        let Memory { keys, values, initial } = widths.memory(memory, source)?;
        if width != cell.gates() * h || source.len() != target.len() || target.last() != Some(&n) {
            bail!("attentional: inputs {shape:?} do not fit a state of {h}, {source:?} and {target:?}");
        }
        let w_state = Packed::new(Mat::new(weights.state, width + a, h).t(), Threads::All);
        let w_context = Packed::new(Mat::new(weights.context, width, e).t(), Threads::All);
        let (memory_width, saved_width) = (cell.memory_width(h), cell.saved_width(h));
        // borders of what is saved: all steps of a sentence, or nothing
        let (steps, pairs) = match self.tracked {
            true => (target.to_vec(), pairs(source, target)),
            false => (vec![0; source.len()], vec![0; source.len()]),
        };
        let saved_steps = steps.last().copied().unwrap_or(0);
        let mut out = Unwritten::new(n * (h + e));
        let mut cells = Unwritten::new(saved_steps * saved_width);
        let mut queries = Unwritten::new(saved_steps * a);
        let mut alphas = Unwritten::new(pairs.last().copied().unwrap_or(0));
        let lanes = sentences(source, target)
            .zip(out.all().sentences(target, h + e))
            .zip(cells.all().sentences(&steps, saved_width))
            .zip(queries.all().sentences(&steps, a))
            .zip(alphas.all().sentences(&pairs, 1))
            .map(|((((sentence, out), cells), queries), alphas)| Ahead { sentence, out, cells, queries, alphas })
            .collect();
        schedule::run(lanes, n * width, |mut lanes: Vec<Ahead<'_, T>>, threads| {
            let jobs = lanes.len();
            let mut hidden = vec![T::zero(); jobs * h];
            gather(&mut hidden, initial, lanes.iter().map(|lane| lane.sentence.index), h);
            let mut memory = vec![T::zero(); jobs * memory_width];
            let mut projected = vec![T::zero(); jobs * (width + a)];
            let mut inputs = vec![T::zero(); jobs * width];
            let mut contexts = vec![T::zero(); jobs * e];
            let longest = lanes.iter().map(|lane| lane.sentence.source.len()).max().unwrap_or(0);
            let (mut forgotten_cell, mut forgotten_alphas) = (vec![T::zero(); saved_width], vec![T::zero(); longest]);
            for t in 0..lanes[0].steps() {
                let lanes = alive(&mut lanes, t);
                matmul_packed(
                    MatMut::new(&mut projected, lanes.len(), width + a),
                    Store::Set,
                    Mat::new(&hidden, lanes.len(), h),
                    &w_state,
                    threads,
                    |_| (),
                );
                for (rank, lane) in lanes.iter_mut().enumerate() {
                    let Sentence { source, target, .. } = &lane.sentence;
                    let query = &row(&projected, rank, width + a)[width..];
                    let alphas = match self.tracked {
                        true => {
                            lane.queries.take(a, End::First).copy_of(query);
                            lane.alphas.take(source.len(), End::First).zeros()
                        }
                        false => &mut forgotten_alphas[..source.len()],
                    };
                    attend(
                        query,
                        &keys[source.start * a..source.end * a],
                        &values[source.start * e..source.end * e],
                        weights.v,
                        alphas,
                        row_mut(&mut contexts, rank, e),
                    );
                    row_mut(&mut inputs, rank, width).copy_from_slice(row(x, target.start + t, width));
                }
                matmul_packed(
                    MatMut::new(&mut inputs, lanes.len(), width),
                    Store::Add,
                    Mat::new(&contexts, lanes.len(), e),
                    &w_context,
                    threads,
                    |_| (),
                );
                for (rank, lane) in lanes.iter_mut().enumerate() {
                    let state = row_mut(&mut hidden, rank, h);
                    let saved = match self.tracked {
                        true => lane.cells.take(saved_width, End::First).zeros(),
                        false => &mut forgotten_cell,
                    };
                    cell.forward(
                        row(&inputs, rank, width),
                        row(&projected, rank, width + a),
                        weights.bias,
                        state,
                        row_mut(&mut memory, rank, memory_width),
                        saved,
                    );
                    let (state_out, context_out) = lane.out.take(h + e, End::First).zeros().split_at_mut(h);
                    state_out.copy_from_slice(state);
                    context_out.copy_from_slice(row(&contexts, rank, e));
                }
            }
        });
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) =
            self.tracked.then(|| Saved { cells: cells.done(), queries: queries.done(), alphas: alphas.done() });
        Ok((T::to_cpu_storage_owned(out.done()), (n, h + e).into()))
    }

    /// Gradients of `x`, `memory` and `weights`.
    fn backward(&self, memory: &[T], weights: &[T], out: &[T], grad: &[T]) -> Result<[Vec<T>; 3]> {
        let Attentional { cell, widths, source, target } = &self.recurrence;
        let Widths { hidden: h, attention: a, context: e } = *widths;
        let Saved { cells, queries, alphas } = take_saved(&self.saved, "attentional")?;
        let (n, width, count) = (out.len() / (h + e), cell.gates() * h, source.len().saturating_sub(1));
        let (memory_width, saved_width) = (cell.memory_width(h), cell.saved_width(h));
        let source_tokens = source.last().copied().unwrap_or(0);
        // sources that no target token reads keep zeros
        let mut dmemory = vec![T::zero(); memory.len()];
        let mut dweights = vec![T::zero(); weights.len()];
        let weights = widths.weights(weights, *cell)?;
        let Memory { keys, values, initial } = widths.memory(memory, source)?;
        let (dkeys, rest) = dmemory.split_at_mut(source_tokens * a);
        let (dvalues, dinitial) = rest.split_at_mut(source_tokens * e);
        let w_state = Packed::new(Mat::new(weights.state, width + a, h), Threads::All);
        let w_context = Packed::new(Mat::new(weights.context, width, e), Threads::All);
        let first_memory = vec![T::zero(); memory_width];
        let pairs = pairs(source, target);
        let mut before = vec![T::zero(); n * h];
        let mut dx = Unwritten::new(n * width);
        let own = cell.own_columns(h);
        let mut dprojected = Unwritten::new(n * (own + a));
        let mut dv = vec![T::zero(); count * a];
        let lanes = sentences(source, target)
            .zip(split_sentences(&mut before, target, h))
            .zip(dx.all().sentences(target, width))
            .zip(dprojected.all().sentences(target, own + a))
            .zip(dv.chunks_exact_mut(a.max(1)))
            .zip(split_sentences(dkeys, source, a))
            .zip(split_sentences(dvalues, source, e))
            .zip(dinitial.chunks_exact_mut(h.max(1)))
            .map(|(((((((sentence, before), dx), dprojected), dv), dkeys), dvalues), dinitial)| Back {
                sentence,
                before,
                dx,
                dprojected,
                dv,
                dkeys,
                dvalues,
                dinitial,
            })
            .collect();
        schedule::run(lanes, n * width, |mut lanes: Vec<Back<'_, T>>, threads| {
            let jobs = lanes.len();
            for lane in &mut lanes {
                let Sentence { index, target, .. } = &lane.sentence;
                let (states, initial) = (&out[target.start * (h + e)..], row(initial, *index, h));
                states_before(lane.before, states, h + e, Some(initial), Direction::Forward, h);
            }
            let mut dh = vec![T::zero(); jobs * h];
            let mut dm = vec![T::zero(); jobs * memory_width];
            let mut dinputs = vec![T::zero(); jobs * width];
            let mut dcontexts = vec![T::zero(); jobs * e];
            let mut dprojections = vec![T::zero(); jobs * (width + a)];
            let mut dscores = vec![T::zero(); lanes.iter().map(|lane| lane.sentence.source.len()).max().unwrap_or(0)];
            for t in (0..lanes[0].steps()).rev() {
                let lanes = alive(&mut lanes, t);
                for (rank, lane) in lanes.iter_mut().enumerate() {
                    let token = lane.sentence.target.start + t;
                    let (dstate, dcontext) = row(grad, token, h + e).split_at(h);
                    let dh = row_mut(&mut dh, rank, h);
                    add_to(dh, dstate);
                    row_mut(&mut dcontexts, rank, e).copy_from_slice(dcontext);
                    let memory = match t {
                        0 => &first_memory,
                        _ => &row(&cells, token - 1, saved_width)[4 * h..],
                    };
                    let dx = row_mut(&mut dinputs, rank, width);
                    let dg = &mut row_mut(&mut dprojections, rank, width + a)[..width];
                    let dm = row_mut(&mut dm, rank, memory_width);
                    let saved = row(&cells, token, saved_width);
                    cell.backward(saved, row(lane.before, t, h), memory, Gradients { dh, dm, dx, dg });
                    lane.dx.take(width, End::Last).copy_of(row(&dinputs, rank, width));
                }
                matmul_packed(
                    MatMut::new(&mut dcontexts, lanes.len(), e),
                    Store::Add,
                    Mat::new(&dinputs, lanes.len(), width),
                    &w_context,
                    threads,
                    |_| (),
                );
                for (rank, lane) in lanes.iter_mut().enumerate() {
                    let Sentence { index, source, target } = &lane.sentence;
                    let dprojection = row_mut(&mut dprojections, rank, width + a);
                    let dscores = &mut dscores[..source.len()];
                    attend_values_backward(
                        row(&alphas[pairs[*index]..], t, source.len()),
                        &values[source.start * e..source.end * e],
                        row(&dcontexts, rank, e),
                        lane.dvalues,
                        dscores,
                    );
                    let dquery = &mut dprojection[width..];
                    dquery.fill(T::zero());
                    scores_backward(
                        dscores,
                        row(&queries, target.start + t, a),
                        &keys[source.start * a..source.end * a],
                        weights.v,
                        dquery,
                        lane.dkeys,
                        lane.dv,
                    );
                    lane.dprojected.take(own + a, End::Last).copy_of(&dprojection[width - own..]);
                }
                matmul_packed(
                    MatMut::new(&mut dh, lanes.len(), h),
                    Store::Add,
                    Mat::new(&dprojections, lanes.len(), width + a),
                    &w_state,
                    threads,
                    |_| (),
                );
            }
            for (lane, dh) in lanes.iter_mut().zip(dh.chunks_exact(h)) {
                lane.dinitial.copy_from_slice(dh);
            }
        });
        let (dx, dprojected) = (dx.done(), dprojected.done());
        let (dw_context, rest) = dweights.split_at_mut(width * e);
        let (dw_state, rest) = rest.split_at_mut((width + a) * h);
        let (dbias, dv_sum) = rest.split_at_mut(width);
        let contexts = Mat::strided(if n == 0 { out } else { &out[h..] }, n, e, h + e);
        let dx_t = Mat::new(&dx, n, width).t();
        matmul(MatMut::new(dw_context, width, e), Store::Set, T::one(), dx_t, contexts, Threads::All);
        state_gradients([dw_state, dbias], [&dx, &dprojected], &before, [h, own]);
        bias_gradient(dv_sum, &dv, a);
        Ok([dx, dmemory, dweights])
    }
}

/// A sentence and its translation in the packed tokens.
struct Sentence {
    index: usize,
    source: Range<usize>,
    target: Range<usize>,
}

fn sentences<'a>(source: &'a [usize], target: &'a [usize]) -> impl Iterator<Item = Sentence> + 'a {
    let pairs = source.windows(2).zip(target.windows(2)).enumerate();
    pairs.map(|(index, (source, target))| Sentence {
        index,
        source: source[0]..source[1],
        target: target[0]..target[1],
    })
}

/// Borders of the sentences' (target token, source token) pairs.
fn pairs(source: &[usize], target: &[usize]) -> Vec<usize> {
    let ends = sentences(source, target).scan(0, |end, sentence| {
        *end += sentence.source.len() * sentence.target.len();
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// A sentence on its way forward.
struct Ahead<'a, T> {
    sentence: Sentence,
    out: Blank<'a, T>,
    cells: Blank<'a, T>,
    queries: Blank<'a, T>,
    alphas: Blank<'a, T>,
}

impl<T: Real> Lane for Ahead<'_, T> {
    fn steps(&self) -> usize {
        self.sentence.target.len()
    }
}

/// A sentence on its way back.
struct Back<'a, T> {
    sentence: Sentence,
    /// The state before each token.
    before: &'a mut [T],
    dx: Blank<'a, T>,
    /// Gradients of the states' projections where they are not `dx`: for a gate and the query.
    dprojected: Blank<'a, T>,
    dv: &'a mut [T],
    dkeys: &'a mut [T],
    dvalues: &'a mut [T],
    dinitial: &'a mut [T],
}

impl<T: Real> Lane for Back<'_, T> {
    fn steps(&self) -> usize {
        self.sentence.target.len()
    }
}

impl<T: Real> CustomOp3 for Op<T> {
    fn name(&self) -> &'static str {
        "attentional"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        m: &CpuStorage,
        ml: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let op = "attentional";
        self.forward(slice(x, xl, op)?, xl.shape(), slice(m, ml, op)?, slice(w, wl, op)?)
    }

    fn bwd(
        &self,
        x: &Tensor,
        memory: &Tensor,
        weights: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (memory_values, weight_values) = (values::<T>(memory)?, values::<T>(weights)?);
        let [dx, dm, dw] = self.backward(&memory_values, &weight_values, &values::<T>(res)?, &values::<T>(&grad)?)?;
        Ok((Some(tensor(dx, x.shape())), Some(tensor(dm, memory.shape())), Some(tensor(dw, weights.shape()))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell::reference::step;
    use super::super::flatten;
    use super::*;
    use crate::ops::check::{
        agree, agree_with_differences, constant, random, same_for_any_threads, value_and_gradients, Input,
    };
    use candle_core::{DType, D};
    use proptest::prelude::*;

    fn fused(x: &[Tensor], r: &Attentional) -> Result<Tensor> {
        let memory = flatten(&[&x[1], &x[2], &x[3]])?;
        let weights = flatten(&[&x[4], &x[5], &x[6], &x[7], &x[8]])?;
        attentional(&x[0], &memory, &weights, r.clone())
    }

    /// The recurrence in plain candle, sentence by sentence.
    fn plain(x: &[Tensor], r: &Attentional) -> Result<Tensor> {
        let [x, keys, values, initial, w_context, w_hh, w_query, bias, v] = x else { unreachable!() };
        let mut rows = vec![];
        for s in 0..r.target.len() - 1 {
            let (from, count) = (r.source[s], r.source[s + 1] - r.source[s]);
            let (keys, values) = (keys.narrow(0, from, count)?, values.narrow(0, from, count)?);
            let mut state = initial.narrow(0, s, 1)?;
            let mut memory = state.zeros_like()?;
            for token in r.target[s]..r.target[s + 1] {
                let query = state.matmul(&w_query.t()?)?;
                let scores = keys.broadcast_add(&query)?.tanh()?.matmul(&v.unsqueeze(1)?)?.t()?;
                let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
                let context = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?.matmul(&values)?;
                let input = (x.narrow(0, token, 1)? + context.matmul(&w_context.t()?)?)?;
                let g = (state.matmul(&w_hh.t()?)? + bias.unsqueeze(0)?)?;
                (state, memory) = step(r.cell, &input, &g, &state, &memory)?;
                rows.push(Tensor::cat(&[&state, &context], 1)?);
            }
        }
        Tensor::cat(&rows, 0)
    }

    fn inputs(r: &Attentional) -> Vec<Input> {
        let Widths { hidden: h, attention: a, context: e } = r.widths;
        let (width, b) = (r.cell.gates() * h, r.source.len() - 1);
        let (s, n) = (r.source[b], r.target[b]);
        let shapes: [&[usize]; 9] =
            [&[n, width], &[s, a], &[s, e], &[b, h], &[width, e], &[width, h], &[a, h], &[width], &[a]];
        shapes.iter().zip(0..).map(|(shape, i)| random(shape, i)).collect()
    }

    fn case(cell: Cell, source: &[usize], target: &[usize], [hidden, attention, context]: [usize; 3]) -> Attentional {
        let offsets = |lengths: &[usize]| {
            let ends = lengths.iter().scan(0, |sum, &n| {
                *sum += n;
                Some(*sum)
            });
            Arc::new(std::iter::once(0).chain(ends).collect())
        };
        let widths = Widths { hidden, attention, context };
        Attentional { cell, widths, source: offsets(source), target: offsets(target) }
    }

    fn cases() -> Vec<Attentional> {
        let both = |source: &[usize], target: &[usize], widths| {
            [Cell::Gru, Cell::Lstm].map(|cell| case(cell, source, target, widths))
        };
        [
            both(&[1], &[1], [1, 1, 1]),
            both(&[4], &[6], [3, 5, 2]),
            both(&[1, 1, 3], &[1, 4, 1], [4, 2, 6]),
            both(&[5, 1, 9, 2], &[3, 7, 1, 7], [5, 33, 7]),
        ]
        .concat()
    }

    #[test]
    fn results_and_gradients_agree_with_plain_candle() {
        for r in cases() {
            agree(&inputs(&r), 4..9, |x| fused(x, &r), |x| plain(x, &r));
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for r in &cases()[..6] {
            agree_with_differences(&inputs(r), |x| fused(x, r));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_lengths_agree_with_plain_candle(
            lengths in prop::collection::vec((1usize..6, 0usize..6), 1..30),
            widths in (1usize..6, 1usize..40, 1usize..6),
        ) {
            let (source, target): (Vec<_>, Vec<_>) = lengths.into_iter().unzip();
            prop_assume!(target.iter().any(|&n| n > 0));
            for cell in [Cell::Gru, Cell::Lstm] {
                let r = case(cell, &source, &target, widths.into());
                agree(&inputs(&r), 4..9, |x| fused(x, &r), |x| plain(x, &r));
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let lengths: Vec<usize> = (0..50).map(|i| 1 + i * 5 % 7).collect();
        for cell in [Cell::Gru, Cell::Lstm] {
            let r =
                case(cell, &lengths, &lengths[3..].iter().chain(&[0, 0, 4]).copied().collect::<Vec<_>>(), [40, 24, 33]);
            same_for_any_threads(&inputs(&r), |x| fused(x, &r));
        }
    }

    #[test]
    fn a_sentence_without_source_tokens_reads_zeros() -> Result<()> {
        let r = case(Cell::Gru, &[2, 0], &[1, 2], [2, 3, 4]);
        let all = value_and_gradients(&inputs(&r), DType::F64, &|x| fused(x, &r))?;
        assert!(all.iter().flatten().all(|x| x.is_finite()));
        assert_eq!(all[0][6 + 2..12], [0.0; 4]);
        Ok(())
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() -> Result<()> {
        let r = cases().remove(1);
        let x: Vec<Tensor> = inputs(&r).iter().map(constant).collect();
        let short = flatten(&[&x[1], &x[2]])?;
        let weights = flatten(&[&x[4], &x[5], &x[6], &x[7], &x[8]])?;
        let message = attentional(&x[0], &short, &weights, r).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("memory has"), "{message}");
        Ok(())
    }
}
