//! Validation inside a run: scores of the averaged weights, translations, warnings about what they show.

use std::time::Instant;

use anyhow::Result;
use xxhash_rust::xxh3::Xxh3;

use crate::config::{Config, DecodeConfig};
use crate::events::{Event, Hypotheses, Sample, ValidPoint};
use crate::fsio::fault;
use crate::run::{Judged, Ledger, Scored, Unit, Validation};
use crate::scores::Metric;
use crate::symptoms::Progress;

use super::trainer::Trainer;
use super::validator::{Evaluation, Validator};

/// What validations of a run are measured in.
pub(super) fn unit(config: &Config, valid: Option<&Validator>) -> Unit {
    let pairs = valid.into_iter().flat_map(|valid| (0..valid.len()).map(|i| valid.pair(i)));
    let text = fingerprint(pairs.flat_map(|(source, target)| [source, target]));
    // nll does not know of further references
    let further = match valid.map(Validator::references).unwrap_or_default() {
        references if references.len() > 1 => {
            format!(", {} references {}", references.len(), fingerprint(references[1..].iter().flatten().copied()))
        }
        _ => String::new(),
    };
    let DecodeConfig { length_penalty, length_penalty_type, no_repeat_ngram_size, max_length_factor, .. } =
        &config.decode;
    let beam = config.validation.beam_size;
    // unsaid where it is off: checkpoints of before say nothing of it
    let repeats = match no_repeat_ngram_size {
        0 => String::new(),
        n => format!(", no {n}-gram twice"),
    };
    Unit {
        metric: config.validation.early_stopping_metric,
        text,
        translation: format!(
            "beam {beam}, penalty {length_penalty_type:?} {length_penalty}, length {max_length_factor}{repeats}{further}"
        ),
    }
}

fn fingerprint<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Xxh3::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    format!("{:032x}", hash.digest128())
}

impl Trainer {
    /// Scores the validation set with the averaged weights if there are any; `None`: given up on the way.
    pub(super) fn score_validation_set(&mut self, ledger: &Ledger) -> Result<Option<Validation<Evaluation>>> {
        let clock = Instant::now();
        self.swap_average()?;
        let found = self.evaluate_validation_set();
        if matches!(found, Ok(Some(_))) {
            self.keep_validated(ledger)?;
        }
        self.swap_average()?;
        let Some(mut found) = found? else { return Ok(None) };
        if let Some(fault) = fault::score(ledger.step) {
            found.scores.set(Metric::Nll, fault);
        }
        self.record.translations(&format!("valid-{:08}", ledger.step), &found.hypotheses)?;
        let scored = Scored::new(ledger.step, |metric| found.scores.get(metric));
        Ok(Some(Validation { scored, seconds: clock.elapsed().as_secs_f64(), translations: found }))
    }

    pub(super) fn evaluate_validation_set(&mut self) -> Result<Option<Evaluation>> {
        let Trainer { config, resources, model, record, limits, world, .. } = self;
        let Some(valid) = &resources.valid else { return Ok(Some(Evaluation::default())) };
        let options = DecodeConfig { beam_size: config.validation.beam_size, sampling: false, ..config.decode.clone() };
        let mut progress = |done| record.emit(&Event::Phase { name: "validating", done });
        let stop = || limits.asked().is_some();
        let metrics = &config.validation.metrics;
        let found =
            valid.score(world, model.as_ref(), &resources.tokenizers, metrics, &options, &mut progress, &stop)?;
        if found.is_none() {
            limits.agree()?;
        }
        Ok(found)
    }

    /// The row, the lasting line, the warnings of a validation.
    pub(super) fn tell_validation(
        &mut self,
        ledger: &Ledger,
        found: Validation<Evaluation>,
        judged: Judged,
    ) -> Result<()> {
        let Validation { seconds: seconds_valid, translations: found, .. } = found;
        self.record.forget_weights(ledger)?;
        let nll = found.scores.get(Metric::Nll);
        let hypotheses = self.looks(&found);
        self.record.emit(&Event::Valid(ValidPoint {
            step: ledger.step,
            epoch: ledger.epoch,
            tokens: ledger.tokens,
            seconds: ledger.seconds,
            seconds_valid,
            scores: found.scores,
            is_best: judged.is_best,
            improvement: judged.improvement,
            early_stopping_metric: Some(self.rules.metric),
            hypotheses,
            by_rank: found.by_rank,
            samples: self.samples(&found),
        }));
        if nll.is_some_and(|nll| !nll.is_finite()) {
            let message = "the validation loss is not a finite number; it counts as no improvement".to_string();
            self.record.warn(ledger.step, message);
        }
        self.warn_about(ledger, &hypotheses, found.hypotheses.len());
        if judged.rate_fell {
            self.record.note("no improvement: the learning rate falls".to_string());
        }
        Ok(())
    }

    /// BLEU, chrF and what else of text `validation.metrics` names on the test set, with beam and length penalty of
    /// `[decode]`; `None` without a test set or when interrupted.
    pub(super) fn score_test_set(&mut self) -> Result<Option<Evaluation>> {
        let Trainer { config, resources, model, record, limits, world, .. } = self;
        let Some(test) = &resources.test else { return Ok(None) };
        let mut progress = |done| record.emit(&Event::Phase { name: "translating the test set", done });
        let stop = || limits.asked().is_some();
        let usual = [Metric::Bleu, Metric::Chrf];
        let wanted = |metric: &Metric| usual.contains(metric) || config.validation.metrics.contains(metric);
        let metrics: Vec<Metric> = Metric::of_text().filter(wanted).collect();
        let found =
            test.score(world, model.as_ref(), &resources.tokenizers, &metrics, &config.decode, &mut progress, &stop)?;
        if found.is_none() {
            limits.agree()?;
        }
        if let Some(found) = &found {
            self.record.translations("test", &found.hypotheses)?;
        }
        Ok(found)
    }

    /// Sentences spread over the set, the same ones at each validation.
    fn samples(&self, found: &Evaluation) -> Vec<Sample> {
        let Some(valid) = self.resources.valid.as_ref().filter(|_| !found.hypotheses.is_empty()) else {
            return Vec::new();
        };
        let wanted = self.config.validation.samples.min(valid.len());
        (0..wanted)
            .map(|k| (2 * k + 1) * valid.len() / (2 * wanted))
            .map(|i| {
                let (source, reference) = valid.pair(i);
                let hypothesis = found.hypotheses[i].clone();
                Sample { source: source.to_string(), reference: reference.to_string(), hypothesis }
            })
            .collect()
    }

    /// What translations of the validation set look like beside their references.
    pub(super) fn looks(&self, found: &Evaluation) -> Hypotheses {
        let of_references = self.resources.valid.as_ref().map(Validator::symptoms_of_references).unwrap_or_default();
        Hypotheses { symptoms: found.symptoms, of_references }
    }

    /// Says of each symptom once that something went wrong.
    fn warn_about(&mut self, ledger: &Ledger, looks: &Hypotheses, sentences: usize) {
        let warmup_updates = self.config.schedule.warmup_updates;
        let at = Progress { step: ledger.step, warmup_updates, has_ended: ledger.finished(&self.rules).is_some() };
        for (symptom, message) in looks.symptoms.faults(&looks.of_references, sentences, at) {
            if self.told.insert(symptom) {
                self.record.warn(ledger.step, message);
            }
        }
    }
}
