//! Inverses of I + P, P positive semi-definite, or of S with a known condition, for a batch of matrices and by products
//! alone: a Newton–Schulz iteration whose steps are scaled for eigenvalues between 1 and a bound, so that none is read back.
//!
//! ```text
//! S = I + P,  b = ‖S‖_F ≥ λmax(S):  the eigenvalues of S/b lie in (1/b, 1]
//! for eigenvalues in [1/K, 1], K = 10⁷:  X₀ = 2/(1 + 1/K)·I/b,  e₀ = (K − 1)/(K + 1),  |1 − λ(X₀·S)| ≤ e₀
//! X ← μ·X·(2·I − S·X),  μ = 2/(2 − e²),  e ← e²/(2 − e²)          16 times: e < 10⁻¹²
//! ```
//!
//! μ puts the interval that x·(2 − x) leaves, [1 − e², 1], around 1 again: 1 − e grows fourfold a step at first where the
//! plain iteration doubles it. An eigenvalue below 1/K can not make it diverge: x·(2 − x) stays positive for x in (0, 2),
//! so X remains positive definite and comes out smaller than the inverse in that direction. As b is at most √c times the
//! largest eigenvalue, all is exact to rounding up to a condition of K/√c. In f64: c is some tens, and f32 has nothing left
//! for conditions of 10⁶.
//!
//! Launches: 9 and 4 a step.

use candle_core::{DType, Result, Tensor};

/// The largest b that the iteration is made for.
const BOUND: f64 = 1e7;
/// Where e is nothing.
const ENOUGH: f64 = 1e-12;

/// (I + P)⁻¹ of `p` `[n, c, c]`, in f64; `eye` is I `[1, c, c]` in f64. What holds NaN or infinity comes out so.
pub(super) fn shifted_inverse(p: &Tensor, eye: &Tensor) -> Result<Tensor> {
    inverse(&p.to_dtype(DType::F64)?.broadcast_add(eye)?, eye, BOUND)
}

