//! The passes of `hvr` over windows of gradients, on the GPU: one launch for all tensors.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, DType, Result, Tensor};

use super::super::windowed::{Windowed, SCALARS};
use super::columns::device_of;
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};

/// Threads of a block and elements it does; as in window.cu.
const THREADS: usize = 256;
const CHUNK: usize = 4096;

/// Laid out as in window.cu.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Item {
    weight: u64,
    m: u64,
    v: u64,
    gamma: u64,
    gradient: u64,
    weights: u64,
    n: u64,
    frozen: [u64; 2],
    scalars: [f32; SCALARS],
    slots: i32,
    next: i32,
    normalized: i32,
    first_block: i32,
}

// SAFETY: numbers without padding (a test counts them), in C's layout; the addresses are used by kernels only.
#[expect(unsafe_code, reason = "says that a kernel may read it")]
unsafe impl DeviceRepr for Item {}

/// All tensors of a launch, on the GPU.
struct List<'a> {
    device: &'a CudaDevice,
    items: Upload<Item>,
    /// Addresses in the items point into it.
    _weights: Upload<f32>,
    /// Borders of the items' blocks.
    starts: Vec<usize>,
    /// Most slots of an item.
    slots: usize,
}

impl<'a> List<'a> {
    fn new(all: &'a [Windowed]) -> Result<Option<Self>> {
        let Some(first) = all.first() else { return Ok(None) };
        let device = device_of(&first.weight)?;
        // one number more: an upload is not empty
        let weights: Vec<f32> = all.iter().flat_map(|x| &x.weights).chain([&0.0]).map(|&x| x as f32).collect();
        let weights = Upload::new(device, &weights)?;
        let mut weights_of = weights.pointer().address();
        let (mut items, mut starts, mut most) = (Vec::new(), vec![0], 0);
        for one in all {
            let n = one.gradient.elem_count();
            let slots = one.slots();
            let address = |tensor: Option<&Tensor>, n: usize| match tensor {
                None => Ok(0),
                Some(x) if x.elem_count() != n || x.dtype() != DType::F32 => {
                    bail!("state of {:?} {:?} for a gradient {:?}", x.dtype(), x.dims(), one.gradient.dims())
                }
                Some(x) => Ok(Memory::of_tensor(x)?.pointer().address()),
            };
            let start = starts.last().copied().unwrap_or(0);
            items.push(Item {
                weight: address(Some(&one.weight), n)?,
                m: address(one.m.as_ref(), n)?,
                v: address(one.v.as_ref(), n)?,
                gamma: address(one.gamma.as_ref(), slots * n)?,
                gradient: address(Some(&one.gradient), n)?,
                weights: weights_of,
                n: n as u64,
                frozen: [one.frozen.start as u64, one.frozen.end as u64],
                scalars: one.scalars.map(|x| x as f32),
                slots: slots as i32,
                next: one.next as i32,
                normalized: i32::from(one.normalized),
                first_block: start as i32,
            });
            starts.push(start + n.div_ceil(CHUNK));
            weights_of += 4 * one.weights.len() as u64;
            most = most.max(slots);
        }
        Ok(Some(List { device, items: Upload::new(device, &items)?, _weights: weights, starts, slots: most }))
    }

    fn count(&self) -> usize {
        self.starts.len() - 1
    }

    fn blocks(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn launch(&self, name: &'static str, args: &[Arg<'_>]) -> Result<()> {
        launch(self.device, kernel(name), Grid::blocks(self.blocks(), 1, THREADS), args)
    }
}

fn kernel(name: &'static str) -> Kernel {
    Kernel(Module::Window, name, DType::F32)
}

/// Moments forward. Of each tensor, in f64: h·h, the square of Adam's direction, each slot times q, each slot times h; the
/// host waits for all at once. Without windows the sums are of no use, and zeros without a wait. Scalars: 1 − β₁, β₂, 1 − β₂, ε, root correction, scale of m.
pub(crate) fn observe(all: &[Windowed]) -> Result<Vec<Vec<f64>>> {
    let Some(list) = List::new(all)? else { return Ok(Vec::new()) };
    let (stride, count, blocks) = (2 + 2 * list.slots, list.count(), list.blocks());
    let parts = Buffer::new(list.device, DType::F64, blocks * stride)?;
    list.launch("window_observe", &args![parts.memory(), list.items.pointer(), count, stride])?;
    if list.slots == 0 {
        return Ok(vec![vec![0.0; stride]; count]);
    }
    let totals = Buffer::zeros(list.device, DType::F64, count * stride)?;
    let args = args![totals.memory(), parts.memory(), list.items.pointer(), count, stride, blocks];
    launch(list.device, kernel("window_totals"), Grid::blocks(stride, count, THREADS), &args)?;
    totals.tensor((count, stride)).to_vec2()
}

/// Largest and summed entry of Σ g∘g over the window of each tensor, the present gradient in slot `next`; the host waits.
pub(crate) fn extents(all: &[Windowed]) -> Result<Vec<(f64, f64)>> {
    let Some(list) = List::new(all)? else { return Ok(Vec::new()) };
    let parts = Buffer::new(list.device, DType::F64, 2 * list.blocks())?;
    list.launch("window_extent", &args![parts.memory(), list.items.pointer(), list.count()])?;
    let parts: Vec<Vec<f64>> = parts.tensor((list.blocks(), 2)).to_vec2()?;
    let fold = |(most, sum): (f64, f64), part: &Vec<f64>| (most.max(part[0]), sum + part[1]);
    Ok(list.starts.windows(2).map(|at| parts[at[0]..at[1]].iter().fold((0.0, 0.0), fold)).collect())
}

/// Runs `window_apply`, `window_diagonal` or `window_diagonal_literal`: the direction, the weights, the next slot.
pub(crate) fn apply(name: &'static str, all: &[Windowed]) -> Result<()> {
    match List::new(all)? {
        Some(list) => list.launch(name, &args![list.items.pointer(), list.count()]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_has_no_padding() {
        assert_eq!(std::mem::size_of::<Item>(), 8 * 9 + 4 * (SCALARS + 4));
    }
}
