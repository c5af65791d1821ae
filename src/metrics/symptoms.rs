//! The symptoms of a bad run in translations: shares of identical, copied, repeating and empty ones, and their length.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::text::{prepare, words};
use super::{check, BleuTokenizer, MetricsError};
use crate::symptoms::{Symptom, Symptoms};

/// Longest unit, in tokens, whose repetition is looked for.
const LONGEST_UNIT: usize = 32;

/// Symptoms of translations. `sources`: one line a hypothesis, if they are known; sentences with a blank source do not
/// count. `references`: one stream or more; `tokenizer` says what a token is, as for BLEU.
///
/// # Errors
/// Lines that do not belong together.
pub fn symptoms(
    sources: Option<&[&str]>,
    hypotheses: &[&str],
    references: &[Vec<&str>],
    tokenizer: &BleuTokenizer,
) -> Result<Symptoms, MetricsError> {
    check(hypotheses, references)?;
    let counted = counted(sources, hypotheses.len());
    let tokens = |line: &str| tokenizer.tokenize(&prepare(line, false));
    let looked: Vec<(usize, usize, bool)> = counted
        .par_iter()
        .map(|&i| {
            let hypothesis = tokens(hypotheses[i]);
            let hypothesis: Vec<&str> = words(&hypothesis).collect();
            let others: Vec<String> = references.iter().map(|stream| tokens(stream[i])).collect();
            let closest = others.iter().map(|line| words(line).count());
            let closest = closest.min_by_key(|&len| (len.abs_diff(hypothesis.len()), len)).unwrap_or(0);
            let repeats = |line: &str| repeats(&words(line).collect::<Vec<_>>());
            let may = || others.iter().any(|line| repeats(line)) || sources.is_some_and(|s| repeats(&tokens(s[i])));
            (hypothesis.len(), closest, self::repeats(&hypothesis) && !may())
        })
        .collect();
    let all = counted.len().max(1) as f64;
    let repeated = looked.iter().filter(|(_, _, repeats)| *repeats).count() as f64 / all;
    let lengths = looked.iter().fold((0, 0), |sum, (ours, theirs, _)| (sum.0 + ours, sum.1 + theirs));
    let ratio = (lengths.1 > 0).then(|| (Symptom::LengthRatio, lengths.0 as f64 / lengths.1 as f64));
    let lines = of_lines(sources, hypotheses, &counted);
    Ok(lines.chain([(Symptom::Repeated, repeated)]).chain(ratio).collect())
}

/// What references themselves show of it, as if they were translations: in tagging many are rightly identical, in other
/// tasks many are rightly copies.
pub fn symptoms_of_references(sources: Option<&[&str]>, references: &[&str]) -> Symptoms {
    of_lines(sources, references, &counted(sources, references.len())).collect()
}

/// The sentences that count: those whose source is not blank.
fn counted(sources: Option<&[&str]>, lines: usize) -> Vec<usize> {
    (0..lines).filter(|&i| sources.is_none_or(|sources| !is_blank(sources[i]))).collect()
}

fn is_blank(line: &str) -> bool {
    words(line).next().is_none()
}

/// Of the symptoms those that need no tokens.
fn of_lines(sources: Option<&[&str]>, hypotheses: &[&str], counted: &[usize]) -> impl Iterator<Item = (Symptom, f64)> {
    let plain = |line: &str| words(line).collect::<Vec<_>>().join(" ");
    let source = |i: usize| sources.map(|sources| plain(sources[i]));
    // of each translation the first source, and whether there is another
    let mut said: BTreeMap<String, (usize, usize, bool)> = BTreeMap::new();
    let (mut copied, mut empty) = (0, 0);
    for &i in counted {
        let hypothesis = plain(hypotheses[i]);
        if hypothesis.is_empty() {
            empty += 1;
            continue;
        }
        copied += usize::from(source(i).is_some_and(|source| source == hypothesis));
        let (first, times, differ) = said.entry(hypothesis).or_insert((i, 0, false));
        *times += 1;
        *differ |= *first != i && (sources.is_none() || source(*first) != source(i));
    }
    let identical: usize = said.values().filter(|(_, _, differ)| *differ).map(|(_, times, _)| times).sum();
    let share = counted.len().max(1) as f64;
    let copied = sources.is_some().then_some((Symptom::Copied, copied as f64 / share));
    let known = [(Symptom::Identical, identical as f64 / share), (Symptom::Empty, empty as f64 / share)];
    known.into_iter().chain(copied)
}

