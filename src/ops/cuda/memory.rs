//! Memory of the GPU: of tensors that are read, and of results.

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{bail, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor};

use super::launch::{launch, Arg, Grid, Kernel, Module};

/// Where some numbers lie. The tensor or [`Buffer`] it came from must live until the last launch that gets it; after that
/// the stream sees to it.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Memory {
    pub(super) address: u64,
    pub(super) dtype: DType,
    pub(super) len: usize,
}

impl Memory {
    /// Of the storage of an argument of an operation; contiguous.
    pub(in crate::ops) fn of(storage: &CudaStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("an operation on the GPU takes contiguous tensors");
        };
        let dtype = match &storage.slice {
            CudaStorageSlice::F32(_) => DType::F32,
            CudaStorageSlice::BF16(_) => DType::BF16,
            CudaStorageSlice::F64(_) => DType::F64,
            CudaStorageSlice::U32(_) => DType::U32,
            CudaStorageSlice::I64(_) => DType::I64,
            _ => bail!("an operation on the GPU takes numbers of type f32, bf16, f64, u32 or i64"),
        };
        let whole = Memory { address: address(storage), dtype, len: end };
        Ok(whole.part(start, end - start))
    }

    /// Of a contiguous tensor.
    pub(in crate::ops) fn of_tensor(tensor: &Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Memory::of(storage, layout),
            _ => bail!("a tensor of shape {:?} is not on the GPU", tensor.dims()),
        }
    }

    /// Itself if it holds f32, as kernels take parameters.
    pub(super) fn single(self) -> Result<Self> {
        match self.dtype {
            DType::F32 => Ok(self),
            other => bail!("parameters on the GPU are f32, not {other:?}"),
        }
    }

    /// `len` numbers from the `start`-th on.
    pub(super) fn part(self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.len);
        Memory { address: self.address + (start * self.dtype.size_in_bytes()) as u64, dtype: self.dtype, len }
    }
}

fn address(storage: &CudaStorage) -> u64 {
    let stream = storage.device.cuda_stream();
    match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::I64(slice) => slice.device_ptr(&stream).0,
        _ => 0,
    }
}

/// New memory.
pub(super) struct Buffer {
    storage: CudaStorage,
    dtype: DType,
    len: usize,
}

impl Buffer {
    /// With arbitrary content, to be overwritten whole.
    #[expect(unsafe_code, reason = "results that are written in full need no zeros first")]
    pub(super) fn new(device: &CudaDevice, dtype: DType, len: usize) -> Result<Self> {
        // SAFETY: every bit pattern is a number, and callers write each element before one is read.
        let storage = unsafe { device.alloc_uninit(&Shape::from(len.max(1)), dtype)? };
        Ok(Buffer { storage, dtype, len })
    }

    pub(super) fn zeros(device: &CudaDevice, dtype: DType, len: usize) -> Result<Self> {
        Ok(Buffer { storage: device.zeros_impl(&Shape::from(len.max(1)), dtype)?, dtype, len })
    }

    pub(super) fn memory(&self) -> Memory {
        Memory { address: address(&self.storage), dtype: self.dtype, len: self.len }
    }

    /// As the result of an operation.
    pub(super) fn storage(self) -> CudaStorage {
        self.storage
    }

    /// As a tensor off the tape.
    pub(super) fn tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), shape, BackpropOp::none(), false)
    }
}

/// Numbers of the host, on the GPU.
pub(super) struct Upload<T>(CudaSlice<T>);

impl<T> Upload<T>
where
    T: candle_core::cuda_backend::cudarc::driver::DeviceRepr + 'static,
{
    pub(super) fn new(device: &CudaDevice, values: &[T]) -> Result<Self> {
        if values.is_empty() {
            bail!("nothing to upload to the GPU");
        }
        device.clone_htod(values).map(Upload)
    }

    pub(super) fn arg(&self) -> Arg {
        Arg::Pointer(self.0.device_ptr(self.0.stream()).0)
    }
}

/// The same numbers in another type; themselves if it is theirs.
pub(super) fn cast(device: &CudaDevice, from: Memory, dtype: DType) -> Result<(Memory, Option<Buffer>)> {
    if from.dtype == dtype {
        return Ok((from, None));
    }
    let (name, instance) = match (from.dtype, dtype) {
        (DType::F32, DType::BF16) => ("from_f32", DType::BF16),
        (DType::BF16, DType::F32) => ("to_f32", DType::BF16),
        (from, to) => bail!("no cast from {from:?} to {to:?} on the GPU"),
    };
    let to = Buffer::new(device, dtype, from.len)?;
    let kernel = Kernel(Module::Elementwise, name, instance);
    let args = [to.memory().into(), from.into(), Arg::Size(from.len as u64)];
    launch(device, kernel, Grid::elements(from.len), &args)?;
    Ok((to.memory(), Some(to)))
}
