//! Sums of gradients that meet at one tensor.

use candle_core::{bail, CpuStorage, InplaceOp1, Layout, Result, Tensor};

use super::real::{self, simd, with_real, Real};
use super::rows;
use super::unwritten::{Blank, Unwritten};

/// Elements of a job.
const CHUNK: usize = 1 << 14;

/// a + b in new memory.
pub(super) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    check(&a, &b)?;
    #[cfg(feature = "cuda")]
    if a.device().is_cuda() {
        return super::cuda::add(&a, &b);
    }
    with_real!(a, T => {
        let (x, y) = (real::values::<T>(&a)?, real::values::<T>(&b)?);
        let mut sum = Unwritten::new(x.len());
        let jobs = sum.all().chunks(CHUNK).zip(x.chunks(CHUNK).zip(y.chunks(CHUNK))).collect();
        rows::run(jobs, x.len(), |(sum, (x, y)): (Blank<'_, T>, (&[T], &[T]))| {
            add(sum.copy_of(x), y);
        });
        Ok(real::tensor(sum.done(), a.shape()))
    })
}

/// a += b; `a` must be contiguous and share its memory with no one.
pub(super) fn add_in_place(a: &Tensor, b: &Tensor) -> Result<()> {
    check(a, b)?;
    #[cfg(feature = "cuda")]
    if a.device().is_cuda() {
        return super::cuda::add_in_place(a, &b.contiguous()?);
    }
    a.inplace_op1(&AddInPlace(b.contiguous()?))
}

fn check(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() != b.dims() {
        bail!("gradients of shapes {:?} and {:?} meet at one tensor", a.dims(), b.dims());
    }
    Ok(())
}

struct AddInPlace(Tensor);

impl InplaceOp1 for AddInPlace {
    fn name(&self) -> &'static str {
        "add_in_place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        with_real!(self.0, T => {
            let (Some(values), Some((start, end))) = (T::slice_mut(storage), layout.contiguous_offsets()) else {
                bail!("a sum of gradients must be contiguous and of one type");
            };
            let other = real::values::<T>(&self.0)?;
            let jobs = values[start..end].chunks_mut(CHUNK).zip(other.chunks(CHUNK)).collect();
            rows::run(jobs, other.len(), |(sum, x): (&mut [T], &[T])| add(sum, x));
            Ok(())
        })
    }
}

simd! {
    fn add<T: Real>(sum: &mut [T], x: &[T]) {
        sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
    }
}
