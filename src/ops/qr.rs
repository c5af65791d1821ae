//! Q of A = Q·R with a non-negative diagonal of R, so that Q follows small changes of A: of square matrices of full rank
//! there is one such Q. Computed in f64, whatever the type of A. Of a matrix without full rank it is one of many.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder;
use faer::linalg::qr::no_pivoting::factor;
use faer::{Conj, Mat, MatRef, Par};

/// Of one matrix, row-major `[n, n]`; on the calling thread, so that the result does not depend on threads.
pub(crate) fn qr_q_of(n: usize, a: &[f64]) -> Vec<f64> {
    let mut qr = MatRef::from_row_major_slice(a, n, n).to_owned();
    let block = factor::recommended_block_size::<f64>(n, n);
    let mut coefficients = Mat::zeros(block, n);
    let scratch = factor::qr_in_place_scratch::<f64>(n, n, block, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    factor::qr_in_place(qr.as_mut(), coefficients.as_mut(), Par::Seq, stack, Default::default());
    // the reflections' vectors lie below the diagonal and are read there only
    let mut q = Mat::<f64>::identity(n, n);
    let scratch = householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(n, block, n);
    let mut memory = MemBuffer::new(scratch);
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        qr.as_ref(),
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut memory),
    );
    let element = |i: usize, j: usize| if qr[(j, j)] < 0.0 { -q[(i, j)] } else { q[(i, j)] };
    (0..n * n).map(|k| element(k / n, k % n)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::check::{gpu, random, Input};
    use super::super::many::qr_q;
    use super::*;
    use crate::ops::Precision;
    use candle_core::{DType, Device};
    use candle_core::{Result, Tensor};

    const SIZES: [usize; 8] = [1, 2, 5, 8, 9, 33, 64, 130];

    fn matrices(count: usize, n: usize) -> Input {
        random(&[count, n, n], 4)
    }

    /// Asserts that Q of each matrix is orthogonal and R = Qᵀ·A triangular with a diagonal of 0 or more, but for rounding.
    #[track_caller]
    fn decomposes(q: &Tensor, a: &Tensor, bound: f64) -> Result<()> {
        let (q, a) = (q.to_dtype(DType::F64)?, a.to_dtype(DType::F64)?);
        let (_, n, _) = a.dims3()?;
        let identity = Tensor::eye(n, DType::F64, &Device::Cpu)?;
        let list = |x: &Tensor| x.flatten_all()?.to_vec1::<f64>();
        let away = list(&q.t()?.matmul(&q)?.broadcast_sub(&identity)?)?;
        assert!(away.iter().all(|x| x.abs() < bound), "{n}: not orthogonal");
        for (k, r) in list(&q.t()?.matmul(&a)?)?.iter().enumerate() {
            let (i, j) = (k / n % n, k % n);
            assert!((i < j || r.abs() < bound) || (i == j && *r > -bound), "{n}: R[{i}, {j}] = {r}");
        }
        Ok(())
    }

    #[test]
    fn q_is_orthogonal_and_r_triangular_with_a_positive_diagonal() -> Result<()> {
        for n in SIZES {
            let a = super::super::check::constant(&matrices(3, n));
            let q = qr_q(&a)?;
            decomposes(&q, &a, 1e-10 * n as f64)?;
            let second = a.get(1)?.flatten_all()?.to_vec1()?;
            assert_eq!(qr_q_of(n, &second), q.get(1)?.flatten_all()?.to_vec1::<f64>()?);
            let single = qr_q(&a.to_dtype(DType::F32)?)?.to_dtype(DType::F64)?;
            assert!((single - q)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()? < 1e-2);
        }
        assert!(qr_q(&Tensor::zeros((1, 2, 3), DType::F64, &Device::Cpu)?).is_err());
        Ok(())
    }

    /// Full rank: what the CPU gives. Else: orthogonal, and finite beside one that is not.
    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn on_a_gpu_it_is_that_of_the_cpu() -> Result<()> {
        let device = gpu(Precision::F32);
        let on_gpu = |a: &Tensor| qr_q(&a.to_device(&device)?)?.to_device(&Device::Cpu);
        let far = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        for n in SIZES {
            let a = super::super::check::constant(&matrices(3, n)).to_dtype(DType::F32)?;
            let q = on_gpu(&a)?;
            assert!(far(&q, &qr_q(&a)?)? < 1e-5, "{n}");
            decomposes(&q, &a, 1e-5 * n as f64)?;
            // its columns have the sizes of a factor's
            let small = (0..n).map(|j| 1e-12 * 0.9f32.powi(j as i32)).collect();
            let small = a.broadcast_mul(&Tensor::from_vec(small, (1, 1, n), &Device::Cpu)?)?;
            assert!(far(&on_gpu(&small)?, &qr_q(&small)?)? < 1e-4, "{n}, small");

            let zeros = a.zeros_like()?;
            let identity = zeros.broadcast_add(&Tensor::eye(n, DType::F32, &Device::Cpu)?)?;
            assert_eq!(far(&on_gpu(&zeros)?, &identity)?, 0.0);
            // columns that are equal, columns of zeros, and a neighbour that is not finite
            let pairs: Vec<u32> = (0..n as u32).map(|j| j / 2).collect();
            let there: Vec<f32> = (0..n).map(|j| if j % 3 == 2 { 0.0 } else { 1.0 }).collect();
            let flat = a.index_select(&Tensor::from_vec(pairs, n, &Device::Cpu)?, 2)?;
            let flat = flat.broadcast_mul(&Tensor::from_vec(there, (1, 1, n), &Device::Cpu)?)?;
            let bad = (a.narrow(0, 0, 1)? * f64::NAN)?;
            let q = on_gpu(&Tensor::cat(&[&bad, &flat], 0)?)?;
            decomposes(&q.narrow(0, 1, 3)?, &flat, 1e-5 * n as f64)?;
        }
        Ok(())
    }
}
