//! The machine: device, threads, memory in use.

use std::sync::OnceLock;

use anyhow::{Error, Result};
use candle_core::Device;

use crate::config::DeviceName;
use crate::exit::InputError;
use crate::kinds::Precision;
#[cfg(feature = "cuda")]
use crate::ops;

/// The device that a config names.
///
/// # Errors
/// CUDA asked for in a program built without it, no such device, a precision that the device does not have.
pub fn device(name: DeviceName, precision: Precision) -> Result<Device, InputError> {
    let device = match name {
        DeviceName::Cpu => Device::Cpu,
        DeviceName::Auto => gpu(0, precision).unwrap_or(Device::Cpu),
        DeviceName::Cuda(index) => gpu(index, precision)?,
    };
    if matches!(device, Device::Cpu) && precision != Precision::F32 {
        let precision = precision.name();
        return Err(InputError::new(format!(
            r#"train.precision = "{precision}" needs a GPU; on the CPU use "f32" (device = "{name}")"#
        )));
    }
    Ok(device)
}

/// As [`device`], for a model that is there: on the CPU it computes in f32 whatever it was trained in.
///
/// # Errors
/// CUDA asked for in a program built without it, no such device.
pub fn device_for_use(name: DeviceName, precision: Precision) -> Result<Device, InputError> {
    match (device(name, precision), name) {
        (Err(_), DeviceName::Cpu | DeviceName::Auto) => Ok(Device::Cpu),
        (found, _) => found,
    }
}

#[cfg(feature = "cuda")]
fn gpu(index: u16, precision: Precision) -> Result<Device, InputError> {
    ops::cuda::open(usize::from(index), precision).map_err(|e| {
        let (name, reason) = (DeviceName::Cuda(index), e.to_string());
        InputError::new(format!("device = \"{name}\": the GPU cannot be used: {}", reason.trim_end_matches('.')))
    })
}

#[cfg(not(feature = "cuda"))]
fn gpu(index: u16, _precision: Precision) -> Result<Device, InputError> {
    let name = DeviceName::Cuda(index);
    Err(InputError::new(format!(
        "device = \"{name}\": this nmt-train was built without CUDA; use device = \"cpu\" or \"auto\", or build it with \
         `--features cuda`"
    )))
}

/// Makes the computing threads of the whole process; 0 = one a physical core. They are made once: a later call changes
/// nothing. Returns the number in force. Must run before the first tensor is made.
///
/// # Errors
/// When the system gives no more threads.
pub fn set_threads(threads: usize) -> Result<usize> {
    static MADE: OnceLock<Result<usize, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let threads = if threads == 0 { physical_cores() } else { threads };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        pool.map(|()| threads).map_err(|e| format!("can not start {threads} threads: {e}"))
    });
    made.clone().map_err(Error::msg)
}

/// Tells candle to make no threads of its own: its pool spins while it waits and costs more than it gives on small
/// machines; our operations use rayon. Changes the environment, so it comes first in a program, before any thread.
pub fn keep_candle_on_one_thread() {
    std::env::set_var("CANDLE_NUM_THREADS", "1");
}

/// Physical cores this process may use.
pub fn physical_cores() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let siblings = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
    let per_core = siblings.map_or(1, |list| list.trim().split([',', '-']).count().max(1));
    (available / per_core).max(1)
}

/// Largest resident memory of this process so far, in bytes; 0 where the system does not tell.
pub fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Of the memory in which a model on this device is trained: that of the GPU, or of this process.
pub(crate) fn peak_memory_bytes_of(device: &Device) -> u64 {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return ops::cuda::peak_memory_bytes(device).unwrap_or(0);
    }
    debug_assert!(device.is_cpu(), "CPU and CUDA are all there is");
    peak_memory_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_in_a_cpu_build_is_refused_with_the_cure() {
        if !cfg!(feature = "cuda") {
            let message = device(DeviceName::Cuda(1), Precision::F32).err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(
                message,
                "device = \"cuda:1\": this nmt-train was built without CUDA; use device = \"cpu\" or \"auto\", \
                 or build it with `--features cuda`"
            );
        }
        assert!(matches!(device(DeviceName::Cpu, Precision::F32), Ok(Device::Cpu)));
    }

    #[test]
    fn the_cpu_computes_in_f32_only() {
        let message = device(DeviceName::Cpu, Precision::Bf16).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(message, r#"train.precision = "bf16" needs a GPU; on the CPU use "f32" (device = "cpu")"#);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_known() {
        assert!(peak_memory_bytes() > 1 << 20);
    }
}
