//! Element-wise updates of parameters, and norms of gradients, on the GPU: one launch for all tensors.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, DType, Result, Tensor};
use std::ops::Range;

use super::columns::device_of;
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};

/// Scalars and tensors of an item, threads of a block and elements it does; as in optimizer.cu.
const SCALARS: usize = 9;
const WRITTEN: usize = 3;
const THREADS: usize = 256;
const CHUNK: usize = 4096;

/// One tensor of a launch, laid out as in optimizer.cu.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Item {
    written: [u64; WRITTEN],
    read: u64,
    n: u64,
    frozen: [u64; 2],
    scalars: [f32; SCALARS],
    first_block: i32,
}

// SAFETY: numbers without padding (a test counts them), in C's layout; the addresses are used by kernels only.
#[expect(unsafe_code, reason = "says that a kernel may read it")]
unsafe impl DeviceRepr for Item {}

/// Updates that are collected, to be launched together.
#[derive(Default)]
pub(crate) struct Updates {
    kernel: Option<&'static str>,
    items: Vec<Item>,
    blocks: usize,
    /// Kept until the launch.
    held: Vec<Tensor>,
}

impl Updates {
    /// Takes in the kernel `name` of optimizer.cu over f32 tensors of one size; `frozen`: elements that stay.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        written: &[&Tensor],
        read: &Tensor,
        frozen: Option<Range<usize>>,
        scalars: &[f64],
    ) -> Result<()> {
        if self.kernel.is_some_and(|kernel| kernel != name) {
            self.launch()?;
        }
        let n = read.elem_count();
        let mut addresses = [0; WRITTEN];
        for (address, tensor) in addresses.iter_mut().zip(written) {
            if tensor.elem_count() != n || tensor.dtype() != DType::F32 || read.dtype() != DType::F32 {
                let (written, read) = ((tensor.dtype(), tensor.dims()), (read.dtype(), read.dims()));
                bail!("{name}: {written:?} is updated with {read:?}");
            }
            *address = Memory::of_tensor(tensor)?.pointer().address();
            self.held.push((*tensor).clone());
        }
        let frozen = frozen.unwrap_or(0..0);
        let numbers = std::array::from_fn(|i| scalars.get(i).map_or(0.0, |&scalar| scalar as f32));
        self.items.push(Item {
            written: addresses,
            read: Memory::of_tensor(read)?.pointer().address(),
            n: n as u64,
            frozen: [frozen.start as u64, frozen.end as u64],
            scalars: numbers,
            first_block: self.blocks as i32,
        });
        self.kernel = Some(name);
        self.blocks += n.div_ceil(CHUNK);
        self.held.push(read.clone());
        Ok(())
    }

    /// Does what was taken in.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let Updates { kernel, items, blocks, held } = std::mem::take(self);
        let (Some(name), Some(first)) = (kernel, held.first()) else { return Ok(()) };
        let device = device_of(first)?;
        let table = Upload::new(device, &items)?;
        let args = args![table.pointer(), items.len()];
        launch(device, Kernel(Module::Optimizer, name, DType::F32), Grid::blocks(blocks, 1, THREADS), &args)
    }
}

/// x *= factor for all, f32.
pub(crate) fn scale(tensors: &[Tensor], factor: f64) -> Result<()> {
    let mut updates = Updates::default();
    for tensor in tensors {
        updates.add("scale", &[tensor], tensor, None, &[factor])?;
    }
    updates.launch()
}

/// Σx² of each tensor; the host waits for all of them at once.
pub(crate) fn squares(tensors: &[Tensor]) -> Result<Vec<f64>> {
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    let device: &CudaDevice = device_of(first)?;
    let mut list = Updates::default();
    for tensor in tensors {
        list.add("squares", &[], tensor, None, &[])?;
    }
    let (table, count, blocks) = (Upload::new(device, &list.items)?, list.items.len(), list.blocks);
    let (parts, totals) = (Buffer::new(device, DType::F64, blocks)?, Buffer::new(device, DType::F64, count)?);
    let kernel = |name| Kernel(Module::Optimizer, name, DType::F32);
    let args = args![parts.memory(), table.pointer(), count];
    launch(device, kernel("squares"), Grid::blocks(blocks, 1, THREADS), &args)?;
    let args = args![totals.memory(), parts.memory(), table.pointer(), count, blocks];
    launch(device, kernel("totals"), Grid::blocks(count, 1, THREADS), &args)?;
    totals.tensor(count).to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_has_no_padding() {
        assert_eq!(std::mem::size_of::<Item>(), 8 * (WRITTEN + 4) + 4 * (SCALARS + 1));
    }
}
