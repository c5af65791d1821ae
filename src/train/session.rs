//! Everything a run holds while it lives, and how it comes up: fresh, or from a checkpoint.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use anyhow::Result;
use candle_core::DType;

use crate::checkpoint::Store;
use crate::config::{Config, InForce};
use crate::events::sinks::Sinks;
use crate::events::{Event, Sink};
use crate::model::{self, Model};
use crate::objective::EmbeddingDistance;
use crate::optim::{self, Ema, Optimizer, Schedule, StepContext};
use crate::params::ParamSet;

use super::batch_size;
use super::distance;
use super::finished::Finished;
use super::phases;
use super::progress::Pace;
use super::resources::{self, Resources, Vectors};
use super::run_folder::RunFolder;
use super::saving;
use super::state::TrainState;
use super::step::Stepper;
use super::stop::{Limits, Signals};

/// A run that is ready to train.
pub struct Session {
    pub(super) config: Config,
    pub(super) folder: RunFolder,
    pub(super) resources: Resources,
    pub(super) model: Box<dyn Model>,
    /// What is trained, sharing its values with the model.
    pub(super) params: ParamSet,
    pub(super) optimizer: Box<dyn Optimizer>,
    /// What the phases say for this update.
    pub(super) in_force: InForce,
    /// For the phases that use it.
    pub(super) distance: Option<EmbeddingDistance>,
    pub(super) schedule: Schedule,
    pub(super) ema: Option<Ema>,
    pub(super) store: Store,
    pub(super) state: TrainState,
    pub(super) sinks: Sinks,
    pub(super) limits: Limits,
    pub(super) pace: Pace,
    pub(super) threads: usize,
    /// Step of the newest checkpoint on disk.
    pub(super) saved_at: Option<u64>,
    /// Pretrained vectors, for the pre-flight table.
    pub(super) pretrained: Vec<Vectors>,
    metrics_bytes: Arc<AtomicU64>,
}

/// What the command line hands over.
pub struct Job {
    pub config: Config,
    pub folder: RunFolder,
    /// Sinks of the terminal.
    pub sinks: Sinks,
    /// Opens the sinks of the run folder once it is known how much of an earlier metrics.jsonl stays.
    pub open_files: Box<OpenFiles>,
    pub signals: Signals,
    pub threads: usize,
    /// For `command.txt`.
    pub command: String,
    /// Continue from the newest whole checkpoint of the folder.
    pub resume: bool,
}

/// Opens the sinks of a run folder; the number is the length of metrics.jsonl to keep, if any.
pub type OpenFiles = dyn FnOnce(&Path, Option<u64>) -> Result<FileSinks>;

