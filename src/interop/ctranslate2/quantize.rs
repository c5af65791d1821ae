//! Weights as whole numbers and half floats, exactly as CTranslate2's converter makes them (`specs/model_spec.py`,
//! `LayerSpec._quantize`).
//!
//! - int8: a scale for each row, 127 / max |w|; values round(w · scale), ties to even. A row of zeros has the scale 1.
//! - int16: one scale for the matrix, 2¹⁰ / max |w|, so that products have 20 bits.
//! - A value is multiplied by the inverse of its scale when it is used.

use super::super::Dtype;

/// Of a matrix in 8 bits.
pub(super) struct Int8 {
    pub(super) values: Vec<i8>,
    /// One a row.
    pub(super) scales: Vec<f32>,
}

/// Of `values` in rows of `width`.
pub(super) fn int8(values: &[f32], width: usize) -> Int8 {
    let mut result = Int8 { values: Vec::with_capacity(values.len()), scales: Vec::new() };
    for row in values.chunks_exact(width.max(1)) {
        let largest = match largest(row) {
            0.0 => 127.0,
            // keeps the scale of tiny rows finite
            largest => largest.max(127.0 / f32::MAX),
        };
        let scale = 127.0 / largest;
        result.scales.push(scale);
        result.values.extend(row.iter().map(|value| (value * scale).round_ties_even() as i8));
    }
    result
}

/// Values and the scale of a matrix in 16 bits.
pub(super) fn int16(values: &[f32]) -> (Vec<i16>, f32) {
    let scale = 1024.0 / largest(values);
    (values.iter().map(|value| (value * scale).round_ties_even() as i16).collect(), scale)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// Whether matrices become whole numbers.
pub(super) fn is_whole(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Int8 | Dtype::Int16)
}
