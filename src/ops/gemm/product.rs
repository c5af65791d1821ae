//! The loops around the microkernel: blocks of rows or columns shared among threads, each finished by the caller while
//! it is still in the cache.
//!
//! Every element of the result is summed over k in one order, whatever the blocks and threads, so results do not depend
//! on the number of threads, nor on the rows computed beside it.

use super::kernel::{prefetch, Kernel, Tile, ROW};
use super::pack::Packed;
use super::{Mat, MatMut, Store, Threads};
use crate::ops::real::Real;
use crate::ops::rows;
use std::ops::Range;

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
    let kernel = b.kernel();
    let (m, n) = (a.rows, b.columns);
    let threads = match threads {
        Threads::All if m * n * a.columns > SERIAL => rayon::current_num_threads(),
        _ => 1,
    };
    // a few rows more than a strip a thread: rows are shared; else columns
    let (rows, columns) = if m >= 4 * kernel.mr * threads || threads == 1 {
        (shares(m, kernel.mr, threads * m.div_ceil(threads * kernel.block)), shares(n, kernel.nr, 1))
    } else {
        (shares(m, kernel.mr, 1), shares(n, kernel.nr, threads))
    };
    let jobs: Vec<(usize, usize)> = (0..rows.len()).flat_map(|i| (0..columns.len()).map(move |j| (i, j))).collect();
    let work = |(i, j): (usize, usize)| {
        let (rows_of_job, columns) = (rows[i].clone(), columns[j].clone());
        let block = Block {
            c: target,
            row: rows_of_job.start,
            column: columns.start,
            rows: rows_of_job.len(),
            columns: columns.len(),
            lifetime: std::marker::PhantomData,
        };
        // the thread that does this job is likely to do the next one
        let next = rows.get(i + 1).map(|next| a.part(next.start, next.len(), 0, a.columns));
        (kernel.begin)();
        fill(&kernel, &block, store, alpha, a.part(block.row, block.rows, 0, a.columns), next, b);
        (kernel.end)();
        finish(block);
    };
    if threads == 1 {
        jobs.into_iter().for_each(work);
    } else {
        rows::run(jobs, usize::MAX, work);
    }
}

/// Cuts 0..n at multiples of `unit` into so many ranges whose lengths differ by a unit at most, none of them empty.
fn shares(n: usize, unit: usize, count: usize) -> Vec<Range<usize>> {
    let units = n.div_ceil(unit);
    let count = count.clamp(1, units.max(1));
    (0..count).map(|i| units * i / count * unit..(units * (i + 1) / count * unit).min(n)).collect()
}

/// The product of some rows of the left operand and some columns of the right one; `next` is what this thread will
/// read afterwards.
fn fill<T: Real>(
    kernel: &Kernel<T>,
    block: &Block<'_, T>,
    store: Store,
    alpha: T,
    a: Mat<'_, T>,
    next: Option<Mat<'_, T>>,
    b: &Packed<T>,
) {
    let &Kernel { mr, nr, .. } = kernel;
    let strips = block.rows.div_ceil(mr);
    let kc = kernel.kc();
    // rows of dense matrices are packed as they lie, columns of transposed ones likewise
    let (run, pack, layout) = match kernel.steps {
        Some(run) if a.column_stride != 1 => (run, kernel.pack_steps, Layout::Steps),
        _ => (kernel.rows, kernel.pack_rows, Layout::Rows),
    };
    let room = |words: usize| match layout {
        Layout::Rows => mr * ROW,
        Layout::Steps => mr * words,
    };
    let mut packed = Box::new_uninit_slice(strips * room(kernel.words(kc.min(a.columns))));
    for k in (0..a.columns).step_by(kc) {
        let kc = kc.min(a.columns - k);
        let words = kernel.words(kc);
        let packed = &mut packed[..strips * room(words)];
        pack(packed, a.part(0, block.rows, k, kc), words);
        let after = match k + kc < a.columns {
            true => Some(a.part(0, block.rows, k + kc, kernel.kc().min(a.columns - k - kc))),
            false => next.map(|next| next.part(0, next.rows, 0, kernel.kc().min(a.columns))),
        };
        let mut ahead = Ahead::new(after, strips * block.columns.div_ceil(nr));
        for column in (0..block.columns).step_by(nr) {
            let panel = b.panel(kernel, k, block.column + column);
            for (s, strip) in packed.chunks_exact(room(words)).enumerate() {
                ahead.fetch();
                let tile = Tile {
                    c: block.c.at(block.row + s * mr, block.column + column),
                    stride: block.c.stride,
                    rows: mr.min(block.rows - s * mr),
                    columns: nr.min(block.columns - column),
                    alpha,
                    add: store == Store::Add || k > 0,
                    // the next panel lies behind this one; each strip fetches its share of it
                    ahead: panel.as_ptr().wrapping_add(panel.len() + panel.len() * s / strips).cast(),
                };
                // SAFETY: strip and panel hold mr and nr words, all written, for each of these words of k; the tile lies in
                // this job's block, which lies in the result (checked in `matmul`); `Packed` was made for an arithmetic
                // that this CPU has; `begin` was called.
                #[expect(unsafe_code, reason = "microkernels work on pointers")]
                unsafe {
                    run(words, strip.as_ptr().cast(), panel.as_ptr().cast(), tile);
                }
            }
        }
    }
}

/// How strips lie, see `kernel`.
#[derive(Clone, Copy)]
enum Layout {
    Rows,
    Steps,
}

/// Brings what will be packed next into the cache, a part before each tile: packing then waits for nothing.
struct Ahead<'a, T> {
    /// Dense rows or columns.
    lines: Option<Mat<'a, T>>,
    /// Of the cache, in a row.
    in_row: usize,
    /// Of the cache, at a time.
    share: usize,
    next: usize,
}

impl<'a, T: Real> Ahead<'a, T> {
    /// Elements in a line of the cache.
    const LINE: usize = 64 / size_of::<T>();

    /// All of it in so many parts.
    fn new(what: Option<Mat<'a, T>>, parts: usize) -> Self {
        let lines = what.map(|what| if what.column_stride == 1 { what } else { what.t() });
        let in_row = lines.map_or(0, |lines| lines.columns.div_ceil(Self::LINE));
        let all = lines.map_or(0, |lines| lines.rows * in_row);
        Ahead { lines, in_row, share: all.div_ceil(parts.max(1)), next: 0 }
    }

    fn fetch(&mut self) {
        let Some(lines) = self.lines else { return };
        for line in (self.next..self.next + self.share).take_while(|line| *line < lines.rows * self.in_row) {
            let start = line / self.in_row * lines.row_stride + line % self.in_row * Self::LINE;
            prefetch(lines.data.as_ptr().wrapping_add(start));
        }
        self.next += self.share;
    }
}
