//! A dry run: data, tokenizer, model, the largest batch once forward and backward; no run folder.

use std::path::Path;

use anyhow::Result;
use candle_core::DType;

use crate::config::Config;
use crate::events::Start;
use crate::interop::Origin;
use crate::machine::{self, peak_memory_bytes_of};
use crate::model;
use crate::optim;
use crate::run::Rules;
use crate::units;

use crate::world::World;

use super::batch_size;
use super::preflight::{self, Facts};
use super::ranks::Mates;
use super::resources::{self, Resources};
use super::tokenizers::inherited;
use super::trial;
use super::warnings::warnings;

/// What a dry run found.
pub struct Report {
    pub start: Start,
    /// What seems wrong, each with an example and what to do.
    pub warnings: Vec<String>,
    /// A sentence about the largest batch.
    pub largest_batch: String,
}

/// Does everything a run does before its first update.
///
/// # Errors
/// What would stop the run.
pub fn check(
    config: &Config,
    origin: Option<&Origin>,
    run: &Path,
    threads: usize,
    note: &mut dyn FnMut(String),
) -> Result<Report> {
    let device = machine::device(config.device, config.train.precision)?;
    if let Some(told) = machine::fallback(&device, config.train.precision) {
        note(told);
    }
    let mut config = config.clone();
    let known = inherited(&config, origin);
    let mut resources = Resources::load(&config, known, &resources::cache_dir(&config, run), note)?;
    let model = model::build(&config.model, resources.vocabulary, config.seed, DType::F32, &device)?;
    batch_size::settle(&World::alone(), &mut config, &mut resources, model.as_ref(), note)?;
    let config = &config;
    let begins = origin.map(|origin| origin.fill(model.as_ref(), &resources.tokenizers)).transpose()?;
    let pretrained = resources::fill_pretrained(config, &resources.tokenizers, model.as_ref())?;
    super::distance::prepare(config, &resources, model.params(), note)?;
    let epoch = resources.epoch(0);
    let updates_per_epoch = (epoch.len() as u64).div_ceil(config.train.gradient_accumulation_steps as u64);
    let total_updates = Rules::of(config).total_updates(updates_per_epoch);
    let start = preflight::start(&Facts {
        config,
        resources: &resources,
        model: model.as_ref(),
        optimizer: optim::build(&config.optimizer, model.params().dtype(), model.params().device()).describe(),
        begins: begins.as_deref(),
        pretrained: &pretrained,
        updates_per_epoch,
        total_updates,
        speed_of_bf16: trial::speed_of_bf16(config, &resources, model.as_ref(), &epoch)?,
        threads,
        world: &World::alone(),
        mates: &Mates::default(),
        run,
        step: 0,
    });

    let trial = trial::largest_batch(config, &resources, model.as_ref(), &epoch)?;
    let largest_batch = format!(
        "the largest batch ({} pairs, {} source and {} target tokens{}) took {:.2} s forward and backward; \
         loss {:.3} a token, gradient norm {:.2}; peak memory {}",
        trial.pairs,
        trial.source_tokens,
        trial.target_tokens,
        if config.train.r_drop_alpha > 0.0 { ", which pass twice" } else { "" },
        trial.seconds,
        trial.loss,
        trial.gradient_norm,
        units::bytes(peak_memory_bytes_of(model.params().device())),
    );
    let warnings = warnings(config, &resources, &pretrained, total_updates);
    Ok(Report { start, warnings, largest_batch })
}
