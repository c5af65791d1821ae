//! Attention over more keys than have room at once: block by block, with a running maximum and sum for each query
//! (Milakov & Gimelshein 2018, arXiv:1805.02867).
//!
//! With m the largest of the scores so far, l = Σ exp(s − m) and o = Σ exp(s − m)·v, a further block of scores S gives
//! m′ = max(m, max S); l′ = l·exp(m − m′) + Σ exp(S − m′); o′ = o·exp(m − m′) + exp(S − m′)·V. At the end the output is
//! o/l and log Σ exp s is m + ln l.

use std::ops::Range;

use super::KEYS;
use crate::ops::gemm::{matmul_packed, Mat, MatMut, Packed, Store, Threads};
use crate::ops::real::{self, simd, Real};
use crate::ops::rows::blocks;

/// Queries whose scores of a block of keys lie in the cache.
const STRIP: usize = 128;

/// Softmax(scale·q·kᵀ)·v of one head into the first columns of the rows of `o`, `stride` apart; log Σ exp into `lse`.
///
/// `behind`: query i sees keys 0..=behind + i; `None` = all. `drop_out(p, i, keys)` masks the probabilities of query i,
/// which need not be normalized.
pub(super) fn attend<T: Real>(
    [q, k, v]: [Mat<'_, T>; 3],
    scale: T,
    behind: Option<usize>,
    (o, stride): (&mut [T], usize),
    lse: &mut [T],
    drop_out: impl Fn(&mut [T], usize, Range<usize>),
) {
    let (n, columns) = (q.rows(), q.columns());
    o.chunks_mut(stride).for_each(|row| row[..columns].fill(T::zero()));
    let (mut top, mut total) = (vec![T::NEG_INFINITY; n], vec![T::zero(); n]);
    let mut p = vec![T::zero(); STRIP.min(n) * KEYS.min(k.rows())];
    for keys in blocks(behind.map_or(k.rows(), |behind| behind + n), KEYS) {
        let part = |x: Mat<'_, T>| -> Packed<T> { Packed::new(x, Threads::One) };
        let (k, v) = (k.part(keys.start, keys.len(), 0, columns), v.part(keys.start, keys.len(), 0, columns));
        let (k, v) = (part(k.t()), part(v));
        for strip in blocks(n, STRIP) {
            let sees = |i: usize| behind.map_or(keys.len(), |b| (b + i + 1).saturating_sub(keys.start).min(keys.len()));
            let seen: Vec<usize> = strip.clone().map(sees).collect();
            if seen.last().is_none_or(|&most| most == 0) {
                continue;
            }
            let p = &mut p[..strip.len() * keys.len()];
            let o = &mut o[strip.start * stride..];
            let scores = MatMut::new(p, strip.len(), keys.len());
            matmul_packed(scores, Store::Set, q.part(strip.start, strip.len(), 0, columns), &k, Threads::One, |_| ());
            add_block(p, scale, &seen, &mut top[strip.clone()], &mut total[strip.clone()], o, stride, columns);
            for (i, p) in strip.clone().zip(p.chunks_exact_mut(keys.len())) {
                drop_out(p, i, keys.clone());
            }
            let o = MatMut::strided(o, strip.len(), columns, stride);
            matmul_packed(o, Store::Add, Mat::new(p, strip.len(), keys.len()), &v, Threads::One, |_| ());
        }
    }
    for (i, o) in o.chunks_mut(stride).enumerate() {
        let factor = T::one() / total[i];
        o[..columns].iter_mut().for_each(|o| *o *= factor);
        lse[i] = top[i] + total[i].ln();
    }
}

simd! {
    /// Scores of a block of keys, of which query i sees the first `seen[i]`, become exp(s − m′); maximum, sum and output
    /// of the keys before are brought to the new maximum.
    fn add_block<T: Real>(
        p: &mut [T],
        scale: T,
        seen: &[usize],
        top: &mut [T],
        total: &mut [T],
        o: &mut [T],
        stride: usize,
        columns: usize,
    ) {
        let keys = p.len() / seen.len();
        for (i, p) in p.chunks_exact_mut(keys).enumerate() {
            let (p, hidden) = p.split_at_mut(seen[i]);
            hidden.fill(T::zero());
            p.iter_mut().for_each(|x| *x *= scale);
            let most = real::max(p);
            let new = if most > top[i] { most } else { top[i] };
            // −∞ alone so far: any finite number gives zeros, their difference would be NaN
            let base = if new > T::NEG_INFINITY { new } else { T::zero() };
            p.iter_mut().for_each(|x| *x = (*x - base).exp());
            let factor = (top[i] - base).exp();
            total[i] = total[i] * factor + real::sum(p);
            top[i] = new;
            if factor != T::one() {
                o[i * stride..][..columns].iter_mut().for_each(|o| *o *= factor);
            }
        }
    }
}
