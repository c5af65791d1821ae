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
//! | keys, values, initial | `[S, a]`, `[S, e]`, `[B, h]` | the source, and the states before the first step |
//! | `W_c`, `W_hh`, `W_q` | `[G·h, e]`, `[G·h, h]`, `[a, h]` | |
//! | `b_hh`, `v` | `[G·h]`, `[a]` | |
//! | result | `[N, h + e]` | states and contexts side by side |
//!
//! An LSTM's cell starts at zero. A sentence without source tokens reads zeros. `W_hh` and `W_q` are put end to end so
//! that one product a step projects the state for both. Each job takes some sentences through all their steps; gradients of
//! weights are single products over all N tokens. Saved for backward: four values a unit and token, an LSTM's cells,
//! the queries and the weights α; the tanh of the scores are computed again, which costs no more than reading them.
//! Where no gradient is wanted, each step overwrites what the one before saved: α of all steps would grow with the square
//! of the length.

use super::additive::{attend, keys_backward, query_backward, weights_backward};
use super::cell::{Cell, Gradients};
use super::gemm::{matmul, matmul_packed, product_packed, Mat, MatMut, Store, Threads};
use super::lanes::{self, alive, Lane};
use super::real::{storage, tensor, values, with_real, Real};
use super::recurrent::{add_to, bias_gradient, gather, hidden_width, pack, row, row_mut, state_gradients};
use super::tape::{self, Computed, Done, Op};
use super::unwritten::{Blank, End, Unwritten};
use candle_core::{bail, Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

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
    /// The gated cell.
    pub cell: Cell,
    /// Of its parts.
    pub widths: Widths,
    /// Borders of the packed source sentences.
    pub source: Arc<Vec<usize>>,
    /// Borders of the packed target sentences; as many as source sentences.
    pub target: Arc<Vec<usize>>,
}

/// Runs the recurrence over keys, values and initial states, with the weights `[W_c, W_hh, W_q, b_hh, v]`; shapes in the
/// module's documentation.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn attentional(
    x: &Tensor,
    [keys, values, initial]: [&Tensor; 3],
    weights: [&Tensor; 5],
    recurrence: Attentional,
) -> Result<Tensor> {
    let Attentional { cell, widths, source, target } = &recurrence;
    let (n, width) = x.dims2()?;
    if widths.check(weights, width, *cell)? != [keys.dims2()?.1, values.dims2()?.1]
        || source.len() != target.len()
        || target.last() != Some(&n)
        || source.last() != Some(&keys.dims()[0])
        || keys.dims()[0] != values.dims()[0]
        || initial.dims() != [source.len() - 1, widths.hidden]
    {
        let dims = [x, keys, values, initial].map(Tensor::dims);
        bail!("attentional: inputs, keys, values and initial states {dims:?} do not fit {source:?} and {target:?}");
    }
    let [w_context, w_hh, w_query, bias, v] = weights;
    tape::apply(recurrence, &[x, keys, values, initial, w_context, w_hh, w_query, bias, v])
}

impl Widths {
    /// That the weights fit, and projections of `width` columns; widths of keys and values.
    pub(super) fn check(self, weights: [&Tensor; 5], width: usize, cell: Cell) -> Result<[usize; 2]> {
        let Widths { hidden: h, attention: a, context: e } = self;
        let [w_context, w_hh, w_query, bias, v] = weights;
        if hidden_width([w_hh, bias], width, cell)? != h
            || w_context.dims() != [width, e]
            || w_query.dims() != [a, h]
            || v.dims() != [a]
        {
            bail!("attentional: weights {:?} do not fit {self:?}", weights.map(Tensor::dims));
        }
        Ok([a, e])
    }
}

