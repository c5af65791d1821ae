//! Checkpoints of a run: what of the model and the optimizer goes into them, and back.

use std::path::Path;

use anyhow::Result;
use candle_core::Tensor;

use crate::checkpoint::{self, Snapshot};
use crate::config::InForce;
use crate::data::Dataset;
use crate::exit::InputError;
use crate::machine;
use crate::optim::{Ema, Optimizer};
use crate::params::ParamSet;
use crate::run::{Entries, Ledger, Tensors, Trained};

use super::trainer::Trainer;

/// Counter of the moving average, kept among the scalars of the optimizer.
const AVERAGED_UPDATES: &str = "ema.t";

impl Trainer {
    /// The tensors of a checkpoint of the present weights.
    pub(super) fn tensors(&self) -> Result<Tensors> {
        let params = self.model.params();
        let now: Vec<(String, Tensor)> =
            params.iter().map(|param| (param.name.clone(), param.var.as_detached_tensor())).collect();
        let mut optimizer = self.optimizer.state()?;
        let (weights, raw_weights) = match (&self.ema, self.optimizer.averages(params)?) {
            (Some(ema), _) => {
                optimizer.scalars.push((AVERAGED_UPDATES.to_string(), ema.updates() as f64));
                (ema.tensors(params), Some(now))
            }
            (None, Some(averages)) => (averages, Some(now)),
            (None, None) => (now, None),
        };
        let (trained, computed_by) = (Trained::of(&self.in_force), machine::computed_by(params.device()));
        Ok(Tensors { weights, raw_weights, optimizer, trained, computed_by })
    }

    /// Puts the newest checkpoint into model, optimizer and average after non-finite gradients.
    pub(super) fn return_to_newest(&mut self) -> Result<Ledger> {
        let (found, ledger) = self.record.newest()?;
        self.return_to_phase_of(&ledger);
        let path = self.record.checkpoint(ledger.step);
        let params = [self.model.params(), &self.params];
        restore(&path, found, params, (&ledger, &self.in_force), self.optimizer.as_mut(), self.ema.as_mut())?;
        // an optimizer that averages loses its averages with its state: they become the new start
        self.optimizer.swap_averages(&self.params)?;
        self.optimizer.reset();
        Ok(ledger)
    }

    /// Puts the weights to test into the model, which has others: those of the best validation that are there.
    pub(super) fn load_best(&mut self, ledger: &Ledger) -> Result<()> {
        let there = self.best_there(ledger)?.unwrap_or(ledger.step);
        if let Some(best) = ledger.best().map(|best| best.step).filter(|&best| best != there) {
            self.record.note(format!(
                "the best checkpoint, of update {best}, was not kept (checkpoint.keep_best = {}): the test text is \
                 translated with the weights of update {there}",
                self.config.checkpoint.keep_best
            ));
        }
        self.record.load_weights(&self.record.checkpoint(there), self.model.params())
    }

    /// The best validated update whose checkpoint is there.
    pub(super) fn best_there(&self, ledger: &Ledger) -> Result<Option<u64>> {
        for step in ledger.ranked(self.rules.metric) {
            if self.record.has(step)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }
}

/// Puts a checkpoint into the parts of a run. `params`: all, and those that are trained.
pub(super) fn restore(
    path: &Path,
    found: Snapshot,
    [params, trained]: [&ParamSet; 2],
    (ledger, now): (&Ledger, &InForce),
    optimizer: &mut dyn Optimizer,
    ema: Option<&mut Ema>,
) -> Result<()> {
    let Snapshot { weights, raw_weights, optimizer: mut saved, .. } = found;
    let counter = saved.scalars.iter().position(|(name, _)| name == AVERAGED_UPDATES).map(|i| saved.scalars.remove(i));
    match (ema, counter) {
        (Some(ema), Some((_, updates))) => ema.restore(params, &weights, updates as u64)?,
        // Averaging was switched on by this resume: it begins at the weights of the checkpoint.
        (Some(ema), None) => {
            checkpoint::fill(path, weights.clone(), params)?;
            ema.restart(params)?;
        }
        (None, _) => (),
    }
    checkpoint::fill(path, raw_weights.unwrap_or(weights), params)?;
    if !ledger.begins_fresh(now) {
        optimizer.load_state(trained, saved)?;
    }
    Ok(())
}

/// Refuses to continue on other text or another vocabulary: batches and ids would mean something else.
pub(super) fn check_same_data(saved: &Entries, now: &Entries, text: &Dataset) -> Result<(), InputError> {
    let what = if saved.tokenizer_fingerprint != now.tokenizer_fingerprint {
        "the tokenizer in the run folder is not the one this run was started with"
    } else if !text.is_of(&saved.data_fingerprint) {
        "the training text has changed since this run was started"
    } else {
        return Ok(());
    };
    Err(InputError::new(format!("{what}; restore it, or start a new run with another run_dir")))
}
