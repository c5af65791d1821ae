//! `attention`: for each sentence and head, O = dropout(softmax(Q·Kᵀ/√c))·V, c = d/heads (Vaswani et al. 2017, eq. 1).
//!
//! Packed rows: q `[Nq, d]`, k and v `[Nk, d]`, o `[Nq, d]`; head h owns columns h·c..(h+1)·c. Sentence s of the queries
//! sees sentence s of the keys only; causal: query i sees keys 0..=i.
//!
//! Backward, with P the softmax, m the scaled keep mask and D = Σ_columns dO ⊙ O: dP = dO·Vᵀ; dS = P ⊙ (m ⊙ dP − D)/√c;
//! dQ = dS·K; dK = dSᵀ·Q; dV = (P ⊙ m)ᵀ·dO. Saved: log Σ exp of each row of scores; P is recomputed. Probabilities
//! exist for one sentence and head at a time.
//!
//! The dropout mask's index runs over the packed probabilities: sentence, head, query, key.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::dropout::Mask;
use super::gemm::{matmul, Mat, MatMut, Store, Threads};
use super::real::{self, simd, with_real, Real};
use super::rows::{self, split_sentences};
use super::{tape, Dropout};

/// softmax(Q·Kᵀ/√c)·V of each sentence and head; one node on the tape.
///
/// # Errors
/// Shapes and offsets that do not fit, a causal mask over sides of different lengths.
pub fn attention(
    [q, k, v]: [&Tensor; 3],
    [q_offsets, k_offsets]: [&Arc<Vec<usize>>; 2],
    heads: usize,
    causal: bool,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let ((nq, width), (nk, k_width)) = (q.dims2()?, k.dims2()?);
    let fits = width == k_width
        && k.dims() == v.dims()
        && heads > 0
        && width % heads == 0
        && q_offsets.len() == k_offsets.len()
        && q_offsets.last() == Some(&nq)
        && k_offsets.last() == Some(&nk)
        && (!causal || q_offsets == k_offsets)
        && [q_offsets, k_offsets].iter().all(|o| o[0] == 0 && o.is_sorted());
    if !fits {
        candle_core::bail!(
            "attention: queries {:?}, keys {:?}, values {:?}, {heads} heads, {} and {} sentences do not fit",
            q.dims(),
            k.dims(),
            v.dims(),
            q_offsets.len().saturating_sub(1),
            k_offsets.len().saturating_sub(1)
        );
    }
    let op = Attention {
        q_offsets: Arc::clone(q_offsets),
        k_offsets: Arc::clone(k_offsets),
        heads,
        width,
        causal,
        dropout,
        saved: OnceLock::new(),
    };
    tape::apply3(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?, op)
}

struct Attention {
    q_offsets: Arc<Vec<usize>>,
    k_offsets: Arc<Vec<usize>>,
    heads: usize,
    width: usize,
    causal: bool,
    dropout: Option<Dropout>,
    /// log Σ exp: `[heads, queries]` a sentence, packed.
    saved: OnceLock<CpuStorage>,
}

/// One sentence of the problem.
struct Sentence {
    q: Range<usize>,
    k: Range<usize>,
    /// Index of its first probability in the packed order.
    first: usize,
}

impl Attention {
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

    /// 1/√c.
    fn scale<T: Real>(&self) -> T {
        T::from_f64(1.0 / ((self.width / self.heads) as f64).sqrt())
    }

