//! Numbers of all matrices of a batch in one tensor. An error stays inside until they are used, so that formulas have none.

use candle_core::{DType, Device, Error, Result, Tensor};
use std::ops::{Add, Div, Mul, Sub};
use std::sync::Arc;

use super::Number;

/// Numbers on a device, `[count]`, or why there are none.
#[derive(Clone)]
pub(in crate::optim) struct Numbers(std::result::Result<Tensor, Arc<Error>>);

impl Numbers {
    pub(super) fn new(numbers: Result<Tensor>) -> Self {
        Numbers(numbers.and_then(|numbers| numbers.to_dtype(DType::F64)).map_err(Arc::new))
    }

    /// `[count]`, in f64.
    pub(super) fn tensor(&self) -> Result<&Tensor> {
        self.0.as_ref().map_err(|error| Error::Msg(error.to_string()))
    }

    /// `[count, 1, 1]` of this type, to be broadcast over matrices.
    pub(super) fn each(&self, dtype: DType) -> Result<Tensor> {
        let numbers = self.tensor()?;
        numbers.to_dtype(dtype)?.reshape((numbers.elem_count(), 1, 1))
    }

    fn map(&self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Self {
        Numbers(self.0.clone().and_then(|numbers| f(&numbers).map_err(Arc::new)))
    }

    fn with(&self, other: &Self, f: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>) -> Self {
        self.map(|own| f(own, other.tensor()?))
    }
}

/// `value` in the shape and the type of `like`: a fill on the device, where a comparison with a number would be a copy to it.
pub(super) fn full(value: f64, like: &Tensor) -> Result<Tensor> {
    match like.dtype() {
        DType::F64 => Tensor::full(value, like.shape(), like.device()),
        _ => Tensor::full(value as f32, like.shape(), like.device()),
    }
}

impl Number for Numbers {
    fn from_values(values: &[f64], device: &Device) -> Result<Self> {
        Ok(Numbers(Ok(Tensor::from_slice(values, values.len(), device)?)))
    }

    fn filled(value: f64, count: usize, device: &Device) -> Result<Self> {
        Ok(Numbers(Ok(Tensor::full(value, count, device)?)))
    }

    fn values(&self) -> Result<Vec<f64>> {
        self.tensor()?.to_vec1()
    }

    fn sqrt(self) -> Self {
        self.map(Tensor::sqrt)
    }

    fn recip(self) -> Self {
        self.map(Tensor::recip)
    }

    fn abs(self) -> Self {
        self.map(Tensor::abs)
    }

    fn powf(self, exponent: f64) -> Self {
        self.map(|x| x.powf(exponent))
    }

    fn max(self, other: f64) -> Self {
        self.map(|x| x.maximum(&full(other, x)?))
    }

    fn min(self, other: f64) -> Self {
        self.map(|x| x.minimum(&full(other, x)?))
    }

    fn exponents_of(self, base: f64) -> Self {
        // 0ˣ of exponents above 0, as those of bias corrections are
        self.map(|x| if base == 0.0 { x.zeros_like() } else { (x * base.ln())?.exp() })
    }

    fn is_zero(&self) -> Self {
        self.map(|x| x.eq(&x.zeros_like()?)?.to_dtype(DType::F64))
    }

    fn is_finite(&self) -> Self {
        self.map(|x| x.abs()?.le(&full(f64::MAX, x)?)?.to_dtype(DType::F64))
    }

    fn is_below(&self, bound: f64) -> Self {
        self.map(|x| x.lt(&full(bound, x)?)?.to_dtype(DType::F64))
    }

    fn choose(&self, yes: &Self, no: &Self) -> Self {
        self.map(|mask| mask.to_dtype(DType::U8)?.where_cond(yes.tensor()?, no.tensor()?))
    }

    fn sum(&self) -> Self {
        self.map(|x| x.sum_keepdim(0))
    }

    fn surely(&self, _value: f64) -> bool {
        false
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident, $symbol:tt;)*) => {$(
        impl $trait for Numbers {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                self.with(&other, |a, b| a $symbol b)
            }
        }

        impl $trait<f64> for Numbers {
            type Output = Self;
            fn $method(self, other: f64) -> Self {
                self.map(|a| a $symbol other)
            }
        }
    )*};
}

operator! {
    Add add, +;
    Sub sub, -;
    Mul mul, *;
    Div div, /;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same formula of numbers one by one and of all at once.
    fn formula<N: Number>(x: N) -> N {
        let root = (x.clone() * 2.0 + 1.0).sqrt() / (x.clone() + 3.0) - x.clone().exponents_of(0.9).rest();
        let there = x.is_zero().rest() * root.is_finite();
        let small = x.is_below(1.5);
        small.choose(&(root.powf(2.0) - 1.0), &(x.clone().max(2.5).min(4.0) * there)) + x.abs()
    }

    #[test]
    fn formulas_of_tensors_are_those_of_numbers() -> Result<()> {
        let x = [0.0, 0.5, 1.0, 2.0, 3.0, 1e300];
        let all = formula(Numbers::from_values(&x, &Device::Cpu)?).values()?;
        for (x, got) in x.iter().zip(all) {
            let expected = formula(*x);
            assert!((got - expected).abs() <= 1e-14 * expected.abs(), "{x}: {got} {expected}");
        }
        assert_eq!(Numbers::from_values(&x[..3], &Device::Cpu)?.sum().values()?, [1.5]);
        assert!(Numbers::new(Tensor::new(&[f64::NAN], &Device::Cpu)).is_finite().values()? == [0.0]);
        Ok(())
    }

    #[test]
    fn an_error_stays_inside_until_the_numbers_are_used() -> Result<()> {
        let three = Numbers::from_values(&[1.0, 2.0, 3.0], &Device::Cpu)?;
        let two = Numbers::from_values(&[1.0, 2.0], &Device::Cpu)?;
        assert!(((three + two) * 2.0).sqrt().values().is_err());
        Ok(())
    }
}
