//! The machine: device, precision, threads, memory in use.

use std::sync::{Arc, OnceLock};

use anyhow::{Error, Result};
use candle_core::Device;

use crate::config::DeviceName;
use crate::exit::InputError;
use crate::kinds::Precision;
use crate::ops::{self, Level, Units};

/// The device that a config names, which computes in this precision from now on; [`fallback`] says where it does not.
///
/// # Errors
/// CUDA asked for in a program built without it, no such device, a precision that the device does not have.
pub fn device(name: DeviceName, precision: Precision) -> Result<Device, InputError> {
    let device = open(name, precision)?;
    if device.is_cpu() {
        ops::set_cpu_precision(on_the_cpu(name, precision, ops::units_for(precision))?);
    }
    Ok(device)
}

/// As [`device`], for one of several processes of a host, of this number among them: each takes the next GPU, or the only one
/// that its launcher lets it see.
///
/// # Errors
/// As [`device`].
pub fn device_of_rank(name: DeviceName, precision: Precision, number: usize) -> Result<Device, InputError> {
    let next = |first: u16| DeviceName::Cuda(first.saturating_add(u16::try_from(number).unwrap_or(u16::MAX)));
    match name {
        DeviceName::Cuda(first) => device(next(first), precision).or_else(|_| device(name, precision)),
        DeviceName::Auto if number > 0 && gpu(0, precision).is_ok() => {
            device(next(0), precision).or_else(|_| device(name, precision))
        }
        _ => device(name, precision),
    }
}

/// As [`device`], for a model that is there: where nothing was `asked` for, the CPU computes in f32 whatever the model was
/// `trained` in.
///
/// # Errors
/// As [`device`].
pub fn device_for_use(name: DeviceName, trained: Precision, asked: Option<Precision>) -> Result<Device, InputError> {
    if let Some(precision) = asked {
        return device(name, precision);
    }
    let device = open(name, trained)?;
    if device.is_cpu() {
        ops::set_cpu_precision(Precision::F32);
    }
    Ok(device)
}

fn open(name: DeviceName, precision: Precision) -> Result<Device, InputError> {
    match name {
        DeviceName::Cpu => Ok(Device::Cpu),
        DeviceName::Auto => Ok(gpu(0, precision).unwrap_or(Device::Cpu)),
        DeviceName::Cuda(index) => gpu(index, precision),
    }
}

/// What a CPU with these units for it computes in when it is asked for `precision`: f32 where what was asked for would be
/// slower and the choice of the device was left to the program.
fn on_the_cpu(name: DeviceName, precision: Precision, units: Option<Units>) -> Result<Precision, InputError> {
    match (precision, units) {
        (Precision::F32, _) | (Precision::Bf16 | Precision::Int8, Some(_)) => Ok(precision),
        (Precision::Bf16 | Precision::Int8, None) if name == DeviceName::Auto => Ok(Precision::F32),
        (Precision::Bf16 | Precision::Int8, None) => {
            let (precision, needs) = (precision.name(), needs(precision));
            Err(InputError::new(format!(
                "precision {precision} needs {needs}, which is not here (device = \"{name}\"); use f32 here, or device = \
                 \"auto\", which takes f32 where {precision} is not to be had"
            )))
        }
        (Precision::Tf32, _) => {
            Err(InputError::new(format!("precision tf32 needs a GPU; on the CPU use f32 (device = \"{name}\")")))
        }
    }
}

/// Where a precision is to be had; flags are those of /proc/cpuinfo.
fn needs(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "nothing",
        Precision::Tf32 => "a GPU",
        Precision::Bf16 => "a GPU or a CPU with avx512_bf16 or amx_bf16",
        Precision::Int8 => "a CPU with avx512_vnni",
    }
}

/// The precision that a device computes in.
pub fn precision_of(device: &Device) -> Precision {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return ops::cuda::precision_of(device).unwrap_or(Precision::F32);
    }
    debug_assert!(device.is_cpu(), "CPU and CUDA are all there is");
    ops::cpu_precision()
}

/// Says so where a device does not compute in the precision that was asked for.
pub fn fallback(device: &Device, asked: Precision) -> Option<String> {
    let precision = precision_of(device);
    (precision != asked).then(|| {
        format!("precision {} needs {}: computing in {} instead", asked.name(), needs(asked), precision.name())
    })
}

