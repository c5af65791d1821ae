//! One pass over a parameter, its optimizer state and its gradient: element-wise updates written in place, in parallel
//! over chunks. Elements do not mix, so the result depends neither on chunks nor on threads.

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, Var};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

#[cfg(feature = "cuda")]
use crate::ops;
pub(super) use crate::ops::Real;
use crate::params::Param;

/// Elements a job; small tensors stay on the calling thread.
const CHUNK: usize = 1 << 14;

/// An update of `N` tensors, element by element, with the help of a read-only one of the same shape.
pub(super) trait Elementwise<const N: usize>: Sync {
    /// On the CPU: all slices have the same length.
    fn apply<T: Real>(&self, written: [&mut [T]; N], read: &[T]);

    /// The same on a GPU: a kernel of `ops/cuda/optimizer.cu` and its numbers.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a CUDA build asks"))]
    fn kernel(&self) -> (&'static str, Vec<f64>);
}

/// The updates of one step of an optimizer: on the CPU each is done when it is added, on a GPU all in one launch at the
/// end.
#[derive(Default)]
pub(super) struct Updates {
    #[cfg(feature = "cuda")]
    on_gpu: ops::cuda::Updates,
}

/// Does what `body` adds.
pub(super) fn updates(body: impl FnOnce(&mut Updates) -> Result<()>) -> Result<()> {
    let mut updates = Updates::default();
    body(&mut updates)?;
    #[cfg(feature = "cuda")]
    updates.on_gpu.launch()?;
    Ok(())
}

impl Updates {
    /// Runs `kernel` over `written` in place. The frozen row of `param` is left alone in all of them. All tensors must
    /// have storage of their own: an alias would wait for itself for ever.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unused_self, reason = "what a CUDA build collects"))]
    pub(super) fn add<const N: usize, K: Elementwise<N>>(
        &mut self,
        kernel: &K,
        param: Option<&Param>,
        written: [&Tensor; N],
        read: &Tensor,
    ) -> Result<()> {
        let frozen = param.and_then(|p| Some((p.frozen_row?, p.var.elem_count() / p.var.dim(0).ok()?.max(1))));
        let frozen = frozen.map(|(row, width)| row * width..(row + 1) * width);
        #[cfg(feature = "cuda")]
        if read.device().is_cuda() {
            let (name, numbers) = kernel.kernel();
            return self.on_gpu.add(name, &written, read, frozen, &numbers);
        }
        match read.dtype() {
            DType::F32 => update_cpu::<f32, N, K>(kernel, frozen, written, read),
            DType::F64 => update_cpu::<f64, N, K>(kernel, frozen, written, read),
            other => candle_core::bail!("optimizers work on f32 and f64, not on {other:?}"),
        }
    }
}

/// A single update.
pub(super) fn update<const N: usize, K: Elementwise<N>>(
    kernel: &K,
    param: Option<&Param>,
    written: [&Tensor; N],
    read: &Tensor,
) -> Result<()> {
    updates(|updates| updates.add(kernel, param, written, read))
}

fn update_cpu<T: Real, const N: usize, K: Elementwise<N>>(
    kernel: &K,
    frozen: Option<Range<usize>>,
    written: [&Tensor; N],
    read: &Tensor,
) -> Result<()> {
    let (storage, layout) = read.storage_and_layout();
    let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
        candle_core::bail!("the gradient must be contiguous and on the CPU");
    };
    let read = &storage.as_slice::<T>()?[from..to];
    with_slices(&written, Vec::new(), &mut |slices: Vec<&mut [T]>| {
        let Ok(slices) = <[&mut [T]; N]>::try_from(slices) else {
            candle_core::bail!("as many slices as tensors");
        };
        if let Some(other) = slices.iter().find(|s| s.len() != read.len()) {
            candle_core::bail!("a gradient of {} elements for {} values", read.len(), other.len());
        }
        match frozen.clone() {
            None => run_chunks(kernel, slices, read),
            Some(row) => {
                let (head, rest) = split(slices, row.start);
                let (_, tail) = split(rest, row.len());
                run_chunks(kernel, head, &read[..row.start]);
                run_chunks(kernel, tail, &read[row.end..]);
            }
        }
        Ok(())
    })
}

fn run_chunks<T: Real, const N: usize, K: Elementwise<N>>(kernel: &K, mut rest: [&mut [T]; N], read: &[T]) {
    if read.len() <= CHUNK {
        return kernel.apply(rest, read);
    }
    let mut jobs = Vec::with_capacity(read.len().div_ceil(CHUNK));
    for read in read.chunks(CHUNK) {
        let (head, tail) = split(rest, read.len());
        jobs.push((head, read));
        rest = tail;
    }
    jobs.into_par_iter().for_each(|(written, read)| kernel.apply(written, read));
}

