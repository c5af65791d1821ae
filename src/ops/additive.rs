//! Additive attention of one query over its sentence, the inner loops of `attentional`:
//!
//! ```text
//! e_i = vᵀ tanh(q + key_i)   α = softmax(e)   c = Σ_i α_i · value_i
//! ```
//! Backward, with y_i = tanh(q + key_i): dα_i = dc·value_i; de = α ⊙ (dα − α·dα); dq = Σ_i de_i · v ⊙ (1 − y_i²). Summed
//! over the queries of a sentence, when all of them are done and its keys are in the cache: dvalue_i = α_i·dc (a product of
//! matrices, the caller's); dkey_i = de_i · v ⊙ (1 − y_i²); dv = Σ_i de_i · y_i.

use super::gemm::prefetch;
use super::real::{dot, max, simd, sum, Real, LANES};

/// Brings what is read next into the cache while a row of tanh is computed: the keys and values of all sentences of a job
/// do not stay there from step to step.
#[inline(always)]
fn fetch<T>(row: &[T]) {
    row.iter().step_by(64 / size_of::<T>()).for_each(|x| prefetch(x));
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
        let mut ahead = values.chunks_exact(context.len());
        for (score, key) in weights.iter_mut().zip(keys.chunks_exact(query.len())) {
            ahead.next().into_iter().for_each(fetch);
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
pub(super) fn score_of<T: Real>(query: &[T], key: &[T], v: &[T]) -> T {
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
/// From the gradient of a context that of the scores (through the softmax).
pub(super) fn weights_backward<T: Real>(alphas: &[T], values: &[T], dcontext: &[T], dscores: &mut [T]) {
    for (dalpha, value) in dscores.iter_mut().zip(values.chunks_exact(dcontext.len())) {
        *dalpha = dot(dcontext, value);
    }
    let mean = dot(alphas, dscores);
    for (d, &alpha) in dscores.iter_mut().zip(alphas) {
        *d = alpha * (*d - mean);
    }
}
}

simd! {
/// From the gradient of one query's scores that of the query; `next` are the values that will be read afterwards.
pub(super) fn query_backward<T: Real>(
    dscores: &[T],
    query: &[T],
    keys: &[T],
    v: &[T],
    dquery: &mut [T],
    next: &[T],
) {
    let a = query.len();
    let (v, dquery) = (&v[..a], &mut dquery[..a]);
    dquery.fill(T::zero());
    let mut ahead = next.chunks(next.len().div_ceil(dscores.len().max(1)).max(1));
    for (key, &dscore) in keys.chunks_exact(a).zip(dscores) {
        ahead.next().into_iter().for_each(fetch);
        for j in 0..a {
            let y = Real::tanh(query[j] + key[j]);
            dquery[j] += dscore * (T::one() - y * y);
        }
    }
    for j in 0..a {
        dquery[j] *= v[j];
    }
}
}

simd! {
/// From the gradients `[queries, keys]` of the scores of all queries of a sentence: adds those of keys and `v`.
pub(super) fn keys_backward<T: Real>(
    dscores: &[T],
    queries: &[T],
    keys: &[T],
    v: &[T],
    dkeys: &mut [T],
    dv: &mut [T],
) {
    let a = v.len();
    let (count, dv) = (keys.len() / a, &mut dv[..a]);
    for (i, (key, dkey)) in keys.chunks_exact(a).zip(dkeys.chunks_exact_mut(a)).enumerate() {
        for (query, dscores) in queries.chunks_exact(a).zip(dscores.chunks_exact(count)) {
            let dscore = dscores[i];
            for j in 0..a {
                let y = Real::tanh(query[j] + key[j]);
                dv[j] += dscore * y;
                dkey[j] += dscore * v[j] * (T::one() - y * y);
            }
        }
    }
}
}
