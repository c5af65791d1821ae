//! What a run writes: its checkpoints, the pointers to them, metrics.jsonl, translations, and what the screen shows. All
//! of it follows from the ledger, and nothing else writes into a run folder while the run lives. Of several ranks the leader
//! writes, and reads for all of them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{bail, Result};
use candle_core::{Device, Tensor};

use super::due::Rules;
use super::folder::{Paths, RunFolder};
use super::ledger::Ledger;
use super::phase::Trained;
use super::rows;
use crate::checkpoint::{self, Snapshot, Store};
use crate::config::Config;
use crate::events::debug_log::DebugLog;
use crate::events::jsonl::Jsonl;
use crate::events::sinks::Sinks;
use crate::events::tensorboard::TensorBoard;
use crate::events::Event;
use crate::exit::InputError;
use crate::fsio;
use crate::optim::OptimizerState;
use crate::params::ParamSet;
use crate::shell;
use crate::world::World;

/// See the module.
pub struct Record {
    folder: RunFolder,
    store: Store,
    sinks: Sinks,
    /// `None` before the files are opened, and after one could not be written.
    metrics: Option<Jsonl>,
    /// Step of the last row `checkpoint` in metrics.jsonl: a checkpoint that is written again is told once.
    told: Option<u64>,
    world: World,
}

/// The tensors of a checkpoint.
pub struct Tensors {
    /// Weights to validate, translate and export with.
    pub weights: Vec<(String, Tensor)>,
    /// Weights to train on, when they differ.
    pub raw_weights: Option<Vec<(String, Tensor)>>,
    pub optimizer: OptimizerState,
    /// Whose state that is.
    pub trained: Trained,
    /// The instructions or the GPU that they come from.
    pub computed_by: String,
}

impl Record {
    /// With the sinks of the terminal. Nothing is written yet.
    pub fn new(folder: RunFolder, sinks: Sinks, world: World) -> Self {
        let store = Store::at(folder.root());
        Record { folder, store, sinks, metrics: None, told: None, world }
    }

    pub fn paths(&self) -> &Paths {
        &self.folder
    }

