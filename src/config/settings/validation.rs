//! `[validation]`.

use super::limits::{bleu_tokenizers, is_bleu_tokenizer};
use super::{Checks, Config, Every};
use crate::scores::Metric;

settings! {
    /// Validation during training.
    pub struct ValidationConfig {
        /// When: a number of updates, "2e" for every second epoch, 0 = only at the end.
        pub valid_freq: Every = Every::Updates(1000),
        /// What is measured: any of "nll", "bleu", "chrf", "chrf++" and "ter". With nothing but nll nothing is
        /// translated. Where text is translated, translations are also held against their sources and references: how
        /// many are identical to that of another source, copied from their own, repeated (the same words over and over)
        /// or empty, and their length_ratio, in tokens of BLEU. What is far off is shown, and where it says that
        /// something went wrong a warning says what to do; all of it is in metrics.jsonl as hypotheses.*.
        pub metrics: Vec<Metric> = vec![Metric::Nll, Metric::Bleu, Metric::Chrf],
        /// Beam of the translations that are scored; 1 = greedy. 1 or more, 1000 at most.
        pub beam_size: usize = 1,
        /// Validations without improvement of early_stopping_metric after which training ends; 0 = never.
        pub early_stopping: u32 = 0,
        /// Metric that chooses the best checkpoint and stops early; one of `metrics`.
        pub early_stopping_metric: Metric = Metric::Nll,
        /// How BLEU cuts lines into words, for validation, test and `nmt-train evaluate`: "13a", "zh", "intl", "char"
        /// or "none" as in sacreBLEU; "flores200", "flores101" or "spm" (flores101's old name), the pieces of the model
        /// that sacreBLEU has fetched; "flores200:FILE", "flores101:FILE" for a copy of that model, "spm:FILE" for any
        /// SentencePiece model, as a path or `hf://OWNER/NAME[@REVISION]/FILE`. Empty: zh for the target language "zh",
        /// char for "ja" and "ko", else 13a.
        pub tokenize: String = String::new(),
        /// Further references of data.valid: files with one line for each of its pairs. BLEU, chrF and TER take several as
        /// sacreBLEU does, an empty line being a reference without words; nll is of data.valid alone.
        pub references: Vec<String> = Vec::new(),
        /// Further references of data.test.
        pub test_references: Vec<String> = Vec::new(),
        /// Sample translations shown after each validation. 0 or more.
        pub samples: usize = 2,
    }
}

impl ValidationConfig {
    pub(super) fn rules(&self, check: &mut Checks, config: &Config) {
        let known = self.tokenize.is_empty() || is_bleu_tokenizer(&self.tokenize);
        check.rule(known, &["validation.tokenize"], format!("must be one of {}, or empty", bleu_tokenizers()));
        let names: Vec<&str> = self.metrics.iter().map(|metric| metric.name()).collect();
        check.rule(
            names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)),
            &["validation.metrics"],
            "must name each metric once",
        );
        check.rule(
            names.is_empty() || !config.data.valid.0.is_empty(),
            &["data.valid", "validation.metrics"],
            format!("must name a corpus for the metrics {}; without one set validation.metrics = []", names.join(", ")),
        );
        check.rule(
            names.is_empty() || self.metrics.contains(&self.early_stopping_metric),
            &["validation.early_stopping_metric", "validation.metrics"],
            format!("must be one of validation.metrics: {}", names.join(", ")),
        );
        check.rule(
            self.references.is_empty() || !config.data.valid.0.is_empty(),
            &["validation.references", "data.valid"],
            "must be [] without data.valid, which has the first reference",
        );
        check.rule(
            self.test_references.is_empty() || !config.data.test.0.is_empty(),
            &["validation.test_references", "data.test"],
            "must be [] without data.test, which has the first reference",
        );
        check.rule(
            self.early_stopping == 0 || config.validates(),
            &["validation.early_stopping", "validation.valid_freq", "validation.metrics", "data.valid"],
            "must be 0 without validations while training: set data.valid, validation.metrics and valid_freq",
        );
    }
}

impl Config {
    /// Whether a metric is measured during training.
    pub(super) fn validates(&self) -> bool {
        let validation = &self.validation;
        validation.valid_freq != Every::AtEnd && !validation.metrics.is_empty() && !self.data.valid.0.is_empty()
    }
}
