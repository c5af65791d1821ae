//! The mean of the last validations' weights (`checkpoint.average_last`), made and validated when training has ended.

use std::time::Instant;

use anyhow::Result;
use candle_core::Tensor;

use crate::events::{AveragePoint, Event};
use crate::run::Ledger;

use super::trainer::Trainer;

/// What became of the mean.
pub(super) enum Average {
    /// None was asked for, or there is nothing to make it of.
    None,
    /// Its weights are in the model.
    Scored(Box<AveragePoint>),
    /// Given up on the way because something asked to stop.
    Interrupted,
}

impl Trainer {
    /// Keeps the weights that a validation scores, which are in the model, if a mean of them is wanted at the end.
    pub(super) fn keep_validated(&mut self, ledger: &Ledger) -> Result<()> {
        if self.rules.average_last == 0 {
            return Ok(());
        }
        let params = self.model.params();
        let weights: Vec<(String, Tensor)> =
            params.iter().map(|param| (param.name.clone(), param.var.as_detached_tensor())).collect();
        self.record.keep_weights(ledger.step, &weights)
    }

    /// Makes the mean, validates it as a model of its own and points `best` at it where it is better than the best
    /// checkpoint that there is.
    pub(super) fn validate_average(&mut self, ledger: &Ledger) -> Result<Average> {
        let wanted = ledger.to_average(&self.rules).to_vec();
        let Some((steps, path)) = self.record.average(&wanted)? else { return Ok(Average::None) };
        if steps.len() < self.rules.average_last {
            let there = steps.len();
            self.record.note(format!(
                "checkpoint.average_last = {}: the weights of {there} validations are there, and averaged",
                self.rules.average_last
            ));
        }
        self.record.load_weights(&path, self.model.params())?;
        let clock = Instant::now();
        let Some(found) = self.evaluate_validation_set()? else { return Ok(Average::Interrupted) };
        self.record.translations("average", &found.hypotheses)?;
        let metric = self.rules.metric;
        let value = found.scores.get(metric).filter(|value| value.is_finite());
        let there = self.best_there(ledger)?;
        let rival = ledger.scored.iter().find(|scored| Some(scored.step) == there);
        let rival = rival.and_then(|rival| rival.value(metric));
        let improvement = value.zip(rival).map(|(new, old)| metric.gain(old, new));
        let point = AveragePoint {
            step: ledger.step,
            steps,
            seconds_valid: clock.elapsed().as_secs_f64(),
            scores: found.scores,
            is_best: value.is_some() && improvement.is_none_or(|gain| gain > 0.0),
            improvement,
            early_stopping_metric: Some(metric),
            hypotheses: self.looks(&found),
        };
        if point.is_best {
            self.record.average_is_best()?;
        }
        self.record.emit(&Event::Average(point.clone()));
        Ok(Average::Scored(Box::new(point)))
    }
}
