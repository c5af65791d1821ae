//! Rank-two corrections of an inverse: BFGS in blocks of directions, and the soft secant for measured pairs.
//!
//! Block BFGS (Goldfarb, Hennig; as a randomized matrix inverter: Gower & Richtárik 2017): with directions S (n × k) and
//! Y = A·S, P = (SᵀY)⁻¹,
//!
//! ```text
//! H⁺ = H + SPSᵀ + SP(YᵀHY)PSᵀ − (HY)PSᵀ − SP(HY)ᵀ      H⁺·Y = S, and positive definite if A is
//!    = H + V·Xᵀ + X·Vᵀ      V = SP, X = ½·(S + V·(YᵀHY)) − HY
//! ```
//!
//! Soft secant (derived in the project's notes; close to Berglund, Zhang & Johansson 2024): the minimum of the log-det
//! divergence to H plus (c/2)·(yᵀH⁺y + sᵀ(H⁺)⁻¹s), positive definite for every s and y, whatever the sign of sᵀy:
//!
//! ```text
//! N = H + (c/2)·ssᵀ,  q = yᵀNy,  α = (1 + √(1 + 2cq))/2,  H⁺ = N − (c/(2α²))·(Ny)(Ny)ᵀ
//! ```

use crate::ops::{dot, Real};
use crate::optim::matrix::{product, Matrix};
use crate::optim::small::Cholesky;

/// Corrects H with the directions `s` = Sᵀ and `y` = Yᵀ (k × n each). `false`, and H as it was, when SᵀY is not positive
/// definite.
pub(super) fn block_bfgs<T: Real>(h: &mut Matrix<T>, s: &Matrix<T>, y: &Matrix<T>) -> bool {
    let k = s.rows;
    let sy: Matrix<T> = product(s.view(), y.t());
    // symmetric but for rounding
    let mean: Vec<f64> =
        (0..k * k).map(|at| 0.5 * (sy.data[at].to_f64() + sy.data[at % k * k + at / k].to_f64())).collect();
    let Some(inverse) = Cholesky::new(k, &mean).map(|cholesky| cholesky.inverse()) else { return false };
    let hy = product(y.view(), h.view());
    let v = product(Matrix::from_f64(k, k, &inverse).view(), s.view());
    let mut x = s.clone();
    x.add_product(1.0, product(y.view(), hy.t()).t(), v.view());
    x.data.iter_mut().zip(&hy.data).for_each(|(x, &hy)| *x = T::from_f64(0.5) * *x - hy);
    let (vx, xv) = (v.clone().above(&x), x.above(&v));
    h.add_product(1.0, vx.t(), xv.view());
    // each time: without it f32 is destroyed after about 40 corrections
    h.symmetrize(1.0);
    true
}

