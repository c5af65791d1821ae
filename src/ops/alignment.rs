//! Where attention looks most: of each query the key of its own sentence with the largest weight. Off the tape, with the
//! formulas of `attention.rs` and `additive.rs`.

use candle_core::{bail, DType, Device, Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

use super::additive::score_of;
use super::real::{dot, max, sum, values, with_real, Real};
use super::rows;

/// A row of the keys and its weight; weight 0 for a query without keys.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Strongest {
    /// Of the memory.
    pub row: usize,
    /// Share of the attention there.
    pub weight: f64,
}

/// Borders of the sentences of queries and of keys.
type Borders<'a> = [&'a Arc<Vec<usize>>; 2];

/// Dot products of queries `[N, d]` and keys `[S, d]` times `scale`, softmax a head, weights averaged over heads; of
/// equal ones the first.
///
/// # Errors
/// Shapes that do not fit each other; types other than f32 and f64.
pub fn strongest_product(
    q: &Tensor,
    keys: &Tensor,
    borders: Borders,
    heads: usize,
    scale: f64,
) -> Result<Vec<Strongest>> {
    let (q, keys) = (on_host(q)?, on_host(keys)?);
    let d = check(&q, &keys, borders)?;
    if heads == 0 || d % heads != 0 {
        bail!("attention: {heads} heads of width {d}");
    }
    with_real!(q, T => product::<T>(&q, &keys, borders, heads, scale))
}

fn product<T: Real>(q: &Tensor, keys: &Tensor, borders: Borders, heads: usize, scale: f64) -> Result<Vec<Strongest>> {
    let d = q.dim(1)?;
    let (columns, scale) = (d / heads, T::from_f64(scale));
    let (q, keys) = (values::<T>(q)?, values::<T>(keys)?);
    let (q, keys): (&[T], &[T]) = (&q, &keys);
    Ok(search(borders, d, |query, source| {
        let mut mean = vec![T::zero(); source.len()];
        let mut p = mean.clone();
        for head in (0..d).step_by(columns) {
            let query = &q[query * d + head..][..columns];
            for (p, key) in p.iter_mut().zip(source.clone()) {
                *p = dot(query, &keys[key * d + head..][..columns]) * scale;
            }
            softmax(&mut p);
            mean.iter_mut().zip(&p).for_each(|(mean, &p)| *mean += p);
        }
        mean.into_iter().map(|p| p.to_f64() / heads as f64).collect()
    }))
}

/// vᵀ tanh(q + key) of queries `[N, a]`, keys `[S, a]` and v `[a]`, softmax; of equal weights the first.
///
/// # Errors
/// As [`strongest_product`].
pub fn strongest_additive(q: &Tensor, keys: &Tensor, v: &Tensor, borders: Borders) -> Result<Vec<Strongest>> {
    let (q, keys, v) = (on_host(q)?, on_host(keys)?, on_host(v)?);
    let a = check(&q, &keys, borders)?;
    if v.dims() != [a] {
        bail!("attention: energies {:?} for queries of width {a}", v.dims());
    }
    with_real!(q, T => additive::<T>(&q, &keys, &v, borders))
}

fn additive<T: Real>(q: &Tensor, keys: &Tensor, v: &Tensor, borders: Borders) -> Result<Vec<Strongest>> {
    let a = q.dim(1)?;
    let (q, keys, v) = (values::<T>(q)?, values::<T>(keys)?, values::<T>(v)?);
    let (q, keys, v): (&[T], &[T], &[T]) = (&q, &keys, &v);
    // a tanh costs as much as a few products
    Ok(search(borders, 4 * a, |query, source| {
        let score = |key: usize| score_of(&q[query * a..][..a], &keys[key * a..][..a], v);
        let mut p: Vec<T> = source.map(score).collect();
        softmax(&mut p);
        p.into_iter().map(|p| p.to_f64()).collect()
    }))
}

/// Found on the host, for it is done once a translation.
fn on_host(x: &Tensor) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => x.contiguous(),
        _ => x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous(),
    }
}

