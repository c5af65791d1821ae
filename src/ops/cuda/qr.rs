//! Orthogonal factors of batches of square matrices on the GPU, a block of threads for each matrix.

use candle_core::{bail, DType, Result, Tensor};

use super::columns::device_of;
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};

/// Numbers of working memory that exist at the same time: a gigabyte, for 256 matrices of 512 × 512.
const WORK: usize = 1 << 27;
/// Threads of a matrix, and columns done together; as in qr.cu.
const THREADS: usize = 256;
const PANEL: usize = 8;

/// Of each matrix of `x [b, n, n]`, f32.
pub(in crate::ops) fn qr_q(x: &Tensor) -> Result<Tensor> {
    let (count, n, columns) = x.dims3()?;
    if n != columns || count * n == 0 {
        bail!("qr: matrices of {n} × {columns}, {count} of them");
    }
    let (device, x) = (device_of(x)?, Memory::of_tensor(x)?.single()?);
    let size = n * n;
    let each = size + n * n.next_multiple_of(PANEL);
    let at_once = (WORK / each).clamp(1, count);
    let q = Buffer::new(device, DType::F32, count * size)?;
    let work = Buffer::new(device, DType::F64, at_once * each)?;
    for start in (0..count).step_by(at_once) {
        let blocks = at_once.min(count - start);
        let part = start * size;
        let args = args![q.memory().part(part, blocks * size), x.part(part, blocks * size), work.memory(), n];
        launch(device, Kernel(Module::Qr, "qr_q", DType::F32), Grid::blocks(blocks, 1, THREADS), &args)?;
    }
    Ok(q.tensor((count, n, n)))
}
