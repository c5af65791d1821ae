//! BLEU (Papineni et al. 2002) of a corpus and of a sentence, smoothing `exp`.

use std::fmt;

use rayon::prelude::*;

use super::ngrams::{overlap, sorted_ngrams, union, Numbering, WORD_BITS};
use super::text::{prepare, words};
use super::{check, signature, yes_no, BleuTokenizer, MetricsError};

/// Highest n-gram order.
const ORDERS: usize = 4;
/// sacreBLEU's logarithm of zero.
const LOG_OF_ZERO: f64 = -9_999_999_999.0;

/// What BLEU may be asked for; the default is sacreBLEU's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BleuOptions {
    /// How lines become tokens.
    pub tokenizer: BleuTokenizer,
    /// Compare without regard to case.
    pub lowercase: bool,
    /// Average only over orders that the hypothesis is long enough for; needed for single sentences.
    pub effective_order: bool,
}

/// A BLEU score and what it is made of. `Display` is sacreBLEU's line:
/// `BLEU = 41.02 71.0/47.5/34.3/24.5 (BP = 0.999 ratio = 0.999 hyp_len = 12096 ref_len = 12103)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// 0 to 100.
    pub score: f64,
    /// Precision of the orders 1 to 4 in percent, smoothed.
    pub precisions: [f64; ORDERS],
    /// Brevity penalty, 0 to 1.
    pub bp: f64,
    /// Tokens of all hypotheses.
    pub sys_len: u64,
    /// Tokens of the references; of several, the closest in length (the shorter on ties).
    pub ref_len: u64,
    /// Matched n-grams of the orders 1 to 4.
    pub counts: [u64; ORDERS],
    /// N-grams of the hypotheses of the orders 1 to 4.
    pub totals: [u64; ORDERS],
    options: BleuOptions,
    references: usize,
}

/// BLEU of a corpus: counts summed over sentences. `references` holds one stream or more, each with one line a
/// hypothesis; other shapes are a [`MetricsError`].
pub fn bleu(hypotheses: &[&str], references: &[Vec<&str>], options: &BleuOptions) -> Result<Bleu, MetricsError> {
    check(hypotheses, references)?;
    let segments: Vec<Counts> = (0..hypotheses.len())
        .into_par_iter()
        .map(|i| {
            let lines: Vec<&str> = references.iter().map(|stream| stream[i]).collect();
            Counts::of(hypotheses[i], &lines, options)
        })
        .collect();
    let mut sum = Counts::default();
    for segment in &segments {
        sum.add(segment);
    }
    Ok(sum.score(options.clone(), references.len()))
}

/// BLEU of one sentence against one reference or more; the effective order is always used.
pub fn sentence_bleu(hypothesis: &str, references: &[&str], options: &BleuOptions) -> Result<Bleu, MetricsError> {
    let streams: Vec<Vec<&str>> = references.iter().map(|&line| vec![line]).collect();
    bleu(&[hypothesis], &streams, &BleuOptions { effective_order: true, ..options.clone() })
}

/// The sufficient statistics.
#[derive(Clone, Debug, Default)]
struct Counts {
    sys_len: u64,
    ref_len: u64,
    correct: [u64; ORDERS],
    total: [u64; ORDERS],
}

impl Counts {
    fn of(hypothesis: &str, references: &[&str], options: &BleuOptions) -> Counts {
        let tokenize = |line: &str| options.tokenizer.tokenize(&prepare(line, options.lowercase));
        let hypothesis = tokenize(hypothesis);
        let references: Vec<String> = references.iter().map(|line| tokenize(line)).collect();
        let mut numbering = Numbering::default();
        let hypothesis = numbering.number(words(&hypothesis));
        let references: Vec<Vec<u32>> = references.iter().map(|line| numbering.number(words(line))).collect();

        let mut counts = Counts { sys_len: hypothesis.len() as u64, ..Counts::default() };
        let closest = references.iter().map(Vec::len).min_by_key(|&len| (len.abs_diff(hypothesis.len()), len));
        counts.ref_len = closest.unwrap_or(0) as u64;
        for n in 1..=ORDERS {
            let candidates = sorted_ngrams(&hypothesis, n, WORD_BITS);
            let allowed = references
                .iter()
                .map(|line| sorted_ngrams(line, n, WORD_BITS))
                .reduce(|a, b| union(&a, &b))
                .unwrap_or_default();
            counts.correct[n - 1] = overlap(&candidates, &allowed);
            counts.total[n - 1] = candidates.len() as u64;
        }
        counts
    }

