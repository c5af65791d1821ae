//! chrF (Popović 2015) and chrF++ (Popović 2017).

use std::fmt;

use rayon::prelude::*;

use super::ngrams::{overlap, sorted_ngrams, Numbering, CHAR_BITS, WORD_BITS};
use super::text::words;
use super::{check, signature, MetricsError};

/// Character n-grams of the orders 1 to this.
const CHAR_ORDER: usize = 6;
/// Recall weighs β² times as much as precision.
const BETA: u32 = 2;

/// What chrF may be asked for; the default is chrF2 as in sacreBLEU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChrfOptions {
    /// Word n-grams of the orders 1 to this are counted too: 0 is chrF, 2 is chrF++. 4 at most; more counts as 4.
    pub word_order: usize,
    /// Compare without regard to case.
    pub lowercase: bool,
}

impl ChrfOptions {
    /// chrF++: word order 2.
    pub fn plus_plus() -> Self {
        ChrfOptions { word_order: 2, ..ChrfOptions::default() }
    }
}

/// A chrF score. `Display` is sacreBLEU's line: `chrF2 = 61.53`, `chrF2++ = 59.04`.
#[derive(Clone, Debug, PartialEq)]
pub struct Chrf {
    /// 0 to 100.
    pub score: f64,
    options: ChrfOptions,
    references: usize,
}

/// chrF of a corpus: counts summed over sentences, each against the reference where its own chrF is best. `references`
/// holds one stream or more, each with one line a hypothesis; other shapes are a [`MetricsError`].
pub fn chrf(hypotheses: &[&str], references: &[Vec<&str>], options: &ChrfOptions) -> Result<Chrf, MetricsError> {
    check(hypotheses, references)?;
    let options = ChrfOptions { word_order: options.word_order.min(4), ..*options };
    let segments: Vec<Vec<Counts>> = (0..hypotheses.len())
        .into_par_iter()
        .map(|i| {
            let lines: Vec<&str> = references.iter().map(|stream| stream[i]).collect();
            best_counts(hypotheses[i], &lines, &options)
        })
        .collect();
    let mut sum = vec![Counts::default(); CHAR_ORDER + options.word_order];
    for segment in &segments {
        for (total, counts) in sum.iter_mut().zip(segment) {
            total.hypothesis += counts.hypothesis;
            total.reference += counts.reference;
            total.matches += counts.matches;
        }
    }
    Ok(Chrf { score: f_score(&sum), options, references: references.len() })
}

/// N-grams of one order.
#[derive(Clone, Copy, Default)]
struct Counts {
    hypothesis: u64,
    reference: u64,
    matches: u64,
}

/// The counts of each order against the reference with the best F-score, the first on ties.
fn best_counts(hypothesis: &str, references: &[&str], options: &ChrfOptions) -> Vec<Counts> {
    let case = |line: &str| if options.lowercase { line.to_lowercase() } else { line.to_owned() };
    let hypothesis = case(hypothesis);
    let references: Vec<String> = references.iter().map(|line| case(line)).collect();
    let mut numbering = Numbering::default();
    let candidates = ngrams_of(&hypothesis, options.word_order, &mut numbering);
    let mut best = (-1.0, Vec::new());
    for reference in &references {
        let allowed = ngrams_of(reference, options.word_order, &mut numbering);
        let counts: Vec<Counts> = candidates
            .iter()
            .zip(&allowed)
            .map(|(h, r)| Counts {
                // an order that the reference is too short for does not count against the hypothesis
                hypothesis: if r.is_empty() { 0 } else { h.len() as u64 },
                reference: r.len() as u64,
                matches: overlap(h, r),
            })
            .collect();
        let score = f_score(&counts);
        if score > best.0 {
            best = (score, counts);
        }
    }
    best.1
}