fn split<T, const N: usize>(slices: [&mut [T]; N], at: usize) -> ([&mut [T]; N], [&mut [T]; N]) {
    let mut tails: [&mut [T]; N] = std::array::from_fn(|_| Default::default());
    let mut i = 0;
    let heads = slices.map(|slice| {
        let (head, tail) = slice.split_at_mut(at);
        tails[i] = tail;
        i += 1;
        head
    });
    (heads, tails)
}

/// Borrows the values of all tensors at once: each in-place operation hands out one slice and opens the next inside.
pub(super) fn with_slices<T: Real>(
    tensors: &[&Tensor],
    slices: Vec<&mut [T]>,
    body: &mut dyn FnMut(Vec<&mut [T]>) -> Result<()>,
) -> Result<()> {
    let Some((first, rest)) = tensors.split_first() else { return body(slices) };
    first.inplace_op1(&Once(Cell::new(Some(|storage: &mut CpuStorage, layout: &Layout| {
        let mut slices: Vec<&mut [T]> = slices;
        let (Some(values), Some((from, to))) = (T::slice_mut(storage), layout.contiguous_offsets()) else {
            candle_core::bail!("parameters and optimizer state must be contiguous and of one number type");
        };
        slices.push(&mut values[from..to]);
        with_slices(rest, slices, body)
    }))))
}

/// A closure as an in-place operation.
struct Once<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, &Layout) -> Result<()>> InplaceOp1 for Once<F> {
    fn name(&self) -> &'static str {
        "optimizer-update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match self.0.take() {
            Some(body) => body(storage, layout),
            None => candle_core::bail!("an update runs once"),
        }
    }
}

/// Multiplies tensors by a factor in place.
pub(super) fn scale(tensors: &[Tensor], factor: f64) -> Result<()> {
    fn cpu<T: Real>(tensor: &Tensor, factor: f64) -> Result<()> {
        let factor = T::from_f64(factor);
        with_slices(&[tensor], Vec::new(), &mut |slices: Vec<&mut [T]>| {
            for slice in slices {
                slice.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|x| *x *= factor));
            }
            Ok(())
        })
    }
    #[cfg(feature = "cuda")]
    if tensors.first().is_some_and(|first| first.device().is_cuda()) {
        return ops::cuda::scale(tensors, factor);
    }
    tensors.iter().try_for_each(|tensor| match tensor.dtype() {
        DType::F32 => cpu::<f32>(tensor, factor),
        DType::F64 => cpu::<f64>(tensor, factor),
        other => candle_core::bail!("optimizers work on f32 and f64, not on {other:?}"),
    })
}

/// A variable with a copy of these values: state that later updates write in place.
pub(super) fn owned(tensor: &Tensor) -> Result<Var> {
    Var::from_tensor(&tensor.detach())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::Device;

    use crate::ops::check;
    use crate::ops::Precision;
    use crate::params::{Init, ParamKind, ParamSet};

    /// Asserts that a kernel on the GPU does what its CPU form does, over a table with a frozen row. The first tensor it
    /// writes is the table; the others, like what it reads, are made of it.
    pub(in crate::optim) fn agrees_on_gpu<const N: usize, K: Elementwise<N>>(kernel: &K) -> Result<()> {
        let gpu = check::gpu(Precision::F32);
        let of = |device: &Device| -> Result<(ParamSet, Vec<Tensor>)> {
            let mut params = ParamSet::new(1, DType::F32, device);
            let table = ParamKind::Table { tied: false };
            params.add_with_frozen_row("e", table, &[300, 70], Init::Normal(1.0), Some(3))?;
            // the same numbers on both devices
            let e = params.iter().next().map(|param| param.var.to_device(&Device::Cpu)).transpose()?;
            let Some(e) = e else { candle_core::bail!("no parameter") };
            let others = (1..=N).map(|i| (e.affine(0.9, 0.1 * i as f64)?.abs()?).to_device(device));
            Ok((params, others.collect::<Result<_>>()?))
        };
        let run = |device: &Device| -> Result<Vec<Vec<f32>>> {
            let (params, others) = of(device)?;
            let Some(param) = params.get("e") else { candle_core::bail!("no parameter") };
            let written: [&Tensor; N] =
                std::array::from_fn(|i| if i == 0 { param.var.as_tensor() } else { &others[i] });
            for _ in 0..3 {
                update(kernel, Some(param), written, &others[0])?;
            }
            written.iter().map(|x| x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()).collect()
        };
        for (a, b) in run(&gpu)?.iter().zip(run(&Device::Cpu)?) {
            let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{}: {worst:e} from the CPU", kernel.kernel().0);
        }
        Ok(())
    }
}
