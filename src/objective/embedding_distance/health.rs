//! How far a table is from collapse: effective rank and mean cosine of its rows.

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::ops::{dot, matmul, values, with_real, Mat, MatMut, Real, Store, Threads};
use crate::params::Param;

/// Numbers of one table; its frozen row (`<pad>`) does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableHealth {
    /// (Σσ²)² / Σσ⁴ over the singular values of the centred table: between 1 and its width.
    #[serde(with = "crate::exact")]
    pub effective_rank: f64,
    /// Mean cosine over all pairs of different rows.
    #[serde(with = "crate::exact")]
    pub mean_cosine: f64,
    /// Root of the mean square of the centred table's elements.
    #[serde(with = "crate::exact")]
    pub deviation: f64,
}

/// Measures a `[V, d]` table on the CPU: V·d² multiply-adds.
///
/// # Errors
/// When it is not contiguous, or neither f32 nor f64.
pub fn table_health(table: &Param) -> Result<TableHealth> {
    let (values, frozen) = (table.var.to_device(&Device::Cpu)?, table.frozen_row);
    with_real!(values, T => health::<T>(&values, frozen))
}

fn health<T: Real>(table: &Tensor, frozen: Option<usize>) -> Result<TableHealth> {
    let width = table.dim(1)?;
    let all = values::<T>(table)?;
    let rows = || all.chunks(width).enumerate().filter(|(i, _)| Some(*i) != frozen).map(|(_, row)| row);
    let n = rows().count();
    if n < 2 {
        return Ok(TableHealth::default());
    }
    let mut means = vec![0.0; width];
    let mut directions = vec![0.0; width];
    let mut units = 0.0;
    for row in rows() {
        let length = dot(row, row).to_f64().sqrt();
        let inverse = if length > 0.0 { 1.0 / length } else { 0.0 };
        units += if length > 0.0 { 1.0 } else { 0.0 };
        for ((mean, direction), x) in means.iter_mut().zip(&mut directions).zip(row) {
            *mean += x.to_f64();
            *direction += x.to_f64() * inverse;
        }
    }
    means.iter_mut().for_each(|mean| *mean /= n as f64);
    let together: f64 = directions.iter().map(|x| x * x).sum();
    let pairs = n as f64 * (n as f64 - 1.0);
    let centred: Vec<T> =
        rows().flat_map(|row| row.iter().zip(&means).map(|(x, mean)| T::from_f64(x.to_f64() - mean))).collect();
    let mut gram = vec![T::zero(); width * width];
    let x = Mat::new(&centred, n, width);
    matmul(MatMut::new(&mut gram, width, width), Store::Set, T::one(), x.t(), x, Threads::All);
    let trace: f64 = (0..width).map(|k| gram[k * width + k].to_f64()).sum();
    let squares: f64 = gram.iter().map(|x| x.to_f64() * x.to_f64()).sum();
    Ok(TableHealth {
        effective_rank: if squares > 0.0 { trace * trace / squares } else { 0.0 },
        mean_cosine: (together - units) / pairs,
        deviation: (trace / (n * width) as f64).sqrt(),
    })
}
