//! Attention of one query a row, for step-by-step decoding; off the tape.
//!
//! Keys and values are never copied when hypotheses are reordered: a hypothesis is a list of links to the rows it
//! descends from ([`History`]), and its source sentence is a range of rows ([`attend_memory`]).

use candle_core::{Result, Tensor};
use std::any::Any;
use std::ops::Range;

use super::attention::default_scale;
use super::columns::columns;
use super::real::{self, simd, with_real, Real, LANES};
use super::rows;

/// Keys and values, `[rows, d]` each: of one time step, or of the source.
pub type Step = (Tensor, Tensor);

/// Keys and values of past time steps.
#[derive(Debug, Default)]
pub struct History {
    /// On the CPU: rows of keys and values side by side, in chunks ([`Chunks`] of their type), each with room for many
    /// steps. A tensor a step costs more than the few rows it has.
    chunks: Option<Box<dyn Any + Send + Sync>>,
    /// On a GPU, as its kernels want them.
    steps: Vec<Step>,
    /// Of each step: its chunk, its first row there, its rows.
    places: Vec<(usize, usize, usize)>,
    /// Columns of keys.
    width: usize,
}

type Chunks<T> = Vec<Vec<T>>;

/// Most rows of a chunk of several steps.
const CHUNK: usize = 4096;

impl History {
    /// Number of steps.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing was attended to yet.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a step, keys and values side by side `[rows, 2·d]`; its number of rows is its own.
    ///
    /// # Errors
    /// Another width or type than the steps before.
    pub fn push(&mut self, keys_values: &Tensor) -> Result<()> {
        let (rows, both) = keys_values.dims2()?;
        if both % 2 != 0 || !self.is_empty() && both != 2 * self.width {
            candle_core::bail!("attention: a step of keys and values {:?}", keys_values.dims());
        }
        self.width = both / 2;
        if !keys_values.device().is_cpu() {
            self.places.push((self.steps.len(), 0, rows));
            let part = |i: usize| columns(keys_values, i * self.width, self.width).map(|part| part.detach());
            self.steps.push((part(0)?, part(1)?));
            return Ok(());
        }
        with_real!(keys_values, T => self.keep::<T>(keys_values, rows))
    }

    fn keep<T: Real>(&mut self, keys_values: &Tensor, rows: usize) -> Result<()> {
        let keys_values = keys_values.contiguous()?;
        let keys_values = real::values::<T>(&keys_values)?;
        let chunks = self.chunks.get_or_insert_with(|| Box::new(Chunks::<T>::new())).downcast_mut::<Chunks<T>>();
        let Some(chunks) = chunks else { candle_core::bail!("attention: steps of different types") };
        if chunks.last().is_none_or(|chunk| chunk.capacity() - chunk.len() < keys_values.len()) {
            let before: usize = chunks.iter().map(|chunk| chunk.len() / (2 * self.width).max(1)).sum();
            let capacity = before.clamp(16 * rows, CHUNK.max(16 * rows));
            chunks.push(Vec::with_capacity(capacity * 2 * self.width));
        }
        let place = chunks.len() - 1;
        let first = chunks[place].len() / (2 * self.width).max(1);
        chunks[place].extend_from_slice(&keys_values);
        self.places.push((place, first, rows));
        Ok(())
    }