    /// The columns of one head in some packed rows.
    fn head<'a, T>(&self, x: &'a [T], rows: &Range<usize>, head: usize) -> Mat<'a, T> {
        let columns = self.width / self.heads;
        if rows.is_empty() {
            return Mat::new(&[], 0, columns);
        }
        Mat::strided(&x[rows.start * self.width + head * columns..], rows.len(), columns, self.width)
    }

    /// The same of the rows of one sentence, to write to.
    fn head_mut<'a, T>(&self, x: &'a mut [T], head: usize) -> MatMut<'a, T> {
        let (rows, columns) = (x.len() / self.width, self.width / self.heads);
        if rows == 0 {
            return MatMut::new(&mut [], 0, columns);
        }
        MatMut::strided(&mut x[head * columns..], rows, columns, self.width)
    }

    fn forward<T: Real>(&self, q: &[T], k: &[T], v: &[T]) -> (CpuStorage, Shape) {
        let (nq, scale, mask) = (q.len() / self.width, self.scale(), self.dropout.map(Mask::new));
        let (mut o, mut lse) = (rows::buffer(q.len()), rows::buffer(nq * self.heads));
        let outputs = split_sentences(&mut o, &self.q_offsets, self.width);
        let saved = split_sentences(&mut lse, &self.q_offsets, self.heads);
        let jobs = self.sentences().into_iter().zip(outputs).zip(saved).collect();
        rows::run(jobs, q.len() + k.len(), |((s, o), lse): ((Sentence, &mut [T]), &mut [T])| {
            let (tq, tk) = (s.q.len(), s.k.len());
            let mut p = rows::buffer(tq * tk);
            for head in 0..self.heads {
                let (q, k, v) = (self.head(q, &s.q, head), self.head(k, &s.k, head), self.head(v, &s.k, head));
                matmul(MatMut::new(&mut p, tq, tk), Store::Set, scale, q, k.t(), Threads::One);
                softmax(&mut p, tk, self.causal, &mut lse[head * tq..(head + 1) * tq]);
                if let Some(mask) = mask {
                    drop_out(&mut p, mask, s.first + head * tq * tk);
                }
                matmul(self.head_mut(o, head), Store::Set, T::one(), Mat::new(&p, tq, tk), v, Threads::One);
            }
        });
        // only the first forward fills it, and there is only one
        self.saved.get_or_init(|| T::to_cpu_storage_owned(lse));
        (T::to_cpu_storage_owned(o), Shape::from((nq, self.width)))
    }

    /// dq, dk, dv.
    fn backward<T: Real>(&self, [q, k, v, o, d_o]: [&[T]; 5]) -> Result<[Vec<T>; 3]> {
        let Some(lse) = self.saved.get() else { candle_core::bail!("attention: backward without a forward pass") };
        let lse = T::cpu_storage_as_slice(lse)?;
        let (scale, mask) = (self.scale::<T>(), self.dropout.map(Mask::new));
        let (mut dq, mut dk, mut dv) = (rows::buffer(q.len()), rows::buffer(k.len()), rows::buffer(k.len()));
        let jobs = self
            .sentences()
            .into_iter()
            .zip(split_sentences(&mut dq, &self.q_offsets, self.width))
            .zip(split_sentences(&mut dk, &self.k_offsets, self.width))
            .zip(split_sentences(&mut dv, &self.k_offsets, self.width))
            .collect();
        type Job<'a, T> = (((Sentence, &'a mut [T]), &'a mut [T]), &'a mut [T]);
        rows::run(jobs, q.len() + k.len(), |(((s, dq), dk), dv): Job<'_, T>| {
            let (tq, tk, columns) = (s.q.len(), s.k.len(), self.width / self.heads);
            let (mut p, mut ds) = (rows::buffer(tq * tk), rows::buffer(tq * tk));
            for head in 0..self.heads {
                let (qh, kh, vh) = (self.head(q, &s.q, head), self.head(k, &s.k, head), self.head(v, &s.k, head));
                let doh = self.head(d_o, &s.q, head);
                matmul(MatMut::new(&mut p, tq, tk), Store::Set, scale, qh, kh.t(), Threads::One);
                matmul(MatMut::new(&mut ds, tq, tk), Store::Set, T::one(), doh, vh.t(), Threads::One);
                let lse = &lse[s.q.start * self.heads + head * tq..][..tq];
                for i in 0..tq {
                    let row = (s.q.start + i) * self.width + head * columns..;
                    let (o, d_o) = (&o[row.clone()][..columns], &d_o[row][..columns]);
                    let (p, ds) = (&mut p[i * tk..(i + 1) * tk], &mut ds[i * tk..(i + 1) * tk]);
                    let seen = if self.causal { i + 1 } else { tk };
                    let index = s.first + (head * tq + i) * tk;
                    softmax_backward(p, ds, seen, lse[i], o, d_o, scale, mask, index);
                }
                let (p, ds) = (Mat::new(&p, tq, tk), Mat::new(&ds, tq, tk));
                matmul(self.head_mut(dq, head), Store::Set, T::one(), ds, kh, Threads::One);
                matmul(self.head_mut(dk, head), Store::Set, T::one(), ds.t(), qh, Threads::One);
                matmul(self.head_mut(dv, head), Store::Set, T::one(), p.t(), doh, Threads::One);
            }
        });
        Ok([dq, dk, dv])
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "attention";
        with_real!(q, T => Ok(self.forward::<T>(
            real::slice(q, q_layout, name)?,
            real::slice(k, k_layout, name)?,
            real::slice(v, v_layout, name)?,
        )))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        o: &Tensor,
        d_o: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d_o = d_o.contiguous()?;
        let [dq, dk, dv] = with_real!(q, T => {
            let [dq, dk, dv] = self.backward::<T>([
                &real::values(q)?,
                &real::values(k)?,
                &real::values(v)?,
                &real::values(o)?,
                &real::values(&d_o)?,
            ])?;
            Ok([real::tensor(dq, q.shape()), real::tensor(dk, k.shape()), real::tensor(dv, v.shape())])
        })?;
        Ok((q.track_op().then_some(dq), k.track_op().then_some(dk), v.track_op().then_some(dv)))
    }
}