    fn add(&mut self, other: &Counts) {
        self.sys_len += other.sys_len;
        self.ref_len += other.ref_len;
        for n in 0..ORDERS {
            self.correct[n] += other.correct[n];
            self.total[n] += other.total[n];
        }
    }

    fn score(&self, options: BleuOptions, references: usize) -> Bleu {
        let (sys, reference) = (self.sys_len as f64, self.ref_len as f64);
        let bp = match self.sys_len {
            _ if self.sys_len >= self.ref_len => 1.0,
            0 => 0.0,
            _ => (1.0 - reference / sys).exp(),
        };
        let mut precisions = [0.0; ORDERS];
        let mut score = 0.0;
        // no match of any order is 0, before smoothing could say otherwise
        if self.correct.iter().any(|&matches| matches > 0) {
            let mut smoothing = 1.0;
            let mut order = ORDERS;
            for (n, precision) in precisions.iter_mut().enumerate() {
                let (correct, total) = (self.correct[n], self.total[n] as f64);
                if self.total[n] == 0 {
                    break;
                }
                if options.effective_order {
                    order = n + 1;
                }
                *precision = if correct == 0 {
                    smoothing *= 2.0;
                    100.0 / (smoothing * total)
                } else {
                    100.0 * correct as f64 / total
                };
            }
            let log = |p: f64| if p == 0.0 { LOG_OF_ZERO } else { p.ln() };
            let sum = precisions[..order].iter().fold(0.0, |sum, &p| sum + log(p));
            score = bp * (sum / order as f64).exp();
        }
        Bleu {
            score,
            precisions,
            bp,
            sys_len: self.sys_len,
            ref_len: self.ref_len,
            counts: self.correct,
            totals: self.total,
            options,
            references,
        }
    }
}

impl Bleu {
    /// `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:…`.
    pub fn signature(&self) -> String {
        let case = if self.options.lowercase { "lc" } else { "mixed" };
        let (eff, tok) = (yes_no(self.options.effective_order), self.options.tokenizer.name());
        signature(self.references, &format!("case:{case}|eff:{eff}|tok:{tok}|smooth:exp"))
    }

    /// Hypothesis length over reference length; 0 where there is no reference.
    pub fn ratio(&self) -> f64 {
        if self.ref_len == 0 {
            0.0
        } else {
            self.sys_len as f64 / self.ref_len as f64
        }
    }
}

impl fmt::Display for Bleu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p1, p2, p3, p4] = self.precisions;
        write!(f, "BLEU = {:.2} {p1:.1}/{p2:.1}/{p3:.1}/{p4:.1} ", self.score)?;
        write!(f, "(BP = {:.3} ratio = {:.3} ", self.bp, self.ratio())?;
        write!(f, "hyp_len = {} ref_len = {})", self.sys_len, self.ref_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_translation_scores_100() {
        let line = "The cat sat on the mat.";
        let score = bleu(&[line], &[vec![line]], &BleuOptions::default()).unwrap();
        assert_eq!(
            score.to_string(),
            "BLEU = 100.00 100.0/100.0/100.0/100.0 (BP = 1.000 ratio = 1.000 hyp_len = 7 ref_len = 7)"
        );
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            score.signature(),
            format!("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:nmt-train-{version}")
        );
    }

    #[test]
    fn an_empty_hypothesis_scores_0() {
        let score = bleu(&[""], &[vec!["something"]], &BleuOptions::default()).unwrap();
        assert_eq!((score.score, score.bp, score.ref_len), (0.0, 0.0, 1));
    }

    #[test]
    fn the_closest_reference_gives_the_length_and_the_shorter_one_breaks_ties() {
        let references = [vec!["a b c d e f"], vec!["a b"], vec!["a b c"]];
        assert_eq!(bleu(&["a b c d"], &references[..2], &BleuOptions::default()).unwrap().ref_len, 2);
        assert_eq!(bleu(&["a b c d"], &references, &BleuOptions::default()).unwrap().ref_len, 3);
    }

    #[test]
    fn a_short_sentence_counts_only_its_own_orders() {
        let score = sentence_bleu("a b", &["a b"], &BleuOptions::default()).unwrap();
        assert!((score.score - 100.0).abs() < 1e-9);
        assert!(score.signature().contains("|eff:yes|"));
    }
}
