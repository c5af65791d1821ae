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

use candle_core::Result;

use crate::optim::algebra::{Mats, Number};

/// Corrects H (n × n, symmetric) with `z` = Zᵀ (c × n). β = 0 leaves H as it is; NaN or infinity in `z` or H stay there.
pub(super) fn correct<M: Mats>(h: &mut M, z: &M, beta: &M::Number) -> Result<()> {
    if beta.surely(0.0) {
        return Ok(());
    }
    let gamma = beta.clone() / beta.clone().rest();
    let one = beta.clone() * 0.0 + 1.0;
    let mut a = M::product(z.view(), z.t())?.inverse(&(gamma.clone() * 0.625), &one)?;
    a.scale(&(gamma / 4.0))?;

    let mut x = M::product(z.view(), h.view())?;
    let v = M::product(a.view(), z.view())?;
    let zw = M::product(z.view(), x.t())?;
    x.add_product(-0.5, zw.view(), v.view())?;
    let (vx, xv) = (v.copy()?.above(&x)?, x.above(&v)?);
    // symmetric to the bit: an antisymmetric part of the rounding would grow geometrically
    h.add_symmetric(-1.0, vx.t(), xv.view())?;
    h.scale(&beta.clone().rest().sqrt().recip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Cholesky;
    use crate::optim::algebra::{Batch, Matrix, Place};
    use crate::rng::{stream, Purpose};
    use candle_core::{DType, Device};

    fn draw<M: Mats>(seed: u64, count: usize, [rows, columns]: [usize; 2]) -> Result<M> {
        let mut rng = stream(seed, Purpose::Probe, 0);
        M::from_values((0..count * rows * columns).map(|_| rng.normal()).collect(), [rows, columns], &Place::cpu())
    }

    fn list<M: Mats>(m: &M, member: usize) -> Result<Vec<f64>> {
        m.to_tensor(member)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
    }

    #[test]
    fn it_is_the_product_form() -> Result<()> {
        let (n, c, beta) = (9, 3, 0.1);
        let root: Matrix<f64> = draw(1, 1, [n, n])?;
        let mut h = Matrix::product(root.view(), root.t())?;
        let z: Matrix<f64> = draw(2, 1, [c, n])?;
        // I − Z𝒜Zᵀ written out
        let gamma: f64 = beta / (1.0 - beta);
        let mut damped = list(&Matrix::product(z.view(), z.t())?, 0)?;
        damped
            .iter_mut()
            .enumerate()
            .for_each(|(i, m)| *m = 0.625 * gamma * *m + f64::from(u8::from(i % (c + 1) == 0)));
        let inverse = Cholesky::new(c, &damped).expect("positive definite").inverse();
        let a: Matrix<f64> = Matrix::from_values(inverse, [c, c], &Place::cpu())?;
        let mut left: Matrix<f64> = Matrix::start(crate::optim::algebra::Start::Identity, 1, [n, n], &Place::cpu())?;
        left.add_product(-gamma / 4.0, z.t(), Matrix::product(a.view(), z.view())?.view())?;
        let expected = Matrix::product(Matrix::product(left.view(), h.view())?.view(), left.view())?;
        let expected = list(&expected.times((1.0 - beta).powf(-0.5))?, 0)?;
        correct(&mut h, &z, &beta)?;
        for (got, expected) in list(&h, 0)?.iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-10 * expected.abs().max(1.0), "{got} {expected}");
        }
        Ok(())
    }

    #[test]
    fn each_of_a_batch_is_corrected_as_alone_and_nothing_by_0() -> Result<()> {
        let (n, c, betas) = (9, 4, [0.3, 0.0, 0.02]);
        let root: Batch = draw(3, 3, [n, n])?;
        let mut all = Batch::product(root.view(), root.t())?;
        let before = all.copy()?;
        let z: Batch = draw(4, 3, [c, n])?;
        correct(&mut all, &z, &Number::from_values(&betas, &Device::Cpu)?)?;
        for (i, beta) in betas.iter().enumerate() {
            let one = |m: &Batch| Matrix::<f64>::from_tensors(vec![m.to_tensor(i)?], &Place::cpu());
            let (mut h, z) = (one(&before)?, one(&z)?);
            correct(&mut h, &z, beta)?;
            for (got, expected) in list(&all, i)?.iter().zip(list(&h, 0)?) {
                assert!((got - expected).abs() < 1e-10 * expected.abs().max(1.0), "{i}: {got} {expected}");
            }
        }
        Ok(())
    }

    /// H tracks the inverse root of a covariance it only sees through samples, in f32 as in f64.
    fn finds_a_root<M: Mats>(place: &Place) -> Result<()> {
        let (n, c, beta) = (16, 8, 0.02);
        let mut rng = stream(2, Purpose::Probe, 0);
        // S = diag(s) with a condition of 100
        let s: Vec<f64> = (0..n).map(|i| 100f64.powf(i as f64 / (n - 1) as f64)).collect();
        let mut h = M::start(crate::optim::algebra::Start::Identity, 1, [n, n], place)?.times(0.1)?;
        for t in 0..2000 {
            let y = (0..c * n).map(|at| rng.normal() * (s[at % n] / c as f64).sqrt()).collect();
            let z = M::product(M::from_values(y, [c, n], place)?.view(), h.view())?;
            correct(&mut h, &z, &Number::from_values(&[f64::max(beta, 1.0 / (f64::from(t) + 2.0))], &place.device)?)?;
        }
        // the noise of sampling is about √(β/c) an entry
        let h = list(&h, 0)?;
        for (i, s) in s.iter().enumerate() {
            let gain = h[i * n + i] * s.sqrt();
            assert!((0.8..1.3).contains(&gain), "{i}: {gain}");
        }
        Ok(())
    }

    #[test]
    fn it_finds_the_inverse_square_root_of_a_covariance() -> Result<()> {
        finds_a_root::<Matrix<f64>>(&Place::cpu())?;
        finds_a_root::<Matrix<f32>>(&Place { dtype: DType::F32, ..Place::cpu() })?;
        finds_a_root::<Batch>(&Place { dtype: DType::F32, ..Place::cpu() })
    }

    #[test]
    fn it_stays_positive_definite_under_huge_corrections() -> Result<()> {
        let place = Place { dtype: DType::F32, ..Place::cpu() };
        let mut h: Matrix<f32> = Matrix::start(crate::optim::algebra::Start::Identity, 1, [2, 2], &place)?;
        for _ in 0..20 {
            correct(&mut h, &Matrix::from_values(vec![1e4, -3e3], [1, 2], &place)?, &0.3)?;
        }
        let h = list(&h, 0)?;
        assert!(h[0] > 0.0 && h[0] * h[3] > h[1] * h[2], "{h:?}");
        Ok(())
    }
}
