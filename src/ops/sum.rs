//! Sums of gradients that meet at one tensor.

use candle_core::{bail, CpuStorage, InplaceOp1, Layout, Result, Tensor};
use std::marker::PhantomData;

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
    let b = b.contiguous()?;
    with_real!(b, T => {
        let x = real::values::<T>(&b)?;
        in_place(a, |sum: &mut [T]| {
            let jobs = sum.chunks_mut(CHUNK).zip(x.chunks(CHUNK)).collect();
            rows::run(jobs, x.len(), |(sum, x): (&mut [T], &[T])| add(sum, x));
        })
    })
}

fn check(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() != b.dims() {
        bail!("gradients of shapes {:?} and {:?} meet at one tensor", a.dims(), b.dims());
    }
    Ok(())
}

/// Lets `change` work on the values of `a`, which must be contiguous, on the CPU, and share its memory with no one.
pub(super) fn in_place<T: Real>(a: &Tensor, change: impl Fn(&mut [T])) -> Result<()> {
    a.inplace_op1(&InPlace { change, values: PhantomData })
}

struct InPlace<F, T> {
    change: F,
    values: PhantomData<fn(T)>,
}

impl<T: Real, F: Fn(&mut [T])> InplaceOp1 for InPlace<F, T> {
    fn name(&self) -> &'static str {
        "in_place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some(values), Some((start, end))) = (T::slice_mut(storage), layout.contiguous_offsets()) else {
            bail!("a sum of gradients must be contiguous and of one type");
        };
        (self.change)(&mut values[start..end]);
        Ok(())
    }
}

simd! {
    fn add<T: Real>(sum: &mut [T], x: &[T]) {
        sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
    }
}