/// S⁻¹ of `s` `[n, c, c]`, symmetric and positive definite, in f64, with eigenvalues of ‖S‖_F/`condition` at least: the
/// same, with that for K. Of 0 it is NaN.
pub(super) fn inverse(s: &Tensor, eye: &Tensor, condition: f64) -> Result<Tensor> {
    let bound = s.sqr()?.sum_keepdim(2)?.sum_keepdim(1)?.sqrt()?;
    let mut x = eye.broadcast_div(&(bound * (0.5 * (1.0 + 1.0 / condition)))?)?;
    let twice = (eye * 2.0)?;
    let mut e = (condition - 1.0) / (condition + 1.0);
    while e > ENOUGH {
        let scale = 2.0 / (2.0 - e * e);
        let rest = twice.broadcast_sub(&s.matmul(&x)?)?;
        x = (x.matmul(&rest)? * scale)?;
        e = e * e / (2.0 - e * e);
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Mat;
    use crate::optim::matrix::{product, Matrix};
    use crate::optim::small::Cholesky;
    use crate::rng::{stream, Purpose};
    use candle_core::Device;

    /// P with eigenvalues from 0 to `largest` in a random basis, made by reflections.
    fn matrix(c: usize, largest: f64, seed: u64) -> Vec<f64> {
        let mut rng = stream(seed, Purpose::Probe, c as u64);
        let mut p: Matrix<f64> = Matrix::zeros(c, c);
        for i in 0..c {
            p.data[i * c + i] = if i == 0 { 0.0 } else { largest.powf(i as f64 / (c - 1) as f64) };
        }
        for _ in 0..3 {
            let v: Vec<f64> = (0..c).map(|_| rng.normal()).collect();
            let length: f64 = v.iter().map(|x| x * x).sum();
            let mut h: Matrix<f64> = Matrix::zeros(c, c);
            h.set_identity(1.0);
            h.add_product(-2.0 / length, Mat::new(&v, c, 1), Mat::new(&v, 1, c));
            p = product(product(h.view(), p.view()).view(), h.view());
        }
        p.symmetrize(1.0);
        p.data
    }

    #[test]
    fn it_converges_to_the_inverse_for_conditions_up_to_a_million() -> Result<()> {
        for c in [1, 2, 12, 36] {
            let conditions = [0.0, 1e-3, 1.0, 1e3, 1e6];
            let all: Vec<f64> = conditions.iter().flat_map(|&largest| matrix(c, largest, 1)).collect();
            let p = Tensor::from_vec(all.clone(), (conditions.len(), c, c), &Device::Cpu)?;
            let eye = Tensor::eye(c, DType::F64, &Device::Cpu)?.unsqueeze(0)?;
            let inverse = shifted_inverse(&p, &eye)?.flatten_all()?.to_vec1::<f64>()?;
            for (i, condition) in conditions.iter().enumerate() {
                let mut s = all[i * c * c..(i + 1) * c * c].to_vec();
                s.iter_mut().step_by(c + 1).for_each(|x| *x += 1.0);
                let exact = Cholesky::new(c, &s).map(|s| s.inverse()).unwrap_or_default();
                let got = &inverse[i * c * c..(i + 1) * c * c];
                let worst = got.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                // the largest eigenvalue of the inverse is 1
                assert!(worst < 1e-6 && worst < 1e-9 * condition.max(1e-3), "{c} {condition}: {worst}");
            }
        }
        Ok(())
    }

    /// Without a shift, and with the bound that is known.
    #[test]
    fn it_is_exact_for_the_condition_that_it_is_given() -> Result<()> {
        for (c, condition) in [(1, 2.0), (9, 1e3), (16, 1e9)] {
            let mut s = matrix(c, condition, 3);
            // the eigenvalue that is 0 becomes that of the next
            let shift = condition.powf(1.0 / (c as f64 - 1.0).max(1.0));
            s.iter_mut().step_by(c + 1).for_each(|x| *x += shift);
            let exact = Cholesky::new(c, &s).map(|s| s.inverse()).unwrap_or_default();
            let s = Tensor::from_vec(s, (1, c, c), &Device::Cpu)?;
            let eye = Tensor::eye(c, DType::F64, &Device::Cpu)?.unsqueeze(0)?;
            let got = inverse(&s, &eye, condition * c as f64)?.flatten_all()?.to_vec1::<f64>()?;
            let size = exact.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let worst = got.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-14 * condition.max(1e3) * size, "{c} {condition}: {worst} of {size}");
        }
        Ok(())
    }

    /// Beyond its bound it is too small in some directions, and positive definite: safe in `track`.
    #[test]
    fn beyond_the_bound_it_stays_below_the_inverse() -> Result<()> {
        let c = 12;
        for largest in [1e9, 1e12, 1e18] {
            let p = Tensor::from_vec(matrix(c, largest, 2), (1, c, c), &Device::Cpu)?;
            let eye = Tensor::eye(c, DType::F64, &Device::Cpu)?.unsqueeze(0)?;
            let inverse = shifted_inverse(&p, &eye)?.squeeze(0)?;
            let half = ((&inverse + inverse.t()?)? * 0.5)?.flatten_all()?.to_vec1::<f64>()?;
            let mut below = half.iter().map(|x| -x).collect::<Vec<_>>();
            below.iter_mut().step_by(c + 1).for_each(|x| *x += 1.0 + 1e-6);
            let mut above = half;
            above.iter_mut().step_by(c + 1).for_each(|x| *x += 1e-6);
            assert!(Cholesky::new(c, &below).is_some() && Cholesky::new(c, &above).is_some(), "{largest}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_finite_is_seen() -> Result<()> {
        let eye = Tensor::eye(2, DType::F64, &Device::Cpu)?.unsqueeze(0)?;
        for bad in [f64::NAN, f64::INFINITY] {
            let p = Tensor::new(&[[[1.0, 0.0], [0.0, bad]], [[1.0, 0.0], [0.0, 3.0]]], &Device::Cpu)?;
            let sums = shifted_inverse(&p, &eye)?.sum(2)?.sum(1)?.to_vec1::<f64>()?;
            assert!(!sums[0].is_finite() && (sums[1] - 0.75).abs() < 1e-12, "{sums:?}");
        }
        Ok(())
    }
}
