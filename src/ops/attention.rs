//! `attention`: for each sentence and head, O = dropout(softmax(Q·Kᵀ/√c))·V, c = d/heads (Vaswani et al. 2017, eq. 1).
//!
//! Packed rows: q `[Nq, d]`, k and v `[Nk, d]`, o `[Nq, d]`; head h owns columns h·c..(h+1)·c. Sentence s of the queries
//! sees sentence s of the keys only; causal: query i sees keys 0..=i. What one product of activations and weights made
//! stays together: `[q|k|v]` of [`self_attention`], `[k|v]` of [`cross_attention`].
//!
//! Backward, with P the softmax, m the scaled keep mask and D = Σ_columns dO ⊙ O: dP = dO·Vᵀ; dS = P ⊙ (m ⊙ dP − D)/√c;
//! dQ = dS·K; dK = dSᵀ·Q; dV = (P ⊙ m)ᵀ·dO. Saved: log Σ exp of each row of scores; P is recomputed. Probabilities
//! exist for one sentence and head at a time.
//!
//! The dropout mask's index runs over the packed probabilities: sentence, head, query, key.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

#[cfg(feature = "cuda")]
use super::cuda::{Memory, Sides};
use super::dropout::Mask;
use super::gemm::{matmul, Mat, MatMut, Store, Threads};
use super::real::{self, simd, with_real, Real};
use super::rows::{self, split_sentences};
use super::{tape, Dropout};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

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
    tape::apply1(&qkv.contiguous()?, op)
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
    tape::apply2(&q.contiguous()?, &kv.contiguous()?, op)
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

struct Attention {
    q_offsets: Arc<Vec<usize>>,
    k_offsets: Arc<Vec<usize>>,
    heads: usize,
    width: usize,
    scale: f64,
    causal: bool,
    dropout: Option<Dropout>,
    /// log Σ exp: `[heads, queries]` a sentence, packed.
    saved: OnceLock<Tensor>,
}

/// One sentence of the problem.
struct Sentence {
    q: Range<usize>,
    k: Range<usize>,
    /// Index of its first probability in the packed order.
    first: usize,
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
    fn own(data: &'a [T], width: usize) -> Self {
        let part = |i| Part { data, stride: 3 * width, start: i * width };
        Parts { q: part(0), k: part(1), v: part(2) }
    }

    fn cross(q: &'a [T], kv: &'a [T], width: usize) -> Self {
        let part = |i| Part { data: kv, stride: 2 * width, start: i * width };
        Parts { q: Part { data: q, stride: width, start: 0 }, k: part(0), v: part(1) }
    }
}

/// Where the gradients of one sentence go: its rows of q|k|v, or of q and of k|v.
enum Gradients<'a, T> {
    Own(&'a mut [T]),
    Cross(&'a mut [T], &'a mut [T]),
}

