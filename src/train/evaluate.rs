//! Validation: negative log-likelihood over the encoded pairs, BLEU and chrF of translations of the raw text.

use anyhow::Result;

use crate::batch::Batch;
use crate::batch::Sequences;
use crate::config::{DecodeConfig, Metric};
use crate::decode;
use crate::events::Sample;
use crate::metrics;
use crate::model::Model;
use crate::objective;
use crate::tokenizer::Tokenizers;

/// A held-out set, ready to be scored many times.
pub struct Validator {
    /// `(source, reference)` as in the files.
    text: Vec<(String, String)>,
    /// The same, encoded with `</s>`.
    source: Vec<Vec<u32>>,
    target: Vec<Vec<u32>>,
    target_language: String,
}

/// Results on a held-out set; what was not asked for is `None`.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    pub nll: Option<f64>,
    pub bleu: Option<metrics::Bleu>,
    pub chrf: Option<metrics::Chrf>,
    /// One line for each pair, in order; empty when nothing was translated.
    pub hypotheses: Vec<String>,
}

impl Validator {
    /// Encodes the pairs once.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(text: Vec<(String, String)>, tokenizers: &Tokenizers, target_language: &str) -> Result<Self> {
        let sources: Vec<&str> = text.iter().map(|(source, _)| source.as_str()).collect();
        let targets: Vec<&str> = text.iter().map(|(_, target)| target.as_str()).collect();
        let source = tokenizers.source.encode_batch(&sources)?;
        let target = tokenizers.target.encode_batch(&targets)?;
        Ok(Validator { source, target, text, target_language: target_language.to_string() })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Scores the model; `None` when `stop` asked to give up on the way.
    ///
    /// # Errors
    /// Errors of the computation.
    pub fn score(
        &self,
        model: &dyn Model,
        tokenizers: &Tokenizers,
        wanted: &[Metric],
        options: &DecodeConfig,
        on_progress: &mut dyn FnMut(f64),
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Scores>> {
        let mut scores = Scores::default();
        if wanted.contains(&Metric::Nll) {
            match self.nll(model, options.batch_size, stop)? {
                Some(nll) => scores.nll = Some(nll),
                None => return Ok(None),
            }
        }
        if wanted.iter().any(|metric| *metric != Metric::Nll) {
            let mut translator = decode::Translator::new(vec![model], tokenizers_ids(tokenizers), options.clone());
            let Some(found) = translator.translate(&self.source, 1, on_progress, stop)? else { return Ok(None) };
            scores.hypotheses = found.iter().map(|best| tokenizers.target.decode(&best[0].ids)).collect::<Result<_, _>>()?;
            let hypotheses: Vec<&str> = scores.hypotheses.iter().map(String::as_str).collect();
            let references: Vec<&str> = self.text.iter().map(|(_, reference)| reference.as_str()).collect();
            if wanted.contains(&Metric::Bleu) {
                scores.bleu = Some(metrics::corpus_bleu(&hypotheses, &references, &self.target_language));
            }
            if wanted.contains(&Metric::Chrf) {
                scores.chrf = Some(metrics::corpus_chrf(&hypotheses, &references));
            }
        }
        Ok(Some(scores))
    }
}
