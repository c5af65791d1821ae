//! The random numbers of an update of `white` on batches: drawn on the host from the same streams and in the same order as
//! by the host form, block after block of each weight, and taken to the device in two or three copies.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::white::DAMPING;
use crate::config::Hessian2Config;
use crate::optim::batched::Plan;
use crate::optim::per_matrix::probe_stream;
use crate::optim::StepContext;
use crate::rng::Stream;

/// Where the factors of a batch of blocks lie: index of the side (length) and first factor there.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) side: usize,
    pub(super) start: usize,
}

/// What [`draw`] has to know of a batch of factors of one length.
pub(super) struct Segments {
    pub(super) n: usize,
    /// Batch of blocks, and whether it is their left side.
    pub(super) segments: Vec<(usize, bool)>,
}

/// All of an update, on the device.
pub(super) struct Draws {
    pub(super) batches: Vec<OfBatch>,
    pub(super) sides: Vec<OfSide>,
}

/// Of a batch of blocks.
pub(super) struct OfBatch {
    /// `[blocks, 1, rows]`, when the residual is looked at.
    pub(super) probe: Option<Tensor>,
    pub(super) sample: Sample,
}

/// Which rows are sketches of the whitened gradient.
pub(super) enum Sample {
    /// Rows of all right factors, and rows of all left factors, both by their places in the batches of factors.
    Factors { left: Tensor, right: Tensor },
    /// Uniform in [0, 1), `[tables, k, 1]` in f64: which of the rows that are present.
    Rows(Tensor),
}

/// Of a batch of factors.
pub(super) struct OfSide {
    /// `[factors, 4, n]`.
    pub(super) omega: Tensor,
    /// `[factors, c, columns]`, with a fixed rank.
    pub(super) signs: Option<Tensor>,
}

/// Of one block.
struct OfBlock {
    probe: Vec<f64>,
    left: Vec<u32>,
    right: Vec<u32>,
    uniform: Vec<f64>,
    /// Left (none of a table), right: Ω and signs.
    sides: [(Vec<f64>, Vec<f64>); 2],
}

/// k = max(8, n / `sketch_divisor`) columns sketch a side of `n`.
pub(super) fn columns(config: &Hessian2Config, n: usize) -> usize {
    (n / config.sketch_divisor).max(8)
}

/// c and the columns that are combined into them, if so many are to be fewer.
fn compressed(config: &Hessian2Config, n: usize) -> Option<(usize, usize)> {
    let (c, all) = (config.rank / 2, columns(config, n) + DAMPING);
    (c > 0 && c < all).then_some((c, all))
}

/// Columns of a correction of a side of `n`.
pub(super) fn corrections(config: &Hessian2Config, n: usize) -> usize {
    compressed(config, n).map_or(columns(config, n) + DAMPING, |(c, _)| c)
}

