//! Packing: operands copied into the order in which a microkernel reads them. Costs one pass, and makes every load of
//! the product sequential, whatever the strides were.

use super::kernel::Kernel;
use super::{Mat, Threads};
use crate::ops::real::{simd, Level, Real};
use crate::ops::rows;

/// Steps of k packed together: a panel of the right operand then takes half of a small L1 cache.
pub(super) const KC: usize = 256;

/// A right operand `[k, n]`, ready for many products.
///
/// For each block of [`KC`] steps, panels of `nr` columns; in a panel, `nr` values a step, the last panel filled up
/// with zeros.
#[derive(Debug)]
pub(crate) struct Packed<T> {
    pub(super) data: Vec<T>,
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
        let nr = T::kernel(level).nr;
        let width = b.columns.div_ceil(nr) * nr;
        let mut data = rows::buffer(b.rows * width);
        // jobs of some panels of one block
        let mut jobs = Vec::new();
        let mut rest = data.as_mut_slice();
        for k in (0..b.rows).step_by(KC) {
            let kc = KC.min(b.rows - k);
            let panels = (PANELS * nr).min(width);
            for column in (0..width).step_by(panels) {
                let (part, tail) = rest.split_at_mut(kc * panels.min(width - column));
                jobs.push((k, kc, column, part));
                rest = tail;
            }
        }
        let pack = |(k, kc, column, part): (usize, usize, usize, &mut [T])| {
            for (p, panel) in part.chunks_exact_mut(kc * nr).enumerate() {
                let column = column + p * nr;
                strip(panel, nr, b.t().part(column, nr.min(b.columns - column), k, kc));
            }
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

    /// The panel whose first column is `column`, of the block of steps that begins at `k`: kc·nr elements.
    pub(super) fn panel(&self, k: usize, column: usize) -> &[T] {
        let nr = self.kernel().nr;
        let (kc, width) = (KC.min(self.rows - k), self.columns.div_ceil(nr) * nr);
        &self.data[k * width + column * kc..][..kc * nr]
    }
}

/// Panels of one packing job.
const PANELS: usize = 16;

simd! {
    /// Packs the rows of `a` (at most `width`) side by side: `width` values for each of its columns, zeros for rows it
    /// lacks.
    pub(super) fn strip<T: Real>(out: &mut [T], width: usize, a: Mat<'_, T>) {
        if a.rows < width {
            out.fill(T::zero());
        }
        match width {
            4 => strip_of::<T, 4>(out, a),
            6 => strip_of::<T, 6>(out, a),
            8 => strip_of::<T, 8>(out, a),
            12 => strip_of::<T, 12>(out, a),
            16 => strip_of::<T, 16>(out, a),
            32 => strip_of::<T, 32>(out, a),
            _ => general(out, width, a),
        }
    }
}

fn general<T: Real>(out: &mut [T], width: usize, a: Mat<'_, T>) {
    for (k, out) in out.chunks_exact_mut(width).enumerate() {
        for (i, out) in out[..a.rows].iter_mut().enumerate() {
            *out = a.data[i * a.row_stride + k * a.column_stride];
        }
    }
}

/// The common cases, with the width known to the compiler.
#[inline(always)]
fn strip_of<T: Real, const W: usize>(out: &mut [T], a: Mat<'_, T>) {
    if a.rows < W {
        general(out, W, a);
    } else if a.row_stride == 1 {
        interleaved::<T, W>(out, a.data, a.column_stride);
    } else if a.column_stride == 1 {
        transposed::<T, W>(out, a.data, a.row_stride, a.columns);
    } else {
        general(out, W, a);
    }
}

/// Values of one step already lie side by side, `stride` from step to step.
#[inline(always)]
fn interleaved<T: Real, const W: usize>(out: &mut [T], data: &[T], stride: usize) {
    for (k, out) in out.as_chunks_mut::<W>().0.iter_mut().enumerate() {
        if let Some(values) = data[k * stride..].first_chunk::<W>() {
            *out = *values;
        }
    }
}

/// Rows are dense: W of them, `stride` apart, read in blocks of 8 columns, so that each line of the cache is used while
/// it is there.
#[inline(always)]
fn transposed<T: Real, const W: usize>(out: &mut [T], data: &[T], stride: usize, columns: usize) {
    let (groups, _) = out.as_chunks_mut::<W>();
    let rows: [&[T]; W] = std::array::from_fn(|i| &data[i * stride..][..columns]);
    let mut done = 0;
    for groups in groups.as_chunks_mut::<8>().0 {
        let mut block = [[T::zero(); 8]; W];
        for i in 0..W {
            if let Some(row) = rows[i][done..].first_chunk::<8>() {
                block[i] = *row;
            }
        }
        for k in 0..8 {
            for i in 0..W {
                groups[k][i] = block[i][k];
            }
        }
        done += 8;
    }
    for (k, group) in groups.iter_mut().enumerate().skip(done) {
        for i in 0..W {
            group[i] = rows[i][k];
        }
    }
}
