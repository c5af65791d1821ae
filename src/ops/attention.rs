//! `attention`: for each sentence and head, O = dropout(softmax(Q·Kᵀ/√c))·V, c = d/heads (Vaswani et al. 2017, eq. 1).
//!
//! Packed rows: q `[Nq, d]`, k and v `[Nk, d]`, o `[Nq, d]`; head h owns columns h·c..(h+1)·c. Sentence s of the queries
//! sees sentence s of the keys only; causal: query i sees keys 0..=i. What one product of activations and weights made
//! stays together: `[q|k|v]` of [`self_attention`], `[k|v]` of [`cross_attention`].
//!
//! Backward, with P the softmax, m the scaled keep mask and D = Σ_columns dO ⊙ O: dP = dO·Vᵀ; dS = P ⊙ (m ⊙ dP − D)/√c;
//! dQ = dS·K; dK = dSᵀ·Q; dV = (P ⊙ m)ᵀ·dO. Saved: log Σ exp of each row of scores; P is recomputed.
//!
//! Memory grows with the length of a sentence, not with its square: probabilities exist for [`QUERIES`] × [`KEYS`] of one
//! head at a time. More keys go by in blocks (`blocks.rs`).
//!
//! The dropout mask's index runs over the packed probabilities: sentence, head, query, key.

use candle_core::{Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

use super::dropout::Mask;
use super::gemm::{matmul, Mat, MatMut, Store, Threads};
use super::real::{self, simd, with_real, Real};
use super::rows::{self, blocks};
use super::tape::{self, Computed, Done, Op};
use super::unwritten::{Blank, Unwritten};
use super::Dropout;

mod blocks;

/// Queries of one job; those of a longer sentence are shared by several.
const QUERIES: usize = 1024;

/// Keys whose scores exist at the same time: all of them in usual text.
const KEYS: usize = 1024;

/// Attention of sentences to themselves; `qkv [N, 3·d]` holds queries, keys and values side by side.
///
/// # Errors
/// Shapes and offsets that do not fit.
pub fn self_attention(
    qkv: &Tensor,
    offsets: &Arc<Vec<usize>>,
    heads: usize,
    causal: bool,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let (n, all) = qkv.dims2()?;
    if !all.is_multiple_of(3) || !fits(all / 3, heads, [(n, offsets), (n, offsets)]) {
        candle_core::bail!("attention: {:?}, {heads} heads, {} offsets do not fit", qkv.dims(), offsets.len());
    }
    let op = Attention::new(all / 3, [offsets, offsets], heads, causal, dropout);
    tape::apply(op, &[qkv])
}

/// Attention of the sentences of `q [Nq, d]` to those of `kv [Nk, 2·d]`, which holds keys and values side by side.
/// `scale` multiplies the scores: 1/√c, or 1 for the general score of Luong et al. 2015.
///
/// # Errors
/// Shapes and offsets that do not fit.
pub fn cross_attention(
    q: &Tensor,
    kv: &Tensor,
    [q_offsets, k_offsets]: [&Arc<Vec<usize>>; 2],
    heads: usize,
    scale: f64,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let ((nq, width), (nk, all)) = (q.dims2()?, kv.dims2()?);
    if all != 2 * width || !fits(width, heads, [(nq, q_offsets), (nk, k_offsets)]) {
        candle_core::bail!(
            "attention: queries {:?}, keys and values {:?}, {heads} heads, {} and {} offsets do not fit",
            q.dims(),
            kv.dims(),
            q_offsets.len(),
            k_offsets.len()
        );
    }
    let op = Attention { scale, ..Attention::new(width, [q_offsets, k_offsets], heads, false, dropout) };
    tape::apply(op, &[q, kv])
}

/// As [`self_attention`] of packed sentences, of the tokens `rows` of them only: q holds these, `kv [N, 2·d]` keys and
/// values of all. Without dropout, on the CPU: a long text goes through a layer some rows at a time.
///
/// # Errors
/// As [`self_attention`].
pub fn attention_of_rows(
    q: &Tensor,
    kv: &Tensor,
    rows: Range<usize>,
    [q_offsets, k_offsets]: [&Arc<Vec<usize>>; 2],
    heads: usize,
    scale: f64,
    causal: bool,
) -> Result<Tensor> {
    let ((nq, width), (nk, all)) = (q.dims2()?, kv.dims2()?);
    let clipped = q_offsets.iter().map(|&o| o.clamp(rows.start, rows.end.max(rows.start)) - rows.start).collect();
    let clipped = Arc::new(clipped);
    if all != 2 * width || !fits(width, heads, [(nq, &clipped), (nk, k_offsets)]) || !q.device().is_cpu() {
        candle_core::bail!("attention: rows {rows:?} as {:?} do not fit keys and values {:?}", q.dims(), kv.dims());
    }
    let op = Attention { scale, from: rows.start, ..Attention::new(width, [&clipped, k_offsets], heads, causal, None) };
    tape::apply(op, &[q, kv])
}

fn fits(width: usize, heads: usize, sides: [(usize, &Arc<Vec<usize>>); 2]) -> bool {
    let [(_, q), (_, k)] = sides;
    let sorted = sides.iter().all(|(n, o)| o.first() == Some(&0) && o.last() == Some(n) && o.is_sorted());
    heads > 0 && width.is_multiple_of(heads) && q.len() == k.len() && sorted
}

/// 1/√c.
pub fn default_scale(width: usize, heads: usize) -> f64 {
    ((width / heads) as f64).powf(-0.5)
}

/// Inputs: `[q|k|v]` of queries that attend to their own sentences, or `[q]` and `[k|v]`.
pub(super) struct Attention {
    pub(super) q_offsets: Arc<Vec<usize>>,
    pub(super) k_offsets: Arc<Vec<usize>>,
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) scale: f64,
    pub(super) causal: bool,
    /// Token of the packed sentences that the first query is.
    from: usize,
    pub(super) dropout: Option<Dropout>,
}

