//! Beam search for one sentence, as Hugging Face transformers does it with `early_stopping=False`, without tensors: it
//! takes the best continuations of each alive hypothesis and says which ones go on.
//!
//! A step looks at the 2·beam best continuations of all alive hypotheses, best first, equal ones by hypothesis and id.
//! Those ending in `</s>` are finished if they are among the first `beam`; the first `beam` others stay alive. The
//! search ends when `beam` hypotheses are finished and the best alive one, normalized at its present length, is not
//! better than the worst of the `beam` best finished ones; or at the maximum length, where alive hypotheses are returned
//! only for want of finished ones, behind them. How many are returned has no say in it: the best of a longer list is the
//! best of a shorter one.

use super::distribution::Candidate;
use super::{Hypothesis, Options};

/// The search for one translation.
pub(super) struct Search<'a> {
    options: &'a Options,
    max_length: usize,
    alive: Vec<Alive>,
    /// The `beam` best of those that met `</s>`, best first; each holds all of its ids.
    finished: Vec<Hypothesis>,
}

/// A hypothesis that has not met `</s>`.
#[derive(Clone)]
struct Alive {
    ids: Vec<u32>,
    score: f64,
}

impl<'a> Search<'a> {
    /// One empty hypothesis.
    pub(super) fn new(options: &'a Options, source_tokens: usize) -> Self {
        let alive = vec![Alive { ids: Vec::new(), score: 0.0 }];
        Search { options, max_length: options.max_length(source_tokens), alive, finished: Vec::new() }
    }

    /// Alive hypotheses; 0 when the search is over.
    pub(super) fn rows(&self) -> usize {
        self.alive.len()
    }

    /// The last token of each alive hypothesis.
    pub(super) fn last_tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.alive.iter().map(|hypothesis| hypothesis.ids.last().copied().unwrap_or(self.options.start))
    }

    /// How many continuations of each hypothesis [`Search::advance`] needs.
    pub(super) fn candidates(options: &Options) -> usize {
        2 * options.beam_size.max(1)
    }

    /// One step. `continuations`: for each alive hypothesis its best next tokens. Returns for each hypothesis now alive
    /// the one that it continues.
    pub(super) fn advance(&mut self, continuations: &[Vec<Candidate>]) -> Vec<usize> {
        let beam = self.options.beam_size.max(1);
        let mut ranked: Vec<(f64, usize, u32)> = Vec::new();
        for (parent, (hypothesis, candidates)) in self.alive.iter().zip(continuations).enumerate() {
            ranked.extend(candidates.iter().map(|&(token, log_p)| (hypothesis.score + log_p, parent, token)));
        }
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        ranked.truncate(2 * beam);

        let (mut alive, mut parents) = (Vec::with_capacity(beam), Vec::with_capacity(beam));
        for (rank, &(score, parent, token)) in ranked.iter().enumerate() {
            let ids = &self.alive[parent].ids;
            if token == self.options.eos {
                if rank < beam {
                    finish(&mut self.finished, self.options, &self.alive[parent], score);
                }
            } else if alive.len() < beam {
                let mut longer = Vec::with_capacity(ids.len() + 1);
                longer.extend_from_slice(ids);
                longer.push(token);
                alive.push(Alive { ids: longer, score });
                parents.push(parent);
            }
        }
        self.alive = alive;
        if self.is_over() {
            self.close();
            parents.clear();
        }
        parents
    }

    fn is_over(&self) -> bool {
        let Some(best) = self.alive.first() else { return true };
        if best.ids.len() >= self.max_length {
            return true;
        }
        let present = self.options.penalty.normalize(best.score, best.ids.len());
        let worst = self.finished.get(self.options.beam_size.max(1) - 1);
        worst.is_some_and(|worst| worst.normalized >= present)
    }

    /// Keeps the wanted number, best first. Translations cut at the maximum length only fill up the end of the list: those
    /// that repeat themselves have high scores.
    fn close(&mut self) {
        let wanted = self.options.n_best.max(1);
        self.finished.truncate(wanted);
        let alive = std::mem::take(&mut self.alive);
        let cut = alive.into_iter().filter(|alive| alive.ids.len() >= self.max_length);
        for Alive { ids, score } in cut.take(wanted - self.finished.len()) {
            let length = ids.len();
            let normalized = self.options.penalty.normalize(score, length);
            self.finished.push(Hypothesis { ids, score, normalized, length });
        }
        if self.finished.is_empty() {
            let score = f64::NEG_INFINITY;
            self.finished.push(Hypothesis { score, normalized: score, ..Hypothesis::default() });
        }
    }

    /// The translations, best first; call it when the search is over.
    pub(super) fn into_hypotheses(self) -> Vec<Hypothesis> {
        self.finished
    }
}