/// Corrects H with one measured pair; `strength` = c·q, the weight of the pair against what H knew (10: nearly BFGS).
/// `false`, and H as it was, for pairs that carry nothing.
pub(super) fn soft_secant<T: Real>(h: &mut Matrix<T>, s: &[T], y: &[T], strength: f64) -> bool {
    let n = h.rows;
    let times = |h: &Matrix<T>| -> Vec<T> { h.rows().map(|row| dot(row, y)).collect() };
    let inner = |a: &[T], b: &[T]| dot(a, b).to_f64();
    // q depends on c through N: q = yᵀHy + (c/2)(sᵀy)², so c·q = strength is a quadratic for c
    let (yhy, sy) = (inner(&times(h), y), inner(s, y));
    let c =
        if sy * sy > 0.0 { ((yhy * yhy + 2.0 * sy * sy * strength).sqrt() - yhy) / (sy * sy) } else { strength / yhy };
    if !(c.is_finite() && c > 0.0 && yhy > 0.0) {
        return false;
    }
    let half = T::from_f64(0.5 * c);
    for (row, &si) in h.rows_mut().zip(s) {
        row.iter_mut().zip(s).for_each(|(h, &sj)| *h += half * si * sj);
    }
    let ny = times(h);
    let alpha = 0.5 * (1.0 + (1.0 + 2.0 * c * inner(&ny, y)).sqrt());
    let factor = T::from_f64(c / (2.0 * alpha * alpha));
    for (i, row) in h.data.chunks_exact_mut(n.max(1)).enumerate() {
        row.iter_mut().zip(&ny).for_each(|(h, &nyj)| *h -= factor * ny[i] * nyj);
    }
    h.symmetrize(1.0);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose, Stream};

    fn draw(rng: &mut Stream, rows: usize, columns: usize) -> Matrix<f64> {
        let values: Vec<f64> = (0..rows * columns).map(|_| rng.normal()).collect();
        Matrix::from_f64(rows, columns, &values)
    }

    fn identity(n: usize) -> Matrix<f64> {
        let mut h = Matrix::zeros(n, n);
        h.set_identity(1.0);
        h
    }

    #[test]
    fn block_bfgs_satisfies_the_secant_equation_and_inverts() {
        let (n, k) = (12, 3);
        let mut rng = stream(4, Purpose::Probe, 0);
        let root = draw(&mut rng, n, n);
        let mut a = product(root.view(), root.t());
        (0..n).for_each(|i| a.data[i * n + i] += 1.0);
        let mut h = identity(n);
        for round in 0..300 {
            let s = draw(&mut rng, k, n);
            let y = product(s.view(), a.view());
            assert!(block_bfgs(&mut h, &s, &y));
            let back = product(y.view(), h.view());
            if round < 3 {
                back.data.iter().zip(&s.data).for_each(|(b, s)| assert!((b - s).abs() < 1e-8 * (1.0 + s.abs())));
            }
        }
        let unit = product(h.view(), a.view());
        for i in 0..n {
            for j in 0..n {
                assert!((unit.row(i)[j] - f64::from(u8::from(i == j))).abs() < 1e-6, "{i} {j} {}", unit.row(i)[j]);
            }
        }
    }

    #[test]
    fn f32_survives_1500_corrections() {
        let (n, k) = (24, 8);
        let mut rng = stream(5, Purpose::Probe, 0);
        let root = draw(&mut rng, n, n);
        let a64 = product(root.view(), root.t());
        let mut a: Matrix<f32> = Matrix::from_f64(n, n, &a64.data);
        (0..n).for_each(|i| a.data[i * n + i] += 2.0);
        let mut h: Matrix<f32> = Matrix::zeros(n, n);
        h.set_identity(0.05);
        for _ in 0..1500 {
            let s: Matrix<f32> = Matrix::from_f64(k, n, &draw(&mut rng, k, n).data);
            let y = product(s.view(), a.view());
            assert!(block_bfgs(&mut h, &s, &y));
        }
        let unit = product(h.view(), a.view());
        for i in 0..n {
            for j in 0..n {
                assert!((unit.row(i)[j] - f32::from(u8::from(i == j))).abs() < 1e-3);
            }
        }
    }

    /// Stationarity: H⁺ + (c/2)·(H⁺y)(H⁺y)ᵀ = H + (c/2)·ssᵀ, and H⁺ is positive definite even for sᵀy < 0.
    #[test]
    fn the_soft_secant_is_stationary_and_positive_definite_for_negative_curvature() {
        let n = 6;
        let mut rng = stream(6, Purpose::Probe, 0);
        for round in 0..20 {
            let root = draw(&mut rng, n, n);
            let mut h = product(root.view(), root.t());
            (0..n).for_each(|i| h.data[i * n + i] += 0.1);
            let before = h.clone();
            let (s, y) = (draw(&mut rng, 1, n).data, draw(&mut rng, 1, n).data);
            let strength = 10.0;
            assert!(soft_secant(&mut h, &s, &y, strength), "{round}");
            assert!(Cholesky::new(n, &h.data).is_some(), "positive definite");
            let hy: Vec<f64> = h.rows().map(|row| dot(row, &y)).collect();
            let (yhy, sy): (f64, f64) = (before.rows().zip(&y).map(|(row, y0)| dot(row, &y) * y0).sum(), dot(&s, &y));
            let c = ((yhy * yhy + 2.0 * sy * sy * strength).sqrt() - yhy) / (sy * sy);
            for i in 0..n {
                for j in 0..n {
                    let left = h.row(i)[j] + 0.5 * c * hy[i] * hy[j];
                    let right = before.row(i)[j] + 0.5 * c * s[i] * s[j];
                    assert!((left - right).abs() < 1e-8 * (1.0 + right.abs()), "{left} {right}");
                }
            }
        }
    }

    /// c → ∞ gives BFGS with y turned towards s.
    #[test]
    fn a_strong_soft_secant_is_bfgs() {
        let n = 5;
        let mut rng = stream(7, Purpose::Probe, 0);
        let (s, y) = (draw(&mut rng, 1, n), draw(&mut rng, 1, n));
        let mut soft = identity(n);
        assert!(soft_secant(&mut soft, &s.data, &y.data, 1e9));
        let mut turned = y.clone();
        turned.scale(dot(&s.data, &y.data).signum());
        let mut hard = identity(n);
        assert!(block_bfgs(&mut hard, &s, &turned));
        for (a, b) in soft.data.iter().zip(&hard.data) {
            assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{a} {b}");
        }
    }
}