/// One sentence of the problem.
#[derive(Clone)]
struct Sentence {
    q: Range<usize>,
    k: Range<usize>,
    /// Index of its first probability in the packed order.
    first: usize,
    /// How many tokens its first query is behind its first key.
    behind: usize,
}

/// Queries, keys or values: `width` columns from `start` of rows of `stride` elements.
#[derive(Clone, Copy)]
struct Part<'a, T> {
    data: &'a [T],
    stride: usize,
    start: usize,
}

/// Queries, keys and values of one side or two.
struct Parts<'a, T> {
    q: Part<'a, T>,
    k: Part<'a, T>,
    v: Part<'a, T>,
}

impl<'a, T> Parts<'a, T> {
    /// Of the first input, and of the second where there is one.
    fn new(first: &'a [T], second: Option<&'a [T]>, width: usize) -> Self {
        let part = |data, all, i| Part { data, stride: all * width, start: i * width };
        match second {
            None => Parts { q: part(first, 3, 0), k: part(first, 3, 1), v: part(first, 3, 2) },
            Some(kv) => Parts { q: part(first, 1, 0), k: part(kv, 2, 0), v: part(kv, 2, 1) },
        }
    }
}

/// Where the gradients of one sentence go: its rows of q|k|v, or of q and of k|v.
enum Gradients<R> {
    Own(R),
    Cross(R, R),
}

impl<'a, T: Real> Gradients<Blank<'a, T>> {
    fn zeros(self) -> Gradients<&'a mut [T]> {
        match self {
            Gradients::Own(rows) => Gradients::Own(rows.zeros()),
            Gradients::Cross(q, kv) => Gradients::Cross(q.zeros(), kv.zeros()),
        }
    }
}

impl<T> Gradients<&mut [T]> {
    /// Rows, elements a row and first column of the gradient of queries (0), keys (1) or values (2).
    fn part(&mut self, i: usize, width: usize) -> (&mut [T], usize, usize) {
        match self {
            Gradients::Own(rows) => (rows, 3 * width, i * width),
            Gradients::Cross(q, _) if i == 0 => (q, width, 0),
            Gradients::Cross(_, kv) => (kv, 2 * width, (i - 1) * width),
        }
    }
}

impl Attention {
    fn new(
        width: usize,
        [q_offsets, k_offsets]: [&Arc<Vec<usize>>; 2],
        heads: usize,
        causal: bool,
        dropout: Option<Dropout>,
    ) -> Self {
        let (q_offsets, k_offsets) = (Arc::clone(q_offsets), Arc::clone(k_offsets));
        let scale = default_scale(width, heads);
        Attention { q_offsets, k_offsets, heads, width, scale, causal, from: 0, dropout }
    }

