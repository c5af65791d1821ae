//! Translation edit rate (Snover et al. 2006) as sacreBLEU's port of tercom computes it.

use std::fmt;

use rayon::prelude::*;

use super::edit::edits;
use super::ngrams::Numbering;
use super::tercom::normalize;
use super::text::{prepare, words};
use super::{check, signature, yes_no, MetricsError};

/// What TER may be asked for; the default is sacreBLEU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerOptions {
    /// Tokenize as tercom does; otherwise words end at whitespace.
    pub normalized: bool,
    /// Drop punctuation.
    pub no_punct: bool,
    /// With `normalized`, one word an ideograph; with `no_punct`, drop CJK punctuation too.
    pub asian_support: bool,
    /// Compare with regard to case.
    pub case_sensitive: bool,
}

/// A TER score: lower is better, above 100 is possible. `Display` is sacreBLEU's line: `TER = 45.12`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ter {
    /// Edits a reference word, in percent.
    pub score: f64,
    /// Insertions, deletions, substitutions and shifts of all sentences, each against its cheapest reference.
    pub num_edits: u64,
    /// Words of the references; of several, their mean.
    pub ref_length: f64,
    options: TerOptions,
    references: usize,
}

/// TER of a corpus: edits summed over sentences. `references` holds one stream or more, each with one line a
/// hypothesis; other shapes are a [`MetricsError`].
pub fn ter(hypotheses: &[&str], references: &[Vec<&str>], options: &TerOptions) -> Result<Ter, MetricsError> {
    check(hypotheses, references)?;
    let segments: Vec<(u64, f64)> = (0..hypotheses.len())
        .into_par_iter()
        .map(|i| {
            let lines: Vec<&str> = references.iter().map(|stream| stream[i]).collect();
            segment(hypotheses[i], &lines, options)
        })
        .collect();
    let (mut num_edits, mut ref_length) = (0, 0.0);
    for (edits, length) in segments {
        num_edits += edits;
        ref_length += length;
    }
    let rate = match num_edits {
        _ if ref_length > 0.0 => num_edits as f64 / ref_length,
        0 => 0.0,
        _ => 1.0,
    };
    Ok(Ter { score: 100.0 * rate, num_edits, ref_length, options: *options, references: references.len() })
}

/// Fewest edits over the references, and the mean of their lengths.
fn segment(hypothesis: &str, references: &[&str], options: &TerOptions) -> (u64, f64) {
    let clean = |line: &str| normalize(&prepare(line, false), options);
    let hypothesis = clean(hypothesis);
    // sacreBLEU normalizes references twice; with `normalized` that can differ from once (`s's's`, `&amp;lt;`)
    let references: Vec<String> = references.iter().map(|line| clean(&clean(line))).collect();
    let mut numbering = Numbering::default();
    let hypothesis = numbering.number(words(&hypothesis));
    let references: Vec<Vec<u32>> = references.iter().map(|line| numbering.number(words(line))).collect();
    let fewest = references.iter().map(|reference| edits(&hypothesis, reference)).min().unwrap_or(0);
    let length: usize = references.iter().map(Vec::len).sum();
    (fewest, length as f64 / references.len() as f64)
}

impl Ter {
    /// `nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:…`.
    pub fn signature(&self) -> String {
        let TerOptions { normalized, no_punct, asian_support, case_sensitive } = self.options;
        let case = if case_sensitive { "mixed" } else { "lc" };
        let (norm, punct, asian) = (yes_no(normalized), yes_no(!no_punct), yes_no(asian_support));
        signature(self.references, &format!("case:{case}|tok:tercom|norm:{norm}|punct:{punct}|asian:{asian}"))
    }
}

impl fmt::Display for Ter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TER = {:.2}", self.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_by_default_and_the_mean_reference_length_counts() {
        let score = ter(&["The cat"], &[vec!["the cat"], vec!["the cat sat down"]], &TerOptions::default()).unwrap();
        assert_eq!((score.num_edits, score.ref_length), (0, 3.0));
        assert!(score.signature().starts_with("nrefs:2|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:"));
    }

    #[test]
    fn words_without_a_reference_are_all_wrong() {
        let score = ter(&["some words"], &[vec![""]], &TerOptions::default()).unwrap();
        assert_eq!(score.to_string(), "TER = 100.00");
    }
}