simd! {
    /// Softmax of each row of `[queries, keys]` scores in place; `lse` gets log Σ exp.
    fn softmax<T: Real>(scores: &mut [T], keys: usize, causal: bool, lse: &mut [T]) {
        for (i, (row, lse)) in scores.chunks_exact_mut(keys).zip(lse).enumerate() {
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
    use crate::ops::check::{agree, agree_with_differences, dropout_of, random, random_offsets};
    use crate::ops::dropout::reference::mask_tensor;
    use candle_core::{Device, D};
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
            let k_offsets =
                if causal { Arc::clone(&q_offsets) } else { Arc::new(random_offsets(sentences, longest, seed + 1)) };
            let (nq, nk, d) = (q_offsets[sentences], k_offsets[sentences], heads * columns);
            let dropout = dropout_of(drop, seed);
            agree(
                &[random(&[nq, d], seed), random(&[nk, d], seed + 1), random(&[nk, d], seed + 2)],
                |v| attention([&v[0], &v[1], &v[2]], [&q_offsets, &k_offsets], heads, causal, dropout),
                |v| plain(v, [&q_offsets, &k_offsets], heads, causal, dropout),
            );
        }
    }

    #[test]
    fn agrees_with_differences() {
        let offsets = Arc::new(vec![0, 1, 4]);
        agree_with_differences(&[random(&[4, 4], 1), random(&[4, 4], 2), random(&[4, 4], 3)], |v| {
            attention([&v[0], &v[1], &v[2]], [&offsets, &offsets], 2, true, dropout_of(true, 9))
        });
    }

    #[test]
    fn large_scores_stay_finite() -> Result<()> {
        let offsets = Arc::new(vec![0, 3]);
        let x = (crate::ops::check::constant(&random(&[3, 4], 1)) * 1e4)?.to_dtype(candle_core::DType::F32)?;
        let y = attention([&x, &x, &x], [&offsets, &offsets], 1, false, None)?;
        assert!(y.flatten_all()?.to_vec1::<f32>()?.iter().all(|y| y.is_finite()));
        Ok(())
    }
}
