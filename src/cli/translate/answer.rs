//! Translations as what is printed: plain lines, lines with scores, n-best lists, JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::cli::args::{Format, TranslateArgs};
use crate::decode::{self, Hypothesis, Options, Sampling};
use crate::machine;
use crate::run::Usable;
use crate::tokenizer::Tokenizer;

/// How answers are written.
pub(super) struct Answers<'a> {
    args: &'a TranslateArgs,
    runs: &'a [Usable],
    options: Options,
}

/// The object of a line.
#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    source_pieces: Vec<String>,
    translations: Vec<Translation>,
}

#[derive(Serialize)]
struct Translation {
    text: String,
    score: Option<f64>,
    log_probability: Option<f64>,
    pieces: Vec<String>,
    /// Places in `source_pieces` and `pieces`, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    alignment: Option<Vec<[usize; 2]>>,
}

impl<'a> Answers<'a> {
    /// `options`: those of the search.
    pub(super) fn new(args: &'a TranslateArgs, runs: &'a [Usable], options: Options) -> Self {
        Answers { args, runs, options }
    }

    /// What an answer depends on beside its line and the models, by the names of the options. Batches are not among it: they
    /// change no more than the last digit of a score.
    pub(super) fn made_with(&self) -> BTreeMap<&'static str, String> {
        let Options { beam_size, penalty, no_repeat_ngram_size, max_length_factor, n_best, sampling, .. } =
            self.options;
        let TranslateArgs { scores, format, alignment, .. } = self.args;
        let precision = machine::precision_of(self.runs[0].model.params().device());
        let sampling = sampling.map_or("no".to_string(), |Sampling { top_k, top_p, temperature, seed, .. }| {
            format!("top-k {top_k}, top-p {top_p}, temperature {temperature}, seed {seed}")
        });
        let asked = |asked: Option<usize>| asked.map_or("no".to_string(), |_| n_best.to_string());
        BTreeMap::from([
            ("--sampling", sampling),
            ("--samples", asked(self.args.samples)),
            ("--precision", precision.name().to_string()),
            ("--beam", beam_size.to_string()),
            ("--length-penalty", format!("{} ({})", penalty.exponent, penalty.kind.name())),
            ("--no-repeat-ngram-size", no_repeat_ngram_size.to_string()),
            ("decode.max_length_factor", max_length_factor.to_string()),
            ("--n-best", asked(self.args.n_best)),
            ("--scores", scores.to_string()),
            ("--format", format!("{format:?}").to_lowercase()),
            ("--alignment", alignment.to_string()),
        ])
    }

    /// The answer to some lines, whole lines themselves. `found`: at least one translation of each of `sources`, the ids of
    /// `lines`; `first_line`: the number of the first, from 0.
    pub(super) fn text(
        &self,
        lines: &[String],
        sources: &[Vec<u32>],
        found: &[Vec<Hypothesis>],
        first_line: usize,
    ) -> Result<String> {
        if self.args.format == Format::Json {
            return self.json(lines, sources, found);
        }
        let mut text = String::new();
        for (hypotheses, number) in found.iter().zip(first_line..) {
            for hypothesis in hypotheses {
                let line = self.target().decode_line(&hypothesis.ids)?;
                match self.args.n_best.or(self.args.samples) {
                    Some(_) => text.push_str(&format!("{number} ||| {line} ||| {:.6}\n", hypothesis.normalized)),
                    None if self.args.scores => text.push_str(&format!("{:.6}\t{line}\n", hypothesis.normalized)),
                    None => text.push_str(&format!("{line}\n")),
                }
            }
        }
        Ok(text)
    }

    fn json(&self, lines: &[String], sources: &[Vec<u32>], found: &[Vec<Hypothesis>]) -> Result<String> {
        let mut places = self.alignments(sources, found)?.into_iter();
        let mut text = String::new();
        for ((line, source), hypotheses) in lines.iter().zip(sources).zip(found) {
            let translations = hypotheses.iter().map(|found| self.translation(found, places.next()));
            let object = Line {
                source: line,
                source_pieces: pieces(&self.runs[0].tokenizers.source, source),
                translations: translations.collect::<Result<_>>()?,
            };
            text.push_str(&serde_json::to_string(&object)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// Source places of each piece of each translation; nothing when they are not asked for. Of an ensemble, by the first
    /// model.
    fn alignments(&self, sources: &[Vec<u32>], found: &[Vec<Hypothesis>]) -> Result<Vec<Vec<usize>>> {
        if !self.args.alignment {
            return Ok(Vec::new());
        }
        let Options { eos, start, batch_size, .. } = self.options;
        let pairs: Vec<_> = sources
            .iter()
            .zip(found)
            .flat_map(|(source, found)| found.iter().map(|found| (source.clone(), found.labels(eos))))
            .collect();
        Ok(decode::alignments(self.runs[0].model.as_ref(), &pairs, start, batch_size)?)
    }

    fn translation(&self, found: &Hypothesis, places: Option<Vec<usize>>) -> Result<Translation> {
        Ok(Translation {
            text: self.target().decode_line(&found.ids)?,
            score: number(found.normalized),
            log_probability: number(found.score),
            pieces: pieces(self.target(), &found.labels(self.options.eos)),
            alignment: places
                .map(|places| places.into_iter().zip(0..).map(|(source, target)| [source, target]).collect()),
        })
    }

    fn target(&self) -> &Tokenizer {
        &self.runs[0].tokenizers.target
    }
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| tokenizer.token(id).unwrap_or_default()).collect()
}

/// With the digits that text has; JSON has no infinity.
fn number(score: f64) -> Option<f64> {
    // 0 is added so that no zero has a sign
    score.is_finite().then(|| (score * 1e6).round() / 1e6 + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_of_text() {
        assert_eq!(number(-1.234_567_89), Some(-1.234_568));
        assert_eq!(serde_json::to_string(&number(-1e-9)).unwrap(), "0.0");
        assert_eq!(number(f64::NEG_INFINITY), None);
    }
}
