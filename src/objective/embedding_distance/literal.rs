//! `literal-math`: the distance of the document's §3.2 minimized over all pairs i < j of rows of one table.
//!
//! ```text
//! euclidean   mean ‖e_i − e_j‖        gradient  2/(m(m−1)) Σ_j (e_i − e_j)/‖e_i − e_j‖
//! cosine      mean (1 − ê_iᵀê_j)      gradient  that of ê_i is −2/(m(m−1)) (Σ_j ê_j − ê_i)
//! ```
//!
//! Its optimum is all rows equal: a demonstration, asked for by name. m rows are a random choice, because m² pairs of a
//! whole vocabulary are too many; the expectation is that of all pairs.

use rayon::prelude::*;

use super::bridge::Units;
use crate::config::DistanceMetric;
use crate::ops::{dot, Real};

/// Mean distance of all pairs of the `[m, width]` rows, and its gradient. The same result on any number of threads.
pub(super) fn all_pairs<T: Real>(rows: &[T], width: usize, metric: DistanceMetric) -> (f64, Vec<T>) {
    let mut gradient = vec![T::zero(); rows.len()];
    let m = rows.len() / width;
    if m < 2 {
        return (0.0, gradient);
    }
    let share = 2.0 / (m as f64 * (m as f64 - 1.0));
    let distance = match metric {
        DistanceMetric::Euclidean => euclidean(rows, width, share, &mut gradient),
        DistanceMetric::Cosine => cosine(rows, width, share, &mut gradient),
    };
    (distance, gradient)
}

fn euclidean<T: Real>(rows: &[T], width: usize, share: f64, gradient: &mut [T]) -> f64 {
    let sums: Vec<f64> = gradient
        .par_chunks_mut(width)
        .enumerate()
        .map(|(i, gradient)| {
            let row = &rows[i * width..(i + 1) * width];
            let (mut sum, mut difference) = (0.0, vec![T::zero(); width]);
            for other in rows.chunks(width) {
                for ((d, &a), &b) in difference.iter_mut().zip(row).zip(other) {
                    *d = a - b;
                }
                let length = dot(&difference, &difference).sqrt().to_f64();
                // equal rows have no direction, and a row has none to itself
                if length > 0.0 {
                    sum += length;
                    let factor = T::from_f64(share / length);
                    gradient.iter_mut().zip(&difference).for_each(|(g, &d)| *g += factor * d);
                }
            }
            sum
        })
        .collect();
    // each pair was met twice
    0.5 * share * sums.into_iter().sum::<f64>()
}

fn cosine<T: Real>(rows: &[T], width: usize, share: f64, gradient: &mut [T]) -> f64 {
    let units = Units::new(rows, width);
    let mut total = vec![0.0; width];
    for row in units.rows.chunks(width) {
        total.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f64());
    }
    let squares: f64 = total.iter().map(|x| x * x).sum();
    let own: f64 = units.rows.chunks(width).map(|row| dot(row, row).to_f64()).sum();
    let of_units: Vec<T> = units
        .rows
        .chunks(width)
        .flat_map(|row| row.iter().zip(&total).map(|(x, total)| T::from_f64(-share * (total - x.to_f64()))))
        .collect();
    units.reach(&of_units, gradient);
    1.0 - 0.5 * share * (squares - own)
}
