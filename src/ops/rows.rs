//! Parallel loops over blocks of rows. Blocks do not depend on the number of threads and results are combined in their
//! order, so sums are the same on every machine.

use super::real::Real;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Rows of one block: enough to be worth a job, few enough that a block of activations stays in the L2 cache.
pub(crate) const BLOCK: usize = 64;

/// Elements below which a loop stays on its thread: handing it over costs more.
const SERIAL: usize = 16 * 1024;

/// Does every job; `elements` is the total work. Jobs must be independent.
pub(crate) fn run<J: Send>(jobs: Vec<J>, elements: usize, work: impl Fn(J) + Sync + Send) {
    map(jobs, elements, work);
}

/// As [`run`], with the results in the order of the jobs.
pub(crate) fn map<J: Send, R: Send>(jobs: Vec<J>, elements: usize, work: impl Fn(J) -> R + Sync + Send) -> Vec<R> {
    if jobs.len() == 1 || elements < SERIAL || rayon::current_num_threads() == 1 {
        return jobs.into_iter().map(work).collect();
    }
    // each is locked once, by the thread that does it
    let jobs: Vec<Mutex<(Option<J>, Option<R>)>> = jobs.into_iter().map(|job| Mutex::new((Some(job), None))).collect();
    parallel(jobs.len(), &|i| {
        let mut job = jobs[i].lock().unwrap_or_else(PoisonError::into_inner);
        job.1 = job.0.take().map(&work);
    });
    jobs.into_iter().filter_map(|job| job.into_inner().unwrap_or_else(PoisonError::into_inner).1).collect()
}

/// The one parallel loop, compiled once: rayon's are long, and each of ours would bring its own.
fn parallel(count: usize, work: &(dyn Fn(usize) + Sync)) {
    (0..count).into_par_iter().for_each(work);
}

/// Cuts 0..n into the fewest ranges of at most `size`, of equal length but for one; one empty range of nothing.
pub(crate) fn blocks(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let count = n.div_ceil(size).max(1);
    (0..count).map(move |i| n * i / count..n * (i + 1) / count)
}

/// Cuts packed rows of `width` at the offsets: the mutable part of each sentence.
pub(crate) fn split_sentences<'a, T>(mut data: &'a mut [T], offsets: &[usize], width: usize) -> Vec<&'a mut [T]> {
    let mut parts = Vec::with_capacity(offsets.len());
    for pair in offsets.windows(2) {
        let (part, rest) = data.split_at_mut((pair[1] - pair[0]) * width);
        parts.push(part);
        data = rest;
    }
    parts
}

/// Sums vectors of equal length in their order.
pub(crate) fn sum_in_order<T: Real>(parts: Vec<Vec<T>>) -> Vec<T> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        total.iter_mut().zip(&part).for_each(|(a, &b)| *a += b);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_all_and_are_of_one_size() {
        for n in [0, 1, 7, 8, 9, 100] {
            let found: Vec<_> = blocks(n, 8).collect();
            assert_eq!(found.len(), n.div_ceil(8).max(1));
            assert_eq!((found[0].start, found[found.len() - 1].end), (0, n));
            assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(found.iter().all(|block| block.len() <= 8 && block.len().abs_diff(n / found.len()) < 2));
        }
    }
}
