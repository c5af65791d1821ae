//! The correction of [`super::track`] for a batch of factors, by products alone.
//!
//! H is multiplied by its `scale` σ on the way (1, or what a fresh identity is multiplied by), β is one for each factor,
//! and 0 leaves a factor as it is:
//!
//! ```text
//! P = Vᵀ·X / √(1 − β),  H⁺ = σ·H/√(1 − β) − (P + Pᵀ)          X, V of σ·H as in `track`
//! ```
//!
//! P + Pᵀ is symmetric to the bit, and so H stays. Launches: 33 besides those of the inverse.

use candle_core::{Result, Tensor};

use super::inverse::shifted_inverse;
use crate::optim::batched::{each, squares};

/// A batch after its correction.
pub(super) struct Corrected {
    pub(super) h: Tensor,
    /// Of each factor: finite if and only if all of it is (but for overflow, which shows the next time).
    pub(super) size: Tensor,
}

/// Corrects `h` `[F, n, n]` with `z` = Zᵀ `[F, c, n]`; `beta` and `scale` are `[F]`, `eye` is I `[1, c, c]` in f64.
pub(super) fn correct(h: &Tensor, z: &Tensor, beta: &Tensor, scale: &Tensor, eye: &Tensor) -> Result<Corrected> {
    let root = beta.affine(-1.0, 1.0)?.sqrt()?.recip()?;
    let gamma = each(&(beta * root.sqr()?)?)?;
    let gram = z.matmul(&z.t()?)?;
    let inverse = shifted_inverse(&gram.broadcast_mul(&(&gamma * 0.625)?)?, eye)?.to_dtype(h.dtype())?;
    let v = inverse.broadcast_mul(&(gamma * 0.25)?)?.matmul(z)?;
    let w = z.matmul(h)?.broadcast_mul(&each(scale)?)?;
    let zw = z.matmul(&w.t()?)?;
    let x = (w - (zw.matmul(&v)? * 0.5)?)?;
    let size = (squares(&v)?.sqrt()? * squares(&x)?.sqrt()?)?;
    let p = v.broadcast_mul(&each(&root)?)?.t()?.matmul(&x)?;
    let change = (&p + p.t()?)?;
    let h = (h.broadcast_mul(&each(&(root * scale)?)?)? - change)?;
    Ok(Corrected { h, size })
}

#[cfg(test)]
mod tests {
    use super::super::track;
    use super::*;
    use crate::optim::matrix::Matrix;
    use crate::rng::{stream, Purpose};
    use candle_core::{DType, Device};

    fn draw(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = stream(seed, Purpose::Probe, 0);
        (0..n).map(|_| rng.normal()).collect()
    }

    #[test]
    fn each_factor_is_corrected_as_alone() -> Result<()> {
        let (f, n, c) = (3, 9, 4);
        let mut h = Vec::new();
        for seed in 0..f {
            let root: Matrix<f64> = Matrix::from_f64(n, n, &draw(seed as u64, n * n));
            h.extend(crate::optim::matrix::product(root.view(), root.t()).data);
        }
        let z = draw(9, f * c * n);
        let (beta, scale) = ([0.3, 0.0, 0.02], [1.0, 1.0, 0.7]);
        let tensor = |values: &[f64], shape: (usize, usize, usize)| Tensor::from_slice(values, shape, &Device::Cpu);
        let eye = Tensor::eye(c, DType::F64, &Device::Cpu)?.unsqueeze(0)?;
        let corrected = correct(
            &tensor(&h, (f, n, n))?,
            &tensor(&z, (f, c, n))?,
            &Tensor::new(&beta, &Device::Cpu)?,
            &Tensor::new(&scale, &Device::Cpu)?,
            &eye,
        )?;
        for i in 0..f {
            let mut expected: Matrix<f64> = Matrix::from_f64(n, n, &h[i * n * n..(i + 1) * n * n]);
            expected.scale(scale[i]);
            let z = Matrix::from_f64(c, n, &z[i * c * n..(i + 1) * c * n]);
            assert!(track::correct(&mut expected, z, beta[i]));
            let got = corrected.h.get(i)?.flatten_all()?.to_vec1::<f64>()?;
            for (a, b) in got.iter().zip(&expected.data) {
                assert!((a - b).abs() < 1e-10 * b.abs().max(1.0), "{i}: {a} {b}");
            }
            assert!((0..n * n).all(|at| got[at] == got[at % n * n + at / n]), "symmetric");
        }
        Ok(())
    }

    #[test]
    fn a_failed_factor_shows_and_leaves_the_others_alone() -> Result<()> {
        let eye = Tensor::eye(1, DType::F64, &Device::Cpu)?.unsqueeze(0)?;
        let h = Tensor::new(&[[[1f32, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, f32::NAN]]], &Device::Cpu)?;
        let z = Tensor::new(&[[[1e4f32, -3e3]], [[1.0, 1.0]]], &Device::Cpu)?;
        let beta = Tensor::new(&[0.3f32, 0.3], &Device::Cpu)?;
        let Corrected { h, size } = correct(&h, &z, &beta, &beta.ones_like()?, &eye)?;
        let sizes = size.to_vec1::<f32>()?;
        assert!(sizes[0].is_finite() && !sizes[1].is_finite(), "{sizes:?}");
        let h = h.get(0)?.to_vec2::<f32>()?;
        assert!(h[0][0] > 0.0 && h[0][0] * h[1][1] > h[0][1] * h[0][1], "{h:?}");
        Ok(())
    }

    /// In f32, over many corrections, two covariances with conditions of 100 and 1 are found side by side.
    #[test]
    fn it_finds_inverse_square_roots_in_f32() -> Result<()> {
        let (n, c, beta) = (16, 8, 0.02);
        let mut rng = stream(2, Purpose::Probe, 0);
        let roots: Vec<f64> = (0..n).map(|i| 100f64.powf(i as f64 / (n - 1) as f64)).chain(vec![4.0; n]).collect();
        let eye = Tensor::eye(c, DType::F64, &Device::Cpu)?.unsqueeze(0)?;
        let mut h = (Tensor::eye(n, DType::F32, &Device::Cpu)?.broadcast_as((2, n, n))? * 0.1)?;
        for t in 0..1500 {
            let mut y = Vec::with_capacity(2 * c * n);
            for s in roots.chunks(n) {
                (0..c).for_each(|_| y.extend(s.iter().map(|s| (rng.normal() * (s / c as f64).sqrt()) as f32)));
            }
            let z = Tensor::from_vec(y, (2, c, n), &Device::Cpu)?.matmul(&h)?;
            let share = Tensor::full(f32::max(beta, 1.0 / (t as f32 + 2.0)), 2, &Device::Cpu)?;
            h = correct(&h, &z, &share, &share.ones_like()?, &eye)?.h;
        }
        for (f, s) in roots.chunks(n).enumerate() {
            for (i, s) in s.iter().enumerate() {
                let gain = f64::from(h.get(f)?.get(i)?.get(i)?.to_scalar::<f32>()?) * s.sqrt();
                assert!((0.8..1.3).contains(&gain), "{f} {i}: {gain}");
            }
        }
        Ok(())
    }
}