    /// Folder of the checkpoint of an update, whether it exists or not.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.store.path(step)
    }

    /// Makes the folder that of a run: config, command, files that begin or, at the checkpoint of `ledger`, go on.
    ///
    /// # Errors
    /// When the folder can not be written.
    pub fn begin(&mut self, config: &Config, command: &str, ledger: &Ledger, rules: &Rules) -> Result<()> {
        if !self.world.leads() {
            return Ok(());
        }
        self.store = Store::open(self.folder.root())?;
        self.folder.record(config, command)?;
        let is_new = ledger.saved_at().is_none();
        self.metrics = Some(Jsonl::open(&self.folder.metrics(), (!is_new).then_some(ledger.metrics_bytes))?);
        self.sinks.push("debug.log", Box::new(DebugLog::open(&self.folder.debug_log())?));
        self.sinks.push("the TensorBoard file", Box::new(TensorBoard::create(&self.folder.tensorboard())?));
        if is_new {
            return Ok(());
        }
        self.at_checkpoint(ledger, rules)
    }

    /// Makes all files those of a run that has just returned to its newest checkpoint.
    ///
    /// # Errors
    /// When they can not be written.
    pub fn returned(&mut self, ledger: &Ledger, rules: &Rules) -> Result<()> {
        if !self.world.leads() {
            return Ok(());
        }
        self.store.forget_after(ledger.step)?;
        self.with_metrics(|metrics| metrics.cut(ledger.metrics_bytes));
        self.emit(&Event::Returned { step: ledger.step });
        self.at_checkpoint(ledger, rules)
    }

    /// metrics.jsonl ends where the checkpoint stored its length; the row that tells of the checkpoint comes after that.
    fn at_checkpoint(&mut self, ledger: &Ledger, rules: &Rules) -> Result<()> {
        let kept = rows::read(&self.folder.metrics()).unwrap_or_default();
        let last = kept.iter().rev().find(|row| rows::event(row) == "checkpoint");
        self.told = last.and_then(rows::step);
        if let Some(row) = self.checkpoint_to_tell(ledger.step, 0.0) {
            // The screen saw it when it was saved.
            self.with_metrics(|metrics| metrics.write(&row));
        }
        self.forget_weights(ledger)?;
        Ok(self.store.return_to(ledger.step, &ledger.ranked(rules.metric))?)
    }

    /// Keeps the weights that a validation after `step` scored, for the mean at the end.
    ///
    /// # Errors
    /// When they can not be written.
    pub fn keep_weights(&self, step: u64, weights: &[(String, Tensor)]) -> Result<()> {
        if self.world.leads() {
            self.folder.check()?;
            self.store.save_validated(step, weights)?;
        }
        Ok(())
    }

    /// Deletes those that no mean will be asked of.
    ///
    /// # Errors
    /// When they can not be deleted.
    pub fn forget_weights(&self, ledger: &Ledger) -> Result<()> {
        if self.world.leads() {
            self.store.retain_validated(&ledger.weights_kept())?;
        }
        Ok(())
    }

    /// Writes the mean of the weights that the validations after `steps` scored, of those that are there; these, and its
    /// file. `None`: none is.
    ///
    /// # Errors
    /// When they can not be read, or it not be written.
    pub fn average(&self, steps: &[u64]) -> Result<Option<(Vec<u64>, PathBuf)>> {
        let found = if self.world.leads() { self.store.validated_there(steps) } else { Vec::new() };
        let found: Vec<u64> = serde_json::from_slice(&self.world.lead(serde_json::to_vec(&found)?)?)?;
        if found.is_empty() {
            return Ok(None);
        }
        let path = self.folder.average();
        if self.world.leads() {
            self.folder.check()?;
            let files: Vec<PathBuf> = found.iter().map(|&step| self.store.validated(step)).collect();
            checkpoint::save_weights(&path, &checkpoint::average(&files)?)?;
        }
        Ok(Some((found, path)))
    }

    /// Fills the parameters of all ranks with the weights of a file or a checkpoint's folder.
    ///
    /// # Errors
    /// When they can not be read or do not fit.
    pub fn load_weights(&self, path: &Path, params: &ParamSet) -> Result<()> {
        if self.world.leads() {
            checkpoint::load_weights(path, params)?;
        }
        if self.world.is_alone() {
            return Ok(());
        }
        let own = if self.world.leads() { checkpoint::to_bytes(&of_params(params))? } else { Vec::new() };
        Ok(checkpoint::fill(path, checkpoint::from_bytes(&self.world.lead(own)?)?, params)?)
    }

    /// Whether the checkpoint of an update is there.
    ///
    /// # Errors
    /// Those of the ranks' library.
    pub fn has(&self, step: u64) -> Result<bool> {
        let own = self.world.leads() && self.checkpoint(step).exists();
        Ok(self.world.any(own)?)
    }

    /// The mean is the best there is, until the run goes on.
    ///
    /// # Errors
    /// When the pointer can not be written.
    pub fn average_is_best(&self) -> Result<()> {
        if self.world.leads() {
            self.store.point_best_at_average()?;
        }
        Ok(())
    }

    /// The event of a checkpoint that metrics.jsonl does not have yet.
    fn checkpoint_to_tell(&mut self, step: u64, seconds_save: f64) -> Option<Event> {
        let is_new = self.told.replace(step) != Some(step);
        is_new.then(|| Event::Checkpoint { step, path: self.store.path(step), seconds_save })
    }

    /// The newest checkpoint that can be used, and its ledger; newer ones that can not become warnings.
    ///
    /// # Errors
    /// No checkpoint, none that can be used.
    pub fn newest(&mut self) -> Result<(Snapshot, Ledger)> {
        let own = if self.world.leads() { Some(self.read_newest()?) } else { None };
        if self.world.is_alone() {
            return own.ok_or_else(|| InputError::new("nobody reads the checkpoint").into());
        }
        let bytes = own.as_ref().map(|(snapshot, _)| snapshot.to_bytes()).transpose()?.unwrap_or_default();
        let bytes = self.world.lead(bytes)?;
        match own {
            Some(own) => Ok(own),
            None => {
                let snapshot = Snapshot::from_bytes(&bytes)?;
                let ledger = Ledger::read(&snapshot.state).map_err(|e| InputError::new(e.to_string()))?;
                Ok((snapshot, ledger))
            }
        }
    }

    fn read_newest(&mut self) -> Result<(Snapshot, Ledger)> {
        let mut problems = Vec::new();
        let usable = |snapshot: &Snapshot| Ledger::read(&snapshot.state).map_err(|e| e.to_string());
        let Some((snapshot, ledger)) = self.store.load_newest(&Device::Cpu, &usable, &mut problems)? else {
            let again = format!("nmt-train --config {} --force", shell::path(&self.folder.config()));
            let run = self.folder.root().display();
            return Err(InputError::new(format!(
                "{run} has no checkpoint to continue from; start over with `{again}`"
            ))
            .into());
        };
        let step = snapshot.step;
        for problem in problems {
            self.warn(step, format!("{problem}; the checkpoint of update {step} is used"));
        }
        Ok((snapshot, ledger))
    }

    /// Writes a checkpoint of the ledger's update, points `latest` and `best`, deletes what is not kept.
    ///
    /// # Errors
    /// When it can not be written; what was saved before is whole.
    pub fn save(&mut self, ledger: &mut Ledger, rules: &Rules, tensors: Tensors) -> Result<()> {
        let clock = Instant::now();
        // On the disk before a checkpoint says how long it is.
        self.with_metrics(|metrics| metrics.sync());
        let metrics_bytes = self.metrics.as_ref().map_or(ledger.metrics_bytes, Jsonl::bytes_written);
        let Tensors { weights, raw_weights, optimizer, trained, computed_by } = tensors;
        self.compare(ledger.step, raw_weights.as_ref().unwrap_or(&weights))?;
        ledger.saving(metrics_bytes, trained, computed_by);
        if !self.world.leads() {
            ledger.saved(0.0);
            return Ok(());
        }
        let snapshot = Snapshot { step: ledger.step, weights, raw_weights, optimizer, state: ledger.to_json()? };
        self.folder.check()?;
        self.store.save(&snapshot)?;
        let seconds_save = clock.elapsed().as_secs_f64();
        ledger.saved(seconds_save);
        self.store.retain(&ledger.ranked(rules.metric), rules.keep_last, rules.keep_best)?;
        if let Some(event) = self.checkpoint_to_tell(ledger.step, seconds_save) {
            self.emit(&event);
        }
        Ok(())
    }

    /// All ranks must have come to the same weights.
    fn compare(&self, step: u64, weights: &[(String, Tensor)]) -> Result<()> {
        if self.world.is_alone() {
            return Ok(());
        }
        let hash = xxhash_rust::xxh3::xxh3_64(&checkpoint::to_bytes(weights)?);
        let all = self.world.gather(&hash.to_le_bytes())?;
        let apart: Vec<String> = (0..all.len()).filter(|&i| all[i] != all[0]).map(|i| self.world.name_of(i)).collect();
        if apart.is_empty() {
            return Ok(());
        }
        bail!(
            "after update {step} the weights of {} are not those of {}: the ranks compute differently or read other data; \
             nothing was saved",
            apart.join(", "),
            self.world.name_of(0)
        )
    }

    /// Writes translations, one a line, under a name as "valid-00001000".
    ///
    /// # Errors
    /// When they can not be written.
    pub fn translations(&self, name: &str, lines: &[String]) -> Result<()> {
        if lines.is_empty() || !self.world.leads() {
            return Ok(());
        }
        let mut text = lines.join("\n");
        text.push('\n');
        let path = self.folder.translations(name);
        self.folder.check()?;
        fsio::create_dir_all(path.parent().unwrap_or(&path))?;
        Ok(fsio::write_atomic(&path, text.as_bytes())?)
    }

    /// Gives an event to metrics.jsonl and to every sink.
    pub fn emit(&mut self, event: &Event) {
        self.with_metrics(|metrics| metrics.write(event));
        self.sinks.emit(event);
    }

    pub fn warn(&mut self, step: u64, message: String) {
        self.emit(&Event::Warning { step, message });
    }

    pub fn note(&mut self, text: String) {
        self.emit(&Event::Note(text));
    }

    /// A metrics.jsonl that can not be written is given up with a warning and never stops training.
    fn with_metrics(&mut self, work: impl FnOnce(&mut Jsonl) -> fsio::Result<()>) {
        let Some(Err(error)) = self.metrics.as_mut().map(work) else { return };
        self.metrics = None;
        let message = format!("metrics.jsonl can not be written and is switched off: {error}");
        self.sinks.emit(&Event::Warning { step: self.sinks.step(), message });
    }
}

/// The parameters by name.
fn of_params(params: &ParamSet) -> Vec<(String, Tensor)> {
    params.iter().map(|param| (param.name.clone(), param.var.as_detached_tensor())).collect()
}
