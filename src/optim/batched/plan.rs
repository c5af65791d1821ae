//! Which blocks of which weights make up which batch: all blocks with the same number of rows and columns are one tensor
//! `[blocks, rows, columns]`, so that one launch serves them all. Tables and weights are never in one batch.

use candle_core::{DType, Device, Result, Tensor, Var};
use std::collections::BTreeMap;
use std::ops::Range;

use super::copy::copy_into;
use crate::optim::matrix::blocks;
use crate::params::{Param, ParamKind, ParamSet};

/// Shapes and places, fixed for the life of an optimizer.
pub(in crate::optim) struct Plan {
    pub(in crate::optim) taken: Vec<Taken>,
    pub(in crate::optim) batches: Vec<Batch>,
    pub(in crate::optim) dtype: DType,
    pub(in crate::optim) device: Device,
    /// The parameter of each block, over all batches.
    param_of: Tensor,
    /// The blocks of each parameter, over all batches, filled up with the number behind the last block.
    blocks_of: Tensor,
    /// For each parameter: 1 / its elements, 1 / its blocks, 0, the largest finite number.
    element: Tensor,
    block: Tensor,
    pub(in crate::optim) zeros: Tensor,
    largest: Tensor,
    /// 0 as `[1]`, and as `[1, 1, 1]` to be broadcast.
    nothing: Tensor,
    pub(in crate::optim) zero: Tensor,
}

/// A parameter of the rule.
pub(in crate::optim) struct Taken {
    pub(in crate::optim) name: String,
    pub(in crate::optim) rows: usize,
    pub(in crate::optim) columns: usize,
    pub(in crate::optim) frozen_row: Option<usize>,
    /// Place among all parameters.
    pub(in crate::optim) index: usize,
    /// Batch and place in it of each block, row by row of blocks.
    pub(in crate::optim) blocks: Vec<(usize, usize)>,
    /// Blocks in a column of blocks and in a row.
    pub(in crate::optim) grid: (usize, usize),
    /// All blocks have one shape: they lie side by side in one batch.
    even: bool,
}

/// Blocks of one shape.
pub(in crate::optim) struct Batch {
    pub(in crate::optim) rows: usize,
    pub(in crate::optim) columns: usize,
    pub(in crate::optim) table: bool,
    /// Parameter (place in [`Plan::taken`]) and number among its blocks, of each block.
    pub(in crate::optim) blocks: Vec<(usize, usize)>,
}

impl Plan {
    /// `longest`: most rows and columns of a block of a weight (`false`) or of a table (`true`).
    pub(in crate::optim) fn new(
        params: &ParamSet,
        takes: impl Fn(&Param) -> bool,
        longest: impl Fn(bool) -> [usize; 2],
    ) -> Result<Self> {
        let mut shapes: BTreeMap<(bool, usize, usize), Vec<(usize, usize)>> = BTreeMap::new();
        let mut taken: Vec<Taken> = Vec::new();
        for (index, param) in params.iter().enumerate().filter(|(_, param)| takes(param)) {
            let (rows, columns) = param.var.dims2()?;
            let table = matches!(param.kind, ParamKind::Table { .. });
            let [tallest, widest] = longest(table);
            let (down, across) = (blocks(rows, tallest), blocks(columns, widest));
            let even = |ranges: &[Range<usize>]| ranges.iter().all(|range| range.len() == ranges[0].len());
            let number = |i: usize, j: usize| i * across.len() + j;
            for (i, down) in down.iter().enumerate() {
                for (j, across) in across.iter().enumerate() {
                    let shape = (table, down.len(), across.len());
                    shapes.entry(shape).or_default().push((taken.len(), number(i, j)));
                }
            }
            taken.push(Taken {
                name: param.name.clone(),
                rows,
                columns,
                frozen_row: param.frozen_row,
                index,
                blocks: vec![(0, 0); down.len() * across.len()],
                grid: (down.len(), across.len()),
                even: even(&down) && even(&across),
            });
        }
        let batches: Vec<Batch> =
            shapes.into_iter().map(|((table, rows, columns), blocks)| Batch { rows, columns, table, blocks }).collect();
        for (b, batch) in batches.iter().enumerate() {
            for (at, &(param, number)) in batch.blocks.iter().enumerate() {
                taken[param].blocks[number] = (b, at);
            }
        }
        Self::with_maps(taken, batches, params.dtype(), params.device())
    }

