//! Attention of single queries on the GPU.

use candle_core::{bail, Result, Tensor};
use std::ops::Range;

use super::columns::device_of;
use super::launch::{args, launch, Arg, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Upload};
use crate::ops::Step;

/// Columns of a head that the kernels can do.
const WIDE: usize = 256;

fn columns(q: &Tensor, heads: usize) -> Result<usize> {
    let columns = q.dim(1)? / heads;
    if columns > WIDE {
        bail!("attention: heads of {columns} columns, but a GPU does at most {WIDE}");
    }
    Ok(columns)
}

/// Of row r over row `links[r][j]` of the keys and values of each step j.
pub(in crate::ops) fn history(
    q: &Tensor,
    steps: &[Step],
    links: &[Vec<u32>],
    heads: usize,
    scale: f64,
) -> Result<Tensor> {
    let (device, columns) = (device_of(q)?, columns(q, heads)?);
    let memory = Memory::of_tensor(q)?;
    let o = Buffer::new(device, memory.dtype, memory.len)?;
    if steps.is_empty() || links.is_empty() {
        bail!("attention: no step before this one");
    }
    let address = |tensor: &Tensor| match Memory::of_tensor(tensor)? {
        found if found.dtype == memory.dtype => Ok(found.pointer().address()),
        found => bail!("attention: keys of type {:?} for queries of type {:?}", found.dtype, memory.dtype),
    };
    let keys = steps.iter().map(|(keys, _)| address(keys)).collect::<Result<Vec<u64>>>()?;
    let values = steps.iter().map(|(_, values)| address(values)).collect::<Result<Vec<u64>>>()?;
    let (keys, values) = (Upload::new(device, &keys)?, Upload::new(device, &values)?);
    let flat = Upload::new(device, &links.concat())?;
    let args =
        args![o.memory(), memory, keys.pointer(), values.pointer(), flat.pointer(), steps.len(), heads, columns, scale];
    let grid = Grid::blocks(links.len(), heads, 32);
    launch(device, Kernel(Module::Decode, "attend_history", memory.dtype), grid, &args)?;
    Ok(o.tensor(q.shape()))
}

/// Of row r over rows `ranges[r]` of keys and values.
pub(in crate::ops) fn memory(
    q: &Tensor,
    (keys, values): &Step,
    ranges: &[Range<usize>],
    heads: usize,
    scale: f64,
) -> Result<Tensor> {
    let (device, columns) = (device_of(q)?, columns(q, heads)?);
    let (queries, keys, values) = (Memory::of_tensor(q)?, Memory::of_tensor(keys)?, Memory::of_tensor(values)?);
    let o = Buffer::new(device, queries.dtype, queries.len)?;
    if ranges.is_empty() {
        return Ok(o.tensor(q.shape()));
    }
    let flat: Vec<i32> = ranges.iter().flat_map(|range| [range.start as i32, range.end as i32]).collect();
    let flat = Upload::new(device, &flat)?;
    let args = [
        Arg::from(o.memory()),
        queries.into(),
        keys.into(),
        values.into(),
        flat.pointer().into(),
        heads.into(),
        columns.into(),
        scale.into(),
    ];
    let grid = Grid::blocks(ranges.len(), heads, 32);
    launch(device, Kernel(Module::Decode, "attend_memory", queries.dtype), grid, &args)?;
    Ok(o.tensor(q.shape()))
}
