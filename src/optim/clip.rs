//! The norm of all gradients: non-finite values found and named, large gradients scaled down.

use candle_core::{DType, Device, Result as CandleResult, Storage, Tensor, WithDType};
use rayon::prelude::*;

use super::{Error, Gradients};
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
    match (gradient.device(), gradient.dtype()) {
        (Device::Cpu, DType::F32) => sum_of_squares_cpu::<f32>(gradient),
        (Device::Cpu, DType::F64) => sum_of_squares_cpu::<f64>(gradient),
        _ => gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar(),
    }
}

fn sum_of_squares_cpu<T: WithDType>(gradient: &Tensor) -> CandleResult<f64> {
    const CHUNK: usize = 1 << 14;
    let (storage, layout) = gradient.storage_and_layout();
    let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
        candle_core::bail!("the gradient must be contiguous");
    };
    let values = &storage.as_slice::<T>()?[from..to];
    if values.len() <= CHUNK {
        return Ok(chunk_sum(values));
    }
    let parts: Vec<f64> = values.par_chunks(CHUNK).map(chunk_sum).collect();
    Ok(parts.into_iter().sum())
}

/// Eight running sums, so that the additions need not wait for each other.
fn chunk_sum<T: WithDType>(values: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let mut blocks = values.chunks_exact(8);
    for block in &mut blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            let x = x.to_f64();
            *sum += x * x;
        }
    }
    let rest: f64 = blocks.remainder().iter().map(|x| x.to_f64() * x.to_f64()).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, ParamKind};

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