impl Attentional {
    fn forward_of<T: Real>(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        let Attentional { cell, widths, source, target } = self;
        let Widths { hidden: h, attention: a, context: e } = *widths;
        let all = inputs.iter().map(values::<T>).collect::<Result<Vec<_>>>()?;
        let all: Vec<&[T]> = all.iter().map(|values| &**values).collect();
        let [x, keys, values, initial, w_context, w_hh, w_query, bias, v] = all[..] else {
            bail!("attentional: {} inputs", all.len());
        };
        let (n, width) = (target.last().copied().unwrap_or(0), cell.gates() * h);
        let w_state = [w_hh, w_query].concat();
        let w_state = pack(Mat::new(&w_state, width + a, h).t());
        let w_context = pack(Mat::new(w_context, width, e).t());
        let (memory_width, saved_width) = (cell.memory_width(h), cell.saved_width(h));
        // borders of what is saved: all steps of a sentence, or nothing
        let (steps, pairs) = match tracked {
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
        lanes::run(lanes, n * width, |mut lanes: Vec<Ahead<'_, T>>, threads| {
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
                    let alphas = match tracked {
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
                        v,
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
                    let saved = match tracked {
                        true => lane.cells.take(saved_width, End::First).zeros(),
                        false => &mut forgotten_cell,
                    };
                    cell.forward(
                        row(&inputs, rank, width),
                        row(&projected, rank, width + a),
                        bias,
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
        let saved = match tracked {
            true => [cells, queries, alphas].map(|saved| Some(flat(saved.done()))),
            false => Default::default(),
        };
        Ok((storage(out.done()), (n, h + e).into(), saved))
    }

    fn backward_of<T: Real>(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let Attentional { cell, widths, source, target } = self;
        let Widths { hidden: h, attention: a, context: e } = *widths;
        let [cells, queries, alphas] = done.saved()?;
        let (cells, queries, alphas) = (values::<T>(cells)?, values::<T>(queries)?, values::<T>(alphas)?);
        let (out, grad) = (values::<T>(done.output)?, values::<T>(done.gradient)?);
        let (out, grad): (&[T], &[T]) = (&out, &grad);
        let all = done.inputs.iter().map(values::<T>).collect::<Result<Vec<_>>>()?;
        let all: Vec<&[T]> = all.iter().map(|values| &**values).collect();
        let [_, keys, values, initial, w_context, w_hh, w_query, _, v] = all[..] else {
            bail!("attentional: {} inputs", all.len());
        };
        let (n, width, count) = (out.len() / (h + e), cell.gates() * h, source.len().saturating_sub(1));
        let (memory_width, saved_width) = (cell.memory_width(h), cell.saved_width(h));
        let (mut dkeys, mut dvalues) = (Unwritten::new(keys.len()), Unwritten::new(values.len()));
        let mut dinitial = vec![T::zero(); initial.len()];
        let w_state = [w_hh, w_query].concat();
        let w_state = pack(Mat::new(&w_state, width + a, h));
        let w_context = pack(Mat::new(w_context, width, e));
        let first_memory = vec![T::zero(); memory_width];
        let pairs = pairs(source, target);
        let mut before = Unwritten::new(n * h);
        let mut dx = Unwritten::new(n * width);
        let own = cell.own_columns(h);
        let mut dprojected = Unwritten::new(n * (own + a));
        let mut dv = vec![T::zero(); count * a];
        let lanes = sentences(source, target)
            .zip(before.all().sentences(target, h))
            .zip(dx.all().sentences(target, width))
            .zip(dprojected.all().sentences(target, own + a))
            .zip(dv.chunks_exact_mut(a.max(1)))
            .zip(dkeys.all().sentences(source, a))
            .zip(dvalues.all().sentences(source, e))
            .zip(dinitial.chunks_exact_mut(h.max(1)))
            .map(|(((((((sentence, before), dx), dprojected), dv), dkeys), dvalues), dinitial)| Back {
                sentence,
                before,
                dx,
                dprojected,
                dcontexts: Vec::new(),
                dscores: Vec::new(),
                dv,
                dkeys,
                dvalues,
                dinitial,
            })
            .collect();
        lanes::run(lanes, n * width, |mut lanes: Vec<Back<'_, T>>, threads| {
            let jobs = lanes.len();
            let sources: Vec<Range<usize>> = lanes.iter().map(|lane| lane.sentence.source.clone()).collect();
            for lane in &mut lanes {
                lane.dcontexts.resize(lane.steps() * e, T::zero());
                lane.dscores.resize(lane.steps() * lane.sentence.source.len(), T::zero());
            }
            let mut dh = vec![T::zero(); jobs * h];
            let mut dm = vec![T::zero(); jobs * memory_width];
            let mut dinputs = vec![T::zero(); jobs * width];
            let mut dcontexts = vec![T::zero(); jobs * e];
            let mut dprojections = vec![T::zero(); jobs * (width + a)];
            for t in (0..lanes[0].steps()).rev() {
                let lanes = alive(&mut lanes, t);
                for (rank, lane) in lanes.iter_mut().enumerate() {
                    let token = lane.sentence.target.start + t;
                    let (dstate, dcontext) = row(grad, token, h + e).split_at(h);
                    let dh = row_mut(&mut dh, rank, h);
                    add_to(dh, dstate);
                    row_mut(&mut dcontexts, rank, e).copy_from_slice(dcontext);
                    let (before, memory) = match t {
                        0 => (row(initial, lane.sentence.index, h), &first_memory[..]),
                        _ => (&row(out, token - 1, h + e)[..h], &row(&cells, token - 1, saved_width)[4 * h..]),
                    };
                    let dx = row_mut(&mut dinputs, rank, width);
                    let dg = &mut row_mut(&mut dprojections, rank, width + a)[..width];
                    let dm = row_mut(&mut dm, rank, memory_width);
                    let saved = row(&cells, token, saved_width);
                    cell.backward(saved, before, memory, Gradients { dh, dm, dx, dg });
                    lane.before.take(h, End::Last).copy_of(before);
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
                    let keys = &keys[source.start * a..source.end * a];
                    let values_of = |source: &Range<usize>| &values[source.start * e..source.end * e];
                    let next = sources.get(rank + 1).map_or(&[][..], values_of);
                    let alphas = row(&alphas[pairs[*index]..], t, source.len());
                    let dscores = row_mut(&mut lane.dscores, t, source.len());
                    let dprojection = row_mut(&mut dprojections, rank, width + a);
                    weights_backward(alphas, values_of(source), row(&dcontexts, rank, e), dscores);
                    let query = row(&queries, target.start + t, a);
                    query_backward(dscores, query, keys, v, &mut dprojection[width..], next);
                    row_mut(&mut lane.dcontexts, t, e).copy_from_slice(row(&dcontexts, rank, e));
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
            for (rank, lane) in lanes.into_iter().enumerate() {
                lane.dinitial.copy_from_slice(row(&dh, rank, h));
                // zeros where no target token reads
                let Sentence { index, source, target } = lane.sentence;
                let alphas = Mat::new(&alphas[pairs[index]..pairs[index + 1]], target.len(), source.len());
                let dcontexts = Mat::new(&lane.dcontexts, target.len(), e);
                let dvalues = MatMut::new(lane.dvalues.zeros(), source.len(), e);
                matmul(dvalues, Store::Set, T::one(), alphas.t(), dcontexts, Threads::One);
                let queries = &queries[target.start * a..target.end * a];
                let keys = &keys[source.start * a..source.end * a];
                keys_backward(&lane.dscores, queries, keys, v, lane.dkeys.zeros(), lane.dv);
            }
        });
        let (dx, dprojected, before) = (dx.done(), dprojected.done(), before.done());
        let (dkeys, dvalues) = (dkeys.done(), dvalues.done());
        let contexts = Mat::strided(if n == 0 { out } else { &out[h..] }, n, e, h + e);
        let dw_context = product_packed(T::one(), Mat::new(&dx, n, width).t(), &pack(contexts), Threads::All, |_| ());
        let [mut dw_hh, dbias] = state_gradients([&dx, &dprojected], &before, [h, width, own, own + a]);
        let dw_query = dw_hh.split_off(width * h);
        let dv = bias_gradient(&dv, a);
        let gradients = [dx, dkeys, dvalues, dinitial, dw_context, dw_hh, dw_query, dbias, dv].into_iter();
        Ok(gradients.zip(done.inputs).map(|(gradient, input)| Some(tensor(gradient, input.shape()))).collect())
    }
}

fn flat<T: Real>(values: Vec<T>) -> Tensor {
    let n = values.len();
    tensor(values, n)
}

impl Op for Attentional {
    fn name(&self) -> &'static str {
        "attentional"
    }

    fn forward(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(inputs, tracked))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        with_real!(done.output, T => self.backward_of::<T>(done))
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
    before: Blank<'a, T>,
    dx: Blank<'a, T>,
    /// Gradients of the states' projections where they are not `dx`: for a gate and the query.
    dprojected: Blank<'a, T>,
    /// Of all its steps: what the gradients of keys and values are made of at the end.
    dcontexts: Vec<T>,
    dscores: Vec<T>,
    dv: &'a mut [T],
    dkeys: Blank<'a, T>,
    dvalues: Blank<'a, T>,
    dinitial: &'a mut [T],
}

impl<T: Real> Lane for Back<'_, T> {
    fn steps(&self) -> usize {
        self.sentence.target.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell::reference::step;
    use super::*;
    use crate::ops::check::{
        agree, agree_with_differences, constant, random, same_for_any_threads, value_and_gradients, Input,
    };
    use candle_core::{DType, D};
    use proptest::prelude::*;

    fn fused(x: &[Tensor], r: &Attentional) -> Result<Tensor> {
        attentional(&x[0], [&x[1], &x[2], &x[3]], [&x[4], &x[5], &x[6], &x[7], &x[8]], r.clone())
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
        let r = cases().remove(3);
        let x: Vec<Tensor> = inputs(&r).iter().map(constant).collect();
        let (memory, weights) = ([&x[1], &x[2], &x[3]], [&x[4], &x[5], &x[6], &x[7], &x[8]]);
        let message = |memory, weights| {
            let refused = attentional(&x[0], memory, weights, r.clone()).err();
            refused.map(|e| e.to_string()).unwrap_or_default()
        };
        let of_memory = message([memory[0], memory[1], memory[0]], weights);
        assert!(of_memory.contains("keys, values and initial states"), "{of_memory}");
        let of_weights = message(memory, [weights[2], weights[1], weights[2], weights[3], weights[4]]);
        assert!(of_weights.contains("weights"), "{of_weights}");
        Ok(())
    }
}
