//! A run that came to its end before: told from its checkpoint and metrics.jsonl, without reading any text.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::checkpoint::Store;
use crate::config::Config;
use crate::run::{rows, Ledger, Paths, Rules, StopReason};
use crate::shell;

use super::rates;

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
    /// `None` when there is something to do: updates, the last validation, a best chosen anew, or the test set.
    ///
    /// # Errors
    /// When metrics.jsonl can not be read.
    pub(super) fn look(config: &Config, paths: &Paths, ledger: &Ledger) -> Result<Option<Self>> {
        let rules = Rules::of(config);
        let Some(stop) = ledger.finished(&rules) else { return Ok(None) };
        let is_validated = !rules.validates || ledger.validated_at == Some(ledger.step);
        let last = rows::read(&paths.metrics()).unwrap_or_default().pop();
        let is_done = is_validated && !ledger.is_unsaved();
        let to_average = Store::at(paths.root()).validated_there(ledger.to_average(&rules));
        let concludes = |row: &rows::Row| is_done && concludes(row, ledger, config, &to_average);
        let Some(row) = last.filter(concludes) else { return Ok(None) };
        let run = paths.root().to_path_buf();
        let mut end: Map<String, Value> = row.into_iter().filter(|(key, _)| key != "event").collect();
        end.insert("run".to_string(), run.to_string_lossy().into());
        end.insert("next_commands".to_string(), next_commands(paths, stop, config, ledger).into());
        Ok(Some(Finished { stop, step: ledger.step, run, end, extension: extension(stop, config, ledger) }))
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Finished { stop, step, run, extension, .. } = self;
        let (stop, run) = (stop.name(), shell::path(run));
        write!(f, "already finished: {stop} at step {step}; go on with `nmt-train --resume {run} {extension}`")
    }
}

/// What to type after a run that ended for this reason.
pub(super) fn next_commands(paths: &Paths, stop: StopReason, config: &Config, ledger: &Ledger) -> Vec<String> {
    let run = shell::path(paths.root());
    let more = format!("nmt-train --resume {run} {}", extension(stop, config, ledger));
    vec![format!("nmt-train translate {run}"), more]
}

/// The changes that let training go on at a rate above zero, as they are typed.
fn extension(stop: StopReason, config: &Config, ledger: &Ledger) -> String {
    let mut longer = config.clone();
    match stop {
        StopReason::MaxEpochs => longer.train.max_epochs = 2 * ledger.epoch.max(config.train.max_epochs),
        StopReason::EarlyStopping => {
            let patience = ledger.validations_without_improvement().max(config.validation.early_stopping);
            longer.validation.early_stopping = 2 * patience;
        }
        _ => longer.train.max_updates = 2 * ledger.step.max(config.train.max_updates),
    }
    rates::changes(config, &rates::with_rates(config, longer, ledger.step))
}

/// Whether the row is the last screen of this very end of training.
fn concludes(row: &rows::Row, ledger: &Ledger, config: &Config, to_average: &[u64]) -> bool {
    let averaged = row.get("average_steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let averaged: Vec<u64> = averaged.iter().filter_map(Value::as_u64).collect();
    let finished = [StopReason::MaxUpdates, StopReason::MaxEpochs, StopReason::EarlyStopping];
    let reason = row.get("stop_reason").and_then(Value::as_str);
    rows::event(row) == "end"
        && rows::step(row) == Some(ledger.step)
        && finished.iter().any(|stop| Some(stop.name()) == reason)
        && (to_average.is_empty() || averaged == to_average)
        && (config.data.test.0.is_empty() || row.contains_key("test_bleu"))
}
