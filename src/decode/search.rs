//! Beam search for one sentence, as Hugging Face transformers does it with `early_stopping=False`, without tensors: it
//! takes the best continuations of each alive hypothesis and says which ones go on.
//!
//! A step looks at the 2·beam best continuations of all alive hypotheses, best first, equal ones by hypothesis and id.
//! Those ending in `</s>` are finished if they are among the first `beam`; the first `beam` others stay alive. The
//! search ends when `beam` hypotheses are finished and the best alive one, normalized at its present length, is not
//! better than the worst of the `beam` best finished ones; or at the maximum length, where alive hypotheses are returned
//! only for want of finished ones, behind them. How many are returned has no say in it: the best of a longer list is the
//! best of a shorter one.
//!
//! With `no_repeat_ngram_size` a continuation that would end a sequence of so many tokens that its hypothesis has already is
//! no continuation (Paulus et al. 2018, section 2.5).
//!
//! Hypotheses alive have one length, so no length penalty changes which of them go on: it decides only what is kept of the
//! finished ones and when enough is seen. One search therefore serves any number of penalties, each exactly.

use super::distribution::Candidate;
use super::sentence::Sentence;
use super::{Hypothesis, Options, Penalty};

/// The search for one translation, under one length penalty or several.
pub(super) struct Search<'a> {
    options: &'a Options,
    max_length: usize,
    alive: Vec<Alive>,
    /// One for each penalty.
    endings: Vec<Ending>,
}

/// What one length penalty makes of a search.
struct Ending {
    penalty: Penalty,
    /// The `beam` best of those that met `</s>`, best first; each holds all of its ids.
    finished: Vec<Hypothesis>,
    /// Whether it has seen enough: `finished` is what it returns.
    over: bool,
}

/// A hypothesis that has not met `</s>`.
#[derive(Clone)]
struct Alive {
    ids: Vec<u32>,
    score: f64,
}

impl<'a> Search<'a> {
    /// One empty hypothesis. `penalties`: instead of that of `options`.
    pub(super) fn new(options: &'a Options, penalties: &[Penalty], source_tokens: usize) -> Self {
        let alive = vec![Alive { ids: Vec::new(), score: 0.0 }];
        let ending = |&penalty: &Penalty| Ending { penalty, finished: Vec::new(), over: false };
        let endings = penalties.iter().map(ending).collect();
        Search { options, max_length: options.max_length(source_tokens), alive, endings }
    }

    /// How many continuations of each hypothesis [`Search::advance`] needs: those it looks at, and those it may not take.
    pub(super) fn candidates(&self) -> usize {
        let barred = self.alive.iter().map(|alive| alive.barred(self.options.no_repeat_ngram_size).count());
        2 * self.options.beam_size.max(1) + barred.max().unwrap_or(0)
    }

    /// The translations under each penalty, best first; call it when the search is over.
    pub(super) fn into_hypotheses(self) -> impl Iterator<Item = Vec<Hypothesis>> {
        self.endings.into_iter().map(|ending| ending.finished)
    }
}

impl Sentence for Search<'_> {
    fn rows(&self) -> usize {
        self.alive.len()
    }

    fn last_tokens(&self) -> impl Iterator<Item = u32> {
        self.alive.iter().map(|hypothesis| hypothesis.ids.last().copied().unwrap_or(self.options.start))
    }

    /// `continuations`: for each alive hypothesis its best next tokens.
    fn advance(&mut self, continuations: &[Vec<Candidate>]) -> Vec<usize> {
        let beam = self.options.beam_size.max(1);
        let mut ranked: Vec<(f64, usize, u32)> = Vec::new();
        for (parent, (hypothesis, candidates)) in self.alive.iter().zip(continuations).enumerate() {
            let barred: Vec<u32> = hypothesis.barred(self.options.no_repeat_ngram_size).collect();
            let free = candidates.iter().filter(|(token, _)| !barred.contains(token));
            ranked.extend(free.map(|&(token, log_p)| (hypothesis.score + log_p, parent, token)));
        }
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        ranked.truncate(2 * beam);

        let (mut alive, mut parents) = (Vec::with_capacity(beam), Vec::with_capacity(beam));
        for (rank, &(score, parent, token)) in ranked.iter().enumerate() {
            let ids = &self.alive[parent].ids;
            if token == self.options.eos {
                let endings = self.endings.iter_mut().filter(|ending| rank < beam && !ending.over);
                endings.for_each(|ending| ending.finish(ids, score, beam));
            } else if alive.len() < beam {
                let mut longer = Vec::with_capacity(ids.len() + 1);
                longer.extend_from_slice(ids);
                longer.push(token);
                alive.push(Alive { ids: longer, score });
                parents.push(parent);
            }
        }
        self.alive = alive;
        for ending in self.endings.iter_mut().filter(|ending| !ending.over) {
            ending.look(&self.alive, self.max_length, self.options);
        }
        if self.endings.iter().all(|ending| ending.over) {
            self.alive.clear();
            parents.clear();
        }
        parents
    }
}

