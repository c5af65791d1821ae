//! Memory of results between its allocation and their computation.

use super::real::Real;
use super::rows::split_sentences;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::rows::run;

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
}
