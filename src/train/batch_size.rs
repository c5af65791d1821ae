//! `train.batch_size = "auto"`: the largest batch that a GPU's memory holds.
//!
//! Sizes are doubled until memory runs out (or one batch holds all pairs), then the border is halved four times. Each
//! trial is a forward and a backward pass over the batch with the most work of the first epoch, while as much memory as
//! the optimizer will need is taken. A tenth of what fitted is left free: other epochs cut other batches.

use anyhow::Result;
use candle_core::{DType, Tensor};

use crate::config::{BatchSize, BatchType, Config};
use crate::exit::InputError;
use crate::model::Model;
use crate::units;
use crate::world::World;

use super::memory::optimizer_states;
use super::resources::Resources;
use super::trial;

/// The first size that is tried.
fn first(kind: BatchType) -> usize {
    match kind {
        BatchType::Tokens => 1024,
        BatchType::Sentences => 32,
    }
}

/// Finds the size, if the config asks for it, and puts it into config and resources.
///
/// # Errors
/// On the CPU; when not even a small batch fits; errors of the computation.
pub(super) fn settle(
    world: &World,
    config: &mut Config,
    resources: &mut Resources,
    model: &dyn Model,
    note: &mut dyn FnMut(String),
) -> Result<()> {
    if config.train.batch_size != BatchSize::Auto {
        return Ok(());
    }
    if model.params().device().is_cpu() {
        return Err(InputError::new(
            r#"train.batch_size = "auto" finds out what the memory of a GPU holds; on the CPU give a number, as 4096"#,
        )
        .into());
    }
    let kind = config.train.batch_type;
    let pairs = resources.train.kept as usize;
    let mut trial = |size: usize| -> Result<(bool, bool)> {
        resources.set_batch_size(size);
        let all_in_one = resources.epoch(0).len() == 1;
        Ok((fits(config, resources, model)?, all_in_one))
    };
    let (mut good, mut bad) = (0, None);
    let mut size = first(kind);
    while bad.is_none() {
        match trial(size)? {
            (false, _) => bad = Some(size),
            (true, true) => {
                good = size;
                break;
            }
            (true, false) => {
                good = size;
                size *= 2;
            }
        }
    }
    if good == 0 {
        let unit = if kind == BatchType::Tokens { "target tokens" } else { "pairs" };
        return Err(InputError::new(format!(
            "train.batch_size = \"auto\": the memory of the GPU does not even hold a batch of {size} {unit}; use a smaller \
             model, or shorter sentences (data.max_length)"
        ))
        .into());
    }
    for _ in 0..4 {
        let Some(border) = bad.filter(|border| border - good > 1) else { break };
        let middle = good + (border - good) / 2;
        match trial(middle)?.0 {
            true => good = middle,
            false => bad = Some(middle),
        }
    }
    let found = if bad.is_some() { (good - good / 10).max(1) } else { good };
    // what the smallest GPU holds
    let found = world.least(found as u64)? as usize;
    config.train.batch_size = BatchSize::Of(found);
    resources.set_batch_size(found);
    let limit = match bad {
        Some(bad) => format!("{} fitted, {} did not", units::count(good as u64), units::count(bad as u64)),
        None => format!("all {} pairs are one batch", units::count(pairs as u64)),
    };
    note(format!("train.batch_size = \"auto\": {} ({limit})", units::count(found as u64)));
    Ok(())
}

/// Whether a step with the largest batch can be done; other faults than want of memory are errors.
fn fits(config: &Config, resources: &Resources, model: &dyn Model) -> Result<bool> {
    let params = model.params();
    let numbers = params.elements() * optimizer_states(config);
    let step = || -> Result<()> {
        let _state = Tensor::zeros(numbers.max(1), DType::F32, params.device())?;
        trial::largest_batch(config, resources, model, &resources.epoch(0)).map(|_| ())
    };
    match step() {
        Ok(()) => Ok(true),
        Err(error) if is_want_of_memory(&format!("{error:#}")) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How driver and cuBLAS say it.
pub(super) fn is_want_of_memory(message: &str) -> bool {
    ["OUT_OF_MEMORY", "out of memory", "ALLOC_FAILED"].iter().any(|sign| message.contains(sign))
}