impl Alive {
    /// The tokens with which it would have a sequence of `n` tokens twice, some perhaps several times; none for 0.
    fn barred(&self, n: usize) -> impl Iterator<Item = u32> + '_ {
        let begun = (self.ids.len() + 1).checked_sub(n).and_then(|at| self.ids.get(at..)).unwrap_or_default();
        let earlier = self.ids.windows(n.max(1)).filter(move |earlier| n > 0 && earlier[..n - 1] == *begun);
        earlier.map(move |earlier| earlier[n - 1])
    }
}

impl Ending {
    /// Puts a hypothesis that met `</s>` behind those that are as good, while it is one of the `beam` best.
    fn finish(&mut self, ids: &[u32], score: f64, beam: usize) {
        let length = ids.len() + 1;
        let normalized = self.penalty.normalize(score, length);
        let place = self.finished.partition_point(|other| other.normalized.total_cmp(&normalized).is_ge());
        if place < beam {
            self.finished.insert(place, Hypothesis { ids: ids.to_vec(), score, normalized, length });
            self.finished.truncate(beam);
        }
    }

    /// Closes it when nothing alive is worth waiting for.
    fn look(&mut self, alive: &[Alive], max_length: usize, options: &Options) {
        let waits = alive.first().is_some_and(|best| {
            let present = self.penalty.normalize(best.score, best.ids.len());
            let worst = self.finished.get(options.beam_size.max(1) - 1);
            best.ids.len() < max_length && worst.is_none_or(|worst| worst.normalized < present)
        });
        if !waits {
            self.close(alive, max_length, options.n_best.max(1));
        }
    }

