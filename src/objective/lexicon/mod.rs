//! Pairs of words that translate each other, found in the training text: IBM model 1 in both directions, then the pairs
//! that each side holds to be the best.
//!
//! A pure function of the text: the same on any number of threads, so a resumed run finds the same pairs.
//!
//! | file | owns |
//! |---|---|
//! | `ibm1` | IBM model 1 |

mod ibm1;

use crate::data::Dataset;
use ibm1::{Postings, Sentences, TranslationTable};

/// Sentence pairs that are looked at; of a larger corpus every k-th.
const MAX_SENTENCES: usize = 300_000;

/// Iterations of expectation maximization.
const ITERATIONS: usize = 5;

/// A source and a target word, by id, and how sure the pair is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WordPair {
    pub source: u32,
    pub target: u32,
    /// ω = √(p(target | source) · p(source | target)), in (0, 1].
    pub weight: f64,
}

/// What makes a pair.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Least p(target | source) · p(source | target).
    pub min_probability: f64,
    /// Least number of sentence pairs in which both occur. Rarer pairs are left out of the tables too, which keeps these
    /// small: on natural text most pairs of words meet once.
    pub min_count: u32,
}

/// The word pairs of encoded training text, in the order of the source ids; `</s>` is none of the words.
pub fn word_pairs(data: &Dataset, vocabulary: [usize; 2], limits: Limits) -> Vec<WordPair> {
    let every = data.len().div_ceil(MAX_SENTENCES).max(1);
    let (mut source, mut target) = (Sentences::default(), Sentences::default());
    for i in (0..data.len()).step_by(every) {
        source.push(|ids| data.source(i).extend(ids));
        target.push(|ids| data.target(i).extend(ids));
    }
    mutual_best(&source, &target, vocabulary, limits)
}

/// The pairs of which each word holds the other to be its likeliest translation.
fn mutual_best(source: &Sentences, target: &Sentences, vocabulary: [usize; 2], limits: Limits) -> Vec<WordPair> {
    let of_source = Postings::new(source, vocabulary[0]);
    let forward = TranslationTable::train(source, &of_source, target, vocabulary[1], limits.min_count, ITERATIONS);
    let best_target: Vec<Option<(u32, f64)>> = (0..vocabulary[0]).map(|s| forward.best(s)).collect();
    drop((forward, of_source));
    let of_target = Postings::new(target, vocabulary[1]);
    let backward = TranslationTable::train(target, &of_target, source, vocabulary[0], limits.min_count, ITERATIONS);
    let pair = |(s, best): (usize, &Option<(u32, f64)>)| {
        let (t, p) = (*best)?;
        let (back, q) = backward.best(t as usize)?;
        let is_mutual = back as usize == s && p * q >= limits.min_probability;
        is_mutual.then(|| WordPair { source: s as u32, target: t, weight: (p * q).sqrt() })
    };
    best_target.iter().enumerate().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn encode(lines: &[&str]) -> (Sentences, Vec<String>) {
        let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
        for word in lines.iter().flat_map(|line| line.split(' ')) {
            ids.entry(word).or_insert(0);
        }
        ids.values_mut().enumerate().for_each(|(i, id)| *id = i as u32);
        let mut sentences = Sentences::default();
        for line in lines {
            sentences.push(|out| {
                out.extend(line.split(' ').map(|word| ids[word]));
                // </s>
                out.push(u32::MAX);
            });
        }
        (sentences, ids.keys().map(ToString::to_string).collect())
    }

    fn pairs(source: &[&str], target: &[&str], limits: Limits) -> Vec<(String, String, f64)> {
        let ((s, s_words), (t, t_words)) = (encode(source), encode(target));
        mutual_best(&s, &t, [s_words.len(), t_words.len()], limits)
            .into_iter()
            .map(|p| (s_words[p.source as usize].clone(), t_words[p.target as usize].clone(), p.weight))
            .collect()
    }

    #[test]
    fn the_textbook_example_is_solved() {
        // Koehn, Statistical Machine Translation, §4.2
        let source = ["das haus", "das buch", "ein buch"];
        let target = ["the house", "the book", "a book"];
        let found = pairs(&source, &target, Limits { min_probability: 0.1, min_count: 1 });
        let words: Vec<(&str, &str)> = found.iter().map(|(s, t, _)| (s.as_str(), t.as_str())).collect();
        assert_eq!(words, [("buch", "book"), ("das", "the"), ("ein", "a"), ("haus", "house")]);
        assert!(found.iter().all(|(_, _, weight)| (0.5..=1.0).contains(weight)), "{found:?}");
        let twice = pairs(&source, &target, Limits { min_probability: 0.1, min_count: 2 });
        let words: Vec<&str> = twice.iter().map(|(s, ..)| s.as_str()).collect();
        assert_eq!(words, ["buch", "das"], "{twice:?}");
        assert!(pairs(&source, &target, Limits { min_probability: 0.999, min_count: 1 }).is_empty());
    }

    #[test]
    fn the_quickstart_text_gives_pairs_a_speaker_would_agree_with() {
        let read = |side: &str| {
            let text = std::fs::read_to_string(format!("data/quickstart/train.{side}")).unwrap();
            text.lines().map(|line| line.replace(['.', '?', ','], "")).collect::<Vec<_>>()
        };
        let (en, de) = (read("en"), read("de"));
        let lines = |text: &'static [String]| text.iter().map(String::as_str).collect::<Vec<_>>();
        let (en, de) = (lines(en.leak()), lines(de.leak()));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| pairs(&en, &de, Limits { min_probability: 0.1, min_count: 5 }))
        };
        let found = run(1);
        // the weights of an independent program (plain dictionaries in Python), which finds 886 pairs
        for (s, t, weight) in [
            ("letters", "Briefe", 0.974_26),
            ("February", "Februar", 0.946_23),
            ("three", "drei", 0.804_23),
            ("helped", "geholfen", 0.602_64),
            ("dreams", "träumt", 0.507_10),
        ] {
            let pair = found.iter().find(|(source, ..)| source == s);
            assert!(pair.is_some_and(|p| p.1 == t && (p.2 - weight).abs() < 1e-5), "{s} {t} {weight}: {pair:?}");
        }
        assert!((880..=892).contains(&found.len()), "{}", found.len());
        assert_eq!(found, run(3), "the number of threads shows");
    }
}