    fn with_maps(taken: Vec<Taken>, batches: Vec<Batch>, dtype: DType, device: &Device) -> Result<Self> {
        // tensors of nothing are an error on some devices
        let device = if taken.is_empty() { &Device::Cpu } else { device };
        let param_of: Vec<u32> =
            batches.iter().flat_map(|batch| batch.blocks.iter().map(|&(param, _)| param as u32)).collect();
        let most = taken.iter().map(|taken| taken.blocks.len()).max().unwrap_or(1);
        let mut starts = Vec::new();
        let mut start = 0;
        for batch in &batches {
            starts.push(start);
            start += batch.blocks.len();
        }
        let mut blocks_of = Vec::with_capacity(taken.len() * most);
        for taken in &taken {
            blocks_of.extend(taken.blocks.iter().map(|&(batch, at)| (starts[batch] + at) as u32));
            blocks_of.extend(std::iter::repeat_n(start as u32, most - taken.blocks.len()));
        }
        let each = |of: &dyn Fn(&Taken) -> f64| {
            let numbers: Vec<f64> = taken.iter().map(of).collect();
            Tensor::from_vec(numbers, taken.len(), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        let largest = if dtype == DType::F64 { f64::MAX } else { f64::from(f32::MAX) };
        let nothing = Tensor::zeros(1, dtype, device)?;
        Ok(Plan {
            param_of: Tensor::from_vec(param_of, start, device)?,
            blocks_of: Tensor::from_vec(blocks_of, taken.len() * most, device)?,
            element: each(&|taken| 1.0 / (taken.rows * taken.columns) as f64)?,
            block: each(&|taken| 1.0 / taken.blocks.len() as f64)?,
            zeros: each(&|_| 0.0)?,
            largest: each(&|_| largest)?,
            zero: nothing.reshape((1, 1, 1))?,
            nothing,
            dtype,
            device: device.clone(),
            taken,
            batches,
        })
    }

    /// The batches of these matrices, one for each parameter.
    pub(in crate::optim) fn gather(&self, of: impl Fn(&Taken) -> Tensor) -> Result<Vec<Tensor>> {
        self.gather_all(self.taken.iter().map(of).collect())
    }

    /// [`Plan::gather`] of matrices in the order of [`Plan::taken`].
    pub(in crate::optim) fn gather_all(&self, matrices: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.batches.iter().map(|batch| self.gather_one(batch, &matrices)).collect()
    }

    fn gather_one(&self, batch: &Batch, matrices: &[Tensor]) -> Result<Tensor> {
        let shape = (batch.blocks.len(), batch.rows, batch.columns);
        if let [(param, _)] = batch.blocks[..] {
            if self.taken[param].blocks.len() == 1 {
                return matrices[param].reshape(shape);
            }
        }
        let joined = Tensor::zeros(shape, self.dtype, &self.device)?;
        let mut at = 0;
        while at < batch.blocks.len() {
            let (param, number) = batch.blocks[at];
            let Taken { rows, columns, grid, even, .. } = self.taken[param];
            let (view, count) = if even {
                let (o, i) = (batch.rows, batch.columns);
                let view = matrices[param].reshape((grid.0, o, grid.1, i))?.permute((0, 2, 1, 3))?;
                (view, grid.0 * grid.1)
            } else {
                let (row, column) = (number / grid.1, number % grid.1);
                let (from, left) = (row * rows / grid.0, column * columns / grid.1);
                let view = matrices[param].narrow(0, from, batch.rows)?.narrow(1, left, batch.columns)?;
                (view, 1)
            };
            copy_into(&joined.narrow(0, at, count)?, &view)?;
            at += count;
        }
        Ok(joined)
    }

    /// The matrix of one parameter out of batches, as a view of any strides and shape in the order of its elements.
    pub(in crate::optim) fn matrix(&self, batches: &[Tensor], taken: &Taken) -> Result<Tensor> {
        let (down, across) = taken.grid;
        let (batch, at) = taken.blocks[0];
        if taken.even {
            let Batch { rows, columns, .. } = self.batches[batch];
            let whole = batches[batch].narrow(0, at, down * across)?;
            return whole.reshape((down, across, rows, columns))?.permute((0, 2, 1, 3));
        }
        let block = |&(batch, at): &(usize, usize)| batches[batch].get(at);
        let row = |blocks: &[(usize, usize)]| Tensor::cat(&blocks.iter().map(block).collect::<Result<Vec<_>>>()?, 1);
        Tensor::cat(&taken.blocks.chunks(across).map(row).collect::<Result<Vec<_>>>()?, 0)
    }

    /// Puts batches of weights back into the parameters, in place.
    pub(in crate::optim) fn scatter(&self, batches: &[Tensor], params: &ParamSet) -> Result<()> {
        let vars: Vec<&Var> = params.iter().map(|param| &param.var).collect();
        self.taken.iter().try_for_each(|taken| copy_into(vars[taken.index], &self.matrix(batches, taken)?))
    }

    /// Sums over the blocks of each parameter; what is not finite stays with its own.
    pub(in crate::optim) fn per_param(&self, per_block: &[Tensor]) -> Result<Tensor> {
        let mut all: Vec<&Tensor> = per_block.iter().collect();
        all.push(&self.nothing);
        let all = Tensor::cat(&all, 0)?;
        all.index_select(&self.blocks_of, 0)?.reshape((self.taken.len(), ()))?.sum(1)
    }

    /// A number of each parameter for each of its blocks, batch by batch.
    pub(in crate::optim) fn per_block(&self, per_param: &Tensor) -> Result<Vec<Tensor>> {
        let all = per_param.index_select(&self.param_of, 0)?;
        let mut start = 0;
        let mut parts = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            parts.push(all.narrow(0, start, batch.blocks.len())?);
            start += batch.blocks.len();
        }
        Ok(parts)
    }

    /// √(mean x²) of each parameter, from [`squares`] of its blocks.
    pub(in crate::optim) fn rms(&self, squares: &[Tensor]) -> Result<Tensor> {
        (self.per_param(squares)? * &self.element)?.sqrt()
    }

    /// The mean over the blocks of each parameter.
    pub(in crate::optim) fn mean(&self, per_block: &[Tensor]) -> Result<Tensor> {
        self.per_param(per_block)? * &self.block
    }

    /// A number for each parameter; a fill on the device, where a comparison with a number would be a copy to it.
    pub(in crate::optim) fn full(&self, value: f64) -> Result<Tensor> {
        full(value, &self.zeros)
    }

    /// 1 where a number of each parameter is finite, as u8.
    pub(in crate::optim) fn is_finite(&self, x: &Tensor) -> Result<Tensor> {
        x.abs()?.le(&self.largest)
    }

    /// Batch and row of it, blocks below each other, of every frozen row.
    pub(in crate::optim) fn frozen(&self) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for taken in &self.taken {
            let Some(row) = taken.frozen_row else { continue };
            for (number, &(batch, at)) in taken.blocks.iter().enumerate() {
                let from = number / taken.grid.1 * taken.rows / taken.grid.0;
                let rows = self.batches[batch].rows;
                if (from..from + rows).contains(&row) {
                    found.push((batch, at * rows + row - from));
                }
            }
        }
        found
    }
}

