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
//! one product a step projects the state for both. Saved for backward: four values a unit and token, an LSTM's cells,
//! the queries and the weights α; the tanh of the scores are computed again.

use super::cell::{Before, Cell, Gradients, SAVED};
use super::gemm::{matmul, Mat, MatMut, Store, Threads};
use super::real::{dot, max, simd, slice, sum, tensor, values, with_real, Real, LANES};
use super::recurrent::{add_rows, add_to, by_rank, states_before, take_saved, to_sentences};
use super::schedule::{Direction, Schedule};
use super::tape;
use candle_core::{bail, CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
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
    with_real!(x, T => {
        let op = Op::<T> { recurrence, saved: Mutex::new(None) };
        tape::apply3(&x.contiguous()?, &memory.contiguous()?, &weights.contiguous()?, op)
    })
}

struct Op<T> {
    recurrence: Attentional,
    saved: Mutex<Option<Saved<T>>>,
}

/// Time-major, see [`Schedule`].
struct Saved<T> {
    schedule: Schedule,
    /// `[N, 4·h]`.
    gates: Vec<T>,
    /// `[N, h]` of an LSTM, else empty.
    cells: Vec<T>,
    /// `[N, a]`.
    queries: Vec<T>,
    /// α of each step's source tokens, end to end.
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
        let schedule = Schedule::new(target, Direction::Forward);
        let sentences = schedule.order.len();
        let lstm_width = if *cell == Cell::Lstm { h } else { 0 };
        let mut hidden = by_rank(Some(initial), &schedule.order, h);
        let mut cell_states = vec![T::zero(); sentences * lstm_width];
        let mut projected = vec![T::zero(); sentences * (width + a)];
        let mut inputs = vec![T::zero(); sentences * width];
        let mut contexts = vec![T::zero(); sentences * e];
        let mut out = vec![T::zero(); n * (h + e)];
        let mut gates = vec![T::zero(); n * SAVED * h];
        let mut cells = vec![T::zero(); n * lstm_width];
        let mut queries = vec![T::zero(); n * a];
        let mut alphas = vec![T::zero(); read_tokens(source, target)];
        let mut alpha = alphas.as_mut_slice();
        for t in 0..schedule.steps() {
            let alive = schedule.alive(t);
            matmul(
                MatMut::new(&mut projected, alive, width + a),
                Store::Set,
                T::one(),
                Mat::new(&hidden, alive, h),
                Mat::new(weights.state, width + a, h).t(),
                Threads::All,
            );
            for (rank, row) in schedule.rows(t).enumerate() {
                let sentence = source[schedule.order[rank]]..source[schedule.order[rank] + 1];
                let query = &projected[rank * (width + a) + width..][..a];
                queries[row * a..][..a].copy_from_slice(query);
                let weights_here = alpha.split_off_mut(..sentence.len()).unwrap_or_default();
                attend(
                    query,
                    &keys[sentence.start * a..sentence.end * a],
                    &values[sentence.start * e..sentence.end * e],
                    weights.v,
                    weights_here,
                    &mut contexts[rank * e..][..e],
                );
                inputs[rank * width..][..width].copy_from_slice(&x[schedule.tokens[row] * width..][..width]);
            }
            matmul(
                MatMut::new(&mut inputs, alive, width),
                Store::Add,
                T::one(),
                Mat::new(&contexts, alive, e),
                Mat::new(weights.context, width, e).t(),
                Threads::All,
            );
            for (rank, row) in schedule.rows(t).enumerate() {
                let hidden = &mut hidden[rank * h..][..h];
                let cell_state = &mut cell_states[rank * lstm_width..][..lstm_width];
                cell.forward(
                    &inputs[rank * width..][..width],
                    &projected[rank * (width + a)..][..width],
                    weights.bias,
                    hidden,
                    cell_state,
                    &mut gates[row * SAVED * h..][..SAVED * h],
                );
                let (state_out, context_out) = out[schedule.tokens[row] * (h + e)..][..h + e].split_at_mut(h);
                state_out.copy_from_slice(hidden);
                context_out.copy_from_slice(&contexts[rank * e..][..e]);
                cells[row * lstm_width..][..lstm_width].copy_from_slice(cell_state);
            }
        }
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Saved { schedule, gates, cells, queries, alphas });
        Ok((T::to_cpu_storage_owned(out), (n, h + e).into()))
    }

    /// Gradients of `x`, `memory` and `weights`.
    fn backward(&self, memory: &[T], weights: &[T], out: &[T], grad: &[T]) -> Result<[Vec<T>; 3]> {
        let Attentional { cell, widths, source, .. } = &self.recurrence;
        let Widths { hidden: h, attention: a, context: e } = *widths;
        let Saved { schedule, gates, cells, queries, alphas } = take_saved(&self.saved, "attentional")?;
        let (n, width, sentences) = (schedule.tokens.len(), cell.gates() * h, schedule.order.len());
        let source_tokens = source.last().copied().unwrap_or(0);
        let mut dmemory = vec![T::zero(); memory.len()];
        let mut dweights = vec![T::zero(); weights.len()];
        let weights = widths.weights(weights, *cell)?;
        let Memory { keys, values, initial } = widths.memory(memory, source)?;
        let (dkeys, rest) = dmemory.split_at_mut(source_tokens * a);
        let (dvalues, dinitial) = rest.split_at_mut(source_tokens * e);
        let (dw_context, rest) = dweights.split_at_mut(width * e);
        let (dw_state, rest) = rest.split_at_mut((width + a) * h);
        let (dbias, dv) = rest.split_at_mut(width);

        let states: Vec<T> = out.chunks_exact(h + e).flat_map(|row| &row[..h]).copied().collect();
        let before = states_before(&schedule, &states, Some(initial), h);
        drop(states);
        let lstm_width = if *cell == Cell::Lstm { h } else { 0 };
        let zeros = vec![T::zero(); lstm_width];
        let mut dh = vec![T::zero(); sentences * h];
        let mut dm = vec![T::zero(); sentences * lstm_width];
        let mut dinputs = vec![T::zero(); sentences * width];
        let mut dcontexts = vec![T::zero(); sentences * e];
        let mut dx = vec![T::zero(); n * width];
        let mut dprojected = vec![T::zero(); n * (width + a)];
        let mut dscores = vec![T::zero(); longest(source)];
        let mut alpha_end = alphas.len();
        for t in (0..schedule.steps()).rev() {
            let rows = schedule.rows(t);
            for (rank, row) in rows.clone().enumerate() {
                let token = schedule.tokens[row];
                let (dstate, dcontext) = grad[token * (h + e)..][..h + e].split_at(h);
                let dh = &mut dh[rank * h..][..h];
                add_to(dh, dstate);
                dcontexts[rank * e..][..e].copy_from_slice(dcontext);
                let dinput = &mut dinputs[rank * width..][..width];
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
                        dx: dinput,
                        dg: &mut dprojected[row * (width + a)..][..width],
                    },
                );
                dx[token * width..][..width].copy_from_slice(dinput);
            }
            matmul(
                MatMut::new(&mut dcontexts, rows.len(), e),
                Store::Add,
                T::one(),
                Mat::new(&dinputs, rows.len(), width),
                Mat::new(weights.context, width, e),
                Threads::All,
            );
            for (rank, row) in rows.clone().enumerate().rev() {
                let sentence = source[schedule.order[rank]]..source[schedule.order[rank] + 1];
                let (key_range, value_range) =
                    (sentence.start * a..sentence.end * a, sentence.start * e..sentence.end * e);
                alpha_end -= sentence.len();
                let dscores = &mut dscores[..sentence.len()];
                attend_values_backward(
                    &alphas[alpha_end..][..sentence.len()],
                    &values[value_range.clone()],
                    &dcontexts[rank * e..][..e],
                    &mut dvalues[value_range],
                    dscores,
                );
                scores_backward(
                    dscores,
                    &queries[row * a..][..a],
                    &keys[key_range.clone()],
                    weights.v,
                    &mut dprojected[row * (width + a) + width..][..a],
                    &mut dkeys[key_range],
                    dv,
                );
            }
            matmul(
                MatMut::new(&mut dh, rows.len(), h),
                Store::Add,
                T::one(),
                Mat::new(&dprojected[rows.start * (width + a)..], rows.len(), width + a),
                Mat::new(weights.state, width + a, h),
                Threads::All,
            );
        }
        matmul(
            MatMut::new(dw_state, width + a, h),
            Store::Set,
            T::one(),
            Mat::new(&dprojected, n, width + a).t(),
            Mat::new(&before, n, h),
            Threads::All,
        );
        let contexts = if n == 0 { out } else { &out[h..] };
        matmul(
            MatMut::new(dw_context, width, e),
            Store::Set,
            T::one(),
            Mat::new(&dx, n, width).t(),
            Mat::strided(contexts, n, e, h + e),
            Threads::All,
        );
        for row in dprojected.chunks_exact(width + a) {
            add_rows(dbias, &row[..width]);
        }
        dinitial.copy_from_slice(&to_sentences(&dh, &schedule.order, h));
        Ok([dx, dmemory, dweights])
    }
}

