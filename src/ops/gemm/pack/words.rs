//! How values become the words of packed operands: one each, or pairs rounded to bf16.
//!
//! A pair has the earlier value of k in its low half. Rounding is to nearest, ties to even; NaN stays NaN.

use super::super::Mat;
use crate::ops::real::{simd, Real};
use std::mem::MaybeUninit;

/// What a word holds.
pub(in crate::ops::gemm) trait Words<T: Real> {
    /// Values of k in a word: 1 or 2.
    const DEPTH: usize;

    /// The words of a row whose values of k are side by side; zeros behind them.
    fn along(out: &mut [MaybeUninit<T>], row: &[T]);

    /// The words of one step, of rows whose values are `first` and (at depth 2) `second`, both all or none of them there.
    /// Put into `room` unless they are there as they are.
    fn across<'a>(first: &'a [T], second: &'a [T], room: &'a mut [T]) -> &'a [T];

    /// Room for so many words, for [`Words::across`] and [`Words::lines`].
    fn room(words: usize) -> Vec<T>;

    /// `words` words of each row of a matrix of dense rows, and how far the rows are apart.
    fn lines<'a>(a: Mat<'a, T>, words: usize, room: &'a mut [T]) -> (&'a [T], usize);

    /// Σ of the products of the values in two words.
    fn product(a: T, b: T) -> T;
}

/// One value.
pub(in crate::ops::gemm) struct Single;

impl<T: Real> Words<T> for Single {
    const DEPTH: usize = 1;

    fn along(out: &mut [MaybeUninit<T>], row: &[T]) {
        let (values, rest) = out.split_at_mut(row.len());
        values.iter_mut().zip(row).for_each(|(out, &value)| *out = MaybeUninit::new(value));
        rest.fill(MaybeUninit::new(T::zero()));
    }

    fn across<'a>(first: &'a [T], _: &'a [T], _: &'a mut [T]) -> &'a [T] {
        first
    }

    fn room(_: usize) -> Vec<T> {
        Vec::new()
    }

    fn lines<'a>(a: Mat<'a, T>, _: usize, _: &'a mut [T]) -> (&'a [T], usize) {
        (a.data, a.row_stride)
    }

    fn product(a: T, b: T) -> T {
        a * b
    }
}

/// Two values as bf16 in the bits of an f32.
pub(in crate::ops::gemm) struct Pairs;

impl Words<f32> for Pairs {
    const DEPTH: usize = 2;

    fn along(out: &mut [MaybeUninit<f32>], row: &[f32]) {
        along(out, row);
    }

    fn across<'a>(first: &'a [f32], second: &'a [f32], room: &'a mut [f32]) -> &'a [f32] {
        across(first, second, room);
        room
    }

    fn room(words: usize) -> Vec<f32> {
        vec![0.0; words]
    }

    fn lines<'a>(a: Mat<'a, f32>, words: usize, room: &'a mut [f32]) -> (&'a [f32], usize) {
        for (i, words_of_row) in room.chunks_exact_mut(words).take(a.rows).enumerate() {
            line(words_of_row, a.row(i));
        }
        (room, words)
    }

    #[inline(always)]
    fn product(a: f32, b: f32) -> f32 {
        let (low, high) = (|x: f32| f32::from_bits(x.to_bits() << 16), |x: f32| f32::from_bits(x.to_bits() & HIGH));
        high(a) * high(b) + low(a) * low(b)
    }
}

/// The half of a word that holds the later value.
const HIGH: u32 = 0xFFFF_0000;

/// A pair of values, each rounded to bf16.
#[inline(always)]
fn pair(first: f32, second: f32) -> f32 {
    /// bf16 in the upper half; the lower half is anything.
    #[inline(always)]
    fn rounded(x: f32) -> u32 {
        let bits = x.to_bits();
        let even = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
        // the carry of a NaN could make it infinite
        let nan = bits | 0x40_0000;
        if x.is_nan() {
            nan
        } else {
            even
        }
    }
    f32::from_bits((rounded(first) >> 16) | (rounded(second) & HIGH))
}

/// Fills `out` with the words of a row, and zeros behind them.
#[inline(always)]
fn words_of<O>(out: &mut [O], row: &[f32], make: impl Fn(f32) -> O) {
    let (pairs, odd) = row.as_chunks::<2>();
    let (words, rest) = out.split_at_mut(pairs.len());
    words.iter_mut().zip(pairs).for_each(|(word, &[a, b])| *word = make(pair(a, b)));
    rest.iter_mut().for_each(|word| *word = make(0.0));
    if let (Some(word), &[a]) = (rest.first_mut(), odd) {
        *word = make(pair(a, 0.0));
    }
}

simd! {
    fn along(out: &mut [MaybeUninit<f32>], row: &[f32]) {
        words_of(out, row, MaybeUninit::new);
    }
}

simd! {
    fn line(out: &mut [f32], row: &[f32]) {
        words_of(out, row, |word| word);
    }
}

simd! {
    /// The words of two steps, or of one that is the last.
    fn across(first: &[f32], second: &[f32], words: &mut [f32]) {
        if second.is_empty() {
            words.fill(0.0);
            words.iter_mut().zip(first).for_each(|(word, &a)| *word = pair(a, 0.0));
        } else {
            words.iter_mut().zip(first.iter().zip(second)).for_each(|(word, (&a, &b))| *word = pair(a, b));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_to_the_nearest_bf16_and_ties_to_even() {
        let low = |x: f32| f32::from_bits(pair(x, 0.0).to_bits() << 16);
        let high = |x: f32| f32::from_bits(pair(0.0, x).to_bits() & HIGH);
        let nan = f32::from_bits(0x7F80_0001);
        for half in [low, high] {
            for x in [0.0, -0.0, 1.0, -3.5, 1e-39, 1e38, f32::MAX, f32::INFINITY, 1.003_906_2, 1.011_718_8, -7.123e-5] {
                assert_eq!(half(x).to_bits(), half::bf16::from_f32(x).to_f32().to_bits(), "{x}");
            }
            assert!(half(nan).is_nan() && half(-nan).is_nan() && half(f32::NAN).is_nan());
        }
    }
}
