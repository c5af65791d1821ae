//! The norm of all gradients: non-finite values found and named, large gradients scaled down.

use candle_core::{Result as CandleResult, Tensor};

use super::inplace::{Real, CHUNK};
use super::{Error, Gradients};
use crate::ops::{rows, values, with_real};
use crate::params::ParamSet;

/// ‖g‖₂ over all parameters, accumulated in f64 in an order that does not depend on threads.
///
/// # Errors
/// [`Error::NonFinite`] naming the first parameter (in the order of `params`) whose gradient holds NaN or infinity.
pub fn global_norm(params: &ParamSet, gradients: &Gradients) -> Result<f64, Error> {
    let mut sum = 0.0;
    for (param, squares) in params.iter().zip(sums_of_squares(&gradients.tensors)?) {
        if !squares.is_finite() {
            return Err(Error::NonFinite { parameter: param.name.clone() });
        }
        sum += squares;
    }
    Ok(sum.sqrt())
}

/// Scales the gradients down to `max_norm` as PyTorch's `clip_grad_norm_` does: by min(1, max_norm / (norm + 10⁻⁶)),
/// in place. `norm` is theirs, from [`global_norm`]. Returns that factor.
///
/// # Errors
/// Shape or memory errors of candle.
pub fn clip(gradients: &Gradients, norm: f64, max_norm: f64) -> CandleResult<f64> {
    let factor = (max_norm / (norm + 1e-6)).min(1.0);
    gradients.scale(factor)?;
    Ok(factor)
}

/// ‖g‖² of each tensor; on a GPU the host waits once for all.
pub(super) fn sums_of_squares(gradients: &[Tensor]) -> CandleResult<Vec<f64>> {
    #[cfg(feature = "cuda")]
    if gradients.first().is_some_and(|first| first.device().is_cuda()) {
        return crate::ops::cuda::squares(gradients);
    }
    gradients.iter().map(sum_of_squares).collect()
}

/// ‖g‖² of one tensor.
fn sum_of_squares(gradient: &Tensor) -> CandleResult<f64> {
    fn on_cpu<T: Real>(g: &[T]) -> f64 {
        rows::map(g.chunks(CHUNK).collect(), g.len(), |g: &[T]| dot(g, g)).into_iter().sum()
    }
    with_real!(gradient, T => Ok(on_cpu::<T>(&values(gradient)?)))
}

/// Σ x·y in f64, in eight running sums, so that the additions need not wait for each other.
pub(super) fn dot<T: Real>(x: &[T], y: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let (x_blocks, x_rest) = x.as_chunks::<8>();
    let (y_blocks, y_rest) = y.as_chunks::<8>();
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for i in 0..8 {
            sums[i] += x[i].to_f64() * y[i].to_f64();
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x.to_f64() * y.to_f64()).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, ParamKind};
    use candle_core::{DType, Device};

    #[test]
    fn the_norm_spans_all_parameters_and_clipping_is_pytorchs() -> Result<(), Error> {
        let mut params = ParamSet::new(1, DType::F32, &Device::Cpu);
        params.add("a", ParamKind::Vector, &[2], Init::Zeros)?;
        params.add("b", ParamKind::Vector, &[1], Init::Zeros)?;
        let gradients = |b: f32| -> CandleResult<Gradients> {
            Ok(Gradients { tensors: vec![Tensor::new(&[3f32, 0.0], &Device::Cpu)?, Tensor::new(&[b], &Device::Cpu)?] })
        };
        let large = gradients(4.0)?;
        let norm = global_norm(&params, &large)?;
        assert_eq!(norm, 5.0);
        assert_eq!(clip(&large, norm, 6.0)?, 1.0);
        assert_eq!(large.tensors[0].to_vec1::<f32>()?, [3.0, 0.0]);
        assert!(clip(&large, norm, 1.0)? < 1.0);
        assert_eq!(large.tensors[1].to_vec1::<f32>()?, [4.0 * (1.0 / (5.0 + 1e-6)) as f32]);
        let message = global_norm(&params, &gradients(f32::NAN)?).unwrap_err().to_string();
        assert!(message.contains("gradient of b "), "{message}");
        Ok(())
    }

    #[test]
    fn large_tensors_are_summed_alike_in_any_pool() -> CandleResult<()> {
        let values: Vec<f32> = (0..100_003).map(|i| (i as f32).sin()).collect();
        let tensor = Tensor::new(values.as_slice(), &Device::Cpu)?;
        let sums: Vec<f64> = [1, 3]
            .iter()
            .map(|&n| {
                rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(|| sum_of_squares(&tensor))
            })
            .collect::<CandleResult<_>>()?;
        assert_eq!(sums[0], sums[1]);
        let plain: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((sums[0] - plain).abs() < 1e-9 * plain);
        Ok(())
    }
}
