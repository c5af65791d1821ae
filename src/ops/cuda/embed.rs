//! `embed` on the GPU.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{DType, Result, Storage, Tensor};

use super::columns::{add_in_place, cast_own, device_of};
use super::device::precision;
use super::launch::{args, launch, mask_args, Grid, Kernel, Module};
use super::memory::{Buffer, Memory, Pointer, Upload};
use super::recurrent::gather;
use super::uploads::counts;
use crate::ops::embed::Embed;
use crate::ops::tape::{exactly, Computed, Done, OnGpu};
use crate::ops::{Dropout, Precision};

/// Columns of a block of the backward pass.
const COLUMNS: usize = 128;

impl OnGpu for Embed {
    fn forward_on_gpu(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let [table] = exactly(inputs)?;
        let (device, shape) = (device_of(table)?, (self.ids.len(), self.width).into());
        let table = Memory::of_tensor(table)?;
        // a "table" in bf16 is one of states: its rows as they are
        let y = match table.dtype {
            DType::F32 => rows(device, table, self)?,
            _ => states(device, table, self.width, &self.ids)?,
        };
        Ok((y, shape, Default::default()))
    }

    fn backward_on_gpu(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let [table] = exactly(done.inputs)?;
        backward(table, done.gradient, &self.ids, self.scale, self.dropouts).map(|gradient| vec![Some(gradient)])
    }
}

/// Rows of the table by id, scaled, with sinusoids where there are positions; in the type of activations.
fn rows(device: &CudaDevice, table: Memory<'_>, embed: &Embed) -> Result<Storage> {
    let Embed { ids, positions, width, scale, dropouts: [words, values] } = embed;
    let dtype = if precision(device) == Precision::Bf16 { DType::BF16 } else { DType::F32 };
    let y = Buffer::new(device, dtype, ids.len() * width)?;
    if ids.is_empty() {
        return Ok(y.storage());
    }
    let (tokens, ids) = (ids.len(), Upload::new(device, ids)?);
    let positions = positions.as_ref().map(|p| Upload::new(device, &counts(p))).transpose()?;
    let frequencies: Vec<f64> =
        (0..width.div_ceil(2)).map(|i| 10_000f64.powf(-2.0 * i as f64 / *width as f64)).collect();
    let frequencies = Upload::new(device, &frequencies)?;
    let positions: Option<Pointer<'_>> = positions.as_ref().map(Upload::pointer);
    let mut args = args![
        y.memory(), table, ids.pointer(), positions, frequencies.pointer(), tokens, *width, *scale; *values
    ];
    args.extend(mask_args(*words));
    launch(device, Kernel(Module::Embed, "embed_forward", dtype), Grid::elements(tokens * width), &args)?;
    Ok(y.storage())
}

/// Rows of activations, as decoding chooses among states.
fn states(device: &CudaDevice, from: Memory<'_>, width: usize, ids: &[u32]) -> Result<Storage> {
    let to = Buffer::new(device, from.dtype, ids.len() * width)?;
    if !ids.is_empty() {
        let index: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        gather(device, to.memory(), (from, width), None, &Upload::new(device, &index)?, [ids.len(), width])?;
    }
    Ok(to.storage())
}

/// The gradient of a table, in its type.
fn backward(
    table: &Tensor,
    dy: &Tensor,
    ids: &[u32],
    scale: f64,
    [words, values]: [Option<Dropout>; 2],
) -> Result<Tensor> {
    let (device, (rows, width), dtype) = (device_of(dy)?, table.dims2()?, table.dtype());
    let table = Buffer::zeros(device, DType::F32, rows * width)?;
    if !ids.is_empty() {
        let Places { present, starts, tokens } = Places::of(ids, rows);
        let distinct = present.len();
        let (present, starts) = (Upload::new(device, &present)?, Upload::new(device, &starts)?);
        let (tokens, dy) = (Upload::new(device, &tokens)?, Memory::of_tensor(dy)?);
        let mut args = args![
            table.memory(), dy.holds(ids.len() * width)?, present.pointer(), starts.pointer(), tokens.pointer(), width,
            scale; values
        ];
        args.extend(mask_args(words));
        let grid = Grid::blocks(distinct, width.div_ceil(COLUMNS), COLUMNS);
        launch(device, Kernel(Module::Embed, "embed_backward", dy.dtype), grid, &args)?;
    }
    Ok(cast_own(device, table, dtype)?.tensor((rows, width)))
}

/// Adds `factor` × `rows` (end to end) to the rows `ids` of a gradient of a table, in place; ids may repeat.
pub(crate) fn add_rows(gradient: &Tensor, ids: &[u32], rows: Vec<f32>, factor: f64) -> Result<()> {
    let rows = Tensor::from_vec(rows, (ids.len(), gradient.dim(1)?), gradient.device())?;
    add_in_place(gradient, &backward(gradient, &rows, ids, factor, [None; 2])?)
}

/// Where each id that occurs does so.
struct Places {
    /// Ids, ascending.
    present: Vec<u32>,
    /// Borders of their places.
    starts: Vec<i32>,
    /// Tokens, ascending for each id.
    tokens: Vec<i32>,
}

impl Places {
    fn of(ids: &[u32], rows: usize) -> Self {
        let mut next = vec![0i32; rows];
        ids.iter().for_each(|&id| next[id as usize] += 1);
        let (mut present, mut starts, mut sum) = (Vec::new(), vec![0], 0);
        for (id, next) in next.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            present.push(id as u32);
            sum += *next;
            *next = sum - *next;
            starts.push(sum);
        }
        let mut tokens = vec![0i32; ids.len()];
        for (token, &id) in ids.iter().enumerate() {
            let place = &mut next[id as usize];
            tokens[*place as usize] = token as i32;
            *place += 1;
        }
        Places { present, starts, tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_listed_by_id_in_the_order_of_tokens() {
        let Places { present, starts, tokens } = Places::of(&[5, 2, 5, 0, 2, 5], 7);
        assert_eq!((present, starts), (vec![0, 2, 5], vec![0, 1, 3, 6]));
        assert_eq!(tokens, [3, 1, 4, 0, 2, 5]);
    }
}