/// Number of (target token, source token) pairs within sentences.
fn read_tokens(source: &[usize], target: &[usize]) -> usize {
    source.windows(2).zip(target.windows(2)).map(|(s, t)| (s[1] - s[0]) * (t[1] - t[0])).sum()
}

fn longest(offsets: &[usize]) -> usize {
    offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
}

simd! {
    /// α (into `weights`) and the context of one query over the keys `[n, a]` and values `[n, e]` of its sentence.
    pub(super) fn attend<T: Real>(
        query: &[T],
        keys: &[T],
        values: &[T],
        v: &[T],
        weights: &mut [T],
        context: &mut [T],
    ) {
        for (score, key) in weights.iter_mut().zip(keys.chunks_exact(query.len())) {
            *score = score_of(query, key, v);
        }
        let top = max(weights);
        for weight in weights.iter_mut() {
            *weight = (*weight - top).exp();
        }
        let scale = T::one() / sum(weights);
        context.fill(T::zero());
        for (weight, value) in weights.iter_mut().zip(values.chunks_exact(context.len())) {
            *weight *= scale;
            for (c, &x) in context.iter_mut().zip(value) {
                *c += *weight * x;
            }
        }
    }
}

/// vᵀ tanh(q + k), in [`LANES`] partial sums.
#[inline(always)]
fn score_of<T: Real>(query: &[T], key: &[T], v: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (query, query_rest) = query.as_chunks::<LANES>();
    let (key, key_rest) = key.as_chunks::<LANES>();
    let (v, v_rest) = v.as_chunks::<LANES>();
    for ((q, k), v) in query.iter().zip(key).zip(v) {
        for i in 0..LANES {
            lanes[i] += v[i] * Real::tanh(q[i] + k[i]);
        }
    }
    for (((lane, &q), &k), &v) in lanes.iter_mut().zip(query_rest).zip(key_rest).zip(v_rest) {
        *lane += v * Real::tanh(q + k);
    }
    sum(&lanes)
}