    fn sentences(&self) -> Vec<Sentence> {
        let mut first = 0;
        let pairs = self.q_offsets.windows(2).zip(self.k_offsets.windows(2));
        pairs
            .map(|(q, k)| {
                let behind = (self.from + q[0]).saturating_sub(k[0]);
                let sentence = Sentence { q: q[0]..q[1], k: k[0]..k[1], first, behind };
                first += self.heads * sentence.q.len() * sentence.k.len();
                sentence
            })
            .collect()
    }

    /// Columns of a head.
    fn columns(&self) -> usize {
        self.width / self.heads
    }

    /// The columns of one head in some packed rows.
    fn head<'a, T: Copy>(&self, part: Part<'a, T>, rows: &Range<usize>, head: usize) -> Mat<'a, T> {
        let columns = self.columns();
        if rows.is_empty() {
            return Mat::new(&[], 0, columns);
        }
        let start = rows.start * part.stride + part.start + head * columns;
        Mat::strided(&part.data[start..], rows.len(), columns, part.stride)
    }

    /// The same of the rows of one sentence, to write to.
    fn head_mut<'a, T>(&self, (x, stride, start): (&'a mut [T], usize, usize), head: usize) -> MatMut<'a, T> {
        let (rows, columns) = (x.len() / stride, self.columns());
        if rows == 0 {
            return MatMut::new(&mut [], 0, columns);
        }
        MatMut::strided(&mut x[start + head * columns..], rows, columns, stride)
    }

    fn forward_of<T: Real>(&self, inputs: &[Tensor]) -> Result<Computed> {
        let values = inputs.iter().map(real::values::<T>).collect::<Result<Vec<_>>>()?;
        let parts = &Parts::new(&values[0], values.get(1).map(|kv| &**kv), self.width);
        let nq = self.q_offsets.last().copied().unwrap_or_default();
        let (mut o, mut lse) = (Unwritten::new(nq * self.width), Unwritten::new(nq * self.heads));
        let some = |s: Sentence| blocks(s.q.len(), QUERIES).map(move |queries| (s.clone(), queries));
        let pieces: Vec<(Sentence, Range<usize>)> = self.sentences().into_iter().flat_map(some).collect();
        let ends = pieces.iter().map(|(s, queries)| s.q.start + queries.end);
        let borders: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let outputs = o.all().sentences(&borders, self.width);
        let saved = lse.all().sentences(&borders, self.heads);
        let jobs = pieces.into_iter().zip(outputs).zip(saved).collect();
        rows::run(jobs, nq * self.width, |(((s, queries), o), lse): (((_, _), Blank<'_, T>), Blank<'_, T>)| {
            self.attend(parts, &s, queries, o.zeros(), lse.zeros());
        });
        let lse = real::tensor(lse.done(), (nq, self.heads));
        Ok((real::storage(o.done()), (nq, self.width).into(), [Some(lse), None, None]))
    }

    /// Some queries of a sentence: their rows of the output and of log Σ exp.
    fn attend<T: Real>(&self, parts: &Parts<'_, T>, s: &Sentence, queries: Range<usize>, o: &mut [T], lse: &mut [T]) {
        let (scale, mask) = (T::from_f64(self.scale), self.dropout.map(Mask::new));
        let (tq, tk, n) = (s.q.len(), s.k.len(), queries.len());
        let behind = self.causal.then_some(s.behind + queries.start);
        let mut p = vec![T::zero(); if tk <= KEYS { n * tk } else { 0 }];
        let mut lse_of_head = vec![T::zero(); n];
        for head in 0..self.heads {
            let [q, k, v] = self.heads_of(parts, s, queries.clone(), 0..tk, head);
            let first = s.first + (head * tq + queries.start) * tk;
            if tk <= KEYS {
                matmul(MatMut::new(&mut p, n, tk), Store::Set, scale, q, k.t(), Threads::One);
                softmax(&mut p, tk, behind, &mut lse_of_head);
                if let Some(mask) = mask {
                    drop_out(&mut p, mask, first);
                }
                let o = self.head_mut((&mut *o, self.width, 0), head);
                matmul(o, Store::Set, T::one(), Mat::new(&p, n, tk), v, Threads::One);
            } else if n > 0 {
                let o = (&mut o[head * self.columns()..], self.width);
                blocks::attend([q, k, v], scale, behind, o, &mut lse_of_head, |p, i, keys| {
                    if let Some(mask) = mask {
                        drop_out(p, mask, first + i * tk + keys.start);
                    }
                });
            }
            for (i, lse) in lse.chunks_exact_mut(self.heads).enumerate() {
                lse[head] = lse_of_head[i];
            }
        }
    }

    /// The columns of one head in some queries, and in some keys and their values.
    fn heads_of<'a, T: Copy>(
        &self,
        parts: &Parts<'a, T>,
        s: &Sentence,
        queries: Range<usize>,
        keys: Range<usize>,
        head: usize,
    ) -> [Mat<'a, T>; 3] {
        let (q, k) = (moved(&queries, s.q.start), moved(&keys, s.k.start));
        [self.head(parts.q, &q, head), self.head(parts.k, &k, head), self.head(parts.v, &k, head)]
    }

    fn backward_of<T: Real>(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let [lse] = done.saved()?;
        let values = done.inputs.iter().map(real::values::<T>).collect::<Result<Vec<_>>>()?;
        let parts = &Parts::new(&values[0], values.get(1).map(|kv| &**kv), self.width);
        let (lse, o, d_o) =
            (real::values::<T>(lse)?, real::values::<T>(done.output)?, real::values::<T>(done.gradient)?);
        let (lse, o, d_o): (&[T], &[T], &[T]) = (&lse, &o, &d_o);
        let mut all: Vec<Unwritten<T>> = values.iter().map(|input| Unwritten::new(input.len())).collect();
        let gradients = match all.as_mut_slice() {
            [qkv] => {
                let sentences = qkv.all().sentences(&self.q_offsets, 3 * self.width);
                sentences.into_iter().map(Gradients::Own).collect::<Vec<_>>()
            }
            [q, kv, ..] => {
                let queries = q.all().sentences(&self.q_offsets, self.width).into_iter();
                let keys_values = kv.all().sentences(&self.k_offsets, 2 * self.width);
                queries.zip(keys_values).map(|(q, kv)| Gradients::Cross(q, kv)).collect()
            }
            [] => Vec::new(),
        };
        let jobs = self.sentences().into_iter().zip(gradients).collect();
        rows::run(jobs, o.len(), |(s, gradients): (Sentence, Gradients<Blank<'_, T>>)| {
            let mut gradients = gradients.zeros();
            let (tq, tk) = (s.q.len(), s.k.len());
            let scores = tq.min(QUERIES) * tk.min(KEYS);
            let (mut p, mut ds) = (vec![T::zero(); scores], vec![T::zero(); scores]);
            for head in 0..self.heads {
                for keys in blocks(tk, KEYS) {
                    // each block of keys, and each of queries, is set by the first block of scores that it has part in
                    let mut of_keys = Store::Set;
                    let of_queries = if keys.start == 0 { Store::Set } else { Store::Add };
                    for queries in blocks(tq, QUERIES) {
                        if self.causal && queries.end <= keys.start && keys.start > 0 {
                            continue;
                        }
                        let block = Block { queries, keys: keys.clone(), head, stores: [of_queries, of_keys, of_keys] };
                        self.block_backward(parts, &s, block, [o, d_o, lse], [&mut p, &mut ds], &mut gradients);
                        of_keys = Store::Add;
                    }
                }
            }
        });
        let gradients = all.into_iter().zip(done.inputs);
        Ok(gradients.map(|(gradient, input)| Some(real::tensor(gradient.done(), input.shape()))).collect())
    }

    /// Gradients through one block of scores, into rows of those of its sentence.
    fn block_backward<T: Real>(
        &self,
        parts: &Parts<'_, T>,
        s: &Sentence,
        Block { queries, keys, head, stores }: Block,
        [o, d_o, lse]: [&[T]; 3],
        [p, ds]: [&mut [T]; 2],
        gradients: &mut Gradients<&mut [T]>,
    ) {
        let (scale, mask, width) = (T::from_f64(self.scale), self.dropout.map(Mask::new), self.width);
        let (tq, tk, columns) = (queries.len(), keys.len(), self.columns());
        let (p, ds) = (&mut p[..tq * tk], &mut ds[..tq * tk]);
        let [q, k, v] = self.heads_of(parts, s, queries.clone(), keys.clone(), head);
        let doh = self.head(Part { data: d_o, stride: width, start: 0 }, &moved(&queries, s.q.start), head);
        matmul(MatMut::new(p, tq, tk), Store::Set, scale, q, k.t(), Threads::One);
        matmul(MatMut::new(ds, tq, tk), Store::Set, T::one(), doh, v.t(), Threads::One);
        for (row, i) in queries.clone().enumerate() {
            let (p, ds) = (&mut p[row * tk..(row + 1) * tk], &mut ds[row * tk..(row + 1) * tk]);
            let seen = if self.causal { (i + 1).saturating_sub(keys.start).min(tk) } else { tk };
            let index = s.first + (head * s.q.len() + i) * s.k.len() + keys.start;
            let lse = lse[(s.q.start + i) * self.heads + head];
            let columns = (s.q.start + i) * width + head * columns..(s.q.start + i) * width + (head + 1) * columns;
            softmax_backward(p, ds, seen, lse, &o[columns.clone()], &d_o[columns], scale, mask, index);
        }
        let (p, ds) = (Mat::new(p, tq, tk), Mat::new(ds, tq, tk));
        let products = [(&queries, ds, k), (&keys, ds.t(), q), (&keys, p.t(), doh)];
        for (i, (rows, a, b)) in products.into_iter().enumerate() {
            let (x, stride, start) = gradients.part(i, width);
            let target = self.head_mut((&mut x[rows.start * stride..rows.end * stride], stride, start), head);
            matmul(target, stores[i], T::one(), a, b, Threads::One);
        }
    }
}

