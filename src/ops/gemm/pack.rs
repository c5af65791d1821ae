//! Packing: operands copied into the order in which a microkernel reads them, and rounded where it wants them so. Costs
//! one pass, and makes every load of the product sequential, whatever the strides were.

pub(super) mod bytes;
mod words;

use super::kernel::{Arithmetic, Kernel, ROW};
use super::{Mat, Threads};
use crate::ops::real::Real;
use crate::ops::rows as jobs;
use std::mem::MaybeUninit;
pub(super) use words::{Pairs, Single, Words};

/// Words of k packed together: a panel of the right operand then takes half of a small L1 cache.
pub(super) const KC: usize = 256;

/// A right operand `[k, n]`, ready for many products.
///
/// For each block of [`Kernel::kc`] steps, panels of `nr` columns; in a panel, `nr` words a step behind a header of its arithmetic, the
/// last panel filled up with zeros.
#[derive(Debug)]
pub(crate) struct Packed<T> {
    /// All of it written.
    data: Box<[MaybeUninit<T>]>,
    pub(super) arithmetic: Arithmetic,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl<T: Real> Packed<T> {
    /// Packs `b` for exact products on the CPU this runs on.
    pub(crate) fn new(b: Mat<'_, T>, threads: Threads) -> Self {
        Packed::of(Arithmetic::exact(), b, threads)
    }

    /// Packs `b` for products of this arithmetic.
    pub(crate) fn of(arithmetic: Arithmetic, b: Mat<'_, T>, threads: Threads) -> Self {
        let kernel = T::kernel(arithmetic);
        let (nr, kc) = (kernel.nr, kernel.kc());
        let width = b.columns.next_multiple_of(nr);
        let blocks = (0..b.rows).step_by(kc).map(|k| kernel.panel_words(kc.min(b.rows - k)));
        let mut data = Box::new_uninit_slice(blocks.sum::<usize>() * width);
        // jobs of some panels of one block
        let mut jobs = Vec::new();
        let mut rest = &mut data[..];
        for k in (0..b.rows).step_by(kc) {
            let kc = kc.min(b.rows - k);
            let words = kernel.panel_words(kc);
            let panels = (PANELS * nr).min(width);
            for column in (0..width).step_by(panels) {
                let (part, tail) = rest.split_at_mut(words * panels.min(width - column));
                jobs.push((k, kc, column, part));
                rest = tail;
            }
        }
        let pack = |(k, kc, column, part): (usize, usize, usize, &mut [MaybeUninit<T>])| {
            let columns = (part.len() / kernel.panel_words(kc)).min(b.columns - column);
            (kernel.pack_panels)(part, b.t().part(column, columns, k, kc), kernel.words(kc));
        };
        match threads {
            Threads::One => jobs.into_iter().for_each(pack),
            Threads::All => jobs::run(jobs, b.rows * b.columns, pack),
        }
        Packed { data, arithmetic, rows: b.rows, columns: b.columns }
    }

    pub(super) fn kernel(&self) -> Kernel<T> {
        T::kernel(self.arithmetic)
    }

    /// The panel whose first column is `column`, of the block of steps that begins at `k`: nr words for each of its words
    /// of k, behind its header; all of them written.
    pub(super) fn panel(&self, kernel: &Kernel<T>, k: usize, column: usize) -> &[MaybeUninit<T>] {
        let words = kernel.panel_words(kernel.kc().min(self.rows - k));
        let width = self.columns.next_multiple_of(kernel.nr);
        let before = k / kernel.kc() * kernel.panel_words(kernel.kc()) * width;
        &self.data[before + column * words..][..words * kernel.nr]
    }
}

/// Panels of one packing job.
const PANELS: usize = 16;

/// Packs the rows of `a` in rows, [`ROW`] words apart; zeros for rows and words that `a` lacks. Writes as many rows as
/// `out` has room for, which are no fewer than those of `a`.
pub(super) fn rows<T: Real, W: Words<T>>(out: &mut [MaybeUninit<T>], a: Mat<'_, T>, words: usize) {
    assert!(words <= ROW && out.len() >= a.rows * ROW, "room for fewer rows than those of the matrix");
    if a.column_stride == 1 {
        for (i, out) in out.chunks_exact_mut(ROW).enumerate() {
            W::along(&mut out[..words], if i < a.rows { a.row(i) } else { &[] });
        }
    } else {
        // steps first, for their words lie side by side; then these turned
        let mut room = vec![T::zero(); a.rows];
        let mut lines = vec![T::zero(); words * a.rows];
        for (w, line) in lines.chunks_exact_mut(a.rows).enumerate() {
            line.copy_from_slice(step::<T, W>(a, w, &mut room));
        }
        transposed(out, ROW, words, &lines, a.rows, a.rows);
        let first = (out.len() / ROW).min(a.rows) * ROW;
        out[first..].fill(MaybeUninit::new(T::zero()));
    }
}

/// Packs the rows of `a` in strips of `N`: in a strip, `N` words for each word of k, zeros for rows that the last strip and
/// words that `a` lacks. Writes all of `out`, which has room for these and no more.
pub(super) fn steps<T: Real, W: Words<T>, const N: usize>(out: &mut [MaybeUninit<T>], a: Mat<'_, T>, words: usize) {
    assert_eq!(out.len(), a.rows.next_multiple_of(N) * words, "room for other strips than those of the matrix");
    if a.row_stride == 1 {
        return interleaved::<T, W, N>(out, a, words);
    }
    let mut room = W::room(N.min(a.rows) * words);
    for (s, out) in out.chunks_exact_mut((N * words).max(1)).enumerate() {
        let a = a.part(s * N, N.min(a.rows - s * N), 0, a.columns);
        let (lines, stride) = W::lines(a, words, &mut room);
        transposed(out, N, a.rows, lines, stride, words);
    }
}

/// The words of all rows of `a`, whose columns are dense, for word `w` of k.
fn step<'a, T: Real, W: Words<T>>(a: Mat<'a, T>, w: usize, room: &'a mut [T]) -> &'a [T] {
    let column = |k: usize| match k < a.columns {
        true => &a.data[k * a.column_stride..][..a.rows],
        false => &[],
    };
    W::across(column(w * W::DEPTH), column((w + 1) * W::DEPTH - 1), room)
}

/// Words of one step already lie side by side: step by step to all strips. Strip by strip, the lines of a matrix
/// whose columns are a power of two apart would push each other out of the cache before the next strip needs them.
fn interleaved<T: Real, W: Words<T>, const N: usize>(out: &mut [MaybeUninit<T>], a: Mat<'_, T>, words: usize) {
    let mut room = W::room(a.rows);
    for w in 0..words {
        let line = step::<T, W>(a, w, &mut room);
        let (groups, rest) = line.as_chunks::<N>();
        for (s, group) in groups.iter().enumerate() {
            if let Some(out) = out[(s * words + w) * N..].first_chunk_mut::<N>() {
                *out = group.map(MaybeUninit::new);
            }
        }
        if !a.rows.is_multiple_of(N) {
            let out = &mut out[(groups.len() * words + w) * N..][..N];
            out.fill(MaybeUninit::new(T::zero()));
            out.iter_mut().zip(rest).for_each(|(out, &word)| *out = MaybeUninit::new(word));
        }
    }
}

/// Columns of dense rows, `stride` apart, to groups of `group`, with zeros behind the rows; by vector instructions where
/// the CPU has them.
fn transposed<T: Real>(
    out: &mut [MaybeUninit<T>],
    group: usize,
    rows: usize,
    data: &[T],
    stride: usize,
    columns: usize,
) {
    let done = T::transpose(out, group, rows, data, stride, columns);
    for (column, out) in out.chunks_exact_mut(group.max(1)).enumerate().take(columns).skip(done) {
        out[rows..].fill(MaybeUninit::new(T::zero()));
        for (i, out) in out[..rows].iter_mut().enumerate() {
            *out = MaybeUninit::new(data[i * stride + column]);
        }
    }
}
