//! One strided copy into contiguous memory that is there already: what gathers blocks into a batch and puts them back.

use candle_core::backend::BackendStorage;
use candle_core::{bail, CpuStorage, CudaStorage, InplaceOp2, Layout, Result, Tensor};

/// Copies `from`, a view of any strides, over `to`, a contiguous view with as many elements, in one launch.
pub(in crate::optim) fn copy_into(to: &Tensor, from: &Tensor) -> Result<()> {
    to.inplace_op2(from, &Copy)
}

struct Copy;

impl Copy {
    fn run<S: BackendStorage>(to: &mut S, to_layout: &Layout, from: &S, from_layout: &Layout) -> Result<()> {
        let (to_dims, from_dims) = (to_layout.shape(), from_layout.shape());
        if !to_layout.is_contiguous() || to_dims.elem_count() != from_dims.elem_count() {
            bail!("copy_into: {from_dims:?} into {to_dims:?}, which must be contiguous and as large");
        }
        from.copy_strided_src(to, to_layout.start_offset(), from_layout)
    }
}

impl InplaceOp2 for Copy {
    fn name(&self) -> &'static str {
        "copy-into"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, tl: &Layout, from: &CpuStorage, fl: &Layout) -> Result<()> {
        Copy::run(to, tl, from, fl)
    }

    fn cuda_fwd(&self, to: &mut CudaStorage, tl: &Layout, from: &CudaStorage, fl: &Layout) -> Result<()> {
        Copy::run(to, tl, from, fl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_strided_view_lands_at_its_place() -> Result<()> {
        let from = Tensor::arange(0f64, 6.0, &Device::Cpu)?.reshape((2, 3))?;
        let to = Tensor::zeros((3, 3, 2), from.dtype(), &Device::Cpu)?;
        copy_into(&to.narrow(0, 1, 1)?, &from.t()?)?;
        let expected = [0., 0., 0., 0., 0., 0., 0., 3., 1., 4., 2., 5., 0., 0., 0., 0., 0., 0.];
        assert_eq!(to.flatten_all()?.to_vec1::<f64>()?, expected);
        assert!(copy_into(&to.narrow(0, 1, 1)?, &from.narrow(0, 0, 1)?).is_err());
        assert!(copy_into(&to.narrow(0, 0, 1)?.squeeze(0)?.narrow(1, 0, 1)?, &from.narrow(0, 0, 1)?).is_err());
        Ok(())
    }
}
