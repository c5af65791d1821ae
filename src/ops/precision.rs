//! In which precision products on the CPU take their operands, and the instructions that rounded ones are done with.
//!
//! The precision is one for the process, as the number of threads is; [`set_cpu_precision`] sets it before anything is
//! computed. An operation reads it where it is entered, on the thread that calls it, so that what it does afterwards,
//! on however many threads, is of one kind. Parameters, activations, gradients, and optimizers are f32 with all.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::OnceLock;

use super::Precision;

/// What CPUs do products of rounded operands with. Those of bf16, which has 8 bits of mantissa, sum in f32, each in its own
/// order, so that results of one differ from those of another in their last bits; those of int8 sum integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Units {
    /// Products of bf16 that every CPU has; slower than f32, for tests.
    Portable = 1,
    /// Vectors of pairs (`vdpbf16ps`); implies [`super::Level::Avx512`].
    Avx512Bf16 = 2,
    /// Tiles of 16 rows (`tdpbf16ps`), which the system has granted to this process; implies [`Units::Avx512Bf16`].
    Amx = 3,
    /// Products of int8 that every CPU has; for tests.
    PortableInt8 = 4,
    /// Vectors of quadruples (`vpdpbusd`), on top of [`super::Level::Avx512`].
    Avx512Vnni = 5,
}

impl Units {
    const ALL: [Units; 5] = [Units::Portable, Units::Avx512Bf16, Units::Amx, Units::PortableInt8, Units::Avx512Vnni];

    /// All that this CPU can do, the slowest of a precision first; in tests with tiles, which are emulated where it has none.
    pub(crate) fn available() -> impl Iterator<Item = Units> {
        #[cfg(all(test, target_arch = "x86_64", target_os = "linux", not(miri)))]
        let is_emulated = |units| (units == Units::Amx).then(super::gemm::emulate_tiles).is_some();
        #[cfg(not(all(test, target_arch = "x86_64", target_os = "linux", not(miri))))]
        let is_emulated = |_| false;
        Units::ALL.into_iter().filter(move |&units| {
            let best = detected(units.precision());
            let is_portable = matches!(units, Units::Portable | Units::PortableInt8);
            is_portable || best.is_some_and(|best| units as u8 <= best as u8) || is_emulated(units)
        })
    }

    /// What they round operands to.
    pub fn precision(self) -> Precision {
        match self {
            Units::Portable | Units::Avx512Bf16 | Units::Amx => Precision::Bf16,
            Units::PortableInt8 | Units::Avx512Vnni => Precision::Int8,
        }
    }

    /// As in `NMT_TRAIN_UNITS`.
    fn name(self) -> &'static str {
        match self {
            Units::Portable => "portable",
            Units::Avx512Bf16 => "avx512-bf16",
            Units::Amx => "amx",
            Units::PortableInt8 => "portable-int8",
            Units::Avx512Vnni => "avx512-vnni",
        }
    }
}

impl std::fmt::Display for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Units::Portable => "portable bf16",
            Units::Avx512Bf16 => "AVX-512 BF16",
            Units::Amx => "AMX tiles",
            Units::PortableInt8 => "portable int8",
            Units::Avx512Vnni => "AVX-512 VNNI",
        })
    }
}

/// Those that products in this precision are done with here; `None` where the CPU has none, and the precision pays nothing,
/// and for f32, which needs none.
///
/// Tests choose others by the environment variable `NMT_TRAIN_UNITS`: portable, avx512-bf16, amx, portable-int8 or
/// avx512-vnni (those that the CPU has not are none), or none. Tiles are asked of the system on the first call for bf16,
/// which is to come before threads start.
pub fn units_for(precision: Precision) -> Option<Units> {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    match CHOSEN.get_or_init(|| std::env::var("NMT_TRAIN_UNITS").ok()) {
        Some(name) => Units::available().find(|units| units.precision() == precision && units.name() == name),
        None => detected(precision),
    }
}

/// [`units_for`] bf16.
pub fn bf16_units() -> Option<Units> {
    units_for(Precision::Bf16)
}

/// The best of this CPU.
fn detected(precision: Precision) -> Option<Units> {
    static BF16: OnceLock<Option<Units>> = OnceLock::new();
    match precision {
        Precision::F32 | Precision::Tf32 => None,
        Precision::Bf16 => *BF16.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            if super::Level::best() == super::Level::Avx512 && is_x86_feature_detected!("avx512bf16") {
                return Some(if tiles_granted() { Units::Amx } else { Units::Avx512Bf16 });
            }
            None
        }),
        Precision::Int8 => {
            #[cfg(target_arch = "x86_64")]
            if super::Level::best() == super::Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
                return Some(Units::Avx512Vnni);
            }
            None
        }
    }
}