/// What decides the last bits of results besides the config: precision and instructions, or the model of the GPU. As
/// "cpu, bf16, AMX tiles".
pub fn computed_by(device: &Device) -> String {
    let precision = precision_of(device).name();
    #[cfg(feature = "cuda")]
    if let Ok((name, _)) = ops::cuda::describe(device) {
        return format!("{name}, {precision}");
    }
    match ops::units_in_force() {
        None => format!("cpu, {precision}, {}", Level::best()),
        Some(units) => format!("cpu, {precision}, {units}"),
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
        // asks the system for tiles, which threads inherit
        ops::bf16_units();
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

/// Makes writing beyond the largest file that the process may write (`ulimit -f`) an error of that file, where it would end
/// the process.
///
/// # Errors
/// When the system refuses the handler.
pub fn outlive_limits_of_files() -> std::io::Result<()> {
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default()).map(|_| ())
}

/// Physical cores this process may use.
pub fn physical_cores() -> usize {
    let siblings = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
    let per_core = siblings.map_or(1, |list| list.trim().split([',', '-']).count().max(1));
    (cores() / per_core).max(1)
}

/// Physical cores of this host.
pub fn physical_cores_of_host() -> usize {
    (cores_of_host() * physical_cores() / cores()).max(1)
}

/// Logical cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Logical cores of this host, as far as the system tells.
pub fn cores_of_host() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
    };
    let counts: Option<Vec<usize>> = online.trim().split(',').map(count).collect();
    counts.map_or(1, |counts| counts.iter().sum()).max(cores())
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
    fn a_cpu_computes_in_bf16_where_it_has_units_and_is_refused_or_replaced_elsewhere() {
        let found = |name, precision, units| on_the_cpu(name, precision, units).map_err(|e| e.to_string());
        for units in [None, Some(Units::Avx512Bf16), Some(Units::Amx)] {
            for name in [DeviceName::Cpu, DeviceName::Auto] {
                assert_eq!(found(name, Precision::F32, units), Ok(Precision::F32));
                let refused = format!("precision tf32 needs a GPU; on the CPU use f32 (device = \"{name}\")");
                assert_eq!(found(name, Precision::Tf32, units), Err(refused));
            }
        }
        assert_eq!(found(DeviceName::Cpu, Precision::Bf16, Some(Units::Amx)), Ok(Precision::Bf16));
        assert_eq!(found(DeviceName::Auto, Precision::Bf16, Some(Units::Avx512Bf16)), Ok(Precision::Bf16));
        assert_eq!(found(DeviceName::Auto, Precision::Bf16, None), Ok(Precision::F32));
        assert_eq!(found(DeviceName::Cpu, Precision::Int8, Some(Units::Avx512Vnni)), Ok(Precision::Int8));
        assert!(found(DeviceName::Cpu, Precision::Int8, None).unwrap_err().contains("a CPU with avx512_vnni"));
        assert_eq!(
            found(DeviceName::Cpu, Precision::Bf16, None).unwrap_err(),
            "precision bf16 needs a GPU or a CPU with avx512_bf16 or amx_bf16, which is not here (device = \"cpu\"); \
             use f32 here, or device = \"auto\", which takes f32 where bf16 is not to be had"
        );
    }

    #[test]
    fn what_computes_is_told_by_precision_and_instructions() {
        use crate::ops::Choice;
        let _choice = Choice::of(None);
        assert_eq!(computed_by(&Device::Cpu), format!("cpu, f32, {}", Level::best()));
        assert_eq!(fallback(&Device::Cpu, Precision::F32), None);
        let told = fallback(&Device::Cpu, Precision::Bf16).unwrap_or_default();
        assert!(told.contains("precision bf16") && told.contains("computing in f32"), "{told}");
        let _choice = Choice::of(Some(Units::Portable));
        assert_eq!(computed_by(&Device::Cpu), "cpu, bf16, portable bf16");
        assert_eq!(fallback(&Device::Cpu, Precision::Bf16), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_known() {
        assert!(peak_memory_bytes() > 1 << 20);
    }
}
