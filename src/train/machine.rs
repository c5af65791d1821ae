//! The machine: device, threads, memory in use.

use candle_core::Device;

use crate::exit::InputError;

/// The device a config names: "cpu", "cuda", "cuda:N" or "auto".
///
/// # Errors
/// CUDA asked for in a program built without it, or no such device.
pub fn device(name: &str) -> Result<Device, InputError> {
    if name == "cpu" || (name == "auto" && !candle_core::utils::cuda_is_available()) {
        return Ok(Device::Cpu);
    }
    if !candle_core::utils::cuda_is_available() {
        return Err(InputError::new(format!(
            "device = \"{name}\": this nmt-train was built without CUDA; use device = \"cpu\" or \"auto\""
        )));
    }
    let index = name.strip_prefix("cuda:").unwrap_or("0").parse().unwrap_or(0);
    Device::new_cuda(index).map_err(|e| InputError::new(format!("device = \"{name}\": {e}")))
}

/// Sets the number of computing threads for the whole process; 0 = physical cores. Returns the number in force.
/// Must run before the first tensor is made.
pub fn set_threads(threads: usize) -> usize {
    let threads = if threads == 0 { physical_cores() } else { threads };
    std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
    // candle's own pool spins while it waits and costs more than it gives on small machines; our operations use rayon.
    std::env::set_var("CANDLE_NUM_THREADS", "1");
    threads
}

/// Physical cores this process may use.
fn physical_cores() -> usize {
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

/// Memory of the machine in bytes, if the system tells.
pub(super) fn total_memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_in_a_cpu_build_is_refused_with_the_cure() {
        if !candle_core::utils::cuda_is_available() {
            let message = device("cuda:1").err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(
                message,
                "device = \"cuda:1\": this nmt-train was built without CUDA; use device = \"cpu\" or \"auto\""
            );
        }
        assert!(matches!(device("cpu"), Ok(Device::Cpu)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_known() {
        assert!(peak_memory_bytes() > 1 << 20);
    }
}
