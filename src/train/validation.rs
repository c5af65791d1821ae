//! Validation inside a run: score, compare with the best, save the best, tell.

use std::time::Instant;

use anyhow::Result;

use crate::checkpoint::Scored;
use crate::config::{DecodeConfig, Every, Metric};
use crate::events::{Event, Sample, ValidPoint};
use crate::fsio;

use super::evaluate::Scores;
use super::session::Session;
use super::state::Best;
use super::stop::StopReason;

impl Session {
    /// Whether something that happens `every` so often is due now.
    pub(super) fn is_due(&self, every: Every) -> bool {
        let state = &self.state;
        match every {
            Every::AtEnd => false,
            Every::Updates(n) => state.step > 0 && state.step.is_multiple_of(n),
            Every::Epochs(n) => state.batch == 0 && state.epoch > 0 && state.epoch.is_multiple_of(n),
        }
    }

    /// Whether the current weights were validated already, or there is nothing to validate on.
    pub(super) fn is_validated(&self) -> bool {
        self.resources.valid.is_none() || self.state.validated_at == Some(self.state.step)
    }

    /// Scores the validation set with the averaged weights if there are any. `Some(reason)`: given up on the way.
    pub(super) fn validate(&mut self) -> Result<Option<StopReason>> {
        let clock = Instant::now();
        let Some(scores) = self.with_average(Self::validation_scores)? else {
            return Ok(self.limits.interrupted());
        };
        let name = format!("valid-{:08}", self.state.step);
        self.write_translations(&name, &scores)?;

        let metric = self.config.validation.early_stopping_metric;
        let value = scores.value(metric);
        let previous = self.state.best.as_ref().map(|best| best.value);
        let improvement =
            value.zip(previous).map(|(new, old)| if metric.lower_is_better() { old - new } else { new - old });
        let is_best = value.is_some_and(f64::is_finite) && improvement.is_none_or(|gain| gain > 0.0);
        let (nll, bleu) = (scores.value(Metric::Nll), scores.value(Metric::Bleu));
        if let (true, Some(value)) = (is_best, value) {
            self.state.best = Some(Best { step: self.state.step, value, nll, bleu });
            self.state.validations_without_improvement = 0;
        } else {
            self.state.validations_without_improvement += 1;
        }
        if let Some(value) = value {
            self.state.scored.push(Scored { step: self.state.step, score: value });
            if self.schedule.validated(value, metric.lower_is_better()) {
                self.sinks.emit(&Event::Note("no improvement: the learning rate falls".to_string()));
            }
        }
        self.state.validated_at = Some(self.state.step);
        let seconds_valid = clock.elapsed().as_secs_f64();
        self.state.seconds_valid += seconds_valid;
        self.sinks.emit(&Event::Valid(ValidPoint {
            step: self.state.step,
            epoch: self.state.epoch,
            tokens: self.state.tokens,
            seconds: self.state.seconds,
            seconds_valid,
            nll,
            ppl: nll.map(f64::exp),
            bleu,
            chrf: scores.value(Metric::Chrf),
            is_best,
            improvement,
            early_stopping_metric: metric.name(),
            samples: self.samples(&scores),
        }));
        self.warn_about_repetition(&scores);
        if is_best && self.config.checkpoint.keep_best > 0 {
            self.save()?;
        }
        Ok(None)
    }
}

impl Session {
    /// Runs `work` with the averaged weights in place, if the run or its optimizer keeps an average.
    fn with_average<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.swap_average()?;
        let result = work(self);
        self.swap_average()?;
        result
    }

    /// Exchanges trained and averaged weights; twice = nothing.
    pub(super) fn swap_average(&mut self) -> Result<()> {
        match &mut self.ema {
            Some(ema) => ema.swap(self.model.params())?,
            None => self.optimizer.swap_averages(self.model.params())?,
        }
        Ok(())
    }

    fn validation_scores(&mut self) -> Result<Option<Scores>> {
        let Session { config, resources, model, sinks, limits, .. } = self;
        let Some(valid) = &resources.valid else { return Ok(Some(Scores::default())) };
        let options = DecodeConfig { beam_size: config.validation.beam_size, ..config.decode.clone() };
        let mut progress = |done| sinks.emit(&Event::Phase { name: "validating", done });
        let stop = || limits.interrupted().is_some();
        let metrics = &config.validation.metrics;
        valid.score(model.as_ref(), &resources.tokenizers, metrics, &options, &mut progress, &stop)
    }

    /// Scores the test set with beam and length penalty of `[decode]`; `None` without a test set or when interrupted.
    pub(super) fn score_test_set(&mut self) -> Result<Option<Scores>> {
        let Session { config, resources, model, sinks, limits, .. } = self;
        let Some(test) = &resources.test else { return Ok(None) };
        let mut progress = |done| sinks.emit(&Event::Phase { name: "translating the test set", done });
        let stop = || limits.interrupted().is_some();
        let metrics = [Metric::Nll, Metric::Bleu, Metric::Chrf];
        let scores =
            test.score(model.as_ref(), &resources.tokenizers, &metrics, &config.decode, &mut progress, &stop)?;
        if let Some(scores) = &scores {
            self.write_translations("test", scores)?;
        }
        Ok(scores)
    }

    fn write_translations(&self, name: &str, scores: &Scores) -> Result<()> {
        if scores.hypotheses.is_empty() {
            return Ok(());
        }
        let mut text = scores.hypotheses.join("\n");
        text.push('\n');
        let path = self.folder.translations(name);
        fsio::create_dir_all(path.parent().unwrap_or(&path))?;
        Ok(fsio::write_atomic(&path, text.as_bytes())?)
    }

    /// Sentences spread over the set, the same ones at each validation.
    fn samples(&self, scores: &Scores) -> Vec<Sample> {
        let Some(valid) = self.resources.valid.as_ref().filter(|_| !scores.hypotheses.is_empty()) else {
            return Vec::new();
        };
        let wanted = self.config.validation.samples.min(valid.len());
        (0..wanted)
            .map(|k| (2 * k + 1) * valid.len() / (2 * wanted))
            .map(|i| {
                let (source, reference) = valid.pair(i);
                let hypothesis = scores.hypotheses[i].clone();
                Sample { source: source.to_string(), reference: reference.to_string(), hypothesis }
            })
            .collect()
    }

    /// A model that says one thing to everything has a training problem that no score names.
    fn warn_about_repetition(&mut self, scores: &Scores) {
        let mut seen = std::collections::BTreeMap::new();
        for line in &scores.hypotheses {
            *seen.entry(line.as_str()).or_insert(0_usize) += 1;
        }
        let most = seen.values().max().copied().unwrap_or(0);
        let late = self.state.step > 2 * self.config.schedule.warmup_updates;
        if late && scores.hypotheses.len() >= 20 && 2 * most > scores.hypotheses.len() {
            self.warn(
                "more than half of the validation translations are the same sentence: \
                 try a lower optimizer.lr or a longer schedule.warmup_updates"
                    .to_string(),
            );
        }
    }
}
