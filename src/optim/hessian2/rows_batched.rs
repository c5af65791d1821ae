//! Numbers for each row of weights whose columns are split into blocks: weights with as many rows are one tensor
//! `[weights, rows]`, whatever batches their blocks are in. What is not finite stays with its own weight.

use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

use crate::optim::batched::{Plan, Taken};

/// Shapes and places.
pub(super) struct Rows {
    pub(super) lengths: Vec<Length>,
    /// Place of each parameter among those of all lengths below each other.
    places: Tensor,
    /// Length of each batch of the plan, and the place there of the weight of each block.
    batches: Vec<(usize, Tensor)>,
}

/// Weights with as many rows.
pub(super) struct Length {
    pub(super) rows: usize,
    /// Places in [`Plan::taken`].
    params: Vec<usize>,
    ids: Tensor,
    /// Batches of the plan with their blocks.
    batches: Vec<usize>,
    /// The blocks of each weight in these batches below each other, filled up with the number behind the last.
    blocks: Tensor,
    /// Zeros `[1, rows]`.
    nothing: Tensor,
    /// 1 / columns of each weight `[weights, 1]`.
    pub(super) column: Tensor,
}

impl Rows {
    /// Of a plan whose blocks have all rows of their weights.
    pub(super) fn new(plan: &Plan) -> Result<Self> {
        let mut params: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, taken) in plan.taken.iter().enumerate() {
            params.entry(taken.rows).or_default().push(index);
        }
        let mut places = vec![0u32; plan.taken.len()];
        let mut place = vec![(0, 0); plan.taken.len()];
        let mut lengths = Vec::with_capacity(params.len());
        let mut count = 0;
        for (rows, params) in params {
            for (at, &param) in params.iter().enumerate() {
                places[param] = count + at as u32;
                place[param] = (lengths.len(), at);
            }
            count += params.len() as u32;
            lengths.push(Length::new(plan, rows, params)?);
        }
        let mut batches = Vec::with_capacity(plan.batches.len());
        for batch in &plan.batches {
            let ids: Vec<u32> = batch.blocks.iter().map(|&(param, _)| place[param].1 as u32).collect();
            let length = batch.blocks.first().map_or(0, |&(param, _)| place[param].0);
            batches.push((length, Tensor::from_vec(ids, batch.blocks.len(), &plan.device)?));
        }
        Ok(Rows { lengths, places: Tensor::from_vec(places, plan.taken.len(), &plan.device)?, batches })
    }

    /// Zeros for each row.
    pub(super) fn zeros(&self) -> Result<Vec<Tensor>> {
        self.lengths.iter().map(|length| length.nothing.repeat((length.params.len(), 1))).collect()
    }

    /// Sums over the blocks of each weight of `parts` `[blocks, rows]`, one for each batch.
    pub(super) fn sums(&self, parts: &[Tensor]) -> Result<Vec<Tensor>> {
        let of = |length: &Length| {
            let mut all: Vec<&Tensor> = length.batches.iter().map(|&batch| &parts[batch]).collect();
            all.push(&length.nothing);
            let all = Tensor::cat(&all, 0)?.index_select(&length.blocks, 0)?;
            all.reshape((length.params.len(), (), length.rows))?.sum(1)
        };
        self.lengths.iter().map(of).collect()
    }

    /// `[weights, 1]` for each length, of a number of each parameter.
    pub(super) fn of_params(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        self.lengths.iter().map(|length| x.index_select(&length.ids, 0)?.unsqueeze(1)).collect()
    }

    /// A number of each parameter from `[weights]` for each length.
    pub(super) fn to_params(&self, parts: &[Tensor]) -> Result<Tensor> {
        Tensor::cat(parts, 0)?.index_select(&self.places, 0)
    }

    /// `[blocks, rows, 1]` for each batch.
    pub(super) fn to_blocks(&self, rows: &[Tensor]) -> Result<Vec<Tensor>> {
        let of = |(length, ids): &(usize, Tensor)| rows[*length].index_select(ids, 0)?.unsqueeze(2);
        self.batches.iter().map(of).collect()
    }

    /// Those of one weight `[rows, 1]`.
    pub(super) fn one(&self, rows: &[Tensor], param: usize) -> Result<Tensor> {
        for (length, all) in self.lengths.iter().zip(rows) {
            if let Some(at) = length.params.iter().position(|&own| own == param) {
                return all.get(at)?.unsqueeze(1);
            }
        }
        candle_core::bail!("hessian2: a weight without rows")
    }

    /// The inverse of [`Rows::one`] for all weights, `[rows, 1]` each in the order of [`Plan::taken`].
    pub(super) fn gather(&self, all: &[Tensor]) -> Result<Vec<Tensor>> {
        let of = |length: &Length| {
            let rows: Vec<Tensor> = length.params.iter().map(|&param| all[param].t()).collect::<Result<_>>()?;
            Tensor::cat(&rows, 0)?.contiguous()
        };
        self.lengths.iter().map(of).collect()
    }
}

