//! Microkernels: one `mr × nr` tile of the result in registers, over packed strips of both operands.
//!
//! A strip of the left operand holds `mr` values for each k, a panel of the right one `nr`; both are dense, so that a
//! step loads two vectors, broadcasts `mr` numbers and does 2·`mr` multiply-adds. Steps are unrolled by four: the loop's
//! own instructions would otherwise be a bottleneck where two threads share a core.

use super::pack::strips;
use super::Mat;
use crate::ops::real::{Level, Real};
use std::mem::MaybeUninit;

/// Steps in a row without a jump.
const UNROLL: usize = 4;

/// Elements of f32 in a line of the cache.
const LINE: usize = 16;

/// Largest tile of any kernel, in elements.
const LARGEST_TILE: usize = 12 * 32;

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
    pub(super) ahead: *const T,
}

/// `tile = alpha · strip · panel` over `k` steps.
///
/// The strip holds k·mr elements, the panel k·nr, the tile is writable; the CPU has the kernel's features.
type Run<T> = unsafe fn(k: usize, strip: *const T, panel: *const T, tile: Tile<T>);

/// Packs the rows of a matrix in strips; see [`strips`].
type Pack<T> = fn(&mut [MaybeUninit<T>], Mat<'_, T>);

/// A microkernel, its tile, and what packs its operands.
#[derive(Clone, Copy)]
pub(crate) struct Kernel<T> {
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) run: Run<T>,
    /// Of the left operand, `mr` wide.
    pub(super) strips: Pack<T>,
    /// Of the transpose of the right one, `nr` wide.
    pub(super) panels: Pack<T>,
}

impl<T: Real> Kernel<T> {
    fn new<const MR: usize, const NR: usize>(run: Run<T>) -> Self {
        Kernel { mr: MR, nr: NR, run, strips: strips::<T, MR>, panels: strips::<T, NR> }
    }
}

/// The kernels of a float type.
pub(crate) trait Kernels: Sized {
    /// The one for these instructions, which the CPU must have.
    fn kernel(level: Level) -> Kernel<Self>;

    /// Writes the first columns of `width` dense rows, `stride` apart, as groups of `width`; returns how many, from 0
    /// to `columns`.
    fn transpose(
        _out: &mut [MaybeUninit<Self>],
        _width: usize,
        _data: &[Self],
        _stride: usize,
        _columns: usize,
    ) -> usize {
        0
    }
}

