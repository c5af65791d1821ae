//! The kernel of plain arrays, which every compiler makes vectors of: for processors without others, and the twin that
//! others are tested against.

use super::{store, Tile, ROW};
use crate::ops::gemm::pack::Words;
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
