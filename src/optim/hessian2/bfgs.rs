//! Rank-two corrections of an inverse: BFGS in blocks of directions.
//!
//! Block BFGS (Goldfarb, Hennig; as a randomized matrix inverter: Gower & Richtárik 2017): with directions S (n × k) and
//! Y = A·S, P = (SᵀY)⁻¹,
//!
//! ```text
//! H⁺ = H + SPSᵀ + SP(YᵀHY)PSᵀ − (HY)PSᵀ − SP(HY)ᵀ      H⁺·Y = S, and positive definite if A is
//!    = H + V·Xᵀ + X·Vᵀ      V = SP, X = ½·(S + V·(YᵀHY)) − HY
//! ```

use crate::ops::Real;
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
}