fn check(q: &Tensor, keys: &Tensor, [target, source]: Borders) -> Result<usize> {
    let ((queries, d), (tokens, width)) = (q.dims2()?, keys.dims2()?);
    let fits = |offsets: &[usize], n: usize| offsets.last() == Some(&n);
    if d != width || target.len() != source.len() || !fits(target, queries) || !fits(source, tokens) {
        bail!("attention: queries {:?} do not fit keys {:?} and their sentences", q.dims(), keys.dims());
    }
    Ok(d)
}

fn softmax<T: Real>(p: &mut [T]) {
    let top = max(p);
    p.iter_mut().for_each(|p| *p = (*p - top).exp());
    let factor = T::one() / sum(p);
    p.iter_mut().for_each(|p| *p *= factor);
}

/// `weights(query, keys)` of each query over the keys of its sentence; `work` is what one of them costs.
fn search(
    [target, source]: Borders,
    work: usize,
    weights: impl Fn(usize, Range<usize>) -> Vec<f64> + Sync + Send,
) -> Vec<Strongest> {
    let jobs: Vec<_> = target.windows(2).zip(source.windows(2)).map(|(t, s)| (t[0]..t[1], s[0]..s[1])).collect();
    let elements = jobs.iter().map(|(t, s)| t.len() * s.len() * work).sum();
    let found = rows::map(jobs, elements, |(queries, keys): (Range<usize>, Range<usize>)| {
        let strongest = |query| {
            let mut best = Strongest::default();
            for (row, weight) in keys.clone().zip(weights(query, keys.clone())) {
                if weight > best.weight {
                    best = Strongest { row, weight };
                }
            }
            best
        };
        queries.map(strongest).collect::<Vec<_>>()
    });
    found.concat()
}

#[cfg(test)]
mod tests {
    use super::super::check::{constant, random};
    use super::*;
    use candle_core::D;

    fn borders() -> [Arc<Vec<usize>>; 2] {
        [Arc::new(vec![0, 3, 4]), Arc::new(vec![0, 2, 6])]
    }

    fn assert_strongest(found: &[Strongest], weights: &Tensor) -> Result<()> {
        let weights = weights.to_vec2::<f64>()?;
        for (query, found) in found.iter().enumerate() {
            let keys = if query < 3 { 0..2 } else { 2..6 };
            let best = keys.map(|key| (weights[query][key], key)).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            assert_eq!(found.row, best.1);
            assert!((found.weight - best.0).abs() < 1e-12, "{found:?} {best:?}");
        }
        Ok(())
    }

    /// Softmax over the keys of each query's own sentence.
    fn own(scores: &Tensor) -> Result<Tensor> {
        let mask = |query, key| if (query < 3) == (key < 2) { 0.0 } else { f64::NEG_INFINITY };
        let mask: Vec<f64> = (0..4).flat_map(|query| (0..6).map(move |key| mask(query, key))).collect();
        let e = (scores + Tensor::from_vec(mask, (4, 6), scores.device())?)?.exp()?;
        e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
    }

    #[test]
    fn the_largest_weight_is_that_of_plain_operations() -> Result<()> {
        let (q, keys, v) = (constant(&random(&[4, 6], 1)), constant(&random(&[6, 6], 2)), constant(&random(&[6], 3)));
        let [target, source] = borders();
        let mut mean = Tensor::zeros((4, 6), q.dtype(), q.device())?;
        for head in 0..2 {
            let part = |x: &Tensor| x.narrow(1, 3 * head, 3)?.contiguous();
            mean = (mean + (own(&(part(&q)?.matmul(&part(&keys)?.t()?)? * 0.7)?)? / 2.0)?)?;
        }
        assert_strongest(&strongest_product(&q, &keys, [&target, &source], 2, 0.7)?, &mean)?;
        let sums = q.unsqueeze(1)?.broadcast_add(&keys.unsqueeze(0)?)?.tanh()?;
        let scores = sums.broadcast_mul(&v)?.sum(D::Minus1)?;
        assert_strongest(&strongest_additive(&q, &keys, &v, [&target, &source])?, &own(&scores)?)?;
        assert!(strongest_product(&q, &keys, [&source, &target], 2, 0.7).is_err());
        Ok(())
    }
}
