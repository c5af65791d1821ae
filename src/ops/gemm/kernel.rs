//! Microkernels: one `mr × nr` tile of the result in registers, over packed strips of both operands.
//!
//! Packed operands are made of *words*, each the size of an element: one value, or (bf16) a pair of values that follow
//! each other in k. The instructions for pairs multiply and add words as those for values do, so that strips, panels and
//! loops are the same. A panel of the right operand holds `nr` words a step. A strip of the left one has `mr` rows; it
//! lies in *rows* ([`ROW`] words apart) where the matrix has the values of a row side by side, and else in *steps* (`mr`
//! words each), so that packing never transposes it. Every load of a product is then from a few streams.

#[cfg(target_arch = "x86_64")]
mod amx;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(crate) use amx::emulator::emulate;

use super::pack::{self, bytes, Pairs, Single, KC};
use super::Mat;
use crate::ops::precision::{units_in_force, Units};
use crate::ops::real::{Level, Real};
use std::mem::MaybeUninit;

/// Words from row to row of a strip that lies in rows: those of [`KC`] steps, and a few that keep rows from meeting in
/// one set of the cache.
pub(super) const ROW: usize = KC + 16;

/// What operands of a product are rounded to, and the instructions that multiply them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// Nothing is rounded.
    Exact(Level),
    /// To what these units multiply; results are f32. (In f64, which is for references, nothing is rounded.)
    Rounded(Units),
}

impl Arithmetic {
    /// The exact one of this CPU.
    pub(crate) fn exact() -> Self {
        Arithmetic::Exact(Level::best())
    }

    /// That of the precision that the process computes in, on the CPU.
    pub(crate) fn in_force() -> Self {
        units_in_force().map_or(Arithmetic::exact(), Arithmetic::Rounded)
    }

    /// All that this CPU can do.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Arithmetic> {
        let exact = Level::available().into_iter().map(Arithmetic::Exact);
        exact.chain(Units::available().map(Arithmetic::Rounded)).collect()
    }
}

/// Where a tile goes: `rows × columns` of it, at most `mr × nr`.
#[derive(Clone, Copy)]
pub(super) struct Tile<T> {
    pub(super) c: *mut T,
    /// Elements from row to row.
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) alpha: T,
    /// Adds to the old content instead of overwriting it.
    pub(super) add: bool,
    /// What a later call reads: fetched into the cache on the way, a line for every few steps. It is never read here.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the portable kernel fetches nothing"))]
    pub(super) ahead: *const T,
}

/// `tile = alpha · strip · panel` over some words of k.
///
/// The strip holds that many words in each of `mr` rows, the panel `nr` times as many, the tile is writable; the CPU has
/// the kernel's features, and [`Kernel::begin`] was called on this thread.
pub(super) type Run<T> = unsafe fn(words: usize, strip: *const T, panel: *const T, tile: Tile<T>);

