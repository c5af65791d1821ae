//! `attention` on the GPU.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{bail, CudaStorage, DType, Result, Tensor};
use std::sync::Arc;

use super::columns::device_of;
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};
use super::uploads::pairs;
use crate::ops::Dropout;

/// Rows of a tile, and warps of a block, each of which does a row; as in attention.cu.
const TILE: usize = 32;
const WARPS: usize = 8;
/// Columns of a head that the narrow kernels can do, and the wide ones.
const NARROW: usize = 64;
const WIDE: usize = 256;

/// Attention of packed sentences to each other.
#[derive(Clone)]
pub(in crate::ops) struct Sides {
    pub(in crate::ops) q_offsets: Arc<Vec<usize>>,
    pub(in crate::ops) k_offsets: Arc<Vec<usize>>,
    pub(in crate::ops) heads: usize,
    pub(in crate::ops) width: usize,
    pub(in crate::ops) scale: f64,
    pub(in crate::ops) causal: bool,
    pub(in crate::ops) dropout: Option<Dropout>,
    /// Queries lie beside keys and values, `[q|k|v]`; else `[q]` and `[k|v]`.
    pub(in crate::ops) own: bool,
}

/// Elements a row of queries and of keys, and the columns where keys and values begin.
struct Places {
    q_stride: usize,
    kv_stride: usize,
    k: usize,
    v: usize,
}

impl Sides {
    fn places(&self) -> Places {
        let d = self.width;
        match self.own {
            true => Places { q_stride: 3 * d, kv_stride: 3 * d, k: d, v: 2 * d },
            false => Places { q_stride: d, kv_stride: 2 * d, k: 0, v: d },
        }
    }

    fn sentences(&self) -> usize {
        self.q_offsets.len().saturating_sub(1)
    }

    /// Columns of a head, and the form of the kernels that can do them.
    fn head(&self) -> Result<(usize, bool)> {
        let columns = self.width / self.heads;
        if columns > WIDE {
            bail!("attention: heads of {columns} columns, but a GPU does at most {WIDE}; use more heads");
        }
        Ok((columns, columns <= NARROW))
    }

    /// A block for each head of each sentence and each 8 rows of the longest, with two tiles and some rows a warp.
    fn grid(&self, offsets: &[usize], columns: usize, rows: usize) -> Grid {
        let longest = offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let floats = 2 * TILE * (columns | 1) + WARPS * rows * columns;
        Grid::blocks(self.sentences() * self.heads, longest.div_ceil(WARPS).min(1 << 15), 32 * WARPS).sharing(floats)
    }

    /// O, and log Σ exp as the CPU packs it.
    pub(in crate::ops) fn forward(&self, device: &CudaDevice, q: Memory, kv: Memory) -> Result<(CudaStorage, Tensor)> {
        let (columns, narrow) = self.head()?;
        let Places { q_stride, kv_stride, k, v } = self.places();
        let queries = self.q_offsets.last().copied().unwrap_or_default();
        let o = Buffer::new(device, q.dtype, queries * self.width)?;
        let lse = Buffer::new(device, DType::F32, queries * self.heads)?;
        let borders = pairs(device, &self.q_offsets, &self.k_offsets)?;
        let args = args![
            o.memory(), lse.memory(), q, kv, kv, borders.q_offsets.arg(), borders.k_offsets.arg(), borders.pairs.arg(),
            self.heads, columns, q_stride, kv_stride, k, v, self.causal, self.scale; self.dropout
        ];
        let name = if narrow { "forward_narrow" } else { "forward_wide" };
        let grid = self.grid(&self.q_offsets, columns, 1);
        launch(device, Kernel(Module::Attention, name, q.dtype), grid, &args)?;
        Ok((o.storage(), lse.tensor(queries * self.heads)))
    }

    /// Gradients: of `[q|k|v]`, or of `[q]` and `[k|v]`.
    pub(in crate::ops) fn backward(
        &self,
        q: &Tensor,
        kv: &Tensor,
        o: &Tensor,
        d_o: &Tensor,
        lse: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let device = device_of(q)?;
        let (columns, narrow) = self.head()?;
        let Places { q_stride, kv_stride, k, v } = self.places();
        let d_o = d_o.contiguous()?;
        let [qm, kvm, om, dom, lsem] = [
            Memory::of_tensor(q)?,
            Memory::of_tensor(kv)?,
            Memory::of_tensor(o)?,
            Memory::of_tensor(&d_o)?,
            Memory::of_tensor(lse)?,
        ];
        let dq = Buffer::new(device, qm.dtype, q.elem_count())?;
        let dkv = if self.own { None } else { Some(Buffer::new(device, qm.dtype, kv.elem_count())?) };
        let dkv_memory = dkv.as_ref().map_or(dq.memory(), Buffer::memory);
        let d = Buffer::new(device, DType::F32, lse.elem_count())?;
        let borders = pairs(device, &self.q_offsets, &self.k_offsets)?;
        let name = if narrow { "backward_queries_narrow" } else { "backward_queries_wide" };
        let args = args![
            dq.memory(), d.memory(), dom, om, lsem, qm, kvm, kvm, borders.q_offsets.arg(), borders.k_offsets.arg(),
            borders.pairs.arg(), self.heads, columns, q_stride, kv_stride, k, v, self.causal, self.scale; self.dropout
        ];
        let grid = self.grid(&self.q_offsets, columns, 2);
        launch(device, Kernel(Module::Attention, name, qm.dtype), grid, &args)?;
        let name = if narrow { "backward_keys_narrow" } else { "backward_keys_wide" };
        let args = args![
            dkv_memory, dkv_memory, dom, d.memory(), lsem, qm, kvm, kvm, borders.q_offsets.arg(),
            borders.k_offsets.arg(), borders.pairs.arg(), self.heads, columns, q_stride, kv_stride, k, v, self.causal,
            self.scale; self.dropout
        ];
        let grid = self.grid(&self.k_offsets, columns, 2);
        launch(device, Kernel(Module::Attention, name, qm.dtype), grid, &args)?;
        Ok((dq.tensor(q.shape()), dkv.map(|dkv| dkv.tensor(kv.shape()))))
    }
}
