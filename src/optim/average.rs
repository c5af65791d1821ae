//! Exponential moving average of the weights, the model that is validated and saved.
//!
//! After update t = 0, 1, …: x̄ ← x̄ + (1 − γ)·(w − x̄) with γ = min(decay, (1 + t)/(10 + t)), so that the first
//! weights are soon forgotten.

use candle_core::{Result, Tensor, Var};

use super::inplace::{owned, updates, Elementwise, Real};
use crate::params::ParamSet;

/// Averages of all parameters, in their order.
pub struct Ema {
    decay: f64,
    updates: u64,
    averages: Vec<Var>,
}

impl Ema {
    /// Starts at the present weights. `decay` in [0, 1).
    ///
    /// # Errors
    /// Memory errors of candle.
    pub fn new(params: &ParamSet, decay: f64) -> Result<Self> {
        let averages = params.iter().map(|p| owned(&p.var)).collect::<Result<_>>()?;
        Ok(Ema { decay, updates: 0, averages })
    }

    /// Takes in the weights after an update.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    pub fn update(&mut self, params: &ParamSet) -> Result<()> {
        let t = self.updates as f64;
        let share = 1.0 - self.decay.min((1.0 + t) / (10.0 + t));
        self.updates += 1;
        let mut pairs = params.iter().zip(&self.averages);
        updates(|updates| {
            pairs.try_for_each(|(param, average)| updates.add(Toward, [share], 0..0, [average], &param.var))
        })
    }

    /// Begins anew at the present weights.
    ///
    /// # Errors
    /// Memory errors of candle.
    pub fn restart(&mut self, params: &ParamSet) -> Result<()> {
        *self = Ema::new(params, self.decay)?;
        Ok(())
    }

    /// Exchanges weights and averages, in place; a second call puts them back.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    pub fn swap(&mut self, params: &ParamSet) -> Result<()> {
        for (param, average) in params.iter().zip(&self.averages) {
            let weights = param.var.copy()?;
            param.var.set(average)?;
            average.set(&weights)?;
        }
        Ok(())
    }

    /// The averages under the names of the parameters. They share storage with this: save or copy them before the next
    /// update.
    pub fn tensors(&self, params: &ParamSet) -> Vec<(String, Tensor)> {
        params.iter().zip(&self.averages).map(|(p, x)| (p.name.clone(), x.as_detached_tensor())).collect()
    }

    /// Updates taken in; save it beside the averages.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The inverse of [`Ema::tensors`] and [`Ema::updates`].
    ///
    /// # Errors
    /// A missing or misshapen tensor, named.
    pub fn restore(&mut self, params: &ParamSet, tensors: &[(String, Tensor)], updates: u64) -> Result<()> {
        let mut averages = Vec::with_capacity(params.len());
        for param in params {
            match tensors.iter().find(|(name, _)| *name == param.name) {
                Some((_, t)) if t.dims() == param.var.dims() && t.dtype() == param.var.dtype() => {
                    averages.push(owned(&t.to_device(param.var.device())?)?);
                }
                _ => candle_core::bail!("no saved average of shape {:?} for {}", param.var.dims(), param.name),
            }
        }
        (self.updates, self.averages) = (updates, averages);
        Ok(())
    }
}

/// x ← x + share·(w − x).
#[derive(Clone, Copy)]
pub(super) struct Toward;

impl Elementwise<1, 1> for Toward {
    const NAME: &'static str = "toward";

    fn element<T: Real>([share]: [T; 1], [x]: [T; 1], w: T) -> [T; 1] {
        [x + share * (w - x)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::inplace::tests::agrees_on_gpu;
    use super::*;
    use crate::params::{Init, ParamKind};
    use candle_core::{DType, Device};

    #[test]
    fn averages_follow_the_formula_swap_in_and_out_and_survive_saving() -> Result<()> {
        let mut params = ParamSet::new(1, DType::F64, &Device::Cpu);
        params.add("w", ParamKind::Vector, &[1], Init::Zeros)?;
        let var = &params.get("w").unwrap().var;
        let read = || var.to_vec1::<f64>().unwrap()[0];
        let mut ema = Ema::new(&params, 0.5)?;
        let mut expected = 0.0;
        for t in 0..20 {
            var.set(&Tensor::new(&[f64::from(t)], &Device::Cpu)?)?;
            ema.update(&params)?;
            let gamma = 0.5f64.min((1.0 + f64::from(t)) / (10.0 + f64::from(t)));
            expected = gamma * expected + (1.0 - gamma) * f64::from(t);
        }
        let mut copy = Ema::new(&params, 0.5)?;
        copy.restore(&params, &ema.tensors(&params), ema.updates())?;
        for ema in [&mut ema, &mut copy] {
            ema.swap(&params)?;
            let inside = read();
            ema.swap(&params)?;
            assert!((inside - expected).abs() < 1e-12, "{inside} {expected}");
            assert_eq!(read(), 19.0);
        }
        ema.update(&params)?;
        copy.update(&params)?;
        assert_eq!(ema.tensors(&params)[0].1.to_vec1::<f64>()?, copy.tensors(&params)[0].1.to_vec1::<f64>()?);
        Ok(())
    }

    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn the_kernel_does_the_same() -> Result<()> {
        agrees_on_gpu(Toward, [-0.1])
    }
}
