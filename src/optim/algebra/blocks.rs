//! Blocks of weights into batches and back, one copy for each weight whose blocks are of one shape; and what sums over the
//! blocks of each weight need.

use candle_core::backend::BackendStorage;
use candle_core::{bail, CpuStorage, CudaStorage, DType, InplaceOp2, Layout, Result, Tensor};

use super::device::Batch;
use super::numbers::Numbers;
use super::Place;
use crate::optim::plan::{Block, Plan, Shape, Weight};

/// Maps between blocks, over all batches, and weights.
pub(in crate::optim) struct Maps {
    /// The weight of each block.
    weight_of: Tensor,
    /// The blocks of each weight, filled up with the number behind the last block.
    blocks_of: Tensor,
    weights: usize,
    nothing: Tensor,
}

impl Maps {
    pub(super) fn new(weights: &[Weight], batches: &[Shape], place: &Place) -> Result<Self> {
        let weight_of: Vec<u32> =
            batches.iter().flat_map(|batch| batch.members.iter().map(|&(weight, _)| weight as u32)).collect();
        let count = weight_of.len();
        let starts: Vec<usize> = batches
            .iter()
            .scan(0, |start, batch| {
                let own = *start;
                *start += batch.members.len();
                Some(own)
            })
            .collect();
        let most = weights.iter().map(|weight| weight.blocks.len()).max().unwrap_or(1);
        let of = |weight: &Weight| {
            let mut own: Vec<u32> = weight.blocks.iter().map(|block| (starts[block.batch] + block.at) as u32).collect();
            own.resize(most, count as u32);
            own
        };
        let blocks_of: Vec<u32> = weights.iter().flat_map(of).collect();
        Ok(Maps {
            weight_of: Tensor::from_vec(weight_of, count, &place.device)?,
            blocks_of: Tensor::from_vec(blocks_of, weights.len() * most, &place.device)?,
            weights: weights.len(),
            nothing: Tensor::zeros(1, DType::F64, &place.device)?,
        })
    }

    pub(super) fn per_weight(&self, blocks: &[Numbers]) -> Result<Numbers> {
        let mut all: Vec<&Tensor> = blocks.iter().map(Numbers::tensor).collect::<Result<_>>()?;
        all.push(&self.nothing);
        let all = Tensor::cat(&all, 0)?.index_select(&self.blocks_of, 0)?;
        Ok(Numbers::new(all.reshape((self.weights, ()))?.sum(1)))
    }

    pub(super) fn per_block(&self, weights: &Numbers, batches: &[Shape]) -> Result<Vec<Numbers>> {
        let all = weights.tensor()?.index_select(&self.weight_of, 0)?;
        let mut start = 0;
        let part = |batch: &Shape| {
            let part = all.narrow(0, start, batch.members.len());
            start += batch.members.len();
            Numbers::new(part)
        };
        Ok(batches.iter().map(part).collect())
    }
}

/// Whether all blocks of a weight are of one shape: then they lie side by side in one batch.
fn is_even(weight: &Weight) -> bool {
    let size = |block: &Block| [block.rows.len(), block.columns.len()];
    weight.blocks.iter().all(|block| size(block) == size(&weight.blocks[0]))
}

/// The batches of these matrices, one for each weight.
pub(super) fn gather(plan: &Plan<Batch>, matrices: &[&Tensor]) -> Result<Vec<Tensor>> {
    plan.batches.iter().map(|batch| gather_one(plan, batch, matrices)).collect()
}

