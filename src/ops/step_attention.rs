//! Attention of one query a row, for step-by-step decoding; off the tape.
//!
//! Keys and values are never copied when hypotheses are reordered: a hypothesis is a list of links to the rows it
//! descends from ([`attend_history`]), and its source sentence is a range of rows ([`attend_memory`]).

use candle_core::{Result, Tensor};
use std::ops::{Deref, Range};

use super::attention::default_scale;
use super::real::{self, simd, with_real, Real};
use super::rows;

/// Keys and values of one time step, `[rows at that step, d]` each.
pub type Step = (Tensor, Tensor);

/// Query row r attends over `steps[t]`, row `links[r][t]`, for every t. q `[rows, d]` → `[rows, d]`.
///
/// # Errors
/// Shapes that do not fit, a link outside its step.
pub fn attend_history(q: &Tensor, steps: &[Step], links: &[Vec<u32>], heads: usize) -> Result<Tensor> {
    let (_, d) = check(q, links.len(), heads)?;
    let inside = |links: &Vec<u32>| {
        links.len() == steps.len() && links.iter().zip(steps).all(|(&row, (keys, _))| (row as usize) < keys.dims()[0])
    };
    if !links.iter().all(inside) || steps.iter().any(|(k, v)| k.dims() != v.dims() || k.dims().get(1) != Some(&d)) {
        candle_core::bail!("attention: hypotheses do not fit {} steps of width {d}", steps.len());
    }
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() {
        return super::cuda::history(&q.contiguous()?, steps, links, heads, default_scale(d, heads));
    }
    with_real!(q, T => {
        let keys = steps.iter().map(|(keys, _)| real::values::<T>(keys)).collect::<Result<Vec<_>>>()?;
        let values = steps.iter().map(|(_, values)| real::values::<T>(values)).collect::<Result<Vec<_>>>()?;
        attend_rows::<T>(q, heads, default_scale(d, heads), |row| {
            (listed(&keys, &links[row], d), listed(&values, &links[row], d))
        })
    })
}

/// Query row r attends over rows `ranges[r]` of keys and values `[source tokens, d]`, `scale` multiplying the scores.
/// q `[rows, d]` → `[rows, d]`.
///
/// # Errors
/// Shapes that do not fit, a range outside the memory.
pub fn attend_memory(
    q: &Tensor,
    (keys, values): &Step,
    ranges: &[Range<usize>],
    heads: usize,
    scale: f64,
) -> Result<Tensor> {
    let (_, d) = check(q, ranges.len(), heads)?;
    let (tokens, width) = keys.dims2()?;
    if keys.dims() != values.dims() || width != d || ranges.iter().any(|r| r.end > tokens) {
        candle_core::bail!("attention: queries {:?} do not fit a memory of {:?}", q.dims(), keys.dims());
    }
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() {
        let memory = (keys.contiguous()?, values.contiguous()?);
        return super::cuda::attend_memory(&q.contiguous()?, &memory, ranges, heads, scale);
    }
    with_real!(q, T => {
        let (keys, values) = (real::values::<T>(keys)?, real::values::<T>(values)?);
        attend_rows::<T>(q, heads, scale, |row| {
            let rows = ranges[row].start * d..ranges[row].end * d;
            (keys[rows.clone()].chunks_exact(d).collect(), values[rows].chunks_exact(d).collect())
        })
    })
}

fn check(q: &Tensor, rows: usize, heads: usize) -> Result<(usize, usize)> {
    let (n, d) = q.dims2()?;
    if n != rows || heads == 0 || d % heads != 0 {
        candle_core::bail!("attention: queries {:?} for {rows} hypotheses and {heads} heads", q.dims());
    }
    Ok((n, d))
}

fn listed<'a, T: Real>(steps: &'a [impl Deref<Target = [T]>], links: &[u32], d: usize) -> Vec<&'a [T]> {
    steps.iter().zip(links).map(|(step, &row)| &step[row as usize * d..][..d]).collect()
}

