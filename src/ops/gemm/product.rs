//! The loops around the microkernel: blocks of rows or columns shared among threads, each finished by the caller while
//! it is still in the cache.
//!
//! Every element of the result is summed over k in one order, whatever the blocks and threads, so results do not depend
//! on the number of threads, nor on the rows computed beside it.

use super::kernel::{Kernel, Tile};
use super::pack::{Packed, KC};
use super::{Mat, MatMut, Store, Threads};
use crate::ops::real::Real;
use crate::ops::rows;

/// Rows of a job: their packed strips take half of a small L2 cache.
const ROWS: usize = 96;

/// Products below this many multiply-adds stay on their thread (but in Miri, which could not wait for larger ones).
const SERIAL: usize = if cfg!(miri) { 1 << 9 } else { 1 << 17 };

/// A finished block of the result, `rows × columns` from (`row`, `column`).
pub(crate) struct Block<'a, T> {
    c: Target<T>,
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

impl<'a, T: Copy> Block<'a, T> {
    /// All of a result.
    pub(super) fn whole(c: &'a mut MatMut<'_, T>) -> Self {
        let target = Target { data: c.data.as_mut_ptr(), stride: c.row_stride };
        Block { c: target, row: 0, column: 0, rows: c.rows, columns: c.columns, lifetime: std::marker::PhantomData }
    }

    /// Its row `i` (from 0).
    pub(crate) fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "a row outside its block");
        // SAFETY: the job owns this block of a result that outlives it (`lifetime`), all of it was written by the
        // microkernel, and `&mut self` makes the borrow unique.
        #[expect(unsafe_code, reason = "blocks of rows that overlap in memory order but not in elements")]
        unsafe {
            std::slice::from_raw_parts_mut(self.c.at(self.row + i, self.column), self.columns)
        }
    }
}

/// The result's memory, shared by jobs that write to different parts of it.
#[derive(Clone, Copy)]
struct Target<T> {
    data: *mut T,
    stride: usize,
}

impl<T> Target<T> {
    fn at(self, row: usize, column: usize) -> *mut T {
        self.data.wrapping_add(row * self.stride + column)
    }
}

// SAFETY: jobs write to disjoint blocks, see `multiply`.
#[expect(unsafe_code, reason = "a pointer is shared by jobs that write to disjoint blocks")]
unsafe impl<T: Send> Send for Target<T> {}
#[expect(unsafe_code, reason = "as above")]
unsafe impl<T: Send> Sync for Target<T> {}

/// What is done with each complete block of a result; behind a reference, so that products are compiled once.
pub(super) type Finish<'a, T> = &'a (dyn Fn(Block<'_, T>) + Sync);

/// `c = alpha·a·b` or `c += alpha·a·b`, block by block; `finish` sees each block when it is complete.
pub(super) fn multiply<T: Real>(
    c: MatMut<'_, T>,
    store: Store,
    alpha: T,
    a: Mat<'_, T>,
    b: &Packed<T>,
    threads: Threads,
    finish: Finish<'_, T>,
) {
    let target = Target { data: c.data.as_mut_ptr(), stride: c.row_stride };
    blocks(target, store, alpha, a, b, threads, finish);
}

/// The same in new memory.
pub(super) fn multiply_new<T: Real>(
    alpha: T,
    a: Mat<'_, T>,
    b: &Packed<T>,
    threads: Threads,
    finish: Finish<'_, T>,
) -> Vec<T> {
    assert!(a.columns > 0, "a sum of nothing would write nothing");
    let elements = a.rows * b.columns;
    let mut c = Vec::with_capacity(elements);
    let target = Target { data: c.as_mut_ptr(), stride: b.columns };
    blocks(target, Store::Set, alpha, a, b, threads, finish);
    // SAFETY: there is room for the result; its blocks cover it, and each tile of a block is set by the first steps of k,
    // which there are.
    #[expect(unsafe_code, reason = "microkernels write through pointers")]
    unsafe {
        c.set_len(elements);
    }
    c
}

/// Products of all blocks. `target` has room for a result of the operands' shape; [`Store::Set`] never reads it.
fn blocks<T: Real>(
    target: Target<T>,
    store: Store,
    alpha: T,
    a: Mat<'_, T>,
    b: &Packed<T>,
    threads: Threads,
    finish: Finish<'_, T>,
) {
    let Kernel { mr, nr, .. } = b.kernel();
    let (m, n) = (a.rows, b.columns);
    let threads = match threads {
        Threads::All if m * n * a.columns > SERIAL => rayon::current_num_threads(),
        _ => 1,
    };
    // a few rows more than a strip a thread: rows are shared; else columns
    let (job_rows, job_columns) = if m >= 4 * mr * threads || threads == 1 {
        let jobs = threads * m.div_ceil(threads * ROWS);
        (m.div_ceil(jobs).next_multiple_of(mr), n)
    } else {
        (m, n.div_ceil(threads).next_multiple_of(nr))
    };
    let jobs: Vec<(usize, usize)> = (0..m)
        .step_by(job_rows.max(1))
        .flat_map(|row| (0..n).step_by(job_columns.max(1)).map(move |column| (row, column)))
        .collect();
    let work = |(row, column): (usize, usize)| {
        let (rows, columns) = (job_rows.min(m - row), job_columns.min(n - column));
        let block = Block { c: target, row, column, rows, columns, lifetime: std::marker::PhantomData };
        fill(&block, store, alpha, a.part(row, rows, 0, a.columns), b);
        finish(block);
    };
    if threads == 1 {
        jobs.into_iter().for_each(work);
    } else {
        rows::run(jobs, usize::MAX, work);
    }
}

/// The product of some rows of the left operand and some columns of the right one.
fn fill<T: Real>(block: &Block<'_, T>, store: Store, alpha: T, a: Mat<'_, T>, b: &Packed<T>) {
    let Kernel { mr, nr, run, strips, .. } = b.kernel();
    let padded = block.rows.next_multiple_of(mr);
    let mut packed = Box::new_uninit_slice(padded * KC.min(a.columns));
    for k in (0..a.columns).step_by(KC) {
        let kc = KC.min(a.columns - k);
        let packed = &mut packed[..padded * kc];
        strips(packed, a.part(0, block.rows, k, kc));
        for column in (0..block.columns).step_by(nr) {
            let panel = b.panel(k, block.column + column);
            let count = padded / mr;
            for (s, strip) in packed.chunks_exact(mr * kc).enumerate() {
                let tile = Tile {
                    c: block.c.at(block.row + s * mr, block.column + column),
                    stride: block.c.stride,
                    rows: mr.min(block.rows - s * mr),
                    columns: nr.min(block.columns - column),
                    alpha,
                    add: store == Store::Add || k > 0,
                    // the next panel lies behind this one; each strip fetches its share of it
                    ahead: panel.as_ptr().wrapping_add(panel.len() + panel.len() * s / count).cast(),
                };
                // SAFETY: strip and panel hold mr·kc and nr·kc written elements; the tile lies in this job's block, which lies
                // in the result (checked in `matmul`); `Packed` was made for a level that this CPU has.
                #[expect(unsafe_code, reason = "microkernels work on pointers")]
                unsafe {
                    run(kc, strip.as_ptr().cast(), panel.as_ptr().cast(), tile);
                }
            }
        }
    }
}
