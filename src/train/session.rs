//! How a run comes up: fresh, or from a checkpoint.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use candle_core::DType;

use crate::config::Config;
use crate::data;
use crate::events::sinks::Sinks;
use crate::interop::Origin;
use crate::machine;
use crate::model;
use crate::optim::{self, Ema, Schedule};
use crate::run::{Ledger, Record, Rules, RunFolder, Unit};
use crate::tokenizer::Tokenizers;
use crate::world::World;

use super::finished::Finished;
use super::progress::Pace;
use super::resources;
use super::shares::Sharing;
use super::stop::{Limits, Signals};
use super::tokenizers::inherited;
use super::trainer::Trainer;
use super::{batch_size, distance, phases, ranks, rates, saving, validation};

/// A run that is ready to train.
pub struct Session {
    pub(super) ledger: Ledger,
    pub(super) trainer: Trainer,
}

/// What the command line hands over.
pub struct Job {
    pub config: Config,
    /// The config that the run had until now; it goes on from the newest checkpoint of the folder. `None`: a new run.
    pub previous: Option<Config>,
    /// The model that a new run begins with, if the config names one.
    pub origin: Option<Origin>,
    pub folder: RunFolder,
    /// Sinks of the terminal.
    pub sinks: Sinks,
    pub signals: Signals,
    pub threads: usize,
    /// For `command.txt`.
    pub command: String,
    /// The processes that train.
    pub world: World,
}

/// What opening a run leads to.
pub enum Opened {
    Ready(Box<Session>),
    Finished(Finished),
}

impl Session {
    /// Reads the data, trains or loads the tokenizer, draws the weights or loads the checkpoint.
    ///
    /// # Errors
    /// Bad data, a bad tokenizer, a full disk; on resume also: no checkpoint that can be used, one that does not fit, data
    /// or tokenizer changed since, a longer run without a decision about its learning rate.
    pub fn open(job: Job) -> Result<Opened> {
        let Job { mut config, previous, origin, folder, sinks, signals, threads, command, world } = job;
        let device = machine::device_of_rank(config.device, config.train.precision, world.rank_on_host())?;
        let mut record = Record::new(folder, sinks, world.clone());
        if let Some(told) = machine::fallback(&device, config.train.precision) {
            record.note(told);
        }
        // Looked for before the data is read: its absence should be known within a second.
        let mut checkpoint = match previous {
            Some(previous) => Some((record.newest()?, previous)),
            None => None,
        };
        if let Some(((_, ledger), previous)) = &mut checkpoint {
            judge_by_metric(ledger, previous, &config, &mut record);
            if let Some(finished) = Finished::look(&config, record.paths(), ledger)? {
                return Ok(Opened::Finished(finished));
            }
            if let Some(told) = rates::check(previous, &config, ledger, record.paths().root())? {
                record.note(told);
            }
        }

        let run = record.paths().root().to_path_buf();
        let cache = resources::cache_dir(&config, &run);
        let mut note = |text: String| record.note(text);
        let known = match checkpoint {
            Some(_) => {
                data::all_there(&config)?;
                Some((Tokenizers::load_saved(&run)?, "of this run".to_string()))
            }
            None => inherited(&config, origin.as_ref()),
        };
        let mut resources = ranks::resources(&world, &config, known, &run, &cache, &mut note)?;
        let model = model::build(&config.model, resources.vocabulary, config.seed, DType::F32, &device)?;
        batch_size::settle(&world, &mut config, &mut resources, model.as_ref(), &mut note)?;
        let (begins, pretrained) = match checkpoint {
            Some(_) => (None, Vec::new()),
            None => (
                origin.map(|origin| origin.fill(model.as_ref(), &resources.tokenizers)).transpose()?,
                resources::fill_pretrained(&config, &resources.tokenizers, model.as_ref())?,
            ),
        };
        let distance = distance::prepare(&config, &resources, model.params(), &mut note)?;
        let in_force =
            checkpoint.as_ref().map_or_else(|| config.in_force(0), |((_, ledger), _)| ledger.in_force(&config));
        let params = phases::trained_params(model.params(), in_force.trainable);
        let mut optimizer = optim::build(&in_force.optimizer, params.dtype(), params.device());
        let schedule = Schedule::of(&config)?;
        let mut ema = match config.train.ema_decay > 0.0 {
            true => Some(Ema::new(model.params(), config.train.ema_decay)?),
            false => None,
        };
        let fresh = Ledger::new(resources.train.fingerprint.clone(), resources.tokenizers.fingerprint());
        let mut ledger = match checkpoint {
            Some(((found, ledger), _)) => {
                let path = record.checkpoint(ledger.step);
                phases::check_same_phase(&ledger, &in_force)?;
                let all = [model.params(), &params];
                saving::restore(&path, found, all, (&ledger, &in_force), optimizer.as_mut(), ema.as_mut())
                    .with_context(|| format!("go on from {}", path.display()))?;
                saving::check_same_data(&ledger, &fresh, &resources.train)?;
                ledger
            }
            None => {
                if world.leads() {
                    resources.tokenizers.save(&run)?;
                }
                fresh
            }
        };
        let mates = ranks::meet(&world, &config, &ledger, &device)?;
        let unit = validation::unit(&config, resources.valid.as_ref());
        if let Some(told) = ledger.measured_by(unit.clone(), &unit) {
            record.note(told);
        }
        if let Some(told) = other_machine(&ledger, &machine::computed_by(&device)) {
            record.warn(ledger.step, told);
        }
        // From here on the folder holds a run; a start that failed before left nothing that bars the next one.
        let rules = Rules::of(&config);
        record.begin(&config, &command, &ledger, &rules)?;
        let sharing = Sharing::wanted(&world, config.train.share_optimizer);
        let trainer = Trainer {
            limits: Limits::begin(config.train.max_hours, signals, world.clone()),
            world,
            mates,
            sharing,
            exchanging: 0.0,
            pace: Pace::new(ledger.step, 0),
            config,
            rules,
            record,
            resources,
            model,
            params,
            optimizer,
            in_force,
            distance,
            schedule,
            ema,
            threads,
            begins,
            pretrained,
            told: BTreeSet::new(),
            epoch: None,
        };
        Ok(Opened::Ready(Box::new(Session { ledger, trainer })))
    }
}

/// The last bits of a run that goes on elsewhere are those of the new place.
fn other_machine(ledger: &Ledger, now: &str) -> Option<String> {
    let was = ledger.computed_by.as_deref().filter(|&was| was != now)?;
    let step = ledger.step;
    Some(format!(
        "up to update {step} this run was computed by: {was}; it goes on by: {now}, not bit for bit as it began"
    ))
}

/// The metric is known before any text is read, and decides whether a run is finished.
fn judge_by_metric(ledger: &mut Ledger, previous: &Config, now: &Config, record: &mut Record) {
    let of = |config: &Config| {
        let metric = config.validation.early_stopping_metric;
        Unit { metric, text: String::new(), translation: String::new() }
    };
    let known = ledger.unit.clone().unwrap_or_else(|| of(previous));
    let unit = Unit { metric: now.validation.early_stopping_metric, ..known.clone() };
    if let Some(told) = ledger.measured_by(unit, &known) {
        record.note(told);
    }
}
