//! Inverses of batches of small symmetric matrices on the GPU, a block of threads for each.

use candle_core::{bail, DType, Result, Tensor};

use super::columns::device_of;
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};

/// Threads of a matrix.
const THREADS: usize = 128;

/// Of each matrix of `x [b, n, n]`, f64, contiguous; NaN where it is not positive definite.
pub(in crate::ops) fn inverses(x: &Tensor) -> Result<Tensor> {
    let (count, n, _) = x.dims3()?;
    if count * n == 0 {
        bail!("inverses: {count} matrices of {n} × {n}");
    }
    let (device, x) = (device_of(x)?, Memory::of_tensor(x)?.holds(count * n * n)?);
    let inverse = Buffer::new(device, DType::F64, count * n * n)?;
    let work = Buffer::new(device, DType::F64, count * n * n)?;
    let args = args![inverse.memory(), x, work.memory(), n];
    launch(device, Kernel(Module::Cholesky, "cholesky_inverse", DType::F64), Grid::blocks(count, 1, THREADS), &args)?;
    Ok(inverse.tensor((count, n, n)))
}
