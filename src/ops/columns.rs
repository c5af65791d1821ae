//! Cutting and joining activations by columns: candle's `narrow` and `cat` do it at several times the cost in backward.
//!
//! ```text
//! columns: y = x[:, start..start + width]            dx = 0 outside these columns
//! join:    y = dropout([a | b | c])                  [da | db | dc] = dy ⊙ m
//! ```
//! with m the scaled keep mask over the joined row. Nothing is saved for backward.

#[cfg(feature = "cuda")]
use super::cuda::{self, Memory};
use super::dropout::Mask;
use super::real::{simd, slice, tensor, values, with_real, Real};
use super::rows::{self, Blank, Unwritten, BLOCK};
use super::{tape, Dropout};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{bail, CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType};

/// `width` columns of `x [N, d]` from `start`: `[N, width]`.
///
/// # Errors
/// Columns outside `x`.
pub fn columns(x: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    let (_, all) = x.dims2()?;
    if start + width > all {
        bail!("columns: {start}..{} of {:?}", start + width, x.dims());
    }
    tape::apply1(&x.contiguous()?, Columns { start, width })
}

/// One to three activations side by side, then dropout.
///
/// # Errors
/// Another number of parts; rows that do not match.
pub fn join(parts: &[&Tensor], dropout: Option<Dropout>) -> Result<Tensor> {
    let parts = parts.iter().map(|p| p.contiguous()).collect::<Result<Vec<_>>>()?;
    match (parts.as_slice(), dropout) {
        ([a], None) => Ok(a.clone()),
        ([a], Some(_)) => tape::apply1(a, Join { dropout }),
        ([a, b], _) => tape::apply2(a, b, Join { dropout }),
        ([a, b, c], _) => tape::apply3(a, b, c, Join { dropout }),
        _ => bail!("join: {} parts, not 1 to 3", parts.len()),
    }
}

/// Columns `start..start + width` of rows of `all` values.
fn cut<T: Real>(x: &[T], all: usize, start: usize, width: usize) -> Vec<T> {
    let mut y = Unwritten::new(x.len() / all * width);
    let jobs = y.all().chunks(BLOCK * width).zip(x.chunks(BLOCK * all)).collect();
    rows::run(jobs, x.len(), |(y, x): (Blank<'_, T>, &[T])| {
        for (y, x) in y.zeros().chunks_exact_mut(width).zip(x.chunks_exact(all)) {
            y.copy_from_slice(&x[start..][..width]);
        }
    });
    y.done()
}

struct Columns {
    start: usize,
    width: usize,
}

impl Columns {
    fn backward<T: Real>(&self, shape: &Shape, dy: &Tensor) -> Result<Tensor> {
        let (n, all) = shape.dims2()?;
        let dy = dy.contiguous()?;
        let mut dx = vec![T::zero(); n * all];
        for (dx, dy) in dx.chunks_exact_mut(all).zip(values::<T>(&dy)?.chunks_exact(self.width)) {
            dx[self.start..][..self.width].copy_from_slice(dy);
        }
        Ok(tensor(dx, shape))
    }
}

