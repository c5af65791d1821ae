//! Gradients leave candle's tape: collected in the order of the parameters, frozen rows cleared, micro-batches summed.

use candle_core::backprop::GradStore;
use candle_core::Result as CandleResult;

use super::inplace::{scale, updates, Elementwise, Real};
use super::{Error, Gradients};
use crate::params::ParamSet;

impl Gradients {
    /// Takes the gradients of `params` out of the tape's result, detached and contiguous, frozen rows cleared.
    ///
    /// # Errors
    /// [`Error::Missing`] naming a parameter that has no gradient: a cut tape, always a bug.
    pub fn collect(params: &ParamSet, store: &mut GradStore) -> Result<Self, Error> {
        let mut tensors = Vec::with_capacity(params.len());
        for param in params {
            let gradient = store.remove(&param.var).ok_or_else(|| Error::Missing { parameter: param.name.clone() })?;
            tensors.push(gradient.detach().contiguous()?);
        }
        let gradients = Gradients { tensors };
        gradients.clear_frozen_rows(params)?;
        Ok(gradients)
    }

    /// Zeroes the gradient of every [`crate::params::Param::frozen_row`] in place, so that neither the norm nor the
    /// update sees it.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    pub fn clear_frozen_rows(&self, params: &ParamSet) -> CandleResult<()> {
        for (param, gradient) in params.iter().zip(&self.tensors) {
            if let Some(row) = param.frozen_row {
                gradient.slice_set(&gradient.narrow(0, row, 1)?.zeros_like()?, 0, row)?;
            }
        }
        Ok(())
    }

    /// Multiplies all by `factor` in place.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    pub fn scale(&self, factor: f64) -> CandleResult<()> {
        if factor != 1.0 {
            scale(&self.tensors, factor)?;
        }
        Ok(())
    }
}

/// Sums gradients of micro-batches in the order they come.
#[derive(Default)]
pub struct Accumulator {
    sum: Option<Gradients>,
}

impl Accumulator {
    /// Adds the gradients of one micro-batch; the first is taken as it is, so one batch costs nothing.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    pub fn add(&mut self, gradients: Gradients) -> CandleResult<()> {
        match &self.sum {
            None => self.sum = Some(gradients),
            Some(sum) => {
                let pairs = || sum.tensors.iter().zip(&gradients.tensors);
                updates(|updates| pairs().try_for_each(|(sum, gradient)| updates.add(Sum, [], 0..0, [sum], gradient)))?;
            }
        }
        Ok(())
    }

    /// The sum times `factor` (1 / target tokens of all micro-batches), and a fresh start; `None` before any `add`.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    pub fn take(&mut self, factor: f64) -> CandleResult<Option<Gradients>> {
        let sum = self.sum.take();
        sum.iter().try_for_each(|sum| sum.scale(factor))?;
        Ok(sum)
    }
}

struct Sum;

impl Elementwise<1, 0> for Sum {
    const NAME: &'static str = "sum";

    fn element<T: Real>(_: [T; 0], [sum]: [T; 1], g: T) -> [T; 1] {
        [sum + g]
    }
}
