//! Translation metrics equal to sacreBLEU 2.6.0 to the last printed digit: BLEU, chrF, chrF++, TER.
//!
//! Ported from sacreBLEU (Apache-2.0), quirks included; `tests/fixtures/sacrebleu/` holds its own answers. Hypotheses and
//! references are raw detokenized text. A reference *stream* has one line a hypothesis; several streams are several
//! references. Each score prints as sacreBLEU prints it and carries a signature in sacreBLEU's form, but with this
//! program's name and version, since sacreBLEU did not compute it.
//!
//! | file | owns |
//! |---|---|
//! | `bleu` | BLEU |
//! | `chrf` | chrF (Popović 2015) and chrF++ (Popović 2017) |
//! | `edit` | the edits of TER: Levenshtein distance in a beam, and block shifts |
//! | `ngrams` | N-grams as sorted multisets: counts, unions and overlaps without hash order |
//! | `script` | scripts that are written without spaces between words, in which a tokenizer of BLEU finds no words |
//! | `spm` | the pieces of a SentencePiece model as words of BLEU |
//! | `symptoms` | the symptoms of a bad run in translations: identical, copied, repeating, empty ones, and their length |
//! | `ter` | translation edit rate |
//! | `tercom` | the normalization of tercom, the original TER program |
//! | `text` | Python's notions of text, where they differ from Rust's: whitespace, splitting, one-pass replacements |
//! | `tokenize` | the tokenizers of BLEU: 13a, zh, intl, char, none, and those of SentencePiece models |

mod bleu;
mod chrf;
mod edit;
mod ngrams;
mod script;
mod spm;
mod symptoms;
mod ter;
mod tercom;
mod text;
mod tokenize;

pub use bleu::{bleu, sentence_bleu, Bleu, BleuOptions};
pub use chrf::{chrf, Chrf, ChrfOptions};
pub use script::advice;
pub use spm::{SpmError, SpmTokenizer};
pub use symptoms::{symptoms, symptoms_of_references};
pub use ter::{ter, Ter, TerOptions};
pub use tokenize::{default_tokenizer, BleuTokenizer};

use crate::scores::Metric;

/// What is wrong with the lines given to a metric.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("nothing to score: no hypotheses; give one line a sentence")]
    NoHypotheses,
    #[error("nothing to score against: no references; give one or more streams of references")]
    NoReferences,
    #[error("{hypotheses} hypotheses but {lines} lines in reference stream {stream}; every stream needs one line a hypothesis")]
    Lengths { hypotheses: usize, stream: usize, lines: usize },
    #[error("nll is a property of the model, not of its translations")]
    NotOfText,
    #[error("unknown tokenizer of BLEU: {name}")]
    Tokenizer { name: String },
    #[error(transparent)]
    Spm(#[from] SpmError),
}

/// A score of text: its value, and how sacreBLEU prints it.
#[derive(Clone, Debug)]
pub struct Measured {
    pub score: f64,
    pub line: String,
    pub signature: String,
}

/// A metric of translations. `tokenizer` is BLEU's; `lowercase` makes case count for nothing, in TER it never does.
///
/// # Errors
/// Lines that do not belong together; a metric that is none of text.
pub fn measure(
    metric: Metric,
    hypotheses: &[&str],
    references: &[Vec<&str>],
    tokenizer: &BleuTokenizer,
    lowercase: bool,
) -> Result<Measured, MetricsError> {
    let chrf = |word_order| {
        let found = chrf(hypotheses, references, &ChrfOptions { word_order, lowercase })?;
        Ok(Measured { score: found.score, line: found.to_string(), signature: found.signature() })
    };
    match metric {
        Metric::Nll => Err(MetricsError::NotOfText),
        Metric::Bleu => {
            let options = BleuOptions { tokenizer: tokenizer.clone(), lowercase, ..Default::default() };
            let found = bleu(hypotheses, references, &options)?;
            Ok(Measured { score: found.score, line: found.to_string(), signature: found.signature() })
        }
        Metric::Chrf => chrf(0),
        Metric::ChrfPlusPlus => chrf(2),
        Metric::Ter => {
            let found = ter(hypotheses, references, &TerOptions::default())?;
            Ok(Measured { score: found.score, line: found.to_string(), signature: found.signature() })
        }
    }
}

/// `exp(nll)`, where `nll` is the mean negative log-likelihood a token in nats; infinite where that overflows.
pub fn perplexity(nll: f64) -> f64 {
    nll.exp()
}

/// Checks that every stream has one line a hypothesis and that there is anything to score.
fn check(hypotheses: &[&str], references: &[Vec<&str>]) -> Result<(), MetricsError> {
    if hypotheses.is_empty() {
        return Err(MetricsError::NoHypotheses);
    }
    if references.is_empty() {
        return Err(MetricsError::NoReferences);
    }
    match references.iter().position(|stream| stream.len() != hypotheses.len()) {
        Some(i) => {
            Err(MetricsError::Lengths { hypotheses: hypotheses.len(), stream: i + 1, lines: references[i].len() })
        }
        None => Ok(()),
    }
}

/// A signature: the number of references, the metric's own fields, this program and its version.
fn signature(references: usize, fields: &str) -> String {
    let version = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"));
    format!("nrefs:{references}|{fields}|version:{version}")
}

/// "yes" or "no", as signatures say it.
fn yes_no(value: bool) -> &'static str {
    if value {
        "yes"
    } else {
        "no"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_another_length_is_refused_by_number() {
        let references = [vec!["a", "b"], vec!["a"]];
        let error = bleu(&["a", "b"], &references, &BleuOptions::default()).unwrap_err();
        assert!(matches!(error, MetricsError::Lengths { hypotheses: 2, stream: 2, lines: 1 }));
        let none = ter(&[], &references, &TerOptions::default());
        assert!(matches!(none, Err(MetricsError::NoHypotheses)));
        assert!(matches!(chrf(&["a"], &[], &ChrfOptions::default()), Err(MetricsError::NoReferences)));
    }

    #[test]
    fn perplexity_of_a_uniform_guess_is_the_number_of_choices() {
        assert!((perplexity(8000f64.ln()) - 8000.0).abs() < 1e-8);
    }
}