impl<T> Gradients<'_, T> {
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
        Attention { q_offsets, k_offsets, heads, width, scale, causal, dropout, saved: OnceLock::new() }
    }

    fn sentences(&self) -> Vec<Sentence> {
        let mut first = 0;
        let pairs = self.q_offsets.windows(2).zip(self.k_offsets.windows(2));
        pairs
            .map(|(q, k)| {
                let sentence = Sentence { q: q[0]..q[1], k: k[0]..k[1], first };
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

    fn forward<T: Real>(&self, parts: &Parts<'_, T>) -> (CpuStorage, Shape) {
        let nq = self.q_offsets.last().copied().unwrap_or_default();
        let (scale, mask) = (T::from_f64(self.scale), self.dropout.map(Mask::new));
        let (mut o, mut lse) = (rows::buffer(nq * self.width), rows::buffer(nq * self.heads));
        let outputs = split_sentences(&mut o, &self.q_offsets, self.width);
        let saved = split_sentences(&mut lse, &self.q_offsets, self.heads);
        let jobs = self.sentences().into_iter().zip(outputs).zip(saved).collect();
        rows::run(jobs, nq * self.width, |((s, o), lse): ((Sentence, &mut [T]), &mut [T])| {
            let (tq, tk) = (s.q.len(), s.k.len());
            let mut p = rows::buffer(tq * tk);
            for head in 0..self.heads {
                let [q, k, v] = self.heads_of(parts, &s, head);
                matmul(MatMut::new(&mut p, tq, tk), Store::Set, scale, q, k.t(), Threads::One);
                softmax(&mut p, tk, self.causal, &mut lse[head * tq..(head + 1) * tq]);
                if let Some(mask) = mask {
                    drop_out(&mut p, mask, s.first + head * tq * tk);
                }
                let o = self.head_mut((o, self.width, 0), head);
                matmul(o, Store::Set, T::one(), Mat::new(&p, tq, tk), v, Threads::One);
            }
        });
        // only the first forward fills it, and there is only one
        self.saved.get_or_init(|| real::tensor(lse, nq * self.heads));
        (T::to_cpu_storage_owned(o), Shape::from((nq, self.width)))
    }

    fn heads_of<'a, T: Copy>(&self, parts: &Parts<'a, T>, s: &Sentence, head: usize) -> [Mat<'a, T>; 3] {
        [self.head(parts.q, &s.q, head), self.head(parts.k, &s.k, head), self.head(parts.v, &s.k, head)]
    }

    fn saved(&self) -> Result<&Tensor> {
        match self.saved.get() {
            Some(saved) => Ok(saved),
            None => candle_core::bail!("attention: backward without a forward pass"),
        }
    }

    /// Fills the gradients of each sentence.
    fn backward<T: Real>(
        &self,
        parts: &Parts<'_, T>,
        o: &Tensor,
        d_o: &Tensor,
        gradients: Vec<Gradients<'_, T>>,
    ) -> Result<()> {
        let lse = real::values::<T>(self.saved()?)?;
        let lse: &[T] = &lse;
        let d_o = d_o.contiguous()?;
        let (o, d_o) = (real::values::<T>(o)?, real::values::<T>(&d_o)?);
        let (o, d_o): (&[T], &[T]) = (&o, &d_o);
        let (scale, mask, width) = (T::from_f64(self.scale), self.dropout.map(Mask::new), self.width);
        let jobs = self.sentences().into_iter().zip(gradients).collect();
        rows::run(jobs, o.len(), |(s, mut gradients): (Sentence, Gradients<'_, T>)| {
            let (tq, tk, columns) = (s.q.len(), s.k.len(), self.columns());
            let (mut p, mut ds) = (rows::buffer(tq * tk), rows::buffer(tq * tk));
            for head in 0..self.heads {
                let [q, k, v] = self.heads_of(parts, &s, head);
                let doh = self.head(Part { data: d_o, stride: width, start: 0 }, &s.q, head);
                matmul(MatMut::new(&mut p, tq, tk), Store::Set, scale, q, k.t(), Threads::One);
                matmul(MatMut::new(&mut ds, tq, tk), Store::Set, T::one(), doh, v.t(), Threads::One);
                let lse = &lse[s.q.start * self.heads + head * tq..][..tq];
                for i in 0..tq {
                    let row = (s.q.start + i) * width + head * columns..;
                    let (o, d_o) = (&o[row.clone()][..columns], &d_o[row][..columns]);
                    let (p, ds) = (&mut p[i * tk..(i + 1) * tk], &mut ds[i * tk..(i + 1) * tk]);
                    let seen = if self.causal { i + 1 } else { tk };
                    let index = s.first + (head * tq + i) * tk;
                    softmax_backward(p, ds, seen, lse[i], o, d_o, scale, mask, index);
                }
                let (p, ds) = (Mat::new(&p, tq, tk), Mat::new(&ds, tq, tk));
                for (i, (a, b)) in [(ds, k), (ds.t(), q), (p.t(), doh)].into_iter().enumerate() {
                    let target = self.head_mut(gradients.part(i, width), head);
                    matmul(target, Store::Set, T::one(), a, b, Threads::One);
                }
            }
        });
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Attention {
    /// `own`: queries, keys and values are one tensor.
    fn on_gpu(&self, own: bool) -> Sides {
        let (q_offsets, k_offsets) = (Arc::clone(&self.q_offsets), Arc::clone(&self.k_offsets));
        let Attention { heads, width, scale, causal, dropout, .. } = *self;
        Sides { q_offsets, k_offsets, heads, width, scale, causal, dropout, own }
    }

    fn forward_on_gpu(
        &self,
        q: (&CudaStorage, &Layout),
        kv: (&CudaStorage, &Layout),
        own: bool,
    ) -> Result<(CudaStorage, Shape)> {
        let (queries, kv) = (Memory::of(q.0, q.1)?, Memory::of(kv.0, kv.1)?);
        let (o, lse) = self.on_gpu(own).forward(&q.0.device, queries, kv)?;
        self.saved.get_or_init(|| lse);
        Ok((o, Shape::from((self.q_offsets.last().copied().unwrap_or_default(), self.width))))
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "self_attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(qkv, T => Ok(self.forward(&Parts::own(real::slice::<T>(qkv, layout, "attention")?, self.width))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu((qkv, layout), (qkv, layout), true)
    }

    fn bwd(&self, qkv: &Tensor, o: &Tensor, d_o: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if qkv.device().is_cuda() {
            return Ok(Some(self.on_gpu(true).backward(qkv, qkv, o, d_o, self.saved()?)?.0));
        }
        with_real!(qkv, T => {
            let mut gradient = rows::buffer(qkv.elem_count());
            let sentences = split_sentences(&mut gradient, &self.q_offsets, 3 * self.width);
            let sentences = sentences.into_iter().map(Gradients::Own).collect();
            self.backward(&Parts::own(&real::values::<T>(qkv)?, self.width), o, d_o, sentences)?;
            Ok(Some(real::tensor(gradient, qkv.shape())))
        })
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "cross_attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        kv: &CpuStorage,
        kv_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "attention";
        with_real!(q, T => {
            let (q, kv) = (real::slice::<T>(q, q_layout, name)?, real::slice::<T>(kv, kv_layout, name)?);
            Ok(self.forward(&Parts::cross(q, kv, self.width)))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        kv: &CudaStorage,
        kv_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu((q, q_layout), (kv, kv_layout), false)
    }

    fn bwd(&self, q: &Tensor, kv: &Tensor, o: &Tensor, d_o: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if q.device().is_cuda() {
            let (dq, dkv) = self.on_gpu(false).backward(q, kv, o, d_o, self.saved()?)?;
            return Ok((Some(dq), dkv));
        }
        with_real!(q, T => {
            let (mut dq, mut dkv) = (rows::buffer(q.elem_count()), rows::buffer(kv.elem_count()));
            let queries = split_sentences(&mut dq, &self.q_offsets, self.width).into_iter();
            let keys_values = split_sentences(&mut dkv, &self.k_offsets, 2 * self.width);
            let sentences = queries.zip(keys_values).map(|(q, kv)| Gradients::Cross(q, kv)).collect();
            let parts = (real::values::<T>(q)?, real::values::<T>(kv)?);
            self.backward(&Parts::cross(&parts.0, &parts.1, self.width), o, d_o, sentences)?;
            Ok((Some(real::tensor(dq, q.shape())), Some(real::tensor(dkv, kv.shape()))))
        })
    }
}

simd! {
    /// Softmax of each row of `[queries, keys]` scores in place; `lse` gets log Σ exp.
    fn softmax<T: Real>(scores: &mut [T], keys: usize, causal: bool, lse: &mut [T]) {
        for (i, (row, lse)) in scores.chunks_exact_mut(keys.max(1)).zip(lse).enumerate() {
            let (seen, hidden) = row.split_at_mut(if causal { i + 1 } else { keys });
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
mod tests {
    use super::*;
    use crate::ops::check::{agree, agree_with_differences, constant, dropout_of, random, random_offsets};
    use crate::ops::dropout::reference::mask_tensor;
    use candle_core::{Device, Var, D};
    use proptest::prelude::*;

    fn plain(
        v: &[Tensor],
        [q_offsets, k_offsets]: [&[usize]; 2],
        heads: usize,
        causal: bool,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let (_, width) = v[0].dims2()?;
        let columns = width / heads;
        let pairs: Vec<(usize, usize)> =
            q_offsets.windows(2).zip(k_offsets.windows(2)).map(|(q, k)| (q[1] - q[0], k[1] - k[0])).collect();
        let total: usize = pairs.iter().map(|(tq, tk)| heads * tq * tk).sum();
        let masks = mask_tensor(dropout, &[total], v[0].dtype())?;
        let (mut first, mut sentences) = (0, Vec::new());
        for (s, &(tq, tk)) in pairs.iter().enumerate() {
            let mut outputs = Vec::new();
            for h in 0..heads {
                let part = |x: &Tensor, start, len| x.narrow(0, start, len)?.narrow(1, h * columns, columns);
                let (q, k, v) =
                    (part(&v[0], q_offsets[s], tq)?, part(&v[1], k_offsets[s], tk)?, part(&v[2], k_offsets[s], tk)?);
                let mut scores = (q.matmul(&k.t()?)? / (columns as f64).sqrt())?;
                if causal {
                    let hidden: Vec<f64> =
                        (0..tq * tk).map(|i| if i % tk > i / tk { f64::NEG_INFINITY } else { 0.0 }).collect();
                    scores = (scores + Tensor::from_vec(hidden, (tq, tk), &Device::Cpu)?)?;
                }
                let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
                let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
                let mask = masks.narrow(0, first, tq * tk)?.reshape((tq, tk))?;
                outputs.push((p * mask)?.matmul(&v)?);
                first += tq * tk;
            }
            sentences.push(Tensor::cat(&outputs, 1)?);
        }
        Tensor::cat(&sentences, 0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_plain_operations(
            sentences in 1usize..6, longest in 1usize..40, heads in 1usize..4, columns in 1usize..20, causal: bool,
            drop: bool, seed in 0u64..1000,
        ) {
            let q_offsets = Arc::new(random_offsets(sentences, longest, seed));
            let k_offsets = Arc::new(random_offsets(sentences, longest, seed + 1));
            let (nq, nk, d) = (q_offsets[sentences], k_offsets[sentences], heads * columns);
            let dropout = dropout_of(drop, seed);
            let parts = |x: &Tensor, count| (0..count).map(|i| x.narrow(1, i * d, d)).collect::<Result<Vec<_>>>();
            agree(
                &[random(&[nq, 3 * d], seed)],
                0..0,
                |v| self_attention(&v[0], &q_offsets, heads, causal, dropout),
                |v| plain(&parts(&v[0], 3)?, [&q_offsets, &q_offsets], heads, causal, dropout),
            );
            agree(
                &[random(&[nq, d], seed), random(&[nk, 2 * d], seed + 1)],
                0..0,
                |v| cross_attention(&v[0], &v[1], [&q_offsets, &k_offsets], heads, default_scale(d, heads), dropout),
                |v| {
                    let kv = parts(&v[1], 2)?;
                    plain(&[v[0].clone(), kv[0].clone(), kv[1].clone()], [&q_offsets, &k_offsets], heads, false, dropout)
                },
            );
        }
    }

    #[test]
    fn agrees_with_differences() {
        let offsets = Arc::new(vec![0, 1, 4]);
        agree_with_differences(&[random(&[4, 12], 1)], |v| {
            self_attention(&v[0], &offsets, 2, true, dropout_of(true, 9))
        });
        let k_offsets = Arc::new(vec![0, 2, 5]);
        agree_with_differences(&[random(&[4, 4], 1), random(&[5, 8], 2)], |v| {
            cross_attention(&v[0], &v[1], [&offsets, &k_offsets], 2, 1.0, dropout_of(true, 9))
        });
    }

    #[test]
    fn an_empty_source_gives_zeros_and_no_gradient() -> Result<()> {
        let (q_offsets, k_offsets) = (Arc::new(vec![0, 2, 3, 3]), Arc::new(vec![0, 0, 2, 4]));
        let variable = |shape: &[usize], seed| Var::from_tensor(&constant(&random(shape, seed)));
        let (q, kv) = (variable(&[3, 4], 1)?, variable(&[4, 8], 2)?);
        let o = cross_attention(&q, &kv, [&q_offsets, &k_offsets], 2, 1.0, None)?;
        assert_eq!(o.narrow(0, 0, 2)?.flatten_all()?.to_vec1::<f64>()?, [0.0; 8]);
        let gradients = o.sqr()?.sum_all()?.backward()?;
        let of = |x: &Var, row, rows| -> Result<Vec<f64>> {
            let gradient = gradients.get(x).cloned().map_or_else(|| x.zeros_like(), Ok)?;
            gradient.narrow(0, row, rows)?.flatten_all()?.to_vec1()
        };
        assert_eq!(of(&q, 0, 2)?, [0.0; 8]);
        assert!(of(&kv, 0, 2)?.iter().any(|&g| g != 0.0));
        assert_eq!(of(&kv, 2, 2)?, [0.0; 16]);
        Ok(())
    }

    #[test]
    fn large_scores_stay_finite() -> Result<()> {
        let offsets = Arc::new(vec![0, 3]);
        let x = (constant(&random(&[3, 12], 1)) * 1e4)?.to_dtype(candle_core::DType::F32)?;
        let y = self_attention(&x, &offsets, 1, false, None)?;
        assert!(y.flatten_all()?.to_vec1::<f32>()?.iter().all(|y| y.is_finite()));
        Ok(())
    }
}