/// One block of scores: some queries and keys, counted within their sentence, of one head.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
    head: usize,
    /// Whether it sets or adds to the gradients of queries, keys and values.
    stores: [Store; 3],
}

fn moved(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(inputs))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        with_real!(done.output, T => self.backward_of::<T>(done))
    }
}

simd! {
    /// Softmax of each row of `[queries, keys]` scores in place; `lse` gets log Σ exp. `behind`: row i sees keys
    /// 0..=behind + i; `None` = all.
    fn softmax<T: Real>(scores: &mut [T], keys: usize, behind: Option<usize>, lse: &mut [T]) {
        for (i, (row, lse)) in scores.chunks_exact_mut(keys.max(1)).zip(lse).enumerate() {
            let (seen, hidden) = row.split_at_mut(behind.map_or(keys, |behind| behind + i + 1));
            let top = real::max(seen);
            seen.iter_mut().for_each(|x| *x = (*x - top).exp());
            let total = real::sum(seen);
            let factor = T::one() / total;
            seen.iter_mut().for_each(|x| *x *= factor);
            hidden.fill(T::zero());
            *lse = top + total.ln();
        }
    }
}

simd! {
    fn drop_out<T: Real>(p: &mut [T], mask: Mask<T>, first: usize) {
        p.iter_mut().enumerate().for_each(|(i, p)| *p *= mask.factor(first + i));
    }
}

simd! {
    /// One row: scores become P ⊙ m in `p`, dP becomes dS in `ds`.
    fn softmax_backward<T: Real>(
        p: &mut [T],
        ds: &mut [T],
        seen: usize,
        lse: T,
        o: &[T],
        d_o: &[T],
        scale: T,
        mask: Option<Mask<T>>,
        first: usize,
    ) {
        let d = real::dot(o, d_o);
        p[seen..].fill(T::zero());
        ds[seen..].fill(T::zero());
        let pairs = p[..seen].iter_mut().zip(&mut ds[..seen]);
        match mask {
            None => pairs.for_each(|(p, ds)| {
                *p = (*p - lse).exp();
                *ds = *p * (*ds - d) * scale;
            }),
            Some(mask) => pairs.enumerate().for_each(|(j, (p, ds))| {
                let (probability, keep) = ((*p - lse).exp(), mask.factor(first + j));
                *p = probability * keep;
                *ds = probability * (*ds * keep - d) * scale;
            }),
        }
    }
}

#[cfg(test)]
mod tests;