/// Sinks that write into the run folder.
pub struct FileSinks {
    /// With the names used in warnings.
    pub sinks: Vec<(&'static str, Box<dyn Sink>)>,
    /// Length of metrics.jsonl, for checkpoints.
    pub metrics_bytes: Arc<AtomicU64>,
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
    /// Bad data, a bad tokenizer, a full disk; on resume also: no whole checkpoint, one that does not fit, data or
    /// tokenizer changed since.
    pub fn open(job: Job) -> Result<Opened> {
        let Job { mut config, folder, mut sinks, open_files, signals, threads, command, resume } = job;
        let device = super::machine::device(&config.device, config.train.precision)?;
        let limits = Limits::new(&config, signals);
        let store = Store::at(folder.root());
        // Looked for before the data is read: its absence should be known within a second.
        let checkpoint = match resume {
            true => Some(saving::newest(&store, folder.root(), &mut sinks)?),
            false => None,
        };
        if let Some(found) = &checkpoint {
            let state = saving::state(&store.path(found.step), found)?;
            if let Some(finished) = Finished::look(&config, &folder, &limits, &state)? {
                return Ok(Opened::Finished(finished));
            }
        }

        let cache = resources::cache_dir(&config, folder.root());
        let mut note = |text: String| sinks.emit(&Event::Note(text));
        let mut resources = Resources::load(&config, checkpoint.as_ref().map(|_| folder.root()), &cache, &mut note)?;
        let model = model::build(&config.model, resources.vocabulary, config.seed, DType::F32, &device)?;
        batch_size::settle(&mut config, &mut resources, model.as_ref(), &mut note)?;
        let distance = distance::prepare(&config, &resources, model.params(), &mut note)?;
        let in_force = config.in_force(checkpoint.as_ref().map_or(0, |found| found.step));
        let params = phases::trained_params(model.params(), in_force.trainable);
        let mut optimizer = optim::build(&in_force.optimizer, params.dtype(), params.device());
        let mut schedule =
            Schedule::new(&config.schedule, in_force.optimizer.lr, config.model.d_model, config.train.max_updates)?;
        let mut ema = match config.train.ema_decay > 0.0 {
            true => Some(Ema::new(model.params(), config.train.ema_decay)?),
            false => None,
        };
        let fresh = TrainState::new(resources.train.fingerprint.clone(), resources.tokenizers.fingerprint());
        let saved_at = checkpoint.as_ref().map(|found| found.step);
        let (state, pretrained) = match checkpoint {
            Some(found) => {
                let path = store.path(found.step);
                phases::check_same_phase(&saving::state(&path, &found)?, &in_force)?;
                let all = [model.params(), &params];
                let state = saving::restore(&path, found, all, &in_force, optimizer.as_mut(), ema.as_mut())?;
                saving::check_same_data(&state, &fresh)?;
                schedule.load_state(state.schedule.clone());
                (state, Vec::new())
            }
            None => {
                let notes = resources::fill_pretrained(&config, &resources.tokenizers, model.as_ref())?;
                resources.tokenizers.save(folder.root())?;
                (fresh, notes)
            }
        };
        // From here on the folder holds a run; a start that failed before left nothing that bars the next one.
        let store = Store::open(folder.root())?;
        folder.record(&config, &command)?;

        let files = open_files(folder.root(), saved_at.map(|_| state.metrics_bytes))?;
        for (name, sink) in files.sinks {
            sinks.push(name, sink);
        }
        if let Some(step) = saved_at {
            // The row of a checkpoint comes after the length stored in it, so it was just cut off.
            sinks.emit(&Event::Checkpoint { step, path: store.path(step), seconds_save: 0.0 });
        }
        let limits = limits.begin();
        let pace = Pace::new(state.step);
        Ok(Opened::Ready(Box::new(Session {
            config,
            folder,
            resources,
            model,
            params,
            optimizer,
            in_force,
            distance,
            schedule,
            ema,
            store,
            state,
            sinks,
            limits,
            pace,
            threads,
            saved_at,
            pretrained,
            metrics_bytes: files.metrics_bytes,
        })))
    }

    /// Length of metrics.jsonl.
    pub(super) fn metrics_bytes(&self) -> u64 {
        self.metrics_bytes.load(Ordering::Relaxed)
    }

    /// The parts of one update, and what it needs to know.
    pub(super) fn stepper(&mut self) -> (Stepper<'_>, StepContext<'static>) {
        let context = StepContext {
            embedding_lr_scale: self.in_force.optimizer.embedding_lr_scale,
            ..StepContext::new(self.schedule.lr(self.state.step), self.state.step, self.config.seed)
        };
        let distance = distance::update(self.distance.as_ref(), &self.config, &self.in_force, &self.state);
        let stepper = Stepper {
            model: self.model.as_ref(),
            params: &self.params,
            optimizer: self.optimizer.as_mut(),
            ema: self.ema.as_mut(),
            label_smoothing: self.config.train.label_smoothing,
            clip_norm: optim::clip_norm(&self.in_force.optimizer, self.config.train.clip_grad_norm),
            distance,
        };
        (stepper, context)
    }
}
