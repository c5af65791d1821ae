//! The work of an update shared by several processes that hold the same weights and gradients: each computes some matrices, and
//! hands the new weights to the others. A matrix is computed once, by the same arithmetic as ever, so that the bits are those
//! of one process. What a process learned of a matrix stays with it until [`super::Optimizer::collect`].

use candle_core::{DType, Result, Tensor};

use super::OptimizerState;

/// Processes that share the work.
pub trait Share: Sync {
    /// Of this process, from 0.
    fn rank(&self) -> usize;
    /// Processes.
    fn size(&self) -> usize;
    /// What each of them has, by rank.
    ///
    /// # Errors
    /// When one does not come.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;
    /// Each one's numbers, one after the other, in all: a flat tensor of f32, with as many as `counts` says of this one.
    ///
    /// # Errors
    /// When one does not come.
    fn gather_parts(&self, own: &Tensor, counts: &[usize]) -> Result<Tensor>;
}

/// Who computes each of some jobs of these costs: the largest first, always to whom has the least so far.
pub(super) fn owners(costs: &[u64], size: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(costs[i]));
    let (mut load, mut owners) = (vec![0; size], vec![0; costs.len()]);
    for i in order {
        let least = (0..size).min_by_key(|&rank| load[rank]).unwrap_or(0);
        load[least] += costs[i];
        owners[i] = least;
    }
    owners
}

/// Gives each its tensors anew from their owners; all of f32, on one device.
pub(super) fn exchange(share: &dyn Share, tensors: &[(&Tensor, usize)]) -> Result<()> {
    let Some(device) = tensors.first().map(|(tensor, _)| tensor.device()) else { return Ok(()) };
    let of = |rank: usize| tensors.iter().filter(move |(_, owner)| *owner == rank).map(|(tensor, _)| *tensor);
    let counts: Vec<usize> = (0..share.size()).map(|rank| of(rank).map(Tensor::elem_count).sum()).collect();
    let own = of(share.rank()).map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
    let own = match own.is_empty() {
        true => Tensor::zeros(0, DType::F32, device)?,
        false => Tensor::cat(&own, 0)?,
    };
    let all = share.gather_parts(&own, &counts)?;
    let mut at = 0;
    for rank in 0..share.size() {
        for tensor in of(rank) {
            let count = tensor.elem_count();
            if rank != share.rank() {
                let new = all.narrow(0, at, count)?.reshape(tensor.shape())?;
                tensor.slice_set(&new, 0, 0)?;
            }
            at += count;
        }
    }
    Ok(())
}

/// States of several processes, each of which has tensors and scalars of its own.
pub(super) fn join(share: &dyn Share, own: &OptimizerState) -> Result<OptimizerState> {
    let mut bytes = Vec::new();
    let mut put = |part: &[u8]| {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    };
    put(&(own.tensors.len() as u64).to_le_bytes());
    for (name, tensor) in &own.tensors {
        put(name.as_bytes());
        put(&tensor.dims().iter().flat_map(|&n| (n as u64).to_le_bytes()).collect::<Vec<u8>>());
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        put(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    }
    for (name, value) in &own.scalars {
        put(name.as_bytes());
        put(&value.to_le_bytes());
    }
    let mut all = OptimizerState::default();
    for bytes in share.gather(&bytes)? {
        let mut rest = &bytes[..];
        let mut next = || -> Result<&[u8]> {
            let cut_off = || candle_core::Error::Msg("the state that another rank has sent is cut off".to_string());
            let (length, after) = rest.split_at_checked(8).ok_or_else(cut_off)?;
            let length = u64::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
            let (part, after) = after.split_at_checked(length).ok_or_else(cut_off)?;
            rest = after;
            Ok(part)
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize;
        for _ in 0..number(next()?) {
            let name = text(next()?);
            let dims: Vec<usize> = next()?.chunks_exact(8).map(number).collect();
            let value = |four: &[u8]| f32::from_le_bytes(four.try_into().unwrap_or_default());
            let values: Vec<f32> = next()?.chunks_exact(4).map(value).collect();
            all.tensors.push((name, Tensor::from_vec(values, dims, &candle_core::Device::Cpu)?));
        }
        while let Ok(name) = next() {
            let name = text(name);
            all.scalars.push((name, f64::from_le_bytes(next()?.try_into().unwrap_or_default())));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_jobs_are_spread_and_every_job_has_one_owner() {
        assert_eq!(owners(&[5, 9, 4, 4], 2), [1, 0, 1, 0]);
        assert_eq!(owners(&[1, 1], 1), [0, 0]);
        assert_eq!(owners(&[], 3), [0usize; 0]);
    }
}
