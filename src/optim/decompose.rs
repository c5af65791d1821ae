//! Eigenvectors of small dense matrices by `faer`, always on the calling thread, so that results do not depend on threads
//! and callers may run many at once.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{self, ComputeEigenvectors};
use faer::traits::ext::ComplexFieldExt;
use faer::{Mat, MatRef, Par};

/// f32 or f64.
pub(super) trait Field: faer::traits::RealField + Copy {}
impl Field for f32 {}
impl Field for f64 {}

/// Eigenvalues, descending, and eigenvectors of the symmetric matrix `a` (row-major `[n, n]`, its lower triangle is
/// read). The vectors are the columns of a row-major `[n, n]`. `None` without convergence, as with NaN inside.
pub(super) fn eigh<T: Field>(n: usize, a: &[T]) -> Option<(Vec<T>, Vec<T>)> {
    let lower = (0..n).flat_map(|i| &a[i * n..=i * n + i]);
    if !lower.into_iter().all(|x| x.is_finite()) {
        return None;
    }
    let (mut vectors, mut values) = (Mat::zeros(n, n), Diag::zeros(n));
    let scratch = evd::self_adjoint_evd_scratch::<T>(n, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let a = MatRef::from_row_major_slice(a, n, n);
    let u = Some(vectors.as_mut());
    evd::self_adjoint_evd(a, values.as_mut(), u, Par::Seq, stack, Default::default()).ok()?;
    let values = values.column_vector();
    let descending = (0..n).rev().map(|j| values[j]).collect();
    Some((descending, row_major(n, |i, j| vectors[(i, n - 1 - j)])))
}

fn row_major<T>(n: usize, element: impl Fn(usize, usize) -> T) -> Vec<T> {
    (0..n * n).map(|k| element(k / n, k % n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose};

    fn random(n: usize) -> Vec<f64> {
        let mut rng = stream(2, Purpose::Probe, n as u64);
        (0..n * n).map(|_| rng.normal()).collect()
    }

    /// Σₖ a[i, k]·b[k, j], with b given by element.
    fn product(n: usize, a: &[f64], b: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        row_major(n, |i, j| (0..n).map(|k| a[i * n + k] * b(k, j)).sum())
    }

    fn close(n: usize, got: &[f64], expected: impl Fn(usize, usize) -> f64) {
        for (k, x) in got.iter().enumerate() {
            assert!((x - expected(k / n, k % n)).abs() < 1e-10 * n as f64, "{n} {k}: {x}");
        }
    }

    fn identity(i: usize, j: usize) -> f64 {
        f64::from(u8::from(i == j))
    }

    #[test]
    fn eigenvectors_diagonalize_and_values_descend() {
        for n in [1, 2, 3, 16, 70, 150] {
            let b = random(n);
            let a = row_major(n, |i, j| b[i * n + j] + b[j * n + i]);
            let (values, v) = eigh(n, &a).unwrap();
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "{values:?}");
            let scaled = row_major(n, |i, j| v[i * n + j] * values[j]);
            close(n, &product(n, &scaled, |k, j| v[j * n + k]), |i, j| a[i * n + j]);
            close(n, &product(n, &v, |k, j| v[j * n + k]), identity);
        }
        let (values, _) = eigh(2, &[1.0f32, f32::NAN, 2.0, 1.0]).unwrap();
        assert!((values[0] - 3.0).abs() < 1e-6 && (values[1] + 1.0).abs() < 1e-6, "only the lower triangle is read");
        assert!(eigh(2, &[1.0, 0.0, f64::NAN, 1.0]).is_none());
    }
}