/// Puts a hypothesis that met `</s>` behind those that are as good, while it is one of the `beam` best.
fn finish(finished: &mut Vec<Hypothesis>, options: &Options, hypothesis: &Alive, score: f64) {
    let (beam, length) = (options.beam_size.max(1), hypothesis.ids.len() + 1);
    let normalized = options.penalty.normalize(score, length);
    let place = finished.partition_point(|other| other.normalized.total_cmp(&normalized).is_ge());
    if place < beam {
        finished.insert(place, Hypothesis { ids: hypothesis.ids.clone(), score, normalized, length });
        finished.truncate(beam);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LengthPenalty;
    use crate::decode::Penalty;

    const EOS: u32 = 1;

    fn options(beam_size: usize, exponent: f64) -> Options {
        let penalty = Penalty { kind: LengthPenalty::Length, exponent };
        Options { beam_size, penalty, max_length_factor: 0.0, batch_size: 1, n_best: 1, eos: EOS, start: 0 }
    }

    #[test]
    fn an_end_outside_the_beam_is_not_kept() {
        let options = options(2, 0.0);
        let mut search = Search::new(&options, 1);
        let parents = search.advance(&[vec![(5, -0.5), (6, -1.0), (EOS, -1.5), (7, -2.0)]]);
        assert_eq!((parents, search.finished.len()), (vec![0, 0], 0));
        assert_eq!(search.last_tokens().collect::<Vec<_>>(), [5, 6]);
        let parents = search.advance(&[vec![(5, -3.0)], vec![(EOS, -0.1), (8, -2.0)]]);
        assert_eq!(parents, [1, 0]);
        assert_eq!((search.finished[0].ids.as_slice(), search.finished[0].length), (&[6][..], 2));
    }

    #[test]
    fn equal_continuations_are_ordered_by_hypothesis_and_id() {
        let options = options(3, 0.0);
        let mut search = Search::new(&options, 1);
        search.advance(&[vec![(5, -1.0), (7, -1.0)]]);
        let parents = search.advance(&[vec![(9, -1.0)], vec![(4, -1.0), (6, -1.0)]]);
        assert_eq!(parents, [0, 1, 1]);
        assert_eq!(search.last_tokens().collect::<Vec<_>>(), [9, 4, 6]);
    }

    #[test]
    fn the_search_goes_on_while_an_alive_hypothesis_is_better_than_the_finished_ones() {
        for (alive, over) in [(-0.9, false), (-1.1, true)] {
            let options = options(1, 1.0);
            let mut search = Search::new(&options, 1);
            search.finished.push(Hypothesis { normalized: -1.0, ..Hypothesis::default() });
            search.advance(&[vec![(5, alive)]]);
            assert_eq!(search.rows() == 0, over);
        }
    }

    /// A step of transformers' `_check_early_stop_heuristic`: all `num_beams` are finished, and the best running score at
    /// the present length is not better than the least of them.
    #[test]
    fn the_worst_of_the_whole_beam_decides_whatever_is_returned() {
        for n_best in [1, 2] {
            let options = Options { n_best, max_length_factor: 9.0, ..options(2, 1.0) };
            let mut search = Search::new(&options, 1);
            // finished at -0.1 and, worst of the beam, at -1.5; alive at -0.9, which is worse than the first only
            search.advance(&[vec![(EOS, -0.1), (5, -1.0), (6, -1.2)]]);
            search.advance(&[vec![(EOS, -2.0), (7, -0.8), (8, -2.1)], vec![(9, -5.0)]]);
            assert_eq!((search.finished.len(), search.rows()), (2, 2), "{n_best}");
            // the next one that ends is better than the second and takes its place; nothing alive is better than it
            search.advance(&[vec![(EOS, -0.1), (9, -6.0)], vec![(9, -6.0)]]);
            assert_eq!(search.rows(), 0);
            let found: Vec<Vec<u32>> = search.into_hypotheses().into_iter().map(|hypothesis| hypothesis.ids).collect();
            assert_eq!(found, [vec![], vec![5, 7]][..n_best]);
        }
    }

    #[test]
    fn only_the_beam_is_kept_of_the_finished_ones_and_what_is_wanted_is_returned() {
        // the longer the better, so that one more ends at every step
        for n_best in [1, 2] {
            let options = Options { max_length_factor: 30.0, n_best, ..options(2, 2.0) };
            let mut search = Search::new(&options, 1);
            while search.rows() > 0 {
                search.advance(&vec![vec![(EOS, -1.0), (5, -1.0)]; search.rows()]);
                assert!(search.finished.len() <= 2);
            }
            let lengths: Vec<usize> = search.into_hypotheses().iter().map(|hypothesis| hypothesis.length).collect();
            assert_eq!(lengths, [40, 39][..n_best]);
        }
    }

    #[test]
    fn cut_translations_only_fill_up_the_list_behind_those_that_ended() {
        for (n_best, lengths) in [(1, &[0][..]), (2, &[0, 10])] {
            let options = Options { n_best, ..options(2, 1.0) };
            let mut search = Search::new(&options, 0);
            search.advance(&[vec![(5, -0.01), (EOS, -9.0)]]);
            while search.rows() > 0 {
                search.advance(&vec![vec![(5, -0.01)]; search.rows()]);
            }
            let found: Vec<usize> = search.into_hypotheses().iter().map(|hypothesis| hypothesis.ids.len()).collect();
            assert_eq!(found, lengths);
        }
    }
}
