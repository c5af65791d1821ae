//! IBM model 1 (Brown et al. 1993): p(t | s) of single words by expectation maximization over sentence pairs, each word
//! of a target sentence coming from one word of the source sentence or from none.
//!
//! ```text
//! expectation    z_j = p(t_j | none) + Σ_i p(t_j | s_i)          for each target position j of a sentence pair
//! maximization   p(t | s) ∝ Σ over places where s and t meet of p(t | s) / z_j
//! ```
//!
//! The first pass runs over sentences, the second over source words (by their postings), so every sum has one owner and
//! one order: the result does not depend on the number of threads. Time O(iterations · Σ |source|·|target|); memory 8
//! bytes for each pair of words that meets in `min_count` sentences, and 12 bytes a token of the text.

use rayon::prelude::*;

/// Sentences end to end, without `</s>`.
#[derive(Default)]
pub(super) struct Sentences {
    ids: Vec<u32>,
    /// End of each.
    ends: Vec<usize>,
}

impl Sentences {
    /// Adds the sentence that `write` appends, without its last token (`</s>`).
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u32>)) {
        let start = self.ids.len();
        write(&mut self.ids);
        self.ids.truncate(self.ids.len().saturating_sub(1).max(start));
        self.ends.push(self.ids.len());
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn start(&self, i: usize) -> usize {
        i.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn get(&self, i: usize) -> &[u32] {
        &self.ids[self.start(i)..self.ends[i]]
    }
}

/// The sentences in which each word occurs, ascending, once for each occurrence.
pub(super) struct Postings {
    starts: Vec<usize>,
    sentences: Vec<u32>,
}

impl Postings {
    pub(super) fn new(text: &Sentences, vocabulary: usize) -> Self {
        let mut starts = vec![0; vocabulary + 1];
        for &id in &text.ids {
            starts[id as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let (mut next, mut sentences) = (starts.clone(), vec![0; text.ids.len()]);
        for i in 0..text.len() {
            for &id in text.get(i) {
                sentences[next[id as usize]] = i as u32;
                next[id as usize] += 1;
            }
        }
        Postings { starts, sentences }
    }

    fn of(&self, word: usize) -> &[u32] {
        &self.sentences[self.starts[word]..self.starts[word + 1]]
    }

    fn words(&self) -> usize {
        self.starts.len() - 1
    }
}

/// p(t | s) where both words meet often enough.
pub(super) struct TranslationTable {
    /// Of each source word: its target words, ascending, and their probabilities.
    rows: Vec<Row>,
    /// p(t | none), of all target words.
    none: Vec<f32>,
}

#[derive(Default)]
struct Row {
    targets: Vec<u32>,
    probabilities: Vec<f32>,
}

/// Sentences of one job of the first pass.
const BLOCK: usize = 1024;

impl TranslationTable {
    /// `postings` are those of `source`; `targets`: size of the target vocabulary.
    pub(super) fn train(
        source: &Sentences,
        postings: &Postings,
        target: &Sentences,
        targets: usize,
        min_count: u32,
        iterations: usize,
    ) -> Self {
        let uniform = 1.0 / targets.max(1) as f32;
        let rows = (0..postings.words())
            .into_par_iter()
            .map_init(|| vec![0; targets], |counts, s| Row::meeting(postings.of(s), target, counts, min_count, uniform))
            .collect();
        let mut table = TranslationTable { rows, none: vec![uniform; targets] };
        for _ in 0..iterations {
            let totals = table.expectation(source, target);
            table.maximization(postings, target, &totals);
        }
        table
    }

    /// The likeliest translation of a source word and its probability; of equal ones the smallest id.
    pub(super) fn best(&self, source: usize) -> Option<(u32, f64)> {
        let row = self.rows.get(source)?;
        let mut best: Option<(u32, f32)> = None;
        for (&t, &p) in row.targets.iter().zip(&row.probabilities) {
            if best.is_none_or(|(_, highest)| p > highest) {
                best = Some((t, p));
            }
        }
        best.map(|(t, p)| (t, f64::from(p)))
    }

    fn probability(&self, s: u32, t: u32) -> f32 {
        let row = &self.rows[s as usize];
        row.targets.binary_search(&t).map_or(0.0, |i| row.probabilities[i])
    }

    /// z of every target token, in the order of the text.
    fn expectation(&self, source: &Sentences, target: &Sentences) -> Vec<f32> {
        let blocks: Vec<Vec<f32>> = (0..source.len().div_ceil(BLOCK))
            .into_par_iter()
            .map(|block| {
                let mut totals = Vec::new();
                for i in block * BLOCK..((block + 1) * BLOCK).min(source.len()) {
                    let source = source.get(i);
                    let total =
                        |&t: &u32| self.none[t as usize] + source.iter().map(|&s| self.probability(s, t)).sum::<f32>();
                    totals.extend(target.get(i).iter().map(total));
                }
                totals
            })
            .collect();
        blocks.concat()
    }

    fn maximization(&mut self, postings: &Postings, target: &Sentences, totals: &[f32]) {
        let TranslationTable { rows, none } = self;
        let targets = none.len();
        rows.par_iter_mut().enumerate().for_each_init(
            || vec![0.0f64; targets],
            |shares, (s, row)| row.update(postings.of(s), target, totals, shares),
        );
        let mut shares = vec![0.0f64; targets];
        for (&t, &total) in target.ids.iter().zip(totals) {
            shares[t as usize] += f64::from(none[t as usize] / total.max(f32::MIN_POSITIVE));
        }
        let all: f64 = shares.iter().sum();
        none.iter_mut().zip(&shares).for_each(|(p, share)| *p = (share / all.max(f64::MIN_POSITIVE)) as f32);
    }
}

impl Row {
    /// The target words that meet a source word in `min_count` of its sentences. `counts` is zero before and after.
    fn meeting(postings: &[u32], target: &Sentences, counts: &mut [u32], min_count: u32, uniform: f32) -> Row {
        let mut met: Vec<u32> = Vec::new();
        let mut words: Vec<u32> = Vec::new();
        let mut before = None;
        for &i in postings.iter().filter(|&&i| before.replace(i) != Some(i)) {
            words.clear();
            words.extend(target.get(i as usize));
            words.sort_unstable();
            words.dedup();
            for &t in &words {
                if counts[t as usize] == 0 {
                    met.push(t);
                }
                counts[t as usize] += 1;
            }
        }
        met.sort_unstable();
        let targets: Vec<u32> = met.iter().copied().filter(|&t| counts[t as usize] >= min_count).collect();
        met.iter().for_each(|&t| counts[t as usize] = 0);
        Row { probabilities: vec![uniform; targets.len()], targets }
    }

    /// One maximization. `shares` is zero before and after.
    fn update(&mut self, postings: &[u32], target: &Sentences, totals: &[f32], shares: &mut [f64]) {
        for &i in postings {
            let sentence = target.start(i as usize)..target.ends[i as usize];
            for (&t, &total) in target.ids[sentence.clone()].iter().zip(&totals[sentence]) {
                shares[t as usize] += 1.0 / f64::from(total.max(f32::MIN_POSITIVE));
            }
        }
        // Σ p/z = p · Σ 1/z
        let expected = |(&t, &p): (&u32, &f32)| f64::from(p) * shares[t as usize];
        let counts: Vec<f64> = self.targets.iter().zip(&self.probabilities).map(expected).collect();
        let all: f64 = counts.iter().sum();
        for (p, count) in self.probabilities.iter_mut().zip(&counts) {
            *p = (count / all.max(f64::MIN_POSITIVE)) as f32;
        }
        for &i in postings {
            target.get(i as usize).iter().for_each(|&t| shares[t as usize] = 0.0);
        }
    }
}
