//! Keeping H ≈ S^(−1/2) current while S ← (1 − β)·S + β·Y·Yᵀ, by a correction of rank 2c in product form.
//!
//! With Z = H·Y (n × c), γ = β/(1 − β), M = ZᵀZ, 𝒜 = (γ/4)·(I + ⅝·γ·M)⁻¹, W = H·Z:
//!
//! ```text
//! H⁺ = (I − Z𝒜Zᵀ) H (I − Z𝒜Zᵀ) / √(1 − β)
//!    = [H − Z𝒜Wᵀ − W𝒜Zᵀ + Z𝒜(ZᵀW)𝒜Zᵀ] / √(1 − β)
//!    = [H − V Xᵀ − X Vᵀ] / √(1 − β)      V = Z𝒜, X = W − ½·V·(ZᵀW)
//! ```
//!
//! I − Z𝒜Zᵀ ⪰ 0.6·I, so H stays positive definite whatever Z is. To first order in β the fixed point is S^(−1/2); the
//! error of the direction (i, j) shrinks by β·(hᵢ + hⱼ)²/(4hᵢhⱼ) a step, so it is stable while β·κ(H)/4 < 2, which
//! damping sees to. Product form: Goldfarb 1976 and PSGD (Li 2018) have corrections of this kind; this one is derived in
//! the project's notes. Only matrix products, and one inverse of c × c.

use crate::ops::Real;
use crate::optim::matrix::{product, Matrix};
use crate::optim::small::Cholesky;

/// Corrects H (n × n, symmetric) with `z` = Zᵀ (c × n). Returns whether it could: `false` leaves H as it was.
pub(super) fn correct<T: Real>(h: &mut Matrix<T>, z: Matrix<T>, beta: f64) -> bool {
    let c = z.rows;
    let gamma = beta / (1.0 - beta);
    let gram = product(z.view(), z.t());
    let mut damped: Vec<f64> = gram.data.iter().map(|m| 0.625 * gamma * m.to_f64()).collect();
    damped.iter_mut().step_by(c + 1).for_each(|m| *m += 1.0);
    let Some(inverse) = Cholesky::new(c, &damped).map(|cholesky| cholesky.inverse()) else { return false };
    let mut a = Matrix::from_f64(c, c, &inverse);
    a.scale(gamma / 4.0);

    let mut x = product(z.view(), h.view());
    let v = product(a.view(), z.view());
    let zw = product(z.view(), x.t());
    x.add_product(-0.5, zw.view(), v.view());
    let (vx, xv) = (v.clone().above(&x), x.above(&v));
    h.add_product(-1.0, vx.t(), xv.view());
    // each time: the antisymmetric part of the rounding grows geometrically otherwise
    h.symmetrize(1.0 / (1.0 - beta).sqrt());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose};

    #[test]
    fn it_is_the_product_form() {
        let (n, c, beta) = (9, 3, 0.1);
        let mut rng = stream(1, Purpose::Probe, 0);
        let mut draw = |rows: usize, columns: usize| -> Matrix<f64> {
            let values: Vec<f64> = (0..rows * columns).map(|_| rng.normal()).collect();
            Matrix::from_f64(rows, columns, &values)
        };
        let root = draw(n, n);
        let mut h = product(root.view(), root.t());
        let z = draw(c, n);
        // (I − Z𝒜Zᵀ) with 𝒜 by Neumann's series is too slow here: invert by Cholesky of the same matrix
        let gamma: f64 = beta / (1.0 - beta);
        let gram = product(z.view(), z.t());
        let mut damped: Vec<f64> = gram.data.iter().map(|m| 0.625 * gamma * m).collect();
        (0..c).for_each(|i| damped[i * c + i] += 1.0);
        let a = Matrix::from_f64(c, c, &Cholesky::new(c, &damped).expect("positive definite").inverse());
        let az: Matrix<f64> = product(a.view(), z.view());
        let mut left = Matrix::zeros(n, n);
        left.set_identity(1.0);
        left.add_product(-gamma / 4.0, z.t(), az.view());
        let mut expected = product(product(left.view(), h.view()).view(), left.view());
        expected.scale(1.0 / (1.0 - beta).sqrt());
        assert!(correct(&mut h, z, beta));
        for (got, expected) in h.data.iter().zip(&expected.data) {
            assert!((got - expected).abs() < 1e-10 * expected.abs().max(1.0), "{got} {expected}");
        }
    }

    /// H tracks the inverse root of a covariance it only sees through samples.
    #[test]
    fn it_finds_the_inverse_square_root_of_a_covariance() {
        let (n, c, beta) = (16, 8, 0.02);
        let mut rng = stream(2, Purpose::Probe, 0);
        // S = diag(s) with a condition of 100
        let s: Vec<f64> = (0..n).map(|i| 100f64.powf(i as f64 / (n - 1) as f64)).collect();
        let mut h: Matrix<f64> = Matrix::zeros(n, n);
        h.set_identity(0.1);
        for t in 0..2000 {
            let mut y: Matrix<f64> = Matrix::zeros(c, n);
            for row in y.rows_mut() {
                row.iter_mut().zip(&s).for_each(|(y, s)| *y = rng.normal() * (s / c as f64).sqrt());
            }
            let z = product(y.view(), h.view());
            assert!(correct(&mut h, z, f64::max(beta, 1.0 / (t as f64 + 2.0))));
        }
        // the noise of sampling is about √(β/c) an entry
        for (i, s) in s.iter().enumerate() {
            let gain = h.row(i)[i] * s.sqrt();
            assert!((0.85..1.25).contains(&gain), "{i}: {gain}");
        }
    }

    #[test]
    fn it_stays_positive_definite_under_huge_corrections() {
        let mut h: Matrix<f32> = Matrix::zeros(2, 2);
        h.set_identity(1.0);
        for _ in 0..20 {
            let z = Matrix::from_f64(1, 2, &[1e4, -3e3]);
            assert!(correct(&mut h, z, 0.3));
        }
        let (a, b, d) = (h.data[0], h.data[1], h.data[3]);
        assert!(a > 0.0 && a * d > b * b, "{h:?}");
    }
}