    /// Query row r attends over row `links[r][t]` of step t, for every t. q `[rows, d]` → `[rows, d]`.
    ///
    /// # Errors
    /// Shapes that do not fit, a link outside its step.
    pub fn attend(&self, q: &Tensor, links: &[Vec<u32>], heads: usize) -> Result<Tensor> {
        let (_, d) = check(q, links.len(), heads)?;
        let inside = |links: &Vec<u32>| {
            links.len() == self.len() && links.iter().zip(&self.places).all(|(&row, place)| (row as usize) < place.2)
        };
        if !links.iter().all(inside) || !self.is_empty() && self.width != d {
            candle_core::bail!("attention: hypotheses do not fit {} steps of width {d}", self.len());
        }
        #[cfg(feature = "cuda")]
        if q.device().is_cuda() {
            return super::cuda::history(&q.contiguous()?, &self.steps, links, heads, default_scale(d, heads));
        }
        with_real!(q, T => {
            let chunks = self.chunks.as_ref().map(|chunks| chunks.downcast_ref::<Chunks<T>>());
            let Some(Some(chunks)) = chunks else { candle_core::bail!("attention: no steps of the queries' type") };
            attend_rows::<T>(q, heads, default_scale(d, heads), |_| self.len(), |row, t| {
                let (chunk, first, _) = self.places[t];
                let row = &chunks[chunk][(first + links[row][t] as usize) * 2 * d..][..2 * d];
                row.split_at(d)
            })
        })
    }
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
        let (keys, values): (&[T], &[T]) = (&keys, &values);
        attend_rows::<T>(q, heads, scale, |row| ranges[row].len(), |row, i| {
            let start = (ranges[row].start + i) * d;
            (&keys[start..][..d], &values[start..][..d])
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

/// Keys that are looked up at a time.
const KEYS: usize = 256;

/// Rows of a job.
const ROWS: usize = 8;

/// Row r attends over `count(r)` keys and values, `key_value(r, i)` being the i-th.
fn attend_rows<'a, T: Real>(
    q: &Tensor,
    heads: usize,
    scale: f64,
    count: impl Fn(usize) -> usize + Sync + Send,
    key_value: impl Fn(usize, usize) -> (&'a [T], &'a [T]) + Sync + Send,
) -> Result<Tensor> {
    let (n, d) = q.dims2()?;
    let q = q.contiguous()?;
    let q = real::values::<T>(&q)?;
    let (queries, columns): (&[T], usize) = (&q, d / heads);
    let mut out = vec![T::zero(); n * d];
    // few rows are shared among threads by their heads
    let (rows_of_job, width) = if n < rayon::current_num_threads() { (1, columns) } else { (ROWS, d) };
    let jobs: Vec<_> = out.chunks_mut(rows_of_job * width).enumerate().collect();
    let elements = (0..n).map(|row| 2 * count(row) * d).sum();
    rows::run(jobs, elements, |(job, out)| {
        let (mut p, mut list) = (Vec::new(), Vec::with_capacity(KEYS));
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let start = job * rows_of_job * width + i * width;
            let (row, first) = (start / d, start % d);
            let (query, keys) = (&queries[start..][..width], count(row));
            // filled up with keys that count nothing: whole vectors are quicker than a few numbers
            let stride = keys.next_multiple_of(LANES);
            p.clear();
            p.resize(width / columns * stride, T::NEG_INFINITY);
            for start in (0..keys).step_by(KEYS) {
                list.clear();
                list.extend((start..keys.min(start + KEYS)).map(|i| &key_value(row, i).0[first..][..width]));
                scores(query, &list, columns, T::from_f64(scale), &mut p[start..], stride);
            }
            softmax(&mut p, stride);
            for start in (0..keys).step_by(KEYS) {
                list.clear();
                list.extend((start..keys.min(start + KEYS)).map(|i| &key_value(row, i).1[first..][..width]));
                add_values(&p[start..], stride, &list, columns, out);
            }
        }
    });
    Ok(real::tensor(out, (n, d)))
}

simd! {
    /// Scores of a query with some keys, those of a head `stride` from those of the head before.
    fn scores<T: Real>(q: &[T], keys: &[&[T]], columns: usize, scale: T, p: &mut [T], stride: usize) {
        for (i, head) in (0..q.len()).step_by(columns).enumerate() {
            let head = head..head + columns;
            for (p, key) in p[i * stride..].iter_mut().zip(keys) {
                *p = real::dot(&q[head.clone()], &key[head.clone()]) * scale;
            }
        }
    }
}

simd! {
    /// Of each `stride` scores; −∞ becomes 0.
    fn softmax<T: Real>(p: &mut [T], stride: usize) {
        for p in p.chunks_exact_mut(stride.max(1)) {
            let top = real::max(p);
            p.iter_mut().for_each(|p| *p = (*p - top).exp());
            let factor = T::one() / real::sum(p);
            p.iter_mut().for_each(|p| *p *= factor);
        }
    }
}

simd! {
    /// Adds some values with their weights, laid out as in [`scores`].
    fn add_values<T: Real>(p: &[T], stride: usize, values: &[&[T]], columns: usize, out: &mut [T]) {
        for (i, head) in (0..out.len()).step_by(columns).enumerate() {
            let p = &p[i * stride..];
            let (blocks, rest) = out[head..head + columns].as_chunks_mut::<LANES>();
            let tail = head + columns - rest.len();
            for (block, out) in blocks.iter_mut().enumerate() {
                // in registers over all values
                let mut sums = *out;
                for (&weight, value) in p.iter().zip(values) {
                    if let Some(value) = value[head + block * LANES..].first_chunk::<LANES>() {
                        for i in 0..LANES {
                            sums[i] += weight * value[i];
                        }
                    }
                }
                *out = sums;
            }
            for (&weight, value) in p.iter().zip(values) {
                rest.iter_mut().zip(&value[tail..]).for_each(|(o, &v)| *o += weight * v);
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
        let mut steps = History::default();
        (0..3).try_for_each(|_| steps.push(&kv))?;
        let history = steps.attend(&q, &[vec![2, 0, 1], vec![4, 4, 3]], 2)?;
        let index = Tensor::from_slice(&[2u32, 0, 1, 4, 4, 3], 6, q.device())?;
        let offsets = [&offsets[0], &Arc::new(vec![0, 3, 6])];
        let right = cross_attention(&q, &kv.index_select(&index, 0)?, offsets, 2, 0.5, None)?;
        assert!(distance(&flat(&history)?, &flat(&right)?) < 1e-12);
        Ok(())
    }

    #[test]
    fn steps_of_any_number_of_rows_are_found_again() -> Result<()> {
        // rows come and go, so that chunks begin at every kind of step
        let rows = |t: usize| 1 + t * 7 % 13;
        let steps = if cfg!(debug_assertions) { 700 } else { 3000 };
        let (keys, values): (Vec<_>, Vec<_>) = (0..steps)
            .map(|t| [0, 9999].map(|seed| constant(&random(&[rows(t), 4], seed + t as u64))))
            .map(|[k, v]| (k, v))
            .unzip();
        let mut history = History::default();
        for (keys, values) in keys.iter().zip(&values) {
            history.push(&Tensor::cat(&[keys, values], 1)?)?;
        }
        let chunks = history.chunks.as_ref().and_then(|chunks| chunks.downcast_ref::<Chunks<f64>>()).unwrap().len();
        assert!((2..100).contains(&chunks), "{chunks} chunks");
        let links: Vec<Vec<u32>> = (0..3).map(|r| (0..steps).map(|t| ((t + r) % rows(t)) as u32).collect()).collect();
        let q = constant(&random(&[3, 4], 5));
        let found = history.attend(&q, &links, 2)?;
        let firsts: Vec<usize> = (0..steps).map(|t| (0..t).map(rows).sum()).collect();
        let index: Vec<u32> = links.iter().flat_map(|l| l.iter().zip(&firsts).map(|(&l, &f)| l + f as u32)).collect();
        let index = Tensor::from_vec(index, 3 * steps, q.device())?;
        let kv = Tensor::cat(&[&Tensor::cat(&keys, 0)?, &Tensor::cat(&values, 0)?], 1)?.index_select(&index, 0)?;
        let offsets = [Arc::new(vec![0, 1, 2, 3]), Arc::new((0..4).map(|i| i * steps).collect())];
        let right = cross_attention(&q, &kv, [&offsets[0], &offsets[1]], 2, default_scale(4, 2), None)?;
        assert!(distance(&flat(&found)?, &flat(&right)?) < 1e-12);
        Ok(())
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() -> Result<()> {
        let (q, k) = (constant(&random(&[2, 8], 1)), constant(&random(&[3000, 8], 2)));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| flat(&attend_memory(&q, &(k.clone(), k.clone()), &[0..3000, 7..900], 4, 0.5)?))
        };
        let one = on(1)?;
        assert!(one == on(3)? && one == on(8)?);
        Ok(())
    }

    #[test]
    fn a_link_outside_its_step_is_an_error() -> Result<()> {
        let x = constant(&random(&[1, 4], 1));
        let mut history = History::default();
        history.push(&Tensor::cat(&[&x, &x], 1)?)?;
        assert!(history.attend(&x, &[vec![0]], 1).is_ok());
        assert!(history.attend(&x, &[vec![1]], 1).is_err());
        assert!(
            history.push(&x).is_err() && history.push(&x.to_dtype(candle_core::DType::F32)?.repeat((1, 2))?).is_err()
        );
        assert!(attend_memory(&x, &(x.clone(), x.clone()), std::slice::from_ref(&(0..2)), 1, 1.0).is_err());
        Ok(())
    }
}