/// Sorted n-grams: one list a character order, whitespace left out, then one a word order.
fn ngrams_of<'a>(line: &'a str, word_order: usize, numbering: &mut Numbering<'a>) -> Vec<Vec<u128>> {
    let chars: Vec<u32> = words(line).flat_map(str::chars).map(u32::from).collect();
    let mut ngrams: Vec<_> = (1..=CHAR_ORDER).map(|n| sorted_ngrams(&chars, n, CHAR_BITS)).collect();
    if word_order > 0 {
        let numbers = numbering.number(words(line).flat_map(split_punctuation));
        ngrams.extend((1..=word_order).map(|n| sorted_ngrams(&numbers, n, WORD_BITS)));
    }
    ngrams
}

/// Separates one ASCII punctuation character from the end of a word, or else from its beginning: `(hi)` is `(hi` and `)`.
fn split_punctuation(word: &str) -> impl Iterator<Item = &str> {
    let mut chars = word.chars();
    let (first, last) = (chars.next(), chars.next_back());
    let punctuation = |c: Option<char>| c.is_some_and(|c| c.is_ascii_punctuation());
    let cut = match (first, last) {
        (_, Some(_)) if punctuation(last) => word.len() - 1,
        (_, Some(_)) if punctuation(first) => 1,
        _ => word.len(),
    };
    let (left, right) = word.split_at(cut);
    [left, right].into_iter().filter(|part| !part.is_empty())
}

/// F-score × 100 of precision and recall averaged over the orders that both sides have.
fn f_score(orders: &[Counts]) -> f64 {
    let factor = f64::from(BETA * BETA);
    let (mut precision, mut recall, mut effective) = (0.0, 0.0, 0u32);
    for counts in orders.iter().filter(|counts| counts.hypothesis > 0 && counts.reference > 0) {
        precision += counts.matches as f64 / counts.hypothesis as f64;
        recall += counts.matches as f64 / counts.reference as f64;
        effective += 1;
    }
    if effective == 0 || precision + recall == 0.0 {
        return 0.0;
    }
    precision /= f64::from(effective);
    recall /= f64::from(effective);
    let score = (1.0 + factor) * precision * recall / (factor * precision + recall);
    100.0 * score
}

impl Chrf {
    /// `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:…`.
    pub fn signature(&self) -> String {
        let case = if self.options.lowercase { "lc" } else { "mixed" };
        let words = self.options.word_order;
        signature(self.references, &format!("case:{case}|eff:yes|nc:{CHAR_ORDER}|nw:{words}|space:no"))
    }

    /// `chrF2`, or `chrF2++` with word order 2.
    pub fn name(&self) -> String {
        format!("chrF{BETA}{}", "+".repeat(self.options.word_order))
    }
}

impl fmt::Display for Chrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:.2}", self.name(), self.score)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_punctuation_character_is_cut_and_the_trailing_one_first() {
        let split = |word| split_punctuation(word).collect::<Vec<_>>();
        assert_eq!(split("(hi)"), ["(hi", ")"]);
        assert_eq!(split("\"hi"), ["\"", "hi"]);
        assert_eq!(split("."), ["."]);
        assert_eq!(split("é"), ["é"]);
        assert_eq!(split("é."), ["é", "."]);
        assert_eq!(split("so…"), ["so…"]);
    }

    #[test]
    fn chrf_ignores_spaces_and_chrf_plus_plus_does_not() {
        let (hypotheses, references) = (["ab cd"], [vec!["abcd"]]);
        let plain = chrf(&hypotheses, &references, &ChrfOptions::default()).unwrap();
        let words = chrf(&hypotheses, &references, &ChrfOptions::plus_plus()).unwrap();
        assert_eq!(plain.to_string(), "chrF2 = 100.00");
        assert!(words.score < plain.score);
        assert!(words.signature().starts_with("nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|"));
    }

    #[test]
    fn nothing_against_something_scores_0() {
        let score = chrf(&[""], &[vec!["something"]], &ChrfOptions::default()).unwrap();
        assert_eq!(score.score, 0.0);
    }
}