fn attend_rows<'a, T: Real>(
    q: &Tensor,
    heads: usize,
    scale: f64,
    rows_of: impl Fn(usize) -> (Vec<&'a [T]>, Vec<&'a [T]>) + Sync + Send,
) -> Result<Tensor> {
    let (n, d) = q.dims2()?;
    let q = q.contiguous()?;
    let q = real::values::<T>(&q)?;
    let mut out = vec![T::zero(); n * d];
    let queries: &[T] = &q;
    let jobs: Vec<_> = out.chunks_exact_mut(d).enumerate().map(|(row, out)| (row, out, rows_of(row))).collect();
    let elements = jobs.iter().map(|(_, _, (keys, _))| 2 * keys.len() * d).sum();
    rows::run(jobs, elements, |(row, out, (keys, values))| {
        attend(&queries[row * d..(row + 1) * d], &keys, &values, d / heads, T::from_f64(scale), out);
    });
    Ok(real::tensor(out, (n, d)))
}

simd! {
    fn attend<T: Real>(q: &[T], keys: &[&[T]], values: &[&[T]], columns: usize, scale: T, out: &mut [T]) {
        let mut p = vec![T::zero(); keys.len()];
        for head in (0..q.len()).step_by(columns) {
            let head = head..head + columns;
            for (p, key) in p.iter_mut().zip(keys) {
                *p = real::dot(&q[head.clone()], &key[head.clone()]) * scale;
            }
            let top = real::max(&p);
            p.iter_mut().for_each(|p| *p = (*p - top).exp());
            let factor = T::one() / real::sum(&p);
            for (&p, value) in p.iter().zip(values) {
                let weight = p * factor;
                out[head.clone()].iter_mut().zip(&value[head.clone()]).for_each(|(o, &v)| *o += weight * v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{constant, distance, random};
    use crate::ops::cross_attention;
    use std::sync::Arc;

    fn flat(t: &Tensor) -> Result<Vec<f64>> {
        t.flatten_all()?.to_vec1()
    }

    #[test]
    fn a_history_and_a_memory_give_what_packed_attention_gives() -> Result<()> {
        let (q, k, v) = (constant(&random(&[2, 8], 1)), constant(&random(&[5, 8], 2)), constant(&random(&[5, 8], 3)));
        let offsets = [Arc::new(vec![0, 1, 2]), Arc::new(vec![0, 2, 5])];
        let kv = Tensor::cat(&[&k, &v], 1)?;
        let right = cross_attention(&q, &kv, [&offsets[0], &offsets[1]], 2, 0.5, None)?;
        let memory = attend_memory(&q, &(k.clone(), v.clone()), &[0..2, 2..5], 2, 0.5)?;
        assert!(distance(&flat(&memory)?, &flat(&right)?) < 1e-12);
        // three steps of all five rows; the first hypothesis sees rows 2, 0, 1 and the second 4, 4, 3
        let steps = vec![(k.clone(), v.clone()); 3];
        let history = attend_history(&q, &steps, &[vec![2, 0, 1], vec![4, 4, 3]], 2)?;
        let index = Tensor::from_slice(&[2u32, 0, 1, 4, 4, 3], 6, q.device())?;
        let offsets = [&offsets[0], &Arc::new(vec![0, 3, 6])];
        let right = cross_attention(&q, &kv.index_select(&index, 0)?, offsets, 2, 0.5, None)?;
        assert!(distance(&flat(&history)?, &flat(&right)?) < 1e-12);
        Ok(())
    }

    #[test]
    fn a_link_outside_its_step_is_an_error() {
        let x = constant(&random(&[1, 4], 1));
        assert!(attend_history(&x, &[(x.clone(), x.clone())], &[vec![1]], 1).is_err());
        assert!(attend_memory(&x, &(x.clone(), x.clone()), std::slice::from_ref(&(0..2)), 1, 1.0).is_err());
    }
}