impl CustomOp1 for Columns {
    fn name(&self) -> &'static str {
        "columns"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, all) = layout.shape().dims2()?;
        let y = with_real!(x, T => {
            Ok(T::to_cpu_storage_owned(cut::<T>(slice(x, layout, "columns")?, all, self.start, self.width)))
        })?;
        Ok((y, (n, self.width).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (n, all) = layout.shape().dims2()?;
        let y = cuda::cut(&x.device, Memory::of(x, layout)?, [n, all], self.start, self.width)?;
        Ok((y, (n, self.width).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return cuda::uncut(&dy.contiguous()?, x.dim(1)?, self.start).map(Some);
        }
        with_real!(x, T => self.backward::<T>(x.shape(), dy).map(Some))
    }
}

struct Join {
    dropout: Option<Dropout>,
}

impl Join {
    fn forward<const K: usize>(&self, parts: [(&CpuStorage, &Layout); K]) -> Result<(CpuStorage, Shape)> {
        with_real!(parts[0].0, T => self.forward_of::<T, K>(parts))
    }

    fn forward_of<T: Real, const K: usize>(&self, parts: [(&CpuStorage, &Layout); K]) -> Result<(CpuStorage, Shape)> {
        let (n, _) = parts[0].1.shape().dims2()?;
        let mut inputs = [(&[][..], 0); K];
        for (input, (storage, layout)) in inputs.iter_mut().zip(parts) {
            let (rows, width) = layout.shape().dims2()?;
            if rows != n {
                bail!("join: {rows} rows beside {n}");
            }
            *input = (slice::<T>(storage, layout, "join")?, width);
        }
        let all: usize = inputs.iter().map(|(_, width)| width).sum();
        let mask = self.dropout.map(Mask::new);
        let mut y = Unwritten::new(n * all);
        let jobs = y.all().chunks(BLOCK * all).enumerate().collect();
        rows::run(jobs, n * all, |(block, y): (usize, Blank<'_, T>)| {
            for (i, y) in y.zeros().chunks_exact_mut(all).enumerate() {
                let (row, mut start) = (block * BLOCK + i, 0);
                for (part, width) in inputs {
                    y[start..][..width].copy_from_slice(&part[row * width..][..width]);
                    start += width;
                }
                if let Some(mask) = mask {
                    drop_out(y, mask, row * all);
                }
            }
        });
        Ok((T::to_cpu_storage_owned(y.done()), (n, all).into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_on_gpu<const K: usize>(&self, parts: [(&CudaStorage, &Layout); K]) -> Result<(CudaStorage, Shape)> {
        let (n, _) = parts[0].1.shape().dims2()?;
        let mut inputs = Vec::with_capacity(K);
        for (storage, layout) in parts {
            let (rows, width) = layout.shape().dims2()?;
            if rows != n {
                bail!("join: {rows} rows beside {n}");
            }
            inputs.push((Memory::of(storage, layout)?, width));
        }
        let all: usize = inputs.iter().map(|(_, width)| width).sum();
        Ok((cuda::join(&parts[0].0.device, &inputs, n, self.dropout)?, (n, all).into()))
    }

    #[cfg(feature = "cuda")]
    fn backward_on_gpu<const K: usize>(&self, parts: [&Tensor; K], dy: &Tensor) -> Result<[Option<Tensor>; K]> {
        let dy = dy.contiguous()?;
        let mut grads = [const { None }; K];
        let mut start = 0;
        for (grad, part) in grads.iter_mut().zip(parts) {
            let width = part.dim(1)?;
            if part.track_op() {
                *grad = Some(cuda::part(&dy, start, width, self.dropout)?);
            }
            start += width;
        }
        Ok(grads)
    }

    fn backward<const K: usize>(&self, parts: [&Tensor; K], dy: &Tensor) -> Result<[Option<Tensor>; K]> {
        #[cfg(feature = "cuda")]
        if dy.device().is_cuda() {
            return self.backward_on_gpu(parts, dy);
        }
        with_real!(dy, T => self.backward_of::<T, K>(parts, dy))
    }

    fn backward_of<T: Real, const K: usize>(&self, parts: [&Tensor; K], dy: &Tensor) -> Result<[Option<Tensor>; K]> {
        let (n, all) = dy.dims2()?;
        let dy = dy.contiguous()?;
        let dy = values::<T>(&dy)?;
        let masked = self.dropout.map(|dropout| {
            let mut masked = Unwritten::new(dy.len());
            let jobs = masked.all().chunks(BLOCK * all).zip(dy.chunks(BLOCK * all.max(1))).enumerate().collect();
            rows::run(jobs, dy.len(), |(block, (masked, dy)): (usize, (Blank<'_, T>, &[T]))| {
                drop_out(masked.copy_of(dy), Mask::new(dropout), block * BLOCK * all);
            });
            masked.done()
        });
        let dy = masked.as_deref().unwrap_or(&dy);
        let mut grads = [const { None }; K];
        let mut start = 0;
        for (grad, part) in grads.iter_mut().zip(parts) {
            let width = part.dim(1)?;
            if part.track_op() {
                *grad = Some(tensor(cut(dy, all, start, width), (n, width)));
            }
            start += width;
        }
        Ok(grads)
    }
}

simd! {
/// `first`: index of the first element.
fn drop_out<T: Real>(x: &mut [T], mask: Mask<T>, first: usize) {
    x.iter_mut().enumerate().for_each(|(i, x)| *x *= mask.factor(first + i));
}
}

impl CustomOp1 for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward([(a, al)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu([(a, al)])
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [da] = self.backward([a], dy)?;
        Ok(da)
    }
}

impl CustomOp2 for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward([(a, al), (b, bl)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, a: &CudaStorage, al: &Layout, b: &CudaStorage, bl: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu([(a, al), (b, bl)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(self.backward([a, b], dy)?.into())
    }
}

impl CustomOp3 for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
        c: &CpuStorage,
        cl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward([(a, al), (b, bl), (c, cl)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        al: &Layout,
        b: &CudaStorage,
        bl: &Layout,
        c: &CudaStorage,
        cl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu([(a, al), (b, bl), (c, cl)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(self.backward([a, b, c], dy)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agree, constant, dropout_of, random};
    use crate::ops::dropout::reference::mask_tensor;

    #[test]
    fn columns_agree_with_narrow() {
        for (n, all, start, width) in [(1, 1, 0, 1), (4, 7, 2, 3), (3, 5, 0, 5), (2, 40, 39, 1)] {
            agree(&[random(&[n, all], 1)], 0..0, |x| columns(&x[0], start, width), |x| x[0].narrow(1, start, width));
        }
        assert!(columns(&constant(&random(&[2, 3], 1)), 2, 2).is_err());
    }

    #[test]
    fn join_agrees_with_cat_and_a_mask() {
        for (widths, drop) in [(&[3][..], true), (&[3], false), (&[1, 4], true), (&[2, 2], false), (&[5, 1, 3], true)] {
            let dropout = dropout_of(drop, 5);
            let inputs: Vec<_> = widths.iter().zip(0..).map(|(&w, i)| random(&[6, w], i)).collect();
            let plain = |x: &[Tensor]| {
                let y = Tensor::cat(x, 1)?;
                &y * mask_tensor(dropout, y.dims(), y.dtype())?
            };
            agree(&inputs, 0..0, |x| join(&x.iter().collect::<Vec<_>>(), dropout), plain);
        }
        let (a, b) = (constant(&random(&[2, 3], 1)), constant(&random(&[3, 3], 1)));
        assert!(join(&[&a, &b], None).is_err());
    }
}
