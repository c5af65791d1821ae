//! Operands as bytes: four values of k to a word, each a multiple of a scale of its own row.
//!
//! A row x of the left operand becomes round(x/s) + 128 with s = max |x| / 127, in 8 bits without sign, and its scale
//! follows behind the words of a strip's row. A column of the right one becomes round(w/t) in 8 bits with sign; a panel
//! begins with a word for each column that corrects for the 128 (−128·Σ round(w/t), an integer) and one with its scale t.
//! Sums are integers, so that all processors find the same. This is how CTranslate2 and Marian multiply in int8
//! (Bhandare et al. 2019, arXiv:1906.00532, without their fixed thresholds).
//!
//! What is not finite makes its scale, and all that comes of it, NaN.

use super::{transposed, Mat};
use crate::ops::gemm::kernel::ROW;
use crate::ops::gemm::pack::KC;
use crate::ops::real::simd;
use std::mem::MaybeUninit;

/// Values of k in a word.
pub(in crate::ops::gemm) const DEPTH: usize = 4;

/// Words that a panel begins with, for each column.
pub(in crate::ops::gemm) const HEADER: usize = 2;

/// Largest byte.
const MOST: f32 = 127.0;

/// Packs the rows of `a` in rows as bytes, their scales behind; as `super::rows`.
pub(in crate::ops::gemm) fn rows(out: &mut [MaybeUninit<f32>], a: Mat<'_, f32>, words: usize) {
    assert!(words <= KC && out.len() >= a.rows * ROW, "room for fewer rows than those of the matrix");
    let mut room = Vec::new();
    let mut line = vec![0.0; words];
    for (i, out) in out.chunks_exact_mut(ROW).enumerate() {
        let scale = if i < a.rows { quantized(&mut line, row(a, i, &mut room), 0x80).0 } else { 0.0 };
        out[..words].iter_mut().zip(&line).for_each(|(out, &word)| *out = MaybeUninit::new(word));
        out[KC] = MaybeUninit::new(scale);
    }
}

/// Packs the rows of `a` in strips of `N` as bytes, each behind its [`HEADER`]; as `super::steps`.
pub(in crate::ops::gemm) fn panels<const N: usize>(out: &mut [MaybeUninit<f32>], a: Mat<'_, f32>, words: usize) {
    let size = N * (HEADER + words);
    assert_eq!(out.len(), a.rows.div_ceil(N) * size, "room for other panels than those of the matrix");
    let mut room = Vec::new();
    let mut lines = vec![0.0; N.min(a.rows) * words];
    for (s, out) in out.chunks_exact_mut(size).enumerate() {
        let a = a.part(s * N, N.min(a.rows - s * N), 0, a.columns);
        let (header, bytes) = out.split_at_mut(N * HEADER);
        header.fill(MaybeUninit::new(0.0));
        for (i, line) in lines.chunks_exact_mut(words).take(a.rows).enumerate() {
            let (scale, sum) = quantized(line, row(a, i, &mut room), 0);
            header[i] = MaybeUninit::new(f32::from_bits((-128 * sum) as u32));
            header[N + i] = MaybeUninit::new(scale);
        }
        transposed(bytes, N, a.rows, &lines, words, words);
    }
}

/// Row `i`, gathered where its values are not side by side.
fn row<'a>(a: Mat<'a, f32>, i: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
    if a.column_stride == 1 {
        return a.row(i);
    }
    room.clear();
    room.extend((0..a.columns).map(|k| a.data[i * a.row_stride + k * a.column_stride]));
    room
}

/// Fills `words` with the bytes of a row, their bits changed by `flip`, and zeros behind; returns the scale and Σ of bytes.
fn quantized(words: &mut [f32], row: &[f32], flip: u8) -> (f32, i32) {
    let mut bytes = [0u8; DEPTH * KC];
    let bytes = &mut bytes[..DEPTH * words.len()];
    let found = to_bytes(&mut bytes[..row.len()], row, flip);
    let quads = bytes.as_chunks::<DEPTH>().0;
    words.iter_mut().zip(quads).for_each(|(word, &quad)| *word = f32::from_bits(u32::from_le_bytes(quad)));
    found
}

simd! {
    fn to_bytes(bytes: &mut [u8], row: &[f32], flip: u8) -> (f32, i32) {
        /// 1.5·2²³: adding it rounds to the nearest integer, ties to even, which is then in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let mut lanes = [0u32; 32];
        let (blocks, rest) = row.as_chunks::<32>();
        // magnitudes of floats are ordered as their bits are, and what is not finite is above all
        let magnitude = |x: f32| x.to_bits() & 0x7FFF_FFFF;
        for block in blocks {
            for i in 0..32 {
                lanes[i] = lanes[i].max(magnitude(block[i]));
            }
        }
        let most = rest.iter().map(|&x| magnitude(x)).chain(lanes).max().unwrap_or_default();
        let most = f32::from_bits(most);
        let scale = most / MOST;
        // denormals are nothing
        let factor = if most < f32::MIN_POSITIVE * MOST { 0.0 } else { 1.0 / scale };
        let mut sum = 0i32;
        for (byte, &x) in bytes.iter_mut().zip(row) {
            let value = (x * factor + ROUND).to_bits() as i8;
            sum += i32::from(value);
            *byte = value as u8 ^ flip;
        }
        (if most.is_finite() { scale } else { f32::NAN }, sum)
    }
}
