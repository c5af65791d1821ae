//! Tensors from GPU to GPU by NVIDIA's NCCL, found when the program runs: groups of sends and receives, in the order of the
//! device's stream like any kernel. Sums are not NCCL's own, whose order depends on how the GPUs are connected.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::cuda_backend::CudaDevice;
use candle_core::{DType, Device, Error, Tensor};

use super::memory::{Buffer, Memory};
use crate::ops::library::{functions, Library};

const LIBRARIES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// `ncclFloat32`.
const F32: c_int = 7;

/// `ncclUniqueId`: what the ranks of a job meet by.
#[derive(Clone, Copy)]
#[repr(C)]
struct Id([u8; 128]);

type Communicator = *mut c_void;
type Stream = *mut c_void;

functions! {
    /// As nccl.h of NCCL 2.7 and later declares them.
    ncclGetVersion: fn(*mut c_int) -> c_int;
    ncclGetErrorString: fn(c_int) -> *const c_char;
    ncclGetUniqueId: fn(*mut Id) -> c_int;
    ncclCommInitRank: fn(*mut Communicator, c_int, Id, c_int) -> c_int;
    ncclGroupStart: fn() -> c_int;
    ncclGroupEnd: fn() -> c_int;
    ncclSend: fn(*const c_void, usize, c_int, c_int, Communicator, Stream) -> c_int;
    ncclRecv: fn(*mut c_void, usize, c_int, c_int, Communicator, Stream) -> c_int;
}

impl Functions {
    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: any number may be asked for; the text is a constant of the library that ends with a zero.
        let told = unsafe { CStr::from_ptr((self.ncclGetErrorString)(code)) };
        Err(format!("NCCL: {} ({code})", told.to_string_lossy()))
    }
}

/// The library, and the device that is to be connected.
pub(crate) struct NcclLibrary {
    functions: Functions,
    name: String,
    device: CudaDevice,
}

impl NcclLibrary {
    /// Looks for the library; `NMT_NCCL_LIB` names another file.
    ///
    /// # Errors
    /// A device that is no GPU; no library.
    pub(crate) fn find(device: &Device) -> Result<Self, String> {
        let Device::Cuda(device) = device else { return Err("it computes on the CPU".to_string()) };
        let named = std::env::var("NMT_NCCL_LIB").ok().filter(|name| !name.is_empty());
        let names = named.as_deref().map_or_else(|| LIBRARIES.to_vec(), |named| vec![named]);
        // SAFETY: what has the name of NCCL, or the user says is NCCL, is made to be loaded, and declares what NCCL does.
        let (functions, name) = unsafe {
            let (library, name) = Library::first_of(&names, 0)?;
            (Functions::of(library).map_err(|why| format!("{name}: {why}"))?, name)
        };
        let mut version = 0;
        // SAFETY: a number that lives until the call ends.
        functions.check(unsafe { (functions.ncclGetVersion)(&mut version) })?;
        let name = format!("{}.{}.{} ({name})", version / 10_000, version / 100 % 100, version % 100);
        Ok(NcclLibrary { functions, name, device: device.clone() })
    }

    /// A job that all ranks can join; to be asked for by one of them.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn new_job(&self) -> Result<Vec<u8>, String> {
        let mut id = Id([0; 128]);
        // SAFETY: an id that lives until the call ends.
        self.functions.check(unsafe { (self.functions.ncclGetUniqueId)(&mut id) })?;
        Ok(id.0.to_vec())
    }

    /// Connects this rank; waits for all others.
    ///
    /// # Errors
    /// What the library says: two ranks on one GPU, no way between two of them.
    pub(crate) fn join(self, job: &[u8], rank: usize, size: usize) -> Result<Nccl, String> {
        let Ok(id) = job.try_into().map(Id) else { return Err("rank 0 could not make a job of NCCL".to_string()) };
        let NcclLibrary { functions, name, device } = self;
        device.cuda_stream().context().bind_to_thread().map_err(|e| e.to_string())?;
        let mut communicator: Communicator = std::ptr::null_mut();
        // SAFETY: a pointer that lives until the call ends; the device's context is that of this thread.
        let joined = unsafe { (functions.ncclCommInitRank)(&mut communicator, size as c_int, id, rank as c_int) };
        functions.check(joined)?;
        let flown = Mutex::default();
        Ok(Nccl { functions, name, device, communicator, rank, flown })
    }
}