/// Σx² of each block of a batch: rows first, which keeps many processors busy with few large blocks.
pub(in crate::optim) fn squares(batch: &Tensor) -> Result<Tensor> {
    batch.sqr()?.sum(2)?.sum(1)
}

/// `[n]` as `[n, 1, 1]`, to be broadcast over blocks.
pub(in crate::optim) fn each(x: &Tensor) -> Result<Tensor> {
    x.reshape((x.elem_count(), 1, 1))
}

/// `on` where the mask `[n]` (0 or 1, of any type) is 1, `off` elsewhere; both are broadcast to the shape of `of`.
pub(in crate::optim) fn select(mask: &Tensor, on: &Tensor, off: &Tensor, of: &Tensor) -> Result<Tensor> {
    let mask = each(mask)?.to_dtype(DType::U8)?.broadcast_as(of.shape())?;
    mask.where_cond(&on.broadcast_as(of.shape())?, &off.broadcast_as(of.shape())?)
}

/// `value` in the shape and the type of `like`, f32 or f64.
pub(in crate::optim) fn full(value: f64, like: &Tensor) -> Result<Tensor> {
    match like.dtype() {
        DType::F64 => Tensor::full(value, like.shape(), like.device()),
        _ => Tensor::full(value as f32, like.shape(), like.device()),
    }
}

/// The least normal number of the type of `like`.
pub(in crate::optim) fn least(like: &Tensor) -> f64 {
    match like.dtype() {
        DType::F64 => f64::MIN_POSITIVE,
        _ => f64::from(f32::MIN_POSITIVE),
    }
}

