//! Orthogonal factors and inverses of many small matrices `[b, n, n]`, on any device; off the tape.

use candle_core::{bail, DType, Result, Tensor, WithDType};
use rayon::prelude::*;

use super::cholesky::Cholesky;
use super::qr::qr_q_of;
use super::real::{tensor, values, with_real};

/// Q of each matrix of `x`, in its type; see [`qr_q_of`].
pub(crate) fn qr_q(x: &Tensor) -> Result<Tensor> {
    let (count, n, columns) = x.dims3()?;
    if n != columns {
        bail!("qr: {n} × {columns} is not square");
    }
    let x = x.contiguous()?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::qr_q(&x);
    }
    with_real!(x, T => {
        let matrices: Vec<f64> = values::<T>(&x)?.iter().map(|x| x.to_f64()).collect();
        let q = matrices.par_chunks((n * n).max(1)).with_max_len(1).map(|a| qr_q_of(n, a));
        let q: Vec<Vec<f64>> = q.collect();
        Ok(tensor(q.iter().flatten().map(|&x| T::from_f64(x)).collect::<Vec<T>>(), (count, n, n)))
    })
}

/// The inverse of each matrix of `x [b, n, n]`, f64 and symmetric; all NaN where it is not positive definite. Off the tape.
pub(crate) fn inverses(x: &Tensor) -> Result<Tensor> {
    let (count, n, columns) = x.dims3()?;
    if n != columns || x.dtype() != DType::F64 {
        bail!("inverses: {:?} of {n} × {columns}", x.dtype());
    }
    let x = x.contiguous()?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::inverses(&x);
    }
    let values = values::<f64>(&x)?;
    let inverse = |a: &[f64]| Cholesky::new(n, a).map_or_else(|| vec![f64::NAN; n * n], |a| a.inverse());
    let inverses: Vec<Vec<f64>> = values.par_chunks((n * n).max(1)).map(inverse).collect();
    Ok(tensor(inverses.concat(), (count, n, n)))
}
