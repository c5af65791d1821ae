//! Packing: operands copied into the order in which a microkernel reads them. Costs one pass, and makes every load of
//! the product sequential, whatever the strides were.

use super::kernel::Kernel;
use super::{Mat, Threads};
use crate::ops::real::{Level, Real};
use crate::ops::rows;
use std::mem::MaybeUninit;

/// Steps of k packed together: a panel of the right operand then takes half of a small L1 cache.
pub(super) const KC: usize = 256;

/// A right operand `[k, n]`, ready for many products.
///
/// For each block of [`KC`] steps, panels of `nr` columns; in a panel, `nr` values a step, the last panel filled up
/// with zeros.
#[derive(Debug)]
pub(crate) struct Packed<T> {
    /// All of it written.
    data: Box<[MaybeUninit<T>]>,
    pub(super) level: Level,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl<T: Real> Packed<T> {
    /// Packs `b` for the CPU this runs on.
    pub(crate) fn new(b: Mat<'_, T>, threads: Threads) -> Self {
        Packed::for_level(Level::best(), b, threads)
    }

    pub(super) fn for_level(level: Level, b: Mat<'_, T>, threads: Threads) -> Self {
        let Kernel { nr, panels: pack_panels, .. } = T::kernel(level);
        let width = b.columns.div_ceil(nr) * nr;
        let mut data = Box::new_uninit_slice(b.rows * width);
        // jobs of some panels of one block
        let mut jobs = Vec::new();
        let mut rest = &mut data[..];
        for k in (0..b.rows).step_by(KC) {
            let kc = KC.min(b.rows - k);
            let panels = (PANELS * nr).min(width);
            for column in (0..width).step_by(panels) {
                let (part, tail) = rest.split_at_mut(kc * panels.min(width - column));
                jobs.push((k, kc, column, part));
                rest = tail;
            }
        }
        let pack = |(k, kc, column, part): (usize, usize, usize, &mut [MaybeUninit<T>])| {
            let columns = (part.len() / kc).min(b.columns - column);
            pack_panels(part, b.t().part(column, columns, k, kc));
        };
        match threads {
            Threads::One => jobs.into_iter().for_each(pack),
            Threads::All => rows::run(jobs, b.rows * b.columns, pack),
        }
        Packed { data, level, rows: b.rows, columns: b.columns }
    }

    pub(super) fn kernel(&self) -> Kernel<T> {
        T::kernel(self.level)
    }

    /// The panel whose first column is `column`, of the block of steps that begins at `k`: kc·nr elements,
    /// all of them written.
    pub(super) fn panel(&self, k: usize, column: usize) -> &[MaybeUninit<T>] {
        let nr = self.kernel().nr;
        let (kc, width) = (KC.min(self.rows - k), self.columns.div_ceil(nr) * nr);
        &self.data[k * width + column * kc..][..kc * nr]
    }
}

/// Panels of one packing job.
const PANELS: usize = 16;

/// Packs the rows of `a` in strips of `W`: in a strip, `W` values for each column of `a`, zeros for rows that the last strip
/// lacks. Writes all of `out`, which has room for these and no more.
pub(super) fn strips<T: Real, const W: usize>(out: &mut [MaybeUninit<T>], a: Mat<'_, T>) {
    assert_eq!(out.len(), a.rows.next_multiple_of(W) * a.columns, "room for other strips than those of the matrix");
    let whole = a.rows / W;
    let (complete, partial) = out.split_at_mut(whole * W * a.columns);
    if a.row_stride == 1 {
        interleaved::<T, W>(complete, a);
    } else {
        for (s, out) in complete.chunks_exact_mut((W * a.columns).max(1)).enumerate() {
            transposed::<T, W>(out, a.part(s * W, W, 0, a.columns));
        }
    }
    if !a.rows.is_multiple_of(W) {
        general(partial, W, a.part(whole * W, a.rows % W, 0, a.columns));
    }
}

fn general<T: Real>(out: &mut [MaybeUninit<T>], width: usize, a: Mat<'_, T>) {
    out.fill(MaybeUninit::new(T::zero()));
    for (k, out) in out.chunks_exact_mut(width).enumerate() {
        for (i, out) in out[..a.rows].iter_mut().enumerate() {
            *out = MaybeUninit::new(a.data[i * a.row_stride + k * a.column_stride]);
        }
    }
}

/// Values of one column already lie side by side: column by column to all strips. Strip by strip, the lines of a matrix
/// whose columns are a power of two apart would push each other out of the cache before the next strip needs them.
fn interleaved<T: Real, const W: usize>(out: &mut [MaybeUninit<T>], a: Mat<'_, T>) {
    for k in 0..a.columns {
        let column = &a.data[k * a.column_stride..][..a.rows];
        let (groups, _) = column.as_chunks::<W>();
        for (s, group) in groups.iter().enumerate() {
            if let Some(out) = out[(s * a.columns + k) * W..].first_chunk_mut::<W>() {
                *out = group.map(MaybeUninit::new);
            }
        }
    }
}

/// W rows, dense in the common case: then in blocks of 8 columns, by vector instructions where the CPU has them.
fn transposed<T: Real, const W: usize>(out: &mut [MaybeUninit<T>], a: Mat<'_, T>) {
    if a.column_stride != 1 {
        return general(out, W, a);
    }
    let done = T::transpose(out, W, a.data, a.row_stride, a.columns);
    let rows: [&[T]; W] = std::array::from_fn(|i| &a.data[i * a.row_stride..][..a.columns]);
    for (k, group) in out.as_chunks_mut::<W>().0.iter_mut().enumerate().skip(done) {
        for i in 0..W {
            group[i] = MaybeUninit::new(rows[i][k]);
        }
    }
}