fn gather_one(plan: &Plan<Batch>, batch: &Shape, matrices: &[&Tensor]) -> Result<Tensor> {
    let shape = (batch.members.len(), batch.rows, batch.columns);
    if let [(weight, _)] = batch.members[..] {
        if plan.weights[weight].blocks.len() == 1 {
            return matrices[weight].reshape(shape);
        }
    }
    let joined = Tensor::zeros(shape, plan.place.dtype, &plan.place.device)?;
    let mut at = 0;
    while at < batch.members.len() {
        let (index, number) = batch.members[at];
        let weight = &plan.weights[index];
        let Block { rows, columns, .. } = &weight.blocks[number];
        let (view, count) = if is_even(weight) {
            let [down, across] = weight.grid;
            let split = matrices[index].reshape((down, batch.rows, across, batch.columns))?;
            (split.permute((0, 2, 1, 3))?, down * across)
        } else {
            (matrices[index].narrow(0, rows.start, batch.rows)?.narrow(1, columns.start, batch.columns)?, 1)
        };
        copy_into(&joined.narrow(0, at, count)?, &view)?;
        at += count;
    }
    Ok(joined)
}

/// The matrix of one weight out of batches, as a view of any strides and shape in the order of its elements.
pub(super) fn matrix(plan: &Plan<Batch>, batches: &[&Batch], index: usize) -> Result<Tensor> {
    let weight = &plan.weights[index];
    let [down, across] = weight.grid;
    if is_even(weight) {
        let (batch, at) = (weight.blocks[0].batch, weight.blocks[0].at);
        let Shape { rows, columns, .. } = plan.batches[batch];
        let whole = batches[batch].0.narrow(0, at, down * across)?;
        return whole.reshape((down, across, rows, columns))?.permute((0, 2, 1, 3));
    }
    let block = |block: &Block| batches[block.batch].0.get(block.at);
    let row = |blocks: &[Block]| Tensor::cat(&blocks.iter().map(block).collect::<Result<Vec<_>>>()?, 1);
    Tensor::cat(&weight.blocks.chunks(across).map(row).collect::<Result<Vec<_>>>()?, 0)
}

/// Copies `from`, a view of any strides, over `to`, a contiguous view with as many elements, in one launch.
pub(super) fn copy_into(to: &Tensor, from: &Tensor) -> Result<()> {
    to.inplace_op2(from, &Copy)
}

struct Copy;

impl Copy {
    fn run<S: BackendStorage>(to: &mut S, to_layout: &Layout, from: &S, from_layout: &Layout) -> Result<()> {
        let (to_dims, from_dims) = (to_layout.shape(), from_layout.shape());
        if !to_layout.is_contiguous() || to_dims.elem_count() != from_dims.elem_count() {
            bail!("copy_into: {from_dims:?} into {to_dims:?}, which must be contiguous and as large");
        }
        from.copy_strided_src(to, to_layout.start_offset(), from_layout)
    }
}

impl InplaceOp2 for Copy {
    fn name(&self) -> &'static str {
        "copy-into"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, tl: &Layout, from: &CpuStorage, fl: &Layout) -> Result<()> {
        Copy::run(to, tl, from, fl)
    }

    fn cuda_fwd(&self, to: &mut CudaStorage, tl: &Layout, from: &CudaStorage, fl: &Layout) -> Result<()> {
        Copy::run(to, tl, from, fl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_strided_view_lands_at_its_place() -> Result<()> {
        let from = Tensor::arange(0f64, 6.0, &Device::Cpu)?.reshape((2, 3))?;
        let to = Tensor::zeros((3, 3, 2), from.dtype(), &Device::Cpu)?;
        copy_into(&to.narrow(0, 1, 1)?, &from.t()?)?;
        let expected = [0., 0., 0., 0., 0., 0., 0., 3., 1., 4., 2., 5., 0., 0., 0., 0., 0., 0.];
        assert_eq!(to.flatten_all()?.to_vec1::<f64>()?, expected);
        assert!(copy_into(&to.narrow(0, 1, 1)?, &from.narrow(0, 0, 1)?).is_err());
        assert!(copy_into(&to.narrow(0, 0, 1)?.squeeze(0)?.narrow(1, 0, 1)?, &from.narrow(0, 0, 1)?).is_err());
        Ok(())
    }
}