impl Kernels for f32 {
    fn kernel(level: Level) -> Kernel<f32> {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Kernel::new::<12, 32>(x86::avx512),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Kernel::new::<6, 16>(x86::avx2),
            _ => Kernel::new::<4, 8>(portable::<f32>),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn transpose(out: &mut [MaybeUninit<f32>], width: usize, data: &[f32], stride: usize, columns: usize) -> usize {
        // a block may write up to 7 values beyond its columns: the last columns are left to the caller
        let blocks = columns.saturating_sub(8 / width + 1) / 8;
        let fits = out.len() >= columns * width && (width == 0 || data.len() >= (width - 1) * stride + columns);
        if !fits || blocks == 0 || Level::best() == Level::Portable {
            return 0;
        }
        // SAFETY: the CPU has AVX2; rows and groups of all columns lie within their slices, as checked.
        #[expect(unsafe_code, reason = "vector loads and stores through pointers, bounds checked above")]
        unsafe {
            x86::transpose(out.as_mut_ptr().cast(), width, data.as_ptr(), stride, blocks);
        }
        8 * blocks
    }
}

/// f64 is for tests and references.
impl Kernels for f64 {
    fn kernel(_: Level) -> Kernel<f64> {
        Kernel::new::<4, 8>(portable::<f64>)
    }
}

/// Plain arrays that every compiler makes vectors of.
///
/// # Safety
/// As [`Run`] says, with mr = 4 and nr = 8.
#[expect(
    unsafe_code,
    reason = "reads packed buffers and writes tiles through pointers; the caller keeps Run's promise"
)]
unsafe fn portable<T: Real>(k: usize, strip: *const T, panel: *const T, tile: Tile<T>) {
    const MR: usize = 4;
    const NR: usize = 8;
    let (strip, panel) = (std::slice::from_raw_parts(strip, k * MR), std::slice::from_raw_parts(panel, k * NR));
    let mut sums = [[T::zero(); NR]; MR];
    for (a, b) in strip.as_chunks::<MR>().0.iter().zip(panel.as_chunks::<NR>().0) {
        for i in 0..MR {
            for j in 0..NR {
                sums[i][j] += a[i] * b[j];
            }
        }
    }
    store(sums.as_flattened(), NR, tile);
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{store, Tile, LARGEST_TILE, LINE, UNROLL};
    use std::arch::x86_64::*;

    /// Defines a kernel of `$mr` rows and two vectors of `$lanes`.
    macro_rules! kernel {
        ($name:ident, $feature:literal, $mr:literal, $lanes:literal, $zero:ident, $set:ident, $load:ident, $store:ident,
         $fma:ident, $add:ident, $mul:ident) => {
            /// # Safety
            /// As [`super::Run`] says; the CPU has the features.
            #[target_feature(enable = $feature)]
            #[expect(unsafe_code, reason = "vector loads and stores through pointers; the caller keeps Run's promise")]
            pub(super) unsafe fn $name(k: usize, strip: *const f32, panel: *const f32, tile: Tile<f32>) {
                const MR: usize = $mr;
                const NR: usize = 2 * $lanes;
                for i in 0..tile.rows {
                    // the result's lines arrive while the products are formed; prefetching never faults
                    let row = tile.c.wrapping_add(i * tile.stride);
                    _mm_prefetch(row.cast(), _MM_HINT_T0);
                    _mm_prefetch(row.wrapping_add(NR - 1).cast(), _MM_HINT_T0);
                }
                let mut sums = [[$zero(); 2]; MR];
                let (mut a, mut b, mut ahead) = (strip, panel, tile.ahead);
                macro_rules! step {
                    ($u:expr) => {
                        let (low, high) = ($load(b.add($u * NR)), $load(b.add($u * NR + $lanes)));
                        for i in 0..MR {
                            let x = $set(*a.add($u * MR + i));
                            sums[i][0] = $fma(x, low, sums[i][0]);
                            sums[i][1] = $fma(x, high, sums[i][1]);
                        }
                    };
                }
                for _ in 0..k / UNROLL {
                    _mm_prefetch(ahead.cast(), _MM_HINT_T0);
                    ahead = ahead.wrapping_add(LINE);
                    step!(0);
                    step!(1);
                    step!(2);
                    step!(3);
                    (a, b) = (a.add(UNROLL * MR), b.add(UNROLL * NR));
                }
                for _ in 0..k % UNROLL {
                    step!(0);
                    (a, b) = (a.add(MR), b.add(NR));
                }
                if tile.rows == MR && tile.columns == NR {
                    let alpha = $set(tile.alpha);
                    for i in 0..MR {
                        for j in 0..2 {
                            let c = tile.c.add(i * tile.stride + j * $lanes);
                            let new = $mul(alpha, sums[i][j]);
                            $store(c, if tile.add { $add($load(c), new) } else { new });
                        }
                    }
                } else {
                    let mut edge = [0.0f32; LARGEST_TILE];
                    for i in 0..MR {
                        for j in 0..2 {
                            $store(edge.as_mut_ptr().add(i * NR + j * $lanes), sums[i][j]);
                        }
                    }
                    store(&edge[..MR * NR], NR, tile);
                }
            }
        };
    }

    /// `blocks` times 8 columns of `width` rows to groups of `width`.
    ///
    /// # Safety
    /// Rows have 8·blocks columns or more; `out` has room for 7 values behind the last group; the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    #[expect(unsafe_code, reason = "vector loads and stores through pointers; the caller checks bounds")]
    pub(super) unsafe fn transpose(out: *mut f32, width: usize, data: *const f32, stride: usize, blocks: usize) {
        for block in 0..blocks {
            let (data, out) = (data.add(8 * block), out.add(8 * block * width));
            // the last rows first: where they are fewer than 8, their groups spill into what is written next
            for first in (0..width).step_by(8).rev() {
                let row = |i: usize| match first + i < width {
                    true => _mm256_loadu_ps(data.add((first + i) * stride)),
                    false => _mm256_setzero_ps(),
                };
                let pairs = [(0, 1), (2, 3), (4, 5), (6, 7)].map(|(a, b)| (row(a), row(b)));
                let [(a, b), (c, d), (e, f), (g, h)] =
                    pairs.map(|(a, b)| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
                let mut columns = [_mm256_setzero_ps(); 8];
                let quads = [(a, c, e, g), (b, d, f, h)];
                for (i, (a, c, e, g)) in quads.into_iter().enumerate() {
                    let low = (_mm256_shuffle_ps(a, c, 0x44), _mm256_shuffle_ps(e, g, 0x44));
                    let high = (_mm256_shuffle_ps(a, c, 0xEE), _mm256_shuffle_ps(e, g, 0xEE));
                    for (j, (x, y)) in [low, high].into_iter().enumerate() {
                        columns[2 * i + j] = _mm256_permute2f128_ps(x, y, 0x20);
                        columns[2 * i + j + 4] = _mm256_permute2f128_ps(x, y, 0x31);
                    }
                }
                // in their order, for the same reason
                for (column, values) in columns.into_iter().enumerate() {
                    _mm256_storeu_ps(out.add(column * width + first), values);
                }
            }
        }
    }

    kernel!(
        avx2,
        "avx2,fma",
        6,
        8,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_mul_ps
    );
    kernel!(
        avx512,
        "avx512f",
        12,
        16,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_mul_ps
    );
}
