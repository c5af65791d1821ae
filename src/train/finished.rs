//! A run that came to its end before: told from its checkpoint and metrics.jsonl, without reading any text.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::fsio;

use super::run_folder::RunFolder;
use super::state::TrainState;
use super::stop::{Limits, StopReason};

/// Nothing is left to do: the limits were reached, and what follows training was done.
#[derive(Clone, Debug)]
pub struct Finished {
    pub stop: StopReason,
    pub step: u64,
    pub run: PathBuf,
    /// The fields of `--final-json` when it ended, without those that were null.
    pub end: Map<String, Value>,
    extension: String,
}

impl Finished {
    /// `None` when there is something to do: updates, the last validation, or the test set.
    ///
    /// # Errors
    /// When metrics.jsonl can not be read.
    pub(super) fn look(
        config: &Config,
        folder: &RunFolder,
        limits: &Limits,
        state: &TrainState,
    ) -> Result<Option<Self>> {
        let Some(stop) = limits.finished(state) else { return Ok(None) };
        let is_validated = config.data.valid.0.is_empty() || state.validated_at == Some(state.step);
        let Some(row) = last_row(folder)?.filter(|row| is_validated && concludes(row, state, config)) else {
            return Ok(None);
        };
        let run = folder.root().to_path_buf();
        let mut end: Map<String, Value> = row.into_iter().filter(|(key, _)| key != "event").collect();
        end.insert("run".to_string(), run.to_string_lossy().into());
        end.insert("next_commands".to_string(), next_commands(folder, stop, config, state).into());
        Ok(Some(Finished { stop, step: state.step, run, end, extension: extension(stop, config, state) }))
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Finished { stop, step, run, extension, .. } = self;
        let (stop, run) = (stop.name(), run.display());
        write!(f, "already finished: {stop} at step {step}; go on with `nmt-train --resume {run} --set {extension}`")
    }
}

/// What to type after a run that ended for this reason.
pub(super) fn next_commands(folder: &RunFolder, stop: StopReason, config: &Config, state: &TrainState) -> Vec<String> {
    let run = folder.root().display();
    let more = format!("nmt-train --resume {run} --set {}", extension(stop, config, state));
    vec![format!("nmt-train translate {run}"), more]
}

/// The change that lets training go on, as `--set` takes it.
fn extension(stop: StopReason, config: &Config, state: &TrainState) -> String {
    match stop {
        StopReason::MaxEpochs => format!("train.max_epochs={}", 2 * state.epoch.max(config.train.max_epochs)),
        StopReason::EarlyStopping => {
            let patience = state.validations_without_improvement.max(config.validation.early_stopping);
            format!("validation.early_stopping={}", 2 * patience)
        }
        _ => format!("train.max_updates={}", 2 * state.step.max(config.train.max_updates)),
    }
}

/// Whether the row is the last screen of this very end of training.
fn concludes(row: &Map<String, Value>, state: &TrainState, config: &Config) -> bool {
    let finished = [StopReason::MaxUpdates, StopReason::MaxEpochs, StopReason::EarlyStopping];
    let reason = row.get("stop_reason").and_then(Value::as_str);
    row.get("event").and_then(Value::as_str) == Some("end")
        && row.get("step").and_then(Value::as_u64) == Some(state.step)
        && finished.iter().any(|stop| Some(stop.name()) == reason)
        && (config.data.test.0.is_empty() || row.contains_key("test_bleu"))
}

fn last_row(folder: &RunFolder) -> Result<Option<Map<String, Value>>> {
    let path = folder.metrics();
    let text = if path.exists() { fsio::read_to_string(&path)? } else { String::new() };
    Ok(text.lines().last().and_then(|line| serde_json::from_str(line).ok()))
}
