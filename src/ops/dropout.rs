//! Dropout masks inside operations: the factor of each element, recomputed wherever it is needed.

use super::real::Real;
use super::Dropout;
use crate::rng::MaskKey;

/// A [`Dropout`] made ready for loops: `factor(i)` is 0 or 1/(1−p).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask<T> {
    key: MaskKey,
    threshold: u32,
    scale: T,
}

impl<T: Real> Mask<T> {
    pub(crate) fn new(dropout: Dropout) -> Self {
        // 2³² · p; p < 1, and the cast saturates
        let threshold = (dropout.p * 4_294_967_296.0).round() as u32;
        Mask { key: dropout.key, threshold, scale: T::from_f64(1.0 / (1.0 - dropout.p)) }
    }

    /// What [`Mask::factor`] works with: the two words of the key, the threshold, and the scale of what is kept.
    #[cfg(feature = "cuda")]
    pub(crate) fn parts(self) -> ([u32; 2], u32, T) {
        (self.key.words(), self.threshold, self.scale)
    }

    /// Of the element with this row-major index (mod 2³²).
    #[inline(always)]
    pub(crate) fn factor(self, index: usize) -> T {
        if self.key.bits(index as u32) >= self.threshold {
            self.scale
        } else {
            T::zero()
        }
    }
}

#[cfg(test)]
pub(crate) mod reference {
    use super::*;
    use candle_core::{DType, Device, Result, Tensor};

    /// The mask as a constant tensor, for gradient checks.
    pub(crate) fn mask_tensor(dropout: Option<Dropout>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let factor = |i| dropout.map_or(1.0, |d| Mask::<f64>::new(d).factor(i));
        Tensor::from_vec((0..n).map(factor).collect::<Vec<f64>>(), shape, &Device::Cpu)?.to_dtype(dtype)
    }
}
