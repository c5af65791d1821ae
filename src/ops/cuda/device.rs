//! A GPU made ready for training.

use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{bail, Device, Error, Result};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::ops::Precision;

/// What was chosen for each device that is open.
static PRECISION: Mutex<Option<HashMap<DeviceId, Precision>>> = Mutex::new(None);

/// GPU `index`, on a stream of its own, keeping the memory that one step frees for the next one. All tensors on it take
/// part in products of this precision.
///
/// # Errors
/// No such GPU, a precision of CPUs, a driver that is older than the program.
#[expect(unsafe_code, reason = "settings of candle and of the driver that only one stream makes safe")]
pub(crate) fn open(index: usize, precision: Precision) -> Result<Device> {
    if precision == Precision::Int8 {
        bail!("products of int8 are done on CPUs only");
    }
    // not `new_cuda`: its stream is another one in each thread, and nothing would order them
    let device = Device::new_cuda_with_stream(index)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: there is one stream, which orders all uses of a tensor.
    unsafe { cuda.disable_event_tracking() };
    let mut keep = u64::MAX;
    // SAFETY: the device exists, the attribute is a u64; the pool lives as long as the device.
    unsafe {
        let pool = result::device::get_default_mem_pool(cuda.cuda_stream().context().cu_device());
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let set = pool
            .and_then(|pool| result::mem_pool::set_attribute(pool, threshold, std::ptr::from_mut(&mut keep).cast()));
        if let Err(error) = set {
            bail!("GPU {index}: its memory pool cannot be set up: {error}");
        }
    }
    let mut chosen = PRECISION.lock().unwrap_or_else(PoisonError::into_inner);
    chosen.get_or_insert_default().insert(cuda.id(), precision);
    Ok(device)
}

/// What [`open`] was told.
pub(super) fn precision(device: &CudaDevice) -> Precision {
    let chosen = PRECISION.lock().unwrap_or_else(PoisonError::into_inner);
    chosen.as_ref().and_then(|chosen| chosen.get(&device.id()).copied()).unwrap_or(Precision::F32)
}

/// Its name as the driver gives it, and its memory in bytes.
///
/// # Errors
/// Those of the driver.
pub(crate) fn describe(device: &Device) -> Result<(String, u64)> {
    let context = device.as_cuda_device()?.cuda_stream();
    let context = context.context();
    context.bind_to_thread().map_err(Error::wrap)?;
    let (_free, all) = result::mem_get_info().map_err(Error::wrap)?;
    Ok((context.name().map_err(Error::wrap)?, all as u64))
}

/// The most memory that tensors on it held at a time, in bytes.
///
/// # Errors
/// Those of the driver.
#[expect(unsafe_code, reason = "the driver writes the number to an address")]
pub(crate) fn peak_memory_bytes(device: &Device) -> Result<u64> {
    let stream = device.as_cuda_device()?.cuda_stream();
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    let mut most = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the device exists, the attribute is a u64.
    let found = unsafe {
        result::device::get_default_mem_pool(stream.context().cu_device())
            .and_then(|pool| result::mem_pool::get_attribute(pool, attribute, std::ptr::from_mut(&mut most).cast()))
    };
    found.map_err(Error::wrap)?;
    Ok(most)
}

/// The precision it was opened with.
pub(crate) fn precision_of(device: &Device) -> Result<Precision> {
    Ok(precision(device.as_cuda_device()?))
}
