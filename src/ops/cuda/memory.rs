//! Memory of the GPU: of tensors that are read, and of results.

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{bail, CudaStorage, DType, Result, Shape, Storage, Tensor};

use std::marker::PhantomData;

/// Bytes on the GPU, as a kernel is given them. What they belong to outlives `'a`, the time until the last launch that gets
/// them; after that the stream sees to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointer<'a> {
    address: u64,
    bytes: usize,
    owner: PhantomData<&'a ()>,
}

impl Pointer<'_> {
    /// For a table of addresses that kernels read: who makes one keeps the owners.
    pub(super) fn address(self) -> u64 {
        self.address
    }

    /// From a byte on.
    pub(super) fn from(self, start: usize) -> Self {
        assert!(start <= self.bytes, "an address behind its memory");
        Pointer { address: self.address + start as u64, bytes: self.bytes - start, owner: PhantomData }
    }
}

/// Where some numbers lie, those of a tensor or a [`Buffer`].
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Memory<'a> {
    pointer: Pointer<'a>,
    pub(super) dtype: DType,
    pub(super) len: usize,
}

impl<'a> Memory<'a> {
    /// Of a contiguous tensor.
    pub(in crate::ops) fn of_tensor(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("a tensor of shape {:?} is not on the GPU", tensor.dims());
        };
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
        Ok(Memory::at(address(storage), dtype, end).part(start, end - start))
    }

    /// The owner has so many numbers there.
    fn at(address: u64, dtype: DType, len: usize) -> Self {
        Memory { pointer: Pointer { address, bytes: len * dtype.size_in_bytes(), owner: PhantomData }, dtype, len }
    }

    pub(super) fn pointer(self) -> Pointer<'a> {
        self.pointer
    }

    /// Itself if it holds f32, as kernels take parameters.
    pub(super) fn single(self) -> Result<Self> {
        match self.dtype {
            DType::F32 => Ok(self),
            other => bail!("parameters on the GPU are f32, not {other:?}"),
        }
    }

    /// Itself if there are `n` numbers or more, as a kernel will read or write.
    pub(super) fn holds(self, n: usize) -> Result<Self> {
        if self.len < n {
            bail!("a kernel needs {n} numbers where there are {}", self.len);
        }
        Ok(self)
    }

    /// `len` numbers from the `start`-th on.
    pub(super) fn part(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "a part outside its memory");
        let size = self.dtype.size_in_bytes();
        let bytes = len * size;
        Memory { pointer: Pointer { bytes, ..self.pointer.from(start * size) }, dtype: self.dtype, len }
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

    pub(super) fn memory(&self) -> Memory<'_> {
        Memory::at(address(&self.storage), self.dtype, self.len)
    }

    /// As the result of an operation.
    pub(super) fn storage(self) -> Storage {
        Storage::Cuda(self.storage)
    }

    /// As a tensor off the tape.
    pub(super) fn tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(self.storage(), shape, BackpropOp::none(), false)
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

    pub(super) fn pointer(&self) -> Pointer<'_> {
        let (address, bytes) = (self.0.device_ptr(self.0.stream()).0, self.0.len() * size_of::<T>());
        Pointer { address, bytes, owner: PhantomData }
    }
}
