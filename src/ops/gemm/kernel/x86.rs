//! Kernels of AVX2 and AVX-512, and a transposition of blocks.
//!
//! A step loads two vectors, broadcasts `mr` words and does 2·`mr` multiply-adds. Steps are unrolled by four: the loop's
//! own instructions would otherwise be a bottleneck where two threads share a core.

use super::{store, Tile, KC, ROW};
use std::arch::x86_64::*;

/// Steps in a row without a jump.
const UNROLL: usize = 4;

/// Elements of f32 in a line of the cache.
const LINE: usize = 16;

/// Largest tile of any kernel, in elements.
const LARGEST_TILE: usize = 12 * 32;

/// Defines a kernel of `$mr` rows and two vectors of `$lanes`, over strips in rows or in steps.
macro_rules! kernel {
    ($name:ident, $feature:literal, $mr:literal, $lanes:literal, $by_row:expr, $by_step:expr, $zero:ident, $set:ident,
     $load:ident, $store:ident, $fma:ident, $add:ident, $mul:ident) => {
        /// # Safety
        /// As [`super::Run`] says; the CPU has the features.
        #[target_feature(enable = $feature)]
        #[expect(unsafe_code, reason = "vector loads and stores through pointers; the caller keeps Run's promise")]
        pub(super) unsafe fn $name(words: usize, strip: *const f32, panel: *const f32, tile: Tile<f32>) {
            const MR: usize = $mr;
            const NR: usize = 2 * $lanes;
            const BY_ROW: usize = $by_row;
            const BY_STEP: usize = $by_step;
            /// The first `R` rows of a tile.
            ///
            /// # Safety
            /// As that of the kernel; the tile has no more rows.
            #[target_feature(enable = $feature)]
            unsafe fn rows<const R: usize>(words: usize, strip: *const f32, panel: *const f32, tile: Tile<f32>) {
                for i in 0..tile.rows {
                    // the result's lines arrive while the products are formed; prefetching never faults
                    let row = tile.c.wrapping_add(i * tile.stride);
                    _mm_prefetch(row.cast(), _MM_HINT_T0);
                    _mm_prefetch(row.wrapping_add(NR - 1).cast(), _MM_HINT_T0);
                }
                let mut sums = [[$zero(); 2]; R];
                let (mut a, mut b, mut ahead) = (strip, panel, tile.ahead);
                macro_rules! step {
                    ($u:expr) => {
                        let (low, high) = ($load(b.add($u * NR)), $load(b.add($u * NR + $lanes)));
                        for i in 0..R {
                            let x = $set(*a.add(i * BY_ROW + $u * BY_STEP));
                            sums[i][0] = $fma(x, low, sums[i][0]);
                            sums[i][1] = $fma(x, high, sums[i][1]);
                        }
                    };
                }
                for _ in 0..words / UNROLL {
                    _mm_prefetch(ahead.cast(), _MM_HINT_T0);
                    ahead = ahead.wrapping_add(LINE);
                    step!(0);
                    step!(1);
                    step!(2);
                    step!(3);
                    (a, b) = (a.add(UNROLL * BY_STEP), b.add(UNROLL * NR));
                }
                for _ in 0..words % UNROLL {
                    step!(0);
                    (a, b) = (a.add(BY_STEP), b.add(NR));
                }
                if tile.rows == R && tile.columns == NR {
                    let alpha = $set(tile.alpha);
                    for i in 0..R {
                        for j in 0..2 {
                            let c = tile.c.add(i * tile.stride + j * $lanes);
                            let new = $mul(alpha, sums[i][j]);
                            $store(c, if tile.add { $add($load(c), new) } else { new });
                        }
                    }
                } else {
                    let mut edge = [0.0f32; LARGEST_TILE];
                    for i in 0..R {
                        for j in 0..2 {
                            $store(edge.as_mut_ptr().add(i * NR + j * $lanes), sums[i][j]);
                        }
                    }
                    store(&edge[..R * NR], NR, tile);
                }
            }
            // a strip that is not full costs what its rows cost, in steps of a third
            match tile.rows.div_ceil(MR / 3) {
                0 | 1 => rows::<{ MR / 3 }>(words, strip, panel, tile),
                2 => rows::<{ MR / 3 * 2 }>(words, strip, panel, tile),
                _ => rows::<MR>(words, strip, panel, tile),
            }
        }
    };
}

/// Defines a kernel of AVX2 for values.
macro_rules! avx2 {
    ($name:ident, $by_row:expr, $by_step:expr) => {
        kernel!(
            $name,
            "avx2,fma",
            6,
            8,
            $by_row,
            $by_step,
            _mm256_setzero_ps,
            _mm256_set1_ps,
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_fmadd_ps,
            _mm256_add_ps,
            _mm256_mul_ps
        );
    };
}

/// Defines a kernel of AVX-512 whose words `$fma` multiplies.
macro_rules! avx512 {
    ($name:ident, $feature:literal, $by_row:expr, $by_step:expr, $fma:ident) => {
        kernel!(
            $name,
            $feature,
            12,
            16,
            $by_row,
            $by_step,
            _mm512_setzero_ps,
            _mm512_set1_ps,
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            $fma,
            _mm512_add_ps,
            _mm512_mul_ps
        );
    };
}

avx2!(avx2_rows, ROW, 1);
avx2!(avx2_steps, 1, MR);
avx512!(avx512_rows, "avx512f", ROW, 1, _mm512_fmadd_ps);
avx512!(avx512_steps, "avx512f", 1, MR, _mm512_fmadd_ps);
avx512!(avx512_bf16_rows, "avx512f,avx512bf16", ROW, 1, pairs);
avx512!(avx512_bf16_steps, "avx512f,avx512bf16", 1, MR, pairs);

