//! Weights as whole numbers and half floats, exactly as CTranslate2's converter makes them (`specs/model_spec.py`,
//! `LayerSpec._quantize`).
//!
//! - int8: a scale for each row, 127 / max |w|; values round(w · scale), ties to even. A row of zeros has the scale 1.
//! - int16: one scale for the matrix, 2¹⁰ / max |w|, so that products have 20 bits. A matrix of zeros has the scale 1,
//!   where the converter writes ∞.
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
    let scale = match largest(values) {
        0.0 => 1.0,
        largest => 1024.0 / largest,
    };
    (values.iter().map(|value| (value * scale).round_ties_even() as i16).collect(), scale)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// Whether matrices become whole numbers.
pub(super) fn is_whole(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Int8 | Dtype::Int16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_have_a_scale_a_row_and_round_ties_to_even() {
        // 127 / 2 = 63.5: 1.0 is a tie between 63 and 64, 1/127 one between 0 and 1, 3/127 one between 1 and 2
        let rows = [2.0, -2.0, 1.0, 1.0 / 127.0, 0.0, 0.0, 0.0, 0.0, -0.5, 0.25, 0.0, 0.125];
        let found = int8(&rows, 4);
        assert_eq!(found.scales, [63.5, 1.0, 254.0]);
        assert_eq!(found.values, [127, -127, 64, 0, 0, 0, 0, 0, -127, 64, 0, 32]);
    }

    #[test]
    fn rows_of_tiny_values_keep_a_finite_scale() {
        let found = int8(&[1e-37, 0.0], 2);
        assert_eq!((found.scales[0], found.values[0]), (f32::MAX, 34));
    }

    #[test]
    fn sixteen_bits_have_one_scale_and_eleven_bits_with_the_sign() {
        assert_eq!(int16(&[0.5, -2.0, 1.0 / 1024.0, 3.0 / 1024.0]), (vec![256, -1024, 0, 2], 512.0));
        assert_eq!(int16(&[0.0; 3]), (vec![0; 3], 1.0));
    }
}
