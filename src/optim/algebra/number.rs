//! A number for each matrix of a batch, for formulas written with operators: `f64` on the CPU, where a batch is one matrix.

use candle_core::{Device, Result};
use std::ops::{Add, Div, Mul, Sub};

/// See the module. Masks are 1 or 0.
pub(in crate::optim) trait Number:
    Clone
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Div<f64, Output = Self>
{
    /// One after the other, on this device.
    fn from_values(values: &[f64], device: &Device) -> Result<Self>;
    /// `value`, `count` times.
    fn filled(value: f64, count: usize, device: &Device) -> Result<Self>;
    /// Reads them.
    fn values(&self) -> Result<Vec<f64>>;
    fn sqrt(self) -> Self;
    fn powf(self, exponent: f64) -> Self;
    /// `base` to the power of each.
    fn exponents_of(self, base: f64) -> Self;
    fn max(self, other: f64) -> Self;
    fn min(self, other: f64) -> Self;
    fn abs(self) -> Self;
    /// 1 where it is 0.
    fn is_zero(&self) -> Self;
    fn is_finite(&self) -> Self;
    /// 1 where it is below `bound`; NaN is not.
    fn is_below(&self, bound: f64) -> Self;
    /// As a mask: `yes` where it is 1, `no` elsewhere.
    fn choose(&self, yes: &Self, no: &Self) -> Self;
    /// Of all of them.
    fn sum(&self) -> Self;
    /// Whether all of them are known, without waiting for them, to be `value`.
    fn surely(&self, value: f64) -> bool;

    fn recip(self) -> Self;

    /// `1 − self`.
    fn rest(self) -> Self {
        self * -1.0 + 1.0
    }
}

fn mask(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty)?)),*) => {$(
        fn $method(self $(, $argument: $type)?) -> Self {
            f64::$method(self $(, $argument)?)
        }
    )*};
}

impl Number for f64 {
    fn from_values(values: &[f64], _device: &Device) -> Result<Self> {
        match values {
            [value] => Ok(*value),
            _ => candle_core::bail!("{} numbers for one matrix", values.len()),
        }
    }

    fn filled(value: f64, _count: usize, _device: &Device) -> Result<Self> {
        Ok(value)
    }

    fn values(&self) -> Result<Vec<f64>> {
        Ok(vec![*self])
    }

    forward! { sqrt(), recip(), abs(), powf(exponent: f64), max(other: f64), min(other: f64) }

    fn exponents_of(self, base: f64) -> Self {
        base.powf(self)
    }

    fn is_zero(&self) -> Self {
        mask(*self == 0.0)
    }

    fn is_finite(&self) -> Self {
        mask(f64::is_finite(*self))
    }

    fn is_below(&self, bound: f64) -> Self {
        mask(*self < bound)
    }

    fn choose(&self, yes: &Self, no: &Self) -> Self {
        if *self == 0.0 {
            *no
        } else {
            *yes
        }
    }

    fn sum(&self) -> Self {
        *self
    }

    fn surely(&self, value: f64) -> bool {
        *self == value
    }

    fn rest(self) -> Self {
        1.0 - self
    }
}