/// sum + a·b of pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(a: __m512, b: __m512, sum: __m512) -> __m512 {
    let words = |x: __m512| -> __m512bh {
        // SAFETY: both are 512 bits, for which every pattern is valid.
        #[expect(unsafe_code, reason = "a cast that the standard library has no function for")]
        unsafe {
            std::mem::transmute(x)
        }
    };
    _mm512_dpbf16_ps(sum, words(a), words(b))
}

/// Of bytes, see `pack/bytes`: `vpdpbusd` multiplies four and adds them to an integer.
///
/// # Safety
/// As [`super::Run`] says; the CPU has the features.
#[target_feature(enable = "avx512f,avx512vnni")]
#[expect(unsafe_code, reason = "vector loads and stores through pointers; the caller keeps Run's promise")]
pub(super) unsafe fn avx512_vnni(words: usize, strip: *const f32, panel: *const f32, tile: Tile<f32>) {
    const NR: usize = 32;
    /// The first `R` rows of a tile.
    ///
    /// # Safety
    /// As that of the kernel; the tile has no more rows.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn rows<const R: usize>(words: usize, strip: *const f32, panel: *const f32, tile: Tile<f32>) {
        let integers = |p: *const f32| _mm512_loadu_si512(p.cast());
        let start = [integers(panel), integers(panel.add(16))];
        let scales = [_mm512_loadu_ps(panel.add(NR)), _mm512_loadu_ps(panel.add(NR + 16))];
        let mut sums = [start; R];
        let (mut a, mut b, mut ahead) = (strip.cast::<i32>(), panel.add(2 * NR), tile.ahead);
        macro_rules! step {
            ($u:expr) => {
                let (low, high) = (integers(b.add($u * NR)), integers(b.add($u * NR + 16)));
                for i in 0..R {
                    let x = _mm512_set1_epi32(*a.add(i * ROW + $u));
                    sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], x, low);
                    sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], x, high);
                }
            };
        }
        for _ in 0..words / UNROLL {
            _mm_prefetch(ahead.cast(), _MM_HINT_T0);
            ahead = ahead.wrapping_add(LINE);
            step!(0);
            step!(1);
            step!(2);
            step!(3);
            (a, b) = (a.add(UNROLL), b.add(UNROLL * NR));
        }
        for _ in 0..words % UNROLL {
            step!(0);
            (a, b) = (a.add(1), b.add(NR));
        }
        let whole = tile.rows == R && tile.columns == NR;
        let mut edge = [0.0f32; LARGEST_TILE];
        let alpha = _mm512_set1_ps(tile.alpha);
        for i in 0..R {
            let scale = _mm512_set1_ps(*strip.add(i * ROW + KC));
            for j in 0..2 {
                let new = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][j]), _mm512_mul_ps(scale, scales[j]));
                if whole {
                    let (c, new) = (tile.c.add(i * tile.stride + j * 16), _mm512_mul_ps(alpha, new));
                    _mm512_storeu_ps(c, if tile.add { _mm512_add_ps(_mm512_loadu_ps(c), new) } else { new });
                } else {
                    _mm512_storeu_ps(edge.as_mut_ptr().add(i * NR + j * 16), new);
                }
            }
        }
        if !whole {
            store(&edge[..R * NR], NR, tile);
        }
    }
    match tile.rows.div_ceil(4) {
        0 | 1 => rows::<4>(words, strip, panel, tile),
        2 => rows::<8>(words, strip, panel, tile),
        _ => rows::<12>(words, strip, panel, tile),
    }
}

/// `blocks` times 8 columns of `rows` rows to groups of `group`, with zeros behind the rows.
///
/// # Safety
/// Rows have 8·blocks columns or more; `out` has room for as many groups, of a multiple of 8 that is not below `rows`; the
/// CPU has AVX2.
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "vector loads and stores through pointers; the caller checks bounds")]
pub(super) unsafe fn transpose(
    out: *mut f32,
    group: usize,
    rows: usize,
    data: *const f32,
    stride: usize,
    blocks: usize,
) {
    for block in 0..blocks {
        let (data, out) = (data.add(8 * block), out.add(8 * block * group));
        for first in (0..group).step_by(8) {
            let row = |i: usize| match first + i < rows {
                true => _mm256_loadu_ps(data.add((first + i) * stride)),
                false => _mm256_setzero_ps(),
            };
            let pairs = [(0, 1), (2, 3), (4, 5), (6, 7)].map(|(a, b)| (row(a), row(b)));
            let [(a, b), (c, d), (e, f), (g, h)] =
                pairs.map(|(a, b)| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)));
            let quads = [(a, c, e, g), (b, d, f, h)];
            for (i, (a, c, e, g)) in quads.into_iter().enumerate() {
                let low = (_mm256_shuffle_ps(a, c, 0x44), _mm256_shuffle_ps(e, g, 0x44));
                let high = (_mm256_shuffle_ps(a, c, 0xEE), _mm256_shuffle_ps(e, g, 0xEE));
                for (j, (x, y)) in [low, high].into_iter().enumerate() {
                    let column = out.add((2 * i + j) * group + first);
                    _mm256_storeu_ps(column, _mm256_permute2f128_ps(x, y, 0x20));
                    _mm256_storeu_ps(column.add(4 * group), _mm256_permute2f128_ps(x, y, 0x31));
                }
            }
        }
    }
}