/// Whether a unit with a letter in it stands several times in direct succession: one or two tokens three times, more of
/// them twice. Numbers and punctuation may.
fn repeats(tokens: &[&str]) -> bool {
    (1..=LONGEST_UNIT.min(tokens.len() / 2)).any(|unit| {
        let times = if unit <= 2 { 3 } else { 2 };
        let mut same = 0;
        (unit..tokens.len()).any(|i| {
            same = if tokens[i] == tokens[i - unit] { same + 1 } else { 0 };
            same >= unit * (times - 1) && has_letter(&tokens[i + 1 - unit..=i])
        })
    })
}

fn has_letter(tokens: &[&str]) -> bool {
    tokens.iter().any(|token| token.chars().any(char::is_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(sources: &[&str], hypotheses: &[&str], references: &[&str], tokenizer: &BleuTokenizer) -> [f64; 5] {
        let found = symptoms(Some(sources), hypotheses, &[references.to_vec()], tokenizer).unwrap();
        Symptom::ALL.map(|symptom| found.get(symptom).unwrap_or(f64::NAN))
    }

    #[test]
    fn each_symptom_is_counted_among_the_sentences_that_have_a_source() {
        let sources = ["a", "b", "b", " ", "c d", "e", "f", "g"];
        // equal to another's with another source; equal with the same one; blank source; a copy; empty
        let hypotheses = ["x y", "x  y ", "z", "x y", " c d", "", "v w", "u u"];
        let references = ["x y", "x y", "z z", "", "y", "y y y", "v", "u u"];
        let [identical, copied, repeated, empty, length] =
            measured(&sources, &hypotheses, &references, &BleuTokenizer::V13a);
        assert_eq!([identical, copied, repeated, empty].map(|share| share * 7.0), [2.0, 1.0, 0.0, 1.0]);
        assert!((length - 11.0 / 13.0).abs() < 1e-12, "{length}");
        let twice = measured(&["b", "b"], &["z", "z"], &["z", "z"], &BleuTokenizer::V13a);
        assert_eq!(twice, [0.0, 0.0, 0.0, 0.0, 1.0], "one source has one translation");
        let none = symptoms(None, &["z", "z"], &[vec!["z", "y"]], &BleuTokenizer::V13a).unwrap();
        assert_eq!((none.get(Symptom::Copied), none.get(Symptom::Identical)), (None, Some(1.0)));
        let references = symptoms_of_references(Some(&["a", "b"]), &["a", "a"]);
        assert_eq!(references.get(Symptom::Copied).zip(references.get(Symptom::Identical)), Some((0.5, 1.0)));
        assert_eq!(measured(&[" "], &[""], &["a"], &BleuTokenizer::V13a)[..4], [0.0; 4]);
    }

    #[test]
    fn words_and_phrases_repeat_in_direct_succession() {
        let repeats = |text: &str| super::repeats(&text.split(' ').collect::<Vec<_>>());
        for text in ["the the the", "a b a b a b", "x a b c a b c", "the man in the man in"] {
            assert!(repeats(text), "{text}");
        }
        for text in ["", "very very good", "more and more and less", "a man and a man", "0 0 0 0", ". . . .", "a b c d"]
        {
            assert!(!repeats(text), "{text}");
        }
        let long = (0..10_000).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ");
        assert!(!repeats(&long) && repeats(&format!("{long} x x x")));
    }

    #[test]
    fn a_repetition_of_source_or_reference_is_none_and_scripts_without_spaces_repeat_characters() {
        let repeated = |source: &str, hypothesis: &str, reference: &str, tokenizer: &BleuTokenizer| {
            measured(&[source], &[hypothesis], &[reference], tokenizer)[2] == 1.0
        };
        let words = &BleuTokenizer::V13a;
        assert!(repeated("bla", "bla bla bla", "blah", words));
        assert!(!repeated("ho ho ho", "bla bla bla", "blah", words));
        assert!(!repeated("ho", "bla bla bla", "so so so", words));
        assert!(repeated("the park", "公园公园公园", "公园", &BleuTokenizer::Zh));
        assert!(!repeated("try it", "试一试", "试一试", &BleuTokenizer::Zh));
        assert!(repeated("the park", "こうえんこうえん", "公園", &BleuTokenizer::Char));
    }
}
