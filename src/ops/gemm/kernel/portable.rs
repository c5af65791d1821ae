//! The kernel of plain arrays, which every compiler makes vectors of: for processors without others, and the twin that
//! others are tested against.

use super::{store, Tile, ROW};
use crate::ops::gemm::pack::{bytes::DEPTH, Words, KC};
use crate::ops::real::Real;

pub(super) const MR: usize = 4;
pub(super) const NR: usize = 8;

/// # Safety
/// As [`super::Run`] says.
#[expect(unsafe_code, reason = "the caller keeps Run's promise")]
pub(super) unsafe fn rows<T: Real, W: Words<T>>(words: usize, strip: *const T, panel: *const T, tile: Tile<T>) {
    run::<T, W, ROW, 1>(words, strip, panel, tile);
}

/// # Safety
/// As [`super::Run`] says.
#[expect(unsafe_code, reason = "the caller keeps Run's promise")]
pub(super) unsafe fn steps<T: Real, W: Words<T>>(words: usize, strip: *const T, panel: *const T, tile: Tile<T>) {
    run::<T, W, 1, MR>(words, strip, panel, tile);
}

#[expect(
    unsafe_code,
    reason = "reads packed buffers and writes tiles through pointers; the callers keep Run's promise"
)]
unsafe fn run<T: Real, W: Words<T>, const BY_ROW: usize, const BY_STEP: usize>(
    words: usize,
    strip: *const T,
    panel: *const T,
    tile: Tile<T>,
) {
    let mut sums = [[T::zero(); NR]; MR];
    for k in 0..words {
        let b: [T; NR] = std::array::from_fn(|j| *panel.add(k * NR + j));
        for (i, sums) in sums.iter_mut().enumerate() {
            let a = *strip.add(i * BY_ROW + k * BY_STEP);
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += W::product(a, b));
        }
    }
    store(sums.as_flattened(), NR, tile);
}

/// Of bytes, see `pack/bytes`.
///
/// # Safety
/// As [`super::Run`] says.
#[expect(
    unsafe_code,
    reason = "reads packed buffers and writes tiles through pointers; the caller keeps Run's promise"
)]
pub(super) unsafe fn bytes(words: usize, strip: *const f32, panel: *const f32, tile: Tile<f32>) {
    let word = |i: usize, k: usize| (*strip.add(i * ROW + k)).to_bits().to_le_bytes();
    let (scales, columns) = (panel.add(NR), panel.add(2 * NR));
    let mut sums = [[0.0; NR]; MR];
    for (i, sums) in sums.iter_mut().enumerate() {
        let mut integers: [i32; NR] = std::array::from_fn(|j| (*panel.add(j)).to_bits() as i32);
        for k in 0..words {
            let a = word(i, k);
            for (j, sum) in integers.iter_mut().enumerate() {
                let b = (*columns.add(k * NR + j)).to_bits().to_le_bytes();
                *sum += (0..DEPTH).map(|d| i32::from(a[d]) * i32::from(b[d] as i8)).sum::<i32>();
            }
        }
        let scale = *strip.add(i * ROW + KC);
        *sums = std::array::from_fn(|j| integers[j] as f32 * (scale * *scales.add(j)));
    }
    store(sums.as_flattened(), NR, tile);
}