/// Packs rows of a matrix for so many words of k; see `pack`.
pub(super) type Pack<T> = fn(out: &mut [MaybeUninit<T>], a: Mat<'_, T>, words: usize);

/// A microkernel, its tile, and what packs its operands.
#[derive(Clone, Copy)]
pub(crate) struct Kernel<T> {
    pub(super) mr: usize,
    pub(super) nr: usize,
    /// Values of k in a word.
    pub(super) depth: usize,
    /// Words of k are a multiple of this.
    pub(super) granule: usize,
    /// Words a column that a panel begins with.
    pub(super) header: usize,
    /// Rows of the left operand that are packed at a time.
    pub(super) block: usize,
    /// Over strips in rows.
    pub(super) rows: Run<T>,
    /// Over strips in steps; none where the instructions want rows.
    pub(super) steps: Option<Run<T>>,
    /// Packs the left operand in rows.
    pub(super) pack_rows: Pack<T>,
    /// The same in steps.
    pub(super) pack_steps: Pack<T>,
    /// Packs the transpose of the right operand in panels, which are steps of `nr`.
    pub(super) pack_panels: Pack<T>,
    /// Makes a thread ready for `rows` and `steps`.
    pub(super) begin: fn(),
    /// And undoes it.
    pub(super) end: fn(),
}

impl<T: Real> Kernel<T> {
    /// The plain one for these words.
    fn portable<W: pack::Words<T>>() -> Self {
        Kernel::new::<W, { portable::MR }, { portable::NR }>(portable::rows::<T, W>, Some(portable::steps::<T, W>))
    }

    fn new<W: pack::Words<T>, const MR: usize, const NR: usize>(rows: Run<T>, steps: Option<Run<T>>) -> Self {
        Kernel {
            mr: MR,
            nr: NR,
            depth: W::DEPTH,
            granule: 1,
            header: 0,
            // their packed strips take a tenth of a small L2 cache
            block: 96,
            rows,
            steps,
            pack_rows: pack::rows::<T, W>,
            pack_steps: pack::steps::<T, W, MR>,
            pack_panels: pack::steps::<T, W, NR>,
            begin: || (),
            end: || (),
        }
    }

    /// Words that so many values of k take.
    pub(super) fn words(&self, k: usize) -> usize {
        k.div_ceil(self.depth).next_multiple_of(self.granule)
    }

    /// The same of a panel, a column.
    pub(super) fn panel_words(&self, k: usize) -> usize {
        self.header + self.words(k)
    }

    /// Values of k that are packed together.
    pub(super) fn kc(&self) -> usize {
        KC * self.depth
    }
}

/// A kernel for bytes.
fn of_bytes<const MR: usize, const NR: usize>(rows: Run<f32>) -> Kernel<f32> {
    Kernel {
        depth: bytes::DEPTH,
        header: bytes::HEADER,
        pack_rows: bytes::rows,
        pack_panels: bytes::panels::<NR>,
        ..Kernel::new::<Single, MR, NR>(rows, None)
    }
}

/// The kernels of a float type.
pub(crate) trait Kernels: Sized {
    /// The one for this arithmetic, whose instructions the CPU must have.
    fn kernel(arithmetic: Arithmetic) -> Kernel<Self>;

    /// Writes the first columns of dense rows, `stride` apart, as groups of `group` (a multiple of 8) with zeros behind
    /// the rows; returns how many columns, from 0 to `columns`.
    fn transpose(
        _out: &mut [MaybeUninit<Self>],
        _group: usize,
        _rows: usize,
        _data: &[Self],
        _stride: usize,
        _columns: usize,
    ) -> usize {
        0
    }
}

impl Kernels for f32 {
    fn kernel(arithmetic: Arithmetic) -> Kernel<f32> {
        match arithmetic {
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Exact(Level::Avx512) => {
                Kernel::new::<Single, 12, 32>(x86::avx512_rows, Some(x86::avx512_steps))
            }
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Exact(Level::Avx2) => Kernel::new::<Single, 6, 16>(x86::avx2_rows, Some(x86::avx2_steps)),
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Rounded(Units::Amx) => Kernel {
                granule: amx::WORDS,
                // panels come from afar at the rate at which few rows would use them up
                block: 256,
                begin: amx::begin,
                end: amx::end,
                ..Kernel::new::<Pairs, { amx::MR }, { amx::NR }>(amx::rows, None)
            },
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Rounded(Units::Avx512Bf16) => {
                Kernel::new::<Pairs, 12, 32>(x86::avx512_bf16_rows, Some(x86::avx512_bf16_steps))
            }
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Rounded(Units::Avx512Vnni) => of_bytes::<12, 32>(x86::avx512_vnni),
            Arithmetic::Rounded(Units::PortableInt8) => of_bytes::<{ portable::MR }, { portable::NR }>(portable::bytes),
            Arithmetic::Rounded(_) => Kernel::portable::<Pairs>(),
            Arithmetic::Exact(_) => Kernel::portable::<Single>(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn transpose(
        out: &mut [MaybeUninit<f32>],
        group: usize,
        rows: usize,
        data: &[f32],
        stride: usize,
        columns: usize,
    ) -> usize {
        let blocks = columns / 8;
        let fits = out.len() >= 8 * blocks * group && data.len() >= rows.saturating_sub(1) * stride + 8 * blocks;
        if !fits || rows == 0 || rows > group || !group.is_multiple_of(8) || Level::best() == Level::Portable {
            return 0;
        }
        // SAFETY: the CPU has AVX2; rows and groups of all these columns lie within their slices, as checked.
        #[expect(unsafe_code, reason = "vector loads and stores through pointers, bounds checked above")]
        unsafe {
            x86::transpose(out.as_mut_ptr().cast(), group, rows, data.as_ptr(), stride, blocks);
        }
        8 * blocks
    }
}

/// f64 is for tests and references.
impl Kernels for f64 {
    fn kernel(_: Arithmetic) -> Kernel<f64> {
        Kernel::portable::<Single>()
    }
}

/// Asks for the cache line at `p`, which may be anywhere: nothing is read.
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it never faults, and every x86-64 has it.
    #[expect(unsafe_code, reason = "a prefetch takes a pointer")]
    unsafe {
        std::arch::x86_64::_mm_prefetch(p.cast(), std::arch::x86_64::_MM_HINT_T1);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Writes the valid part of a tile.
///
/// # Safety
/// `tile` points to writable rows; `sums` has `tile.rows` rows of `nr` ≥ `tile.columns`.
#[expect(unsafe_code, reason = "writes the result's rows through a pointer, as Run says")]
unsafe fn store<T: Real>(sums: &[T], nr: usize, tile: Tile<T>) {
    for (i, sums) in sums.chunks_exact(nr).take(tile.rows).enumerate() {
        let c = tile.c.add(i * tile.stride);
        for (j, &sum) in sums[..tile.columns].iter().enumerate() {
            let old = if tile.add { *c.add(j) } else { T::zero() };
            *c.add(j) = old + tile.alpha * sum;
        }
    }
}