/// All random numbers of an update; `probe`: with those of the residual.
pub(super) fn draw(
    config: &Hessian2Config,
    plan: &Plan,
    (places, sides): (&[(Option<Place>, Place)], &[&Segments]),
    context: &StepContext<'_>,
    probe: bool,
) -> Result<Draws> {
    let of_param = |param: usize| {
        let taken = &plan.taken[param];
        let mut random = probe_stream(context.seed, context.step, &taken.name);
        let shape = |&(batch, _): &(usize, usize)| &plan.batches[batch];
        taken
            .blocks
            .iter()
            .map(shape)
            .map(|b| of_block(config, (b.rows, b.columns), b.table, probe, &mut random))
            .collect()
    };
    let drawn: Vec<Vec<OfBlock>> = (0..plan.taken.len()).into_par_iter().map(of_param).collect();

    let mut numbers = Pool::default();
    let (mut ids, mut uniform) = (Vec::new(), Vec::new());
    for side in sides {
        for signs in [false, true] {
            for &(batch, left) in &side.segments {
                for &(param, number) in &plan.batches[batch].blocks {
                    let (omega, combined) = &drawn[param][number].sides[usize::from(!left)];
                    numbers.values.extend(if signs { combined } else { omega });
                }
            }
        }
    }
    for (batch, (left, right)) in plan.batches.iter().zip(places) {
        for &(param, number) in &batch.blocks {
            numbers.values.extend(&drawn[param][number].probe);
            uniform.extend(&drawn[param][number].uniform);
        }
        // H is symmetric: its columns are its rows, here counted through all factors of that length
        let lookups = [(Some(*right), batch.columns), (*left, batch.rows)];
        for (which, (place, n)) in lookups.into_iter().enumerate() {
            let Some(Place { start, .. }) = place.filter(|_| !batch.table) else { continue };
            for (at, &(param, number)) in batch.blocks.iter().enumerate() {
                let block = &drawn[param][number];
                let chosen = if which == 0 { &block.left } else { &block.right };
                ids.extend(chosen.iter().map(|id| ((start + at) * n) as u32 + id));
            }
        }
    }

    numbers.upload(plan.dtype, &plan.device)?;
    // an empty copy is an error on some devices
    if ids.is_empty() {
        ids.push(0);
    }
    if uniform.is_empty() {
        uniform.push(0.0);
    }
    let mut all_ids = Cursor::new(Tensor::from_vec(ids, ((),), &plan.device)?);
    let mut all_uniform = Cursor::new(Tensor::from_vec(uniform, ((),), &plan.device)?);
    let mut of_sides = Vec::with_capacity(sides.len());
    for side in sides {
        let factors: usize = side.segments.iter().map(|&(batch, _)| plan.batches[batch].blocks.len()).sum();
        let omega = numbers.take(&[factors, DAMPING, side.n])?;
        let signs = compressed(config, side.n).map(|(c, all)| numbers.take(&[factors, c, all])).transpose()?;
        of_sides.push(OfSide { omega, signs });
    }
    let mut of_batches = Vec::with_capacity(plan.batches.len());
    for batch in &plan.batches {
        let blocks = batch.blocks.len();
        let probe = probe.then(|| numbers.take(&[blocks, 1, batch.rows])).transpose()?;
        let sample = if batch.table {
            Sample::Rows(all_uniform.take(&[blocks, columns(config, batch.columns), 1])?)
        } else {
            let left = all_ids.take(&[blocks * columns(config, batch.rows)])?;
            let right = all_ids.take(&[blocks * columns(config, batch.columns)])?;
            Sample::Factors { left, right }
        };
        of_batches.push(OfBatch { probe, sample });
    }
    Ok(Draws { batches: of_batches, sides: of_sides })
}

/// As the host form draws for a block of `rows × columns`.
fn of_block(
    config: &Hessian2Config,
    (rows, width): (usize, usize),
    table: bool,
    probe: bool,
    random: &mut Stream,
) -> OfBlock {
    let mut block = OfBlock {
        probe: Vec::new(),
        left: Vec::new(),
        right: Vec::new(),
        uniform: Vec::new(),
        sides: Default::default(),
    };
    if probe {
        block.probe = (0..rows).map(|_| random.normal()).collect();
    }
    if table {
        // the bits that `below` takes, as a number that the device multiplies
        block.uniform = (0..columns(config, width)).map(|_| random.uniform()).collect();
    } else {
        block.left = (0..columns(config, rows)).map(|_| random.below(width) as u32).collect();
        block.right = (0..columns(config, width)).map(|_| random.below(rows) as u32).collect();
    }
    for (side, n) in [(0, rows), (1, width)].into_iter().filter(|(side, _)| *side == 1 || !table) {
        let omega = (0..DAMPING * n).map(|_| random.normal()).collect();
        let signs = compressed(config, n).map_or_else(Vec::new, |(c, all)| {
            let size = (c as f64).powf(-0.5);
            (0..c * all).map(|_| if random.bits() & 1 == 0 { size } else { -size }).collect()
        });
        block.sides[side] = (omega, signs);
    }
    block
}

/// A vector that is cut into tensors from its beginning.
struct Cursor {
    all: Tensor,
    at: usize,
}

impl Cursor {
    fn new(all: Tensor) -> Self {
        Cursor { all, at: 0 }
    }

    fn take(&mut self, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product();
        self.at += count;
        self.all.narrow(0, self.at - count, count)?.reshape(shape)
    }
}

/// Real numbers of this type on the device, in one copy.
pub(super) fn upload(values: Vec<f64>, dtype: DType, device: &Device) -> Result<Tensor> {
    match dtype {
        DType::F64 => Tensor::from_vec(values, ((),), device),
        _ => {
            let narrow: Vec<f32> = values.par_iter().map(|&x| x as f32).collect();
            Tensor::from_vec(narrow, ((),), device)
        }
    }
}

/// Real numbers on their way to the device.
#[derive(Default)]
struct Pool {
    values: Vec<f64>,
    there: Option<Cursor>,
}

impl Pool {
    fn upload(&mut self, dtype: DType, device: &Device) -> Result<()> {
        let values = std::mem::take(&mut self.values);
        self.there = Some(Cursor::new(upload(values, dtype, device)?));
        Ok(())
    }

    fn take(&mut self, shape: &[usize]) -> Result<Tensor> {
        match &mut self.there {
            Some(there) => there.take(shape),
            None => candle_core::bail!("random numbers are taken before they are there"),
        }
    }
}
