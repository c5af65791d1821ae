//! The floats that operations are generic over, their fast elementary functions, and access to a tensor's values.
//!
//! Every function here is straight-line code, so that loops over it vectorize; reductions use [`LANES`] partial sums
//! in a fixed order, so results do not depend on the machine's vector width.

use super::gemm::Kernels;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Result, Shape, Storage, Tensor, WithDType};
use std::marker::PhantomData;
use std::ops::{Deref, Neg, Range};

/// Partial results of a reduction: two AVX-512 or four AVX2 registers of f32.
pub(crate) const LANES: usize = 32;

/// Instructions that loops and matrix products are compiled for; the best that the CPU has is chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whatever the compiler's target guarantees.
    Portable,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

impl Level {
    /// The best of this CPU.
    pub fn best() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return Level::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Level::Avx2;
            }
        }
        Level::Portable
    }

    /// All that this CPU has, for tests.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Level> {
        let levels = [Level::Portable, Level::Avx2, Level::Avx512];
        levels.into_iter().filter(|&level| level as u8 <= Level::best() as u8).collect()
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::Portable => "portable",
            Level::Avx2 => "AVX2",
            Level::Avx512 => "AVX-512",
        })
    }
}

/// f32, or f64 for references: what trains is f32.
pub(crate) trait Real: WithDType + Neg<Output = Self> + Default + std::fmt::Debug + Kernels {
    /// Whether loops are compiled for every [`Level`], or once.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "there is one level"))]
    const BY_LEVEL: bool;
    const NEG_INFINITY: Self;

    /// The values of a storage of this type.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;

    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
    fn erf(self) -> Self;

    /// 1 / (1 + e^−x).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::one() / (Self::one() + (-self).exp())
    }
}

impl Real for f32 {
    const BY_LEVEL: bool = true;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [f32]> {
        match storage {
            CpuStorage::F32(values) => Some(values),
            _ => None,
        }
    }

    /// 2ⁿ·eʳ with |r| ≤ ln 2 / 2 and a polynomial of Cephes' `expf`; error under 2 units in the last place.
    #[inline(always)]
    fn exp(self) -> f32 {
        /// 1.5·2²³: adding it rounds to the nearest integer, which is then in the low bits.
        const ROUND: f32 = 12_582_912.0;
        const LN_2_HIGH: f32 = 0.693_359_4;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -105.0 { -105.0 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * LN_2_HIGH - n * LN_2_LOW;
        let mut p = 1.987_569_1e-4;
        p = p * r + 1.398_199_9e-3;
        p = p * r + 8.333_452e-3;
        p = p * r + 4.166_579_6e-2;
        p = p * r + 1.666_666_5e-1;
        p = p * r + 0.5;
        p = p * r * r + r + 1.0;
        // two factors, because n = 128 and subnormal results have no single power of two
        let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        let half = n >> 1;
        p * power(half) * power(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }

    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }

    /// x·P(x²)/Q(x²), least squares on |x| ≤ 8.8 (relative error under 2·10⁻⁸ before rounding), ±1 beyond.
    #[inline(always)]
    fn tanh(self) -> f32 {
        const END: f32 = 8.8;
        let x = if self > END { END } else { self };
        let x = if x < -END { -END } else { x };
        let z = x * x;
        let mut p = 1.371_750_8e-8;
        for c in [2.086_743_7e-5, 3.511_178e-3, 0.133_941_25, 1.0] {
            p = p * z + c;
        }
        let mut q = 7.923_948e-7;
        for c in [3.311_200_7e-4, 2.593_620_5e-2, 0.467_274_43, 1.0] {
            q = q * z + c;
        }
        let y = x * p / q;
        let y = if y > 1.0 { 1.0 } else { y };
        if y < -1.0 {
            -1.0
        } else {
            y
        }
    }

    /// 1 − erfc, with the Chebyshev fit of Numerical Recipes §6.2 (relative error of erfc under 1.2e-7).
    #[inline(always)]
    fn erf(self) -> f32 {
        let z = f32::abs(self);
        let t = 1.0 / (1.0 + 0.5 * z);
        let mut p = 0.170_872_77;
        for c in [
            -0.822_152_2,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ] {
            p = p * t + c;
        }
        (1.0 - t * Real::exp(p - z * z)).copysign(self)
    }
}

impl Real for f64 {
    const BY_LEVEL: bool = false;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [f64]> {
        match storage {
            CpuStorage::F64(values) => Some(values),
            _ => None,
        }
    }

    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }

    #[inline(always)]
    fn ln(self) -> f64 {
        f64::ln(self)
    }

    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }

    #[inline(always)]
    fn erf(self) -> f64 {
        candle_core::cpu::erf::erf_f64(self)
    }
}

/// Defines a function that is compiled for every [`Level`] and chosen at run time: over [`Real`]s (in f64 compiled once), or of
/// f32. All give the same results: no fused multiply-adds are introduced.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$T:ident: Real>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $crate::ops::real::simd! {
            @levels [$(#[$meta])* $vis] $name [<$T: $crate::ops::real::Real>] [$T::BY_LEVEL] [$($arg: $ty),*] [$(-> $ret)?] $body
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $crate::ops::real::simd! { @levels [$(#[$meta])* $vis] $name [] [true] [$($arg: $ty),*] [$(-> $ret)?] $body }
    };
    (@levels [$($head:tt)*] $name:ident [$($generic:tt)*] [$by_level:expr] [$($arg:ident: $ty:ty),*] [$($ret:tt)*]
     $body:block) => {
        #[allow(clippy::too_many_arguments)]
        $($head)* fn $name $($generic)* ($($arg: $ty),*) $($ret)* {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $($generic)* ($($arg: $ty),*) $($ret)* $body
            #[cfg(target_arch = "x86_64")]
            if $by_level {
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2 $($generic)* ($($arg: $ty),*) $($ret)* {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                #[allow(clippy::too_many_arguments)]
                fn avx512 $($generic)* ($($arg: $ty),*) $($ret)* {
                    body($($arg),*)
                }
                // SAFETY: the CPU has the features of its level, the only requirement of the callees.
                #[expect(unsafe_code, reason = "calls functions compiled for CPU features that were just checked")]
                match $crate::ops::real::Level::best() {
                    $crate::ops::real::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    $crate::ops::real::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::real::Level::Portable => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use simd;

/// Σ x.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T]) -> T {
    reduce(x, T::zero(), |a, b| a + b)
}

/// max x; −∞ of nothing.
#[inline(always)]
pub(crate) fn max<T: Real>(x: &[T]) -> T {
    reduce(x, T::NEG_INFINITY, |a, b| if a > b { a } else { b })
}

#[inline(always)]
fn reduce<T: Real>(x: &[T], start: T, combine: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = combine(lanes[i], block[i]);
        }
    }
    if !rest.is_empty() {
        let mut last = [start; LANES];
        last[..rest.len()].copy_from_slice(rest);
        for i in 0..LANES {
            lanes[i] = combine(lanes[i], last[i]);
        }
    }
    fold(lanes, combine)
}

/// Σ x·y over the shorter length.
#[inline(always)]
pub(crate) fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    let n = x.len().min(y.len());
    let mut lanes = [T::zero(); LANES];
    let (x, x_rest) = x[..n].as_chunks::<LANES>();
    let (y, y_rest) = y[..n].as_chunks::<LANES>();
    for (x, y) in x.iter().zip(y) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    // filled up: lanes that are reached one by one would not stay in registers, all the way through
    if !x_rest.is_empty() {
        let (mut x, mut y) = ([T::zero(); LANES], [T::zero(); LANES]);
        x[..x_rest.len()].copy_from_slice(x_rest);
        y[..y_rest.len()].copy_from_slice(y_rest);
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    fold(lanes, |a, b| a + b)
}

/// Combines lanes pairwise: halves onto halves.
#[inline(always)]
fn fold<T: Real>(mut lanes: [T; LANES], combine: impl Fn(T, T) -> T) -> T {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// The values of a tensor on the CPU, borrowed; it must be contiguous.
pub(crate) fn values<T: Real>(tensor: &Tensor) -> Result<impl Deref<Target = [T]> + '_> {
    let (guard, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a tensor is not contiguous (shape {:?})", layout.shape())
    };
    match &*guard {
        Storage::Cpu(storage) => T::cpu_storage_as_slice(storage)?,
        _ => candle_core::bail!("this operation runs on the CPU only, the tensor is on {:?}", tensor.device()),
    };
    Ok(Values { guard, range: start..end, float: PhantomData })
}

/// A read guard of a tensor's storage, seen as a slice; made by [`values`], which checked type and device.
struct Values<G, T> {
    guard: G,
    range: Range<usize>,
    float: PhantomData<T>,
}

impl<G: Deref<Target = Storage>, T: Real> Deref for Values<G, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.guard {
            Storage::Cpu(storage) => T::cpu_storage_as_slice(storage).map_or(&[], |v| &v[self.range.clone()]),
            _ => &[],
        }
    }
}

/// A tensor that owns these values, off the tape; no copy.
pub(crate) fn tensor<T: Real>(values: Vec<T>, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(storage(values), shape, BackpropOp::none(), false)
}

/// The memory of a tensor with these values; no copy.
pub(crate) fn storage<T: Real>(values: Vec<T>) -> Storage {
    Storage::Cpu(T::to_cpu_storage_owned(values))
}

/// Evaluates an expression with `$T` being the float type of `$values` (storage or tensor); an error for other types.
macro_rules! with_real {
    ($values:expr, $T:ident => $body:expr) => {{
        #[allow(unused_imports)]
        use candle_core::backend::BackendStorage as _;
        match $values.dtype() {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err(candle_core::Error::Msg(format!("this operation needs f32 or f64, got {other:?}"))),
        }
    }};
}
pub(crate) use with_real;

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest |f(x) − exact(x)| / max(|exact(x)|, floor) over a grid.
    fn worst(f: fn(f32) -> f32, exact: fn(f64) -> f64, range: Range<f64>, floor: f64) -> f64 {
        (0..=200_000)
            .map(|i| (range.start + (range.end - range.start) * f64::from(i) / 200_000.0) as f32)
            .map(|x| {
                let right = exact(f64::from(x));
                (f64::from(f(x)) - right).abs() / right.abs().max(floor)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn fast_functions_are_accurate() {
        let ulp = f64::from(f32::EPSILON);
        assert!(worst(Real::exp, f64::exp, -87.0..88.7, 0.0) < 2.0 * ulp);
        assert!(worst(Real::tanh, f64::tanh, -10.0..10.0, 0.0) < 3.0 * ulp);
        assert!(worst(Real::sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -80.0..80.0, 0.0) < 3.0 * ulp);
        assert!(worst(Real::erf, candle_core::cpu::erf::erf_f64, -5.0..5.0, 1.0) < 4.0 * ulp);
    }

    #[test]
    fn exp_and_tanh_behave_at_the_ends() {
        let exp = |x: f32| Real::exp(x);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-100.0) > 0.0);
        assert_eq!(Real::tanh(f32::INFINITY), 1.0);
        assert_eq!(Real::tanh(f32::NEG_INFINITY), -1.0);
        assert!(Real::tanh(f32::NAN).is_nan());
        assert_eq!(Real::sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(Real::sigmoid(f32::INFINITY), 1.0);
    }

    #[test]
    fn reductions_agree_with_plain_loops_at_every_length() {
        for n in 0..100 {
            let x: Vec<f64> = (0..n).map(|i| f64::from((i * 37) % 19) - 9.0).collect();
            assert_eq!(sum(&x), x.iter().sum::<f64>());
            assert_eq!(dot(&x, &x), x.iter().map(|x| x * x).sum::<f64>());
            assert_eq!(max(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
    }
}