impl Length {
    fn new(plan: &Plan, rows: usize, params: Vec<usize>) -> Result<Self> {
        let batches: Vec<usize> = (0..plan.batches.len()).filter(|&b| plan.batches[b].rows == rows).collect();
        let mut starts = BTreeMap::new();
        let mut count = 0;
        for &batch in &batches {
            starts.insert(batch, count);
            count += plan.batches[batch].blocks.len();
        }
        let taken = || params.iter().map(|&param| &plan.taken[param]);
        let most = taken().map(|taken| taken.blocks.len()).max().unwrap_or(1);
        let of = |taken: &Taken| {
            let mut ids: Vec<u32> = taken.blocks.iter().map(|(batch, at)| (starts[batch] + at) as u32).collect();
            ids.resize(most, count as u32);
            ids
        };
        let blocks: Vec<u32> = taken().flat_map(of).collect();
        let column: Vec<f64> = taken().map(|taken| 1.0 / taken.columns as f64).collect();
        let ids: Vec<u32> = params.iter().map(|&param| param as u32).collect();
        let n = params.len();
        Ok(Length {
            rows,
            ids: Tensor::from_vec(ids, n, &plan.device)?,
            batches,
            blocks: Tensor::from_vec(blocks, n * most, &plan.device)?,
            nothing: Tensor::zeros((1, rows), plan.dtype, &plan.device)?,
            column: Tensor::from_vec(column, (n, 1), &plan.device)?.to_dtype(plan.dtype)?,
            params,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, ParamKind, ParamSet};
    use candle_core::{DType, Device};

    #[test]
    fn rows_are_summed_over_blocks_and_spread_again() -> Result<()> {
        let mut params = ParamSet::new(3, DType::F64, &Device::Cpu);
        for (name, shape) in [("a", [2, 5]), ("b", [3, 4]), ("c", [2, 4]), ("d", [2, 2])] {
            params.add(name, ParamKind::Matrix, &shape, Init::Normal(1.0))?;
        }
        let plan = Plan::new(&params, |_| true, |_| [usize::MAX, 3])?;
        let rows = Rows::new(&plan)?;
        let vars: Vec<Tensor> = params.iter().map(|param| param.var.as_detached_tensor()).collect();
        let batches = plan.gather(|taken| vars[taken.index].clone())?;
        let sums = rows.sums(&batches.iter().map(|batch| batch.sum(2)).collect::<Result<Vec<_>>>()?)?;
        let spread = rows.to_blocks(&sums)?;
        for (param, var) in vars.iter().enumerate() {
            let expected = var.sum_keepdim(1)?;
            let close =
                |x: &Tensor| -> Result<bool> { Ok((x - &expected)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12) };
            assert!(close(&rows.one(&sums, param)?)?);
            for &(batch, at) in &plan.taken[param].blocks {
                assert!(close(&spread[batch].get(at)?)?);
            }
        }
        let all: Vec<Tensor> = (0..4).map(|param| rows.one(&sums, param)).collect::<Result<_>>()?;
        for (again, sums) in rows.gather(&all)?.iter().zip(&sums) {
            assert_eq!(again.to_vec2::<f64>()?, sums.to_vec2::<f64>()?);
        }
        let numbers = Tensor::new(&[1.0, 2.0, 3.0, 4.0], &Device::Cpu)?;
        let there: Vec<Tensor> = rows.of_params(&numbers)?.iter().map(|x| x.squeeze(1)).collect::<Result<_>>()?;
        assert_eq!(rows.to_params(&there)?.to_vec1::<f64>()?, [1.0, 2.0, 3.0, 4.0]);
        Ok(())
    }
}