/// Whether the CPU has tiles for bf16 and Linux lets this process use them, as it does from 5.16 on.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
#[expect(unsafe_code, reason = "an instruction and a system call that the standard library has no safe form of")]
fn tiles_granted() -> bool {
    /// Bits of EDX of leaf 7: `amx_bf16` and `amx_tile`.
    const AMX: u32 = 1 << 22 | 1 << 24;
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // `__cpuid_count` is a safe function in newer compilers
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has the instruction; those with AVX-512 have leaf 7.
    let has_tiles = unsafe { std::arch::x86_64::__cpuid_count(7, 0) }.edx & AMX == AMX;
    // SAFETY: takes two numbers, touches no memory; grants a state component to the process, or refuses.
    has_tiles && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
}

#[cfg(all(target_arch = "x86_64", not(all(target_os = "linux", not(miri)))))]
fn tiles_granted() -> bool {
    false
}

/// The units in force as numbers; 0 = products in f32.
static IN_FORCE: AtomicU8 = AtomicU8::new(0);

/// Lets products on the CPU take f32 operands as they are, or round them: for [`units_for`] it, or where there are none
/// for arithmetic that every CPU has. Of the whole process. TF32 is f32 here.
pub fn set_cpu_precision(precision: Precision) {
    let units = units_for(precision).or(match precision {
        Precision::F32 | Precision::Tf32 => None,
        Precision::Bf16 => Some(Units::Portable),
        Precision::Int8 => Some(Units::PortableInt8),
    });
    IN_FORCE.store(units.map_or(0, |units| units as u8), Ordering::Relaxed);
}

/// The precision of products on the CPU.
pub fn cpu_precision() -> Precision {
    units_in_force().map_or(Precision::F32, Units::precision)
}

/// What products on the CPU are done with: `None` = in f32.
pub fn units_in_force() -> Option<Units> {
    #[cfg(test)]
    if let Some(chosen) = tests::CHOSEN.get() {
        return chosen;
    }
    let number = IN_FORCE.load(Ordering::Relaxed);
    Units::ALL.into_iter().find(|&units| units as u8 == number)
}

/// Until this is dropped, operations that the thread enters do products in f32 (`None`) or with these units, which the
/// CPU must have; other threads of the process are not touched.
#[cfg(test)]
pub(crate) struct Choice(Option<Option<Units>>);

#[cfg(test)]
impl Choice {
    pub(crate) fn of(units: Option<Units>) -> Self {
        assert!(units.is_none_or(|wanted| Units::available().any(|units| units == wanted)), "no {units:?} here");
        Choice(tests::CHOSEN.replace(Some(units)))
    }
}

#[cfg(test)]
impl Drop for Choice {
    fn drop(&mut self) {
        tests::CHOSEN.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        pub(super) static CHOSEN: Cell<Option<Option<Units>>> = const { Cell::new(None) };
    }

    #[test]
    fn a_choice_is_of_its_thread_and_ends() {
        let units = || (units_in_force(), cpu_precision());
        let outer = Choice::of(Some(Units::Portable));
        {
            let _inner = Choice::of(None);
            assert_eq!(units(), (None, Precision::F32));
        }
        assert_eq!(units(), (Some(Units::Portable), Precision::Bf16));
        assert_eq!(std::thread::spawn(units).join().unwrap(), (None, Precision::F32));
        drop(outer);
        assert_eq!(units(), (None, Precision::F32));
    }

    #[test]
    fn what_is_detected_is_available_with_what_is_below() {
        for precision in [Precision::Bf16, Precision::Int8] {
            let best = detected(precision);
            // tiles may be emulated, whatever else there is
            let is_real = |units: &Units| *units != Units::Amx || best == Some(Units::Amx);
            let of_it = |units: &Units| units.precision() == precision;
            let all: Vec<Units> = Units::available().filter(of_it).filter(is_real).collect();
            let known: Vec<Units> = Units::ALL.into_iter().filter(of_it).collect();
            assert_eq!(all, known[..all.len()]);
            assert!(best.is_none_or(|units| all.contains(&units)));
        }
        assert_eq!(units_for(Precision::F32), None);
    }
}