simd! {
/// From the gradient of a context: adds that of the values, and sets that of the scores (through the softmax).
fn attend_values_backward<T: Real>(
    alphas: &[T],
    values: &[T],
    dcontext: &[T],
    dvalues: &mut [T],
    dscores: &mut [T],
) {
    let e = dcontext.len();
    for (i, (value, dvalue)) in values.chunks_exact(e).zip(dvalues.chunks_exact_mut(e)).enumerate() {
        dscores[i] = dot(dcontext, value);
        for (d, &c) in dvalue.iter_mut().zip(dcontext) {
            *d += alphas[i] * c;
        }
    }
    let mean = dot(alphas, dscores);
    for (d, &alpha) in dscores.iter_mut().zip(alphas) {
        *d = alpha * (*d - mean);
    }
}
}

simd! {
/// From the gradient of one query's scores: adds those of query, keys and `v`.
fn scores_backward<T: Real>(
    dscores: &[T],
    query: &[T],
    keys: &[T],
    v: &[T],
    dquery: &mut [T],
    dkeys: &mut [T],
    dv: &mut [T],
) {
    let a = query.len();
    let (v, dquery, dv) = (&v[..a], &mut dquery[..a], &mut dv[..a]);
    for ((key, dkey), &dscore) in keys.chunks_exact(a).zip(dkeys.chunks_exact_mut(a)).zip(dscores) {
        for j in 0..a {
            let y = Real::tanh(query[j] + key[j]);
            let d = dscore * v[j] * (T::one() - y * y);
            dv[j] += dscore * y;
            dquery[j] += d;
            dkey[j] += d;
        }
    }
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
    use crate::ops::check::{agree, agree_with_differences, constant, random, value_and_gradients, Input};
    use candle_core::{DType, D};

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
            agree(&inputs(&r), |x| fused(x, &r), |x| plain(x, &r));
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for r in &cases()[..6] {
            agree_with_differences(&inputs(r), |x| fused(x, r));
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