/// A rank whose GPU is connected to those of all others, until the program ends.
pub(crate) struct Nccl {
    functions: Functions,
    name: String,
    device: CudaDevice,
    communicator: Communicator,
    rank: usize,
    flown: Mutex<Flown>,
}

/// Time that exchanges took.
#[derive(Default)]
struct Flown {
    /// Begin and end of those that may not have ended.
    open: Vec<(CudaEvent, CudaEvent)>,
    seconds: f64,
}

// SAFETY: a communicator may be used from any thread, one at a time; `exchange` has `flown` locked while it does.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Version and file.
    pub(crate) fn library(&self) -> &str {
        &self.name
    }

    fn turn(&self) -> MutexGuard<'_, Flown> {
        self.flown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the r-th tensor to rank r, unless there are none, and receives so many numbers of each rank: the tensors of those
    /// that send any, by rank. All are of f32; the one that a rank sends to itself is not moved. Returns before the rest has
    /// happened, as a kernel does.
    ///
    /// # Errors
    /// Tensors of another type or elsewhere; what the library says.
    pub(crate) fn exchange(&self, sent: &[Tensor], received: &[usize]) -> candle_core::Result<Vec<Tensor>> {
        let mut flown = self.turn();
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let begin = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(Error::wrap)?;
        let sent: Vec<Tensor> = sent.iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?;
        let buffer = |&count: &usize| Buffer::new(&self.device, DType::F32, count);
        let found: Vec<Buffer> = received.iter().map(buffer).collect::<candle_core::Result<_>>()?;
        let told = |code| self.functions.check(code).map_err(Error::Msg);
        let handle = stream.cu_stream().cast::<c_void>();
        let is_other = |(other, count): &(usize, usize)| *other != self.rank && *count > 0;
        // SAFETY: no arguments.
        told(unsafe { (self.functions.ncclGroupStart)() })?;
        let ask = || -> candle_core::Result<()> {
            for (other, count) in sent.iter().map(Tensor::elem_count).enumerate().filter(is_other) {
                let memory = Memory::of_tensor(&sent[other])?.single()?;
                let address = memory.pointer().address() as *const c_void;
                // SAFETY: so many numbers are there, and stay until all that the stream was asked for is done.
                told(unsafe {
                    (self.functions.ncclSend)(address, count, F32, other as c_int, self.communicator, handle)
                })?;
            }
            for (other, count) in received.iter().copied().enumerate().filter(is_other) {
                let address = found[other].memory().pointer().address() as *mut c_void;
                // SAFETY: as above, and nobody else has the buffer.
                told(unsafe {
                    (self.functions.ncclRecv)(address, count, F32, other as c_int, self.communicator, handle)
                })?;
            }
            Ok(())
        };
        let asked = ask();
        // SAFETY: no arguments; a group that was begun is ended, whatever happened in it.
        let ended = told(unsafe { (self.functions.ncclGroupEnd)() });
        asked.and(ended)?;
        let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(Error::wrap)?;
        flown.open.push((begin, end));
        let tensors = found.into_iter().zip(received).enumerate().filter(|(_, (_, &count))| count > 0);
        let tensor = |(other, (buffer, &count)): (usize, (Buffer, &usize))| match sent.get(other) {
            Some(own) if other == self.rank => own.clone(),
            _ => buffer.tensor(count),
        };
        Ok(tensors.map(tensor).collect())
    }

    /// Time that exchanges took on the stream so far, in which it waited for other ranks too; waits for the last of them.
    pub(crate) fn seconds(&self) -> f64 {
        let mut flown = self.turn();
        for (begin, end) in std::mem::take(&mut flown.open) {
            // one whose time is not to be had counts nothing
            let milliseconds = end.synchronize().and_then(|()| begin.elapsed_ms(&end)).unwrap_or(0.0);
            flown.seconds += f64::from(milliseconds) / 1e3;
        }
        flown.seconds
    }
}
