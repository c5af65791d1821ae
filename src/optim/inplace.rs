//! One pass over a parameter, its optimizer state and its gradient: element-wise updates written in place, in parallel
//! over chunks. Elements do not mix, so the result depends neither on chunks nor on threads.

use candle_core::{bail, CpuStorage, InplaceOp1, Layout, Result, Tensor, Var};
use std::cell::Cell;
use std::ops::Range;

#[cfg(feature = "cuda")]
use crate::ops;
pub(super) use crate::ops::Real;
use crate::ops::{rows, values, with_real};
use crate::params::Param;

/// Elements of a job; small tensors stay on the calling thread.
pub(super) const CHUNK: usize = 1 << 14;

/// An update of `N` tensors, element by element, with the help of a read-only one of the same shape and of `S` scalars,
/// which are computed in f64 and rounded once.
pub(super) trait Elementwise<const N: usize, const S: usize> {
    /// Its kernel in `ops/cuda/optimizer.cu`, which takes the same scalars.
    const NAME: &'static str;

    /// What `written` becomes.
    fn element<T: Real>(scalars: [T; S], written: [T; N], read: T) -> [T; N];
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
    /// Runs `kernel` over `written` in place; the elements `frozen` of all of them are left alone. All tensors must have
    /// storage of their own: an alias would wait for itself for ever.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unused_self, reason = "what a CUDA build collects"))]
    pub(super) fn add<K: Elementwise<N, S>, const N: usize, const S: usize>(
        &mut self,
        _kernel: K,
        scalars: [f64; S],
        frozen: Range<usize>,
        written: [&Tensor; N],
        read: &Tensor,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        if read.device().is_cuda() {
            return self.on_gpu.add(K::NAME, &written, read, Some(frozen), &scalars);
        }
        with_real!(read, T => on_cpu::<T, K, N, S>(scalars, &frozen, written, read))
    }
}

fn on_cpu<T: Real, K: Elementwise<N, S>, const N: usize, const S: usize>(
    scalars: [f64; S],
    frozen: &Range<usize>,
    written: [&Tensor; N],
    read: &Tensor,
) -> Result<()> {
    let (scalars, read) = (scalars.map(T::from_f64), values::<T>(read)?);
    with_slices(written.map(Some), |mut written: [&mut [T]; N]| {
        if let Some(other) = written.iter().find(|x| x.len() != read.len()) {
            bail!("{}: a gradient of {} elements for {} values", K::NAME, read.len(), other.len());
        }
        let kept = written.each_ref().map(|x| x[frozen.clone()].to_vec());
        let jobs = chunks(written.each_mut().map(|x| &mut **x), &read, CHUNK).collect();
        rows::run(jobs, read.len(), |(written, read)| each::<T, K, N, S>(scalars, written, read));
        written.iter_mut().zip(&kept).for_each(|(x, kept)| x[frozen.clone()].copy_from_slice(kept));
        Ok(())
    })
}

fn each<T: Real, K: Elementwise<N, S>, const N: usize, const S: usize>(
    scalars: [T; S],
    written: [&mut [T]; N],
    read: &[T],
) {
    let mut written = written.map(|x| &mut x[..read.len()]);
    for (i, &read) in read.iter().enumerate() {
        let new = K::element(scalars, written.each_ref().map(|x| x[i]), read);
        written.iter_mut().zip(new).for_each(|(x, new)| x[i] = new);
    }
}

/// Cuts slices alike into parts of `size` elements; empty ones into empty parts.
pub(super) fn chunks<'a, T, const N: usize>(
    written: [&'a mut [T]; N],
    read: &'a [T],
    size: usize,
) -> impl Iterator<Item = ([&'a mut [T]; N], &'a [T])> {
    let mut parts = written.map(|x| x.chunks_mut(size));
    read.chunks(size).map(move |read| (parts.each_mut().map(|part| part.next().unwrap_or_default()), read))
}

/// Borrows the values of all tensors at once; no tensor is an empty slice.
pub(super) fn with_slices<T: Real, const N: usize>(
    tensors: [Option<&Tensor>; N],
    mut body: impl FnMut([&mut [T]; N]) -> Result<()>,
) -> Result<()> {
    open(tensors, std::array::from_fn(|_| Default::default()), 0, &mut body)
}

/// Each in-place operation hands out one slice and opens the next inside.
fn open<T: Real, const N: usize>(
    tensors: [Option<&Tensor>; N],
    slices: [&mut [T]; N],
    at: usize,
    body: &mut dyn FnMut([&mut [T]; N]) -> Result<()>,
) -> Result<()> {
    let Some(tensor) = tensors.get(at) else { return body(slices) };
    let Some(tensor) = tensor else { return open(tensors, slices, at + 1, body) };
    tensor.inplace_op1(&Once(Cell::new(Some(|storage: &mut CpuStorage, layout: &Layout| {
        let mut slices: [&mut [T]; N] = slices;
        let (Some(values), Some((from, to))) = (T::slice_mut(storage), layout.contiguous_offsets()) else {
            bail!("parameters and optimizer state must be contiguous and of one number type");
        };
        slices[at] = &mut values[from..to];
        open(tensors, slices, at + 1, body)
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
            None => bail!("an update runs once"),
        }
    }
}

/// Multiplies tensors by a factor in place.
pub(super) fn scale(tensors: &[Tensor], factor: f64) -> Result<()> {
    fn on_cpu<T: Real>(tensor: &Tensor, factor: T) -> Result<()> {
        with_slices([Some(tensor)], |[x]: [&mut [T]; 1]| {
            let n = x.len();
            rows::run(x.chunks_mut(CHUNK).collect(), n, |x: &mut [T]| x.iter_mut().for_each(|x| *x *= factor));
            Ok(())
        })
    }
    #[cfg(feature = "cuda")]
    if tensors.first().is_some_and(|first| first.device().is_cuda()) {
        return ops::cuda::scale(tensors, factor);
    }
    tensors.iter().try_for_each(|tensor| with_real!(tensor, T => on_cpu(tensor, factor as T)))
}

/// The elements of a parameter that no update moves: those of its frozen row.
pub(super) fn frozen(param: &Param) -> Range<usize> {
    let Some(row) = param.frozen_row else { return 0..0 };
    let width = param.var.elem_count() / param.var.dims()[0].max(1);
    row * width..(row + 1) * width
}

/// A variable with a copy of these values: state that later updates write in place.
pub(super) fn owned(tensor: &Tensor) -> Result<Var> {
    Var::from_tensor(&tensor.detach())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::{DType, Device};

    use crate::ops::check;
    use crate::ops::Precision;
    use crate::params::{Init, ParamKind, ParamSet};

    /// Asserts that a kernel on the GPU does what its CPU form does, over a table with a frozen row. The first tensor it
    /// writes is the table; the others, like what it reads, are made of it.
    pub(in crate::optim) fn agrees_on_gpu<K: Elementwise<N, S> + Copy, const N: usize, const S: usize>(
        kernel: K,
        scalars: [f64; S],
    ) -> Result<()> {
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
                updates(|updates| updates.add(kernel, scalars, frozen(param), written, &others[0]))?;
            }
            written.iter().map(|x| x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()).collect()
        };
        for (a, b) in run(&gpu)?.iter().zip(run(&Device::Cpu)?) {
            let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{}: {worst:e} from the CPU", K::NAME);
        }
        Ok(())
    }
}
