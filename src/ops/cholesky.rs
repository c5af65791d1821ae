//! Small dense systems in f64 by Cholesky factors, in plain loops: nothing here is worth a library.
//!
//! Matrices are row-major slices `[n, n]`; of symmetric ones only the lower triangle is read.

/// A = L·Lᵀ of a symmetric positive definite matrix.
pub(crate) struct Cholesky {
    n: usize,
    /// L, row-major; what is above the diagonal is zero.
    l: Vec<f64>,
}

impl Cholesky {
    /// Factors `a` `[n, n]`; `None` when it is not positive definite to working accuracy, or holds NaN.
    pub(crate) fn new(n: usize, a: &[f64]) -> Option<Self> {
        let mut l = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let rest = a[i * n + j] - dot(&l[i * n..i * n + j], &l[j * n..j * n + j]);
                if i > j {
                    l[i * n + j] = rest / l[j * n + j];
                } else if rest > f64::EPSILON * a[i * n + i] && rest.is_finite() {
                    l[i * n + i] = rest.sqrt();
                } else {
                    return None;
                }
            }
        }
        Some(Cholesky { n, l })
    }

    /// A⁻¹·b in place; `b` has n elements.
    pub(crate) fn solve(&self, b: &mut [f64]) {
        let Cholesky { n, l } = self;
        for i in 0..*n {
            b[i] = (b[i] - dot(&l[i * n..i * n + i], &b[..i])) / l[i * n + i];
        }
        for i in (0..*n).rev() {
            b[i] /= l[i * n + i];
            let (before, at) = b.split_at_mut(i);
            before.iter_mut().zip(&l[i * n..i * n + i]).for_each(|(b, l)| *b -= l * at[0]);
        }
    }

    /// A⁻¹ `[n, n]`, symmetric to the bit.
    pub(crate) fn inverse(&self) -> Vec<f64> {
        let n = self.n;
        let mut inverse = vec![0.0; n * n];
        for (i, row) in inverse.chunks_mut(n).enumerate() {
            row[i] = 1.0;
            self.solve(row);
        }
        for i in 0..n {
            for j in 0..i {
                inverse[j * n + i] = inverse[i * n + j];
            }
        }
        inverse
    }

    /// ln det A.
    pub(crate) fn ln_determinant(&self) -> f64 {
        (0..self.n).map(|i| 2.0 * self.l[i * self.n + i].ln()).sum()
    }
}

/// Σ x·y.
pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::super::many::inverses;
    use super::*;
    use crate::rng::{stream, Purpose};
    use candle_core::{Result, Tensor};

    /// B·Bᵀ + shift·I of a random square B.
    fn positive(n: usize, shift: f64) -> Vec<f64> {
        let mut rng = stream(1, Purpose::Probe, n as u64);
        let b: Vec<f64> = (0..n * n).map(|_| rng.normal()).collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = dot(&b[i * n..(i + 1) * n], &b[j * n..(j + 1) * n]);
            }
            a[i * n + i] += shift;
        }
        a
    }

    #[test]
    fn factors_solve_invert_and_know_the_determinant() {
        for n in [1, 2, 5, 33] {
            let a = positive(n, 0.1);
            let factor = Cholesky::new(n, &a).unwrap();
            let inverse = factor.inverse();
            for i in 0..n {
                let mut x = a[i * n..(i + 1) * n].to_vec();
                factor.solve(&mut x);
                for j in 0..n {
                    let identity = f64::from(u8::from(i == j));
                    assert!((x[j] - identity).abs() < 1e-9, "{n}: {}", x[j]);
                    let column: Vec<f64> = (0..n).map(|k| a[k * n + j]).collect();
                    assert!((dot(&inverse[i * n..(i + 1) * n], &column) - identity).abs() < 1e-9);
                }
            }
        }
        // det [[4, 2], [2, 3]] = 8
        let factor = Cholesky::new(2, &[4.0, f64::NAN, 2.0, 3.0]).unwrap();
        assert!((factor.ln_determinant() - 8f64.ln()).abs() < 1e-15);
    }

    /// On the GPU as on the CPU, also of large ones, and of one that has none among others.
    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn inverses_agree_on_gpu() -> Result<()> {
        let gpu = super::super::check::gpu(super::super::Precision::F32);
        for n in [1, 2, 20, 33, 130] {
            let mut all = [positive(n, 0.1), positive(n, 1.0), vec![-1.0; n * n], positive(n, 10.0)].concat();
            all[0] += 1.0;
            let x = Tensor::from_vec(all, (4, n, n), &candle_core::Device::Cpu)?;
            let (here, there) = (inverses(&x)?, inverses(&x.to_device(&gpu)?)?);
            let (here, there) = (here.flatten_all()?.to_vec1::<f64>()?, there.flatten_all()?.to_vec1::<f64>()?);
            for (i, (a, b)) in here.iter().zip(&there).enumerate() {
                assert!((a - b).abs() < 1e-9 * a.abs().max(1.0) || (a.is_nan() && b.is_nan()), "{n} {i}: {a} {b}");
            }
            assert!(there[2 * n * n..3 * n * n].iter().all(|x| x.is_nan()));
        }
        Ok(())
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        assert!(Cholesky::new(2, &[1.0, 2.0, 2.0, 1.0]).is_none());
        assert!(Cholesky::new(2, &[1.0, 1.0, 1.0, 1.0]).is_none());
        assert!(Cholesky::new(1, &[0.0]).is_none());
        assert!(Cholesky::new(1, &[-1.0]).is_none());
        assert!(Cholesky::new(2, &[1.0, 0.0, f64::NAN, 1.0]).is_none());
        assert!(Cholesky::new(1, &[f64::INFINITY]).is_none());
        assert!(Cholesky::new(0, &[]).is_some());
    }
}
