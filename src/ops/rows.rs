//! Parallel loops over blocks of rows. Blocks do not depend on the number of threads and results are combined in their
//! order, so sums are the same on every machine.

use super::real::Real;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Rows of one block: enough to be worth a job, few enough that a block of activations stays in the L2 cache.
pub(crate) const BLOCK: usize = 64;

/// Elements below which a loop stays on its thread: handing it over costs more.
const SERIAL: usize = 16 * 1024;

/// Memory for results that are not there yet. Zeroing all of it first would cost a twentieth of a training step; here each
/// part ([`Blank`]) becomes numbers when its turn comes, in the cache, and is counted.
pub(crate) struct Unwritten<T> {
    values: Vec<T>,
    len: usize,
    written: AtomicUsize,
}

impl<T: Real> Unwritten<T> {
    pub(crate) fn new(len: usize) -> Self {
        Unwritten { values: Vec::with_capacity(len), len, written: AtomicUsize::new(0) }
    }

    /// All of it, to be written (anew).
    pub(crate) fn all(&mut self) -> Blank<'_, T> {
        *self.written.get_mut() = 0;
        Blank { memory: &mut self.values.spare_capacity_mut()[..self.len], written: &self.written }
    }

    /// The results. Panics if a part was left out.
    pub(crate) fn done(mut self) -> Vec<T> {
        assert_eq!(self.written.into_inner(), self.len, "results that nobody wrote");
        // SAFETY: parts do not overlap, and each was counted when all of it had been written.
        #[expect(unsafe_code, reason = "the count says that all is written")]
        unsafe {
            self.values.set_len(self.len);
        }
        self.values
    }
}

/// A part of an [`Unwritten`], which becomes a slice by being written.
pub(crate) struct Blank<'a, T> {
    memory: &'a mut [MaybeUninit<T>],
    written: &'a AtomicUsize,
}

impl<'a, T: Real> Blank<'a, T> {
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    pub(crate) fn zeros(self) -> &'a mut [T] {
        self.memory.fill(MaybeUninit::new(T::zero()));
        self.written()
    }

    /// With these values, as many as it has room for.
    pub(crate) fn copy_of(self, values: &[T]) -> &'a mut [T] {
        assert_eq!(self.memory.len(), values.len(), "values for a part of another length");
        self.memory.iter_mut().zip(values).for_each(|(to, &value)| *to = MaybeUninit::new(value));
        self.written()
    }

    /// All of it was written.
    fn written(self) -> &'a mut [T] {
        self.written.fetch_add(self.memory.len(), Ordering::Relaxed);
        // SAFETY: both callers wrote each element; the layouts are the same, and the borrow goes on.
        #[expect(unsafe_code, reason = "as `assume_init_mut` of slices, which our oldest compiler lacks")]
        unsafe {
            &mut *(std::ptr::from_mut(self.memory) as *mut [T])
        }
    }

    /// Parts of `size`, the last one of what is left.
    pub(crate) fn chunks(self, size: usize) -> impl Iterator<Item = Blank<'a, T>> {
        let written = self.written;
        self.memory.chunks_mut(size.max(1)).map(move |memory| Blank { memory, written })
    }

    /// Packed rows of `width` cut at the offsets: a part a sentence.
    pub(crate) fn sentences(self, offsets: &[usize], width: usize) -> Vec<Blank<'a, T>> {
        let written = self.written;
        let parts = split_sentences(self.memory, offsets, width);
        parts.into_iter().map(|memory| Blank { memory, written }).collect()
    }

    /// Cuts off the first `n`, or the last.
    pub(crate) fn take(&mut self, n: usize, end: End) -> Blank<'a, T> {
        let memory = std::mem::take(&mut self.memory);
        let (part, rest) = match end {
            End::First => memory.split_at_mut(n),
            End::Last => {
                let (rest, part) = memory.split_at_mut(memory.len() - n);
                (part, rest)
            }
        };
        self.memory = rest;
        Blank { memory: part, written: self.written }
    }
}

/// Where [`Blank::take`] cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    First,
    Last,
}

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
    fn what_is_written_in_parts_is_whole_and_what_is_not_is_refused() {
        let mut values = Unwritten::<f32>::new(9);
        let mut all = values.all();
        let (first, last) = (all.take(2, End::First), all.take(1, End::Last));
        first.copy_of(&[1.0, 2.0]);
        last.zeros()[0] = 9.0;
        let parts: Vec<_> = all.chunks(4).collect();
        run(parts, usize::MAX, |part| part.zeros().fill(5.0));
        assert_eq!(values.done(), [1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 9.0]);

        let mut values = Unwritten::<f32>::new(4);
        values.all().chunks(2).take(1).for_each(|part| part.zeros().fill(1.0));
        assert!(std::panic::catch_unwind(|| values.done()).is_err());
    }

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
