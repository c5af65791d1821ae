//! Weights laid out for products once ("prepacked"), of models that are only used. What a product of training does at each
//! call is here done when the model is opened, and all threads share it: the one place where such weights get their form.

use candle_core::{bail, Result, Tensor, WithDType};
use std::any::Any;
use std::sync::Arc;

use super::gemm::{product_packed, Arithmetic, Mat, Packed, Threads};
use super::linear::{finish, joined, Activation};
use super::real::{self, with_real, Real};

/// Linear maps of one input, results side by side: φ(x·Wᵀ + b). A clone shares the memory.
#[derive(Clone, Debug)]
pub struct Prepacked(Arc<Maps>);

#[derive(Debug)]
struct Maps {
    /// Wᵀ, a [`Packed`] of the weights' type.
    weights: Box<dyn Any + Send + Sync>,
    /// `[out]`.
    bias: Option<Tensor>,
    inner: usize,
    outer: usize,
}

impl Prepacked {
    /// Of weights `[out, in]` with one `in`; each has a bias `[out]`, or none has. `None` on a GPU, which takes weights as
    /// they are.
    ///
    /// # Errors
    /// No weights, other types than f32 and f64, memory errors of candle.
    pub fn new(weights: &[&Tensor], biases: &[&Tensor]) -> Result<Option<Self>> {
        let Some(first) = weights.first() else { bail!("prepacking: no weights") };
        if !first.device().is_cpu() {
            return Ok(None);
        }
        let inner = first.dim(1)?;
        let outer = weights.iter().map(|weight| weight.dim(0)).sum::<Result<usize>>()?;
        if weights.iter().any(|weight| weight.dims() != [weight.dims()[0], inner]) {
            bail!("prepacking: weights of {:?} side by side", weights.iter().map(|w| w.dims()).collect::<Vec<_>>());
        }
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(biases, 0)?.detach()) };
        let weights = with_real!(first, T => {
            let (single, joint) = match weights {
                [single] => (Some(real::values::<T>(single)?), Vec::new()),
                several => (None, joined::<T>(several.iter().copied())?),
            };
            let weights = single.as_deref().unwrap_or(&joint);
            let packed: Packed<T> = Packed::of(Arithmetic::in_force(), Mat::new(weights, outer, inner).t(), Threads::All);
            Ok::<Box<dyn Any + Send + Sync>, _>(Box::new(packed))
        })?;
        Ok(Some(Prepacked(Arc::new(Maps { weights, bias, inner, outer }))))
    }

    pub(super) fn packed<T: Real>(&self) -> Result<&Packed<T>> {
        match self.0.weights.downcast_ref() {
            Some(packed) => Ok(packed),
            None => bail!("prepacked weights of another type than {:?}", T::DTYPE),
        }
    }

    /// φ(x·Wᵀ + b) of `x [N, in]`, off the tape.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn apply(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (n, width) = x.dims2()?;
        let Maps { bias, inner, outer, .. } = &*self.0;
        if width != *inner {
            bail!("linear: input {:?} and prepacked weights [{outer}, {inner}] do not fit", x.dims());
        }
        let x = x.contiguous()?;
        with_real!(x, T => {
            let bias = bias.as_ref().map(real::values::<T>).transpose()?;
            let x = real::values::<T>(&x)?;
            let y = product_packed(T::from_f64(1.0), Mat::new(&x, n, width), self.packed()?, Threads::All, |mut block| {
                let columns = block.column..block.column + block.columns;
                let bias = bias.as_ref().map(|bias| &bias[columns]);
                (0..block.rows).for_each(|i| finish(block.row_mut(i), bias, activation, None, 0));
            });
            Ok(real::tensor(y, (n, *outer)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{constant, distance, random};
    use crate::ops::joint_linear;

    #[test]
    fn prepacked_maps_are_the_maps_and_know_nothing_of_the_rows_beside() -> Result<()> {
        let of = |shape: &[usize], seed| constant(&random(shape, seed));
        let (x, a, b) = (of(&[19, 5], 1), of(&[40, 5], 2), of(&[3, 5], 3));
        let (bias_a, bias_b) = (of(&[40], 4), of(&[3], 5));
        let maps = Prepacked::new(&[&a, &b], &[&bias_a, &bias_b])?.unwrap();
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f64>();
        for activation in [Activation::Identity, Activation::Gelu] {
            let right = joint_linear(&x, &[&a, &b], &[&bias_a, &bias_b], activation, None)?;
            let found = maps.apply(&x, activation)?;
            assert!(distance(&flat(&found)?, &flat(&right)?) < 1e-12);
            for row in [0, 18] {
                let alone = maps.apply(&x.narrow(0, row, 1)?, activation)?;
                assert_eq!(flat(&alone)?, flat(&found.narrow(0, row, 1)?.contiguous()?)?);
            }
        }
        assert!(maps.apply(&a.t()?.contiguous()?, Activation::Identity).is_err());
        assert!(Prepacked::new(&[], &[]).is_err() && Prepacked::new(&[&a, &bias_a], &[]).is_err());
        Ok(())
    }
}
