//! `attention` on the GPU.

use candle_core::{bail, DType, Result, Tensor};

use super::columns::device_of;
use super::launch::{args, launch, Grid, Kernel, Module};
use super::memory::{Buffer, Memory};
use super::uploads::pairs;
use crate::ops::attention::Attention;
use crate::ops::tape::{Computed, Done, OnGpu};

/// Rows of a tile, and warps of a block, each of which does a row; as in attention.cu.
const TILE: usize = 32;
const WARPS: usize = 8;
/// Columns of a head that the narrow kernels can do, and the wide ones.
const NARROW: usize = 64;
const WIDE: usize = 256;

/// Elements a row of queries and of keys, and the columns where keys and values begin.
struct Places {
    q_stride: usize,
    kv_stride: usize,
    k: usize,
    v: usize,
}

/// Queries, and keys and values: one input where queries lie beside them, `[q|k|v]`; else `[q]` and `[k|v]`.
fn sides(inputs: &[Tensor]) -> Result<(&Tensor, &Tensor, bool)> {
    match inputs {
        [qkv] => Ok((qkv, qkv, true)),
        [q, kv] => Ok((q, kv, false)),
        _ => bail!("attention: {} inputs", inputs.len()),
    }
}

impl Attention {
    fn places(&self, own: bool) -> Places {
        let d = self.width;
        match own {
            true => Places { q_stride: 3 * d, kv_stride: 3 * d, k: d, v: 2 * d },
            false => Places { q_stride: d, kv_stride: 2 * d, k: 0, v: d },
        }
    }

    /// Columns of a head, and the form of the kernels that can do them.
    fn head_on_gpu(&self) -> Result<(usize, bool)> {
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
        Grid::blocks((offsets.len() - 1) * self.heads, longest.div_ceil(WARPS).min(1 << 15), 32 * WARPS).sharing(floats)
    }
}

impl OnGpu for Attention {
    fn forward_on_gpu(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let (q, kv, own) = sides(inputs)?;
        let (device, (columns, narrow)) = (device_of(q)?, self.head_on_gpu()?);
        let Places { q_stride, kv_stride, k, v } = self.places(own);
        let queries = self.q_offsets.last().copied().unwrap_or_default();
        let (q, kv) = (Memory::of_tensor(q)?, Memory::of_tensor(kv)?);
        let o = Buffer::new(device, q.dtype, queries * self.width)?;
        let lse = Buffer::new(device, DType::F32, queries * self.heads)?;
        let borders = pairs(device, &self.q_offsets, &self.k_offsets)?;
        let args = args![
            o.memory(), lse.memory(), q, kv, kv, borders.q_offsets.pointer(), borders.k_offsets.pointer(), borders.pairs.pointer(),
            self.heads, columns, q_stride, kv_stride, k, v, self.causal, self.scale; self.dropout
        ];
        let name = if narrow { "forward_narrow" } else { "forward_wide" };
        let grid = self.grid(&self.q_offsets, columns, 1);
        launch(device, Kernel(Module::Attention, name, q.dtype), grid, &args)?;
        let lse = lse.tensor(queries * self.heads);
        Ok((o.storage(), (queries, self.width).into(), [Some(lse), None, None]))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let ((q, kv, own), [lse]) = (sides(done.inputs)?, done.saved()?);
        let (device, (columns, narrow)) = (device_of(q)?, self.head_on_gpu()?);
        let Places { q_stride, kv_stride, k, v } = self.places(own);
        let [qm, kvm, om, dom, lsem] = [
            Memory::of_tensor(q)?,
            Memory::of_tensor(kv)?,
            Memory::of_tensor(done.output)?,
            Memory::of_tensor(done.gradient)?,
            Memory::of_tensor(lse)?,
        ];
        let dq = Buffer::new(device, qm.dtype, q.elem_count())?;
        let dkv = if own { None } else { Some(Buffer::new(device, qm.dtype, kv.elem_count())?) };
        let dkv_memory = dkv.as_ref().map_or(dq.memory(), Buffer::memory);
        let d = Buffer::new(device, DType::F32, lse.elem_count())?;
        let borders = pairs(device, &self.q_offsets, &self.k_offsets)?;
        let name = if narrow { "backward_queries_narrow" } else { "backward_queries_wide" };
        let args = args![
            dq.memory(), d.memory(), dom, om, lsem, qm, kvm, kvm, borders.q_offsets.pointer(), borders.k_offsets.pointer(),
            borders.pairs.pointer(), self.heads, columns, q_stride, kv_stride, k, v, self.causal, self.scale; self.dropout
        ];
        let grid = self.grid(&self.q_offsets, columns, 2);
        launch(device, Kernel(Module::Attention, name, qm.dtype), grid, &args)?;
        let name = if narrow { "backward_keys_narrow" } else { "backward_keys_wide" };
        let args = args![
            dkv_memory, dkv_memory, dom, d.memory(), lsem, qm, kvm, kvm, borders.q_offsets.pointer(),
            borders.k_offsets.pointer(), borders.pairs.pointer(), self.heads, columns, q_stride, kv_stride, k, v, self.causal,
            self.scale; self.dropout
        ];
        let grid = self.grid(&self.k_offsets, columns, 2);
        launch(device, Kernel(Module::Attention, name, qm.dtype), grid, &args)?;
        let dkv = dkv.map(|dkv| Some(dkv.tensor(kv.shape())));
        Ok(std::iter::once(Some(dq.tensor(q.shape()))).chain(dkv).collect())
    }
}