/// `base` (0 or more) to the power of each of `exponents`, which are above 0.
pub(in crate::optim) fn power(base: f64, exponents: &Tensor) -> Result<Tensor> {
    if base == 0.0 {
        return exponents.zeros_like();
    }
    (exponents * base.ln())?.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Init;

    #[test]
    fn blocks_are_gathered_put_back_and_summed() -> Result<()> {
        let mut params = ParamSet::new(3, DType::F64, &Device::Cpu);
        params.add("even", ParamKind::Matrix, &[8, 4], Init::Normal(1.0))?;
        params.add("vector", ParamKind::Vector, &[5], Init::Zeros)?;
        params.add_with_frozen_row("odd", ParamKind::Matrix, &[7, 9], Init::Normal(1.0), Some(5))?;
        params.add("table", ParamKind::Table { tied: false }, &[9, 4], Init::Normal(1.0))?;
        params.add("small", ParamKind::Recurrent, &[4, 4], Init::Normal(1.0))?;
        let plan = Plan::new(&params, |param| param.kind != ParamKind::Vector, |table| [if table { 9 } else { 4 }, 4])?;
        let shapes: Vec<_> = plan.batches.iter().map(|b| (b.table, b.rows, b.columns, b.blocks.len())).collect();
        assert_eq!(shapes, [(false, 3, 3, 3), (false, 4, 3, 3), (false, 4, 4, 3), (true, 9, 4, 1)]);
        let vars: Vec<Tensor> = params.iter().map(|param| param.var.as_detached_tensor()).collect();
        let before: Vec<Tensor> = vars.iter().map(Tensor::copy).collect::<Result<_>>()?;
        let batches = plan.gather(|taken| vars[taken.index].clone())?;
        let list = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(list(&batches[2].get(1)?), list(&vars[0].narrow(0, 4, 4)?));
        let sums = plan.rms(&batches.iter().map(squares).collect::<Result<Vec<_>>>()?)?;
        for (rms, taken) in list(&sums).iter().zip(&plan.taken) {
            let expected = vars[taken.index].sqr()?.mean_all()?.to_scalar::<f64>()?.sqrt();
            assert!((rms - expected).abs() < 1e-12);
        }
        // the frozen row of the odd weight is in its lower blocks
        let frozen = plan.frozen();
        assert_eq!(frozen.len(), 3);
        for (batch, row) in frozen {
            let Batch { columns, .. } = plan.batches[batch];
            assert!(list(&batches[batch].reshape(((), columns))?.get(row)?).iter().all(|x| *x == 0.0));
        }
        let doubled: Vec<Tensor> = batches.iter().map(|batch| batch * 2.0).collect::<Result<_>>()?;
        plan.scatter(&doubled, &params)?;
        for (before, param) in before.iter().zip(&params) {
            let factor = if param.kind == ParamKind::Vector { 1.0 } else { 2.0 };
            assert_eq!(list(&param.var), list(&(before * factor)?), "{}", param.name);
        }
        let spread = plan.per_block(&Tensor::new(&[1.0, 2.0, 3.0, 4.0], &Device::Cpu)?)?;
        assert_eq!(spread.iter().flat_map(list).collect::<Vec<_>>(), [2., 2., 2., 2., 2., 2., 1., 1., 4., 3.]);
        Ok(())
    }

    #[test]
    fn what_is_not_finite_stays_with_its_parameter() -> Result<()> {
        let mut params = ParamSet::new(3, DType::F32, &Device::Cpu);
        params.add("a", ParamKind::Matrix, &[4, 4], Init::Normal(1.0))?;
        params.add("b", ParamKind::Matrix, &[4, 8], Init::Normal(1.0))?;
        let plan = Plan::new(&params, |_| true, |_| [4, 4])?;
        let sums = plan.per_param(&[Tensor::new(&[1f32, f32::NAN, 2.0], &Device::Cpu)?])?;
        assert_eq!(plan.is_finite(&sums)?.to_vec1::<u8>()?, [1, 0]);
        let ends = Tensor::new(&[f32::NEG_INFINITY, f32::MAX], &Device::Cpu)?;
        assert_eq!(plan.is_finite(&ends)?.to_vec1::<u8>()?, [0, 1]);
        Ok(())
    }
}