    /// Keeps the wanted number, best first. Translations cut at the maximum length only fill up the end of the list: those
    /// that repeat themselves have high scores.
    fn close(&mut self, alive: &[Alive], max_length: usize, wanted: usize) {
        self.over = true;
        self.finished.truncate(wanted);
        let cut = alive.iter().filter(|alive| alive.ids.len() >= max_length);
        for Alive { ids, score } in cut.take(wanted - self.finished.len()) {
            let (ids, score, length) = (ids.clone(), *score, ids.len());
            let normalized = self.penalty.normalize(score, length);
            self.finished.push(Hypothesis { ids, score, normalized, length });
        }
        if self.finished.is_empty() {
            let score = f64::NEG_INFINITY;
            self.finished.push(Hypothesis { score, normalized: score, ..Hypothesis::default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LengthPenalty;

    const EOS: u32 = 1;

    fn options(beam_size: usize, exponent: f64) -> Options {
        let penalty = Penalty { kind: LengthPenalty::Length, exponent };
        Options {
            beam_size,
            penalty,
            no_repeat_ngram_size: 0,
            max_length_factor: 0.0,
            batch_size: 1,
            n_best: 1,
            sampling: None,
            eos: EOS,
            start: 0,
        }
    }

    fn begin(options: &Options, source_tokens: usize) -> Search<'_> {
        Search::new(options, &[options.penalty], source_tokens)
    }

    fn found(search: Search) -> Vec<Hypothesis> {
        search.into_hypotheses().flatten().collect()
    }

    #[test]
    fn an_end_outside_the_beam_is_not_kept() {
        let options = options(2, 0.0);
        let mut search = begin(&options, 1);
        let parents = search.advance(&[vec![(5, -0.5), (6, -1.0), (EOS, -1.5), (7, -2.0)]]);
        assert_eq!((parents, search.endings[0].finished.len()), (vec![0, 0], 0));
        assert_eq!(search.last_tokens().collect::<Vec<_>>(), [5, 6]);
        let parents = search.advance(&[vec![(5, -3.0)], vec![(EOS, -0.1), (8, -2.0)]]);
        assert_eq!(parents, [1, 0]);
        assert_eq!((search.endings[0].finished[0].ids.as_slice(), search.endings[0].finished[0].length), (&[6][..], 2));
    }

    #[test]
    fn equal_continuations_are_ordered_by_hypothesis_and_id() {
        let options = options(3, 0.0);
        let mut search = begin(&options, 1);
        search.advance(&[vec![(5, -1.0), (7, -1.0)]]);
        let parents = search.advance(&[vec![(9, -1.0)], vec![(4, -1.0), (6, -1.0)]]);
        assert_eq!(parents, [0, 1, 1]);
        assert_eq!(search.last_tokens().collect::<Vec<_>>(), [9, 4, 6]);
    }

    #[test]
    fn the_search_goes_on_while_an_alive_hypothesis_is_better_than_the_finished_ones() {
        for (alive, over) in [(-0.9, false), (-1.1, true)] {
            let options = options(1, 1.0);
            let mut search = begin(&options, 1);
            search.endings[0].finished.push(Hypothesis { normalized: -1.0, ..Hypothesis::default() });
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
            let mut search = begin(&options, 1);
            // finished at -0.1 and, worst of the beam, at -1.5; alive at -0.9, which is worse than the first only
            search.advance(&[vec![(EOS, -0.1), (5, -1.0), (6, -1.2)]]);
            search.advance(&[vec![(EOS, -2.0), (7, -0.8), (8, -2.1)], vec![(9, -5.0)]]);
            assert_eq!((search.endings[0].finished.len(), search.rows()), (2, 2), "{n_best}");
            // the next one that ends is better than the second and takes its place; nothing alive is better than it
            search.advance(&[vec![(EOS, -0.1), (9, -6.0)], vec![(9, -6.0)]]);
            assert_eq!(search.rows(), 0);
            let ids: Vec<Vec<u32>> = found(search).into_iter().map(|hypothesis| hypothesis.ids).collect();
            assert_eq!(ids, [vec![], vec![5, 7]][..n_best]);
        }
    }

    #[test]
    fn only_the_beam_is_kept_of_the_finished_ones_and_what_is_wanted_is_returned() {
        // the longer the better, so that one more ends at every step
        for n_best in [1, 2] {
            let options = Options { max_length_factor: 30.0, n_best, ..options(2, 2.0) };
            let mut search = begin(&options, 1);
            while search.rows() > 0 {
                search.advance(&vec![vec![(EOS, -1.0), (5, -1.0)]; search.rows()]);
                assert!(search.endings[0].finished.len() <= 2);
            }
            let lengths: Vec<usize> = found(search).iter().map(|hypothesis| hypothesis.length).collect();
            assert_eq!(lengths, [40, 39][..n_best]);
        }
    }

    #[test]
    fn cut_translations_only_fill_up_the_list_behind_those_that_ended() {
        for (n_best, lengths) in [(1, &[0][..]), (2, &[0, 10])] {
            let options = Options { n_best, ..options(2, 1.0) };
            let mut search = begin(&options, 0);
            search.advance(&[vec![(5, -0.01), (EOS, -9.0)]]);
            while search.rows() > 0 {
                search.advance(&vec![vec![(5, -0.01)]; search.rows()]);
            }
            let found: Vec<usize> = found(search).iter().map(|hypothesis| hypothesis.ids.len()).collect();
            assert_eq!(found, lengths);
        }
    }
}
