//! Products of matrices by cuBLAS.

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, DType, Error, Result};

use super::device::precision;
use super::memory::Memory;
use crate::ops::Precision;

/// A row-major matrix in memory of the GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mat<'a> {
    memory: Memory<'a>,
    rows: usize,
    columns: usize,
    /// Elements from row to row.
    stride: usize,
    transposed: bool,
}

impl<'a> Mat<'a> {
    pub(super) fn new(memory: Memory<'a>, rows: usize, columns: usize) -> Self {
        Mat::strided(memory, rows, columns, columns)
    }

    /// Rows that are `stride` apart.
    pub(super) fn strided(memory: Memory<'a>, rows: usize, columns: usize, stride: usize) -> Self {
        let fits = rows == 0 || columns == 0 || (columns <= stride && (rows - 1) * stride + columns <= memory.len);
        assert!(fits, "a {rows}×{columns} matrix exceeds its {} numbers", memory.len);
        Mat { memory, rows, columns, stride, transposed: false }
    }

    pub(super) fn t(self) -> Self {
        Mat { transposed: !self.transposed, ..self }
    }

    /// Rows and columns as the product sees them.
    fn shape(self) -> (usize, usize) {
        if self.transposed {
            (self.columns, self.rows)
        } else {
            (self.rows, self.columns)
        }
    }
}

/// What happens to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Set,
    Add,
}

/// c = a·b, or c += a·b. `a` and `b` have one type; sums are f32; `c` is f32 or of their type.
#[expect(unsafe_code, reason = "cuBLAS takes addresses")]
pub(super) fn product(device: &CudaDevice, c: Mat<'_>, store: Store, a: Mat<'_>, b: Mat<'_>) -> Result<()> {
    let ((m, k), (inner, n)) = (a.shape(), b.shape());
    if k != inner || c.shape() != (m, n) || c.transposed || a.memory.dtype != b.memory.dtype {
        bail!("product of {a:?} and {b:?} into {c:?}");
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let (alpha, beta) = (1.0f32, if store == Store::Add { 1.0f32 } else { 0.0 });
    let compute = match precision(device) {
        Precision::Tf32 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        Precision::F32 | Precision::Bf16 | Precision::Int8 => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let op = |mat: Mat<'_>| match mat.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let (a_type, b_type, c_type) = (type_of(a)?, type_of(b)?, type_of(c)?);
    let handle = device.cublas_handle();
    // cuBLAS works in the context of the calling thread
    device.cuda_stream().context().bind_to_thread().map_err(Error::wrap)?;
    // SAFETY: the addresses hold matrices of these sizes (`Mat::strided` compared) on this device. Column-major cuBLAS computes cᵀ = bᵀ·aᵀ, whose
    // memory is that of row-major c = a·b.
    let done = unsafe {
        result::gemm_ex(
            *handle.handle(),
            op(b),
            op(a),
            n as i32,
            m as i32,
            k as i32,
            std::ptr::from_ref(&alpha).cast(),
            b.memory.pointer().address() as *const _,
            b_type,
            b.stride as i32,
            a.memory.pointer().address() as *const _,
            a_type,
            a.stride as i32,
            std::ptr::from_ref(&beta).cast(),
            c.memory.pointer().address() as *mut _,
            c_type,
            c.stride as i32,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    };
    done.map_err(|error| Error::wrap(error).context(format!("product of {m} × {k} and {k} × {n}")))
}

fn type_of(mat: Mat<'_>) -> Result<sys::cudaDataType> {
    match mat.memory.dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        other => bail!("products on the GPU are of f32 and bf16, not of {other:?}"),
    }
}
