//! The statistics of [`super::inputs`] for accelerators: the same random rows, second moments in products of batches. All
//! blocks with the same side and as many rows are one batch.
//!
//! Launches for G groups in B batches: 2·G (3·G with activations of half the precision) to take the rows and to lay them
//! side by side, more where blocks are uneven, and 3·B. Transformer-base (G = 62, B = 1): 189. One copy to the device, the
//! numbers of the rows. Rows of all groups lie there together for a moment: `statistics_rows` times the sum of the widths.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

use super::inputs::Group;
use crate::config::Hessian2Config;
use crate::optim::batched::copy_into;
use crate::optim::matrix::blocks;
use crate::optim::StepContext;

/// Name of a group and number of one of its blocks.
pub(super) type Member = (String, usize);

/// Second moments of one side.
pub(super) struct Statistics {
    pub(super) side: usize,
    pub(super) members: Vec<Member>,
    /// X_sᵀX_s/N_s `[members, side, side]`.
    pub(super) moments: Tensor,
}

/// A range of columns of the rows of a group.
struct Part {
    group: usize,
    number: usize,
    range: Range<usize>,
    /// All blocks of the group are as wide.
    even: bool,
}

/// Of these groups, in this type on this device; a side for each item.
pub(super) fn statistics(
    groups: &[Group<'_>],
    config: &Hessian2Config,
    (dtype, device): (DType, &Device),
    context: &StepContext<'_>,
) -> Result<Vec<Statistics>> {
    let samples: Vec<_> = groups.par_iter().map(|group| group.sample(config, context)).collect::<Result<_>>()?;
    let numbers: Vec<u32> = samples.iter().flatten().flatten().map(|&row| row as u32).collect();
    let numbers = if numbers.is_empty() { None } else { Some(Tensor::from_vec(numbers, ((),), device)?) };
    let (mut start, mut rows) = (0, Vec::with_capacity(groups.len()));
    let mut shapes: BTreeMap<(usize, usize), Vec<Part>> = BTreeMap::new();
    for (index, (group, sample)) in groups.iter().zip(&samples).enumerate() {
        let mut x = group.input();
        if let (Some(sample), Some(numbers)) = (sample, &numbers) {
            x = x.contiguous()?.index_select(&numbers.narrow(0, start, sample.len())?, 0)?;
            start += sample.len();
        }
        let ranges = blocks(group.width()?, config.block_size);
        let even = ranges.iter().all(|range| range.len() == ranges[0].len());
        for (number, range) in ranges.into_iter().enumerate() {
            let part = Part { group: index, number, range, even };
            shapes.entry((part.range.len(), x.dim(0)?)).or_default().push(part);
        }
        rows.push(x.to_dtype(dtype)?.contiguous()?);
    }
    let mut found: Vec<Statistics> = Vec::new();
    for ((side, count), parts) in shapes {
        let x = joined(&rows, &parts, (side, count))?;
        let moments = (x.t()?.matmul(&x)? * (1.0 / count.max(1) as f64))?;
        let members = parts.iter().map(|part| (groups[part.group].name.clone(), part.number));
        match found.last_mut().filter(|last| last.side == side) {
            Some(last) => {
                last.members.extend(members);
                last.moments = Tensor::cat(&[&last.moments, &moments], 0)?;
            }
            None => found.push(Statistics { side, members: members.collect(), moments }),
        }
    }
    Ok(found)
}

/// The parts `[parts, count, side]`.
fn joined(rows: &[Tensor], parts: &[Part], (side, count): (usize, usize)) -> Result<Tensor> {
    if let [part] = parts {
        return rows[part.group].narrow(1, part.range.start, side)?.contiguous()?.unsqueeze(0);
    }
    let Some(first) = parts.first() else { candle_core::bail!("hessian2: statistics of nothing") };
    let all = Tensor::zeros((parts.len(), count, side), rows[first.group].dtype(), rows[first.group].device())?;
    let mut at = 0;
    while at < parts.len() {
        let Part { group, range, even, .. } = &parts[at];
        let x = &rows[*group];
        let (view, across) = if *even {
            let across = x.dim(1)? / side;
            (x.reshape((count, across, side))?.permute((1, 0, 2))?, across)
        } else {
            (x.narrow(1, range.start, side)?.unsqueeze(0)?, 1)
        };
        copy_into(&all.narrow(0, at, across)?, &view)?;
        at += across;
    }
    Ok(all)
}
