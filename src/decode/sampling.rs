//! Translations that are drawn, not searched for: each token from the model's distribution, perhaps sharpened and cut off.
//!
//! The numbers that decide are a function of seed, line, sample and place in the translation alone, and so is the
//! translation, whatever is decoded beside it: see [`FEWEST_ROWS`].

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::distribution::{best_tokens, over_vocabulary, Candidate};
use super::sentence::Sentence;
use super::{Hypothesis, Options};
use crate::model::Output;
use crate::ops::Real;
use crate::rng::{indexed_stream, Purpose, Stream};

/// How tokens are drawn. With nothing cut off and temperature 1 it is ancestral sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Only from so many most probable tokens (Fan et al. 2018); 0 = from all.
    pub top_k: usize,
    /// Of these only from the fewest most probable ones that together have at least this probability (nucleus, Holtzman et
    /// al. 2020); 1 = from all. In (0, 1].
    pub top_p: f64,
    /// Probabilities are raised to 1 / temperature before anything is cut off. Above 0.
    pub temperature: f64,
    pub seed: u64,
    /// Number of the first source, from 0.
    pub first_line: usize,
}

/// Products of fewer rows than this are summed in another order: batches of samples are filled up to it, so that what stands
/// beside a line does not show in it.
pub(super) const FEWEST_ROWS: usize = 9;

/// The samples of one sentence.
pub(super) struct Samples<'a> {
    options: &'a Options,
    max_length: usize,
    /// Whether each has a row of its own; before the first token all are drawn from one distribution.
    begun: bool,
    alive: Vec<Draw>,
    /// By number; an empty one of score −∞ where the model's distribution was not finite.
    finished: Vec<Hypothesis>,
}

/// A translation that has not met `</s>`.
struct Draw {
    number: usize,
    ids: Vec<u32>,
    score: f64,
    stream: Stream,
}

impl<'a> Samples<'a> {
    /// `options.n_best` samples of the source with this number.
    pub(super) fn new(options: &'a Options, sampling: &Sampling, line: usize, source_tokens: usize) -> Self {
        let draw = |number: usize| {
            let line = (sampling.first_line + line) as u64;
            let stream = indexed_stream(sampling.seed, Purpose::Sampling, line, number as u64);
            Draw { number, ids: Vec::new(), score: 0.0, stream }
        };
        let alive: Vec<Draw> = (0..options.n_best.max(1)).map(draw).collect();
        let finished = vec![Hypothesis::default(); alive.len()];
        Samples { options, max_length: options.max_length(source_tokens), begun: false, alive, finished }
    }

    /// Numbers in [0, 1) for the next tokens that are drawn from each row.
    pub(super) fn uniforms(&mut self) -> Vec<Vec<f64>> {
        let uniforms = self.alive.iter_mut().map(|draw| draw.stream.uniform());
        match self.begun {
            true => uniforms.map(|uniform| vec![uniform]).collect(),
            false => vec![uniforms.collect()],
        }
    }

    /// The translations, by number; call it when all have ended.
    pub(super) fn into_hypotheses(self) -> Vec<Hypothesis> {
        self.finished
    }

    fn finish(&mut self, draw: Draw, length: usize) {
        let Draw { number, ids, score, .. } = draw;
        let normalized = self.options.penalty.normalize(score, length);
        self.finished[number] = match score.is_finite() {
            true => Hypothesis { ids, score, normalized, length },
            false => Hypothesis { score, normalized: score, ..Hypothesis::default() },
        };
    }
}

impl Sentence for Samples<'_> {
    fn rows(&self) -> usize {
        if self.begun {
            self.alive.len()
        } else {
            1
        }
    }

    fn last_tokens(&self) -> impl Iterator<Item = u32> {
        let last = |draw: &Draw| draw.ids.last().copied().unwrap_or(self.options.start);
        self.alive.iter().take(self.rows()).map(last)
    }

    /// `drawn`: of each row the tokens drawn from it, in order.
    fn advance(&mut self, drawn: &[Vec<Candidate>]) -> Vec<usize> {
        let mut parents = Vec::new();
        let draws = std::mem::take(&mut self.alive);
        for ((row, mut draw), &(token, log_p)) in draws.into_iter().enumerate().zip(drawn.iter().flatten()) {
            draw.score += log_p;
            let length = draw.ids.len() + 1;
            if token == self.options.eos || !draw.score.is_finite() {
                self.finish(draw, length);
                continue;
            }
            draw.ids.push(token);
            if length >= self.max_length {
                self.finish(draw, length);
            } else {
                parents.push(if self.begun { row } else { 0 });
                self.alive.push(draw);
            }
        }
        self.begun = true;
        parents
    }
}

/// Draws from the next-token distribution of each row as many tokens as it has `uniforms`. Each comes with its
/// log-probability under the model, whatever it was drawn from; −∞ where that is not finite. Arguments as for
/// [`best_tokens`].
pub(super) fn drawn_tokens(
    outputs: &[Output],
    states: &[Tensor],
    sampling: &Sampling,
    uniforms: &[Vec<f64>],
) -> Result<Vec<Vec<Candidate>>> {
    let none = (0, f64::NEG_INFINITY);
    if sampling.top_k > 0 {
        let of_row = |(row, uniforms): (Vec<Candidate>, &Vec<f64>)| {
            let log_p: Vec<f32> = row.iter().map(|candidate| candidate.1 as f32).collect();
            draw(&log_p, sampling, uniforms).into_iter().map(|place| place.map_or(none, |place| row[place])).collect()
        };
        let best = best_tokens(outputs, states, sampling.top_k)?;
        return Ok(best.into_par_iter().zip(uniforms).map(of_row).collect());
    }
    over_vocabulary(outputs, states, |row, log_p| {
        let token = |place: usize| (place as u32, f64::from(log_p[place]));
        draw(log_p, sampling, &uniforms[row]).into_iter().map(|place| place.map_or(none, token)).collect()
    })
}

/// A place in `log_p` for each uniform number: the first at which the sum of the probabilities before and at it exceeds that
/// part of the whole. `None` where a probability is not finite.
fn draw(log_p: &[f32], sampling: &Sampling, uniforms: &[f64]) -> Vec<Option<usize>> {
    if uniforms.is_empty() {
        return Vec::new();
    }
    let most = log_p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sharpness = (1.0 / sampling.temperature) as f32;
    let weights: Vec<f32> = log_p.iter().map(|log_p| Real::exp((log_p - most) * sharpness)).collect();
    let kept = (sampling.top_p < 1.0).then(|| nucleus(&weights, sampling.top_p));
    let count = kept.as_ref().map_or(weights.len(), Vec::len);
    let place = |i: usize| kept.as_ref().map_or(i, |kept| kept[i]);
    let mut sum = 0.0;
    let mut ends = Vec::with_capacity(count);
    ends.extend((0..count).map(|i| {
        sum += f64::from(weights[place(i)]);
        sum
    }));
    let chosen = |uniform: &f64| {
        let end = ends.partition_point(|&end| end <= uniform * sum);
        (count > 0 && sum.is_finite() && most.is_finite()).then(|| place(end.min(count - 1)))
    };
    uniforms.iter().map(chosen).collect()
}

/// The places of the fewest largest weights that have at least `top_p` of all weight, largest first, equal ones in order.
fn nucleus(weights: &[f32], top_p: f64) -> Vec<usize> {
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    // all those below this together have less than what may be left out
    let least = (1.0 - top_p) * total / weights.len() as f64;
    let mut ranked: Vec<usize> = (0..weights.len()).filter(|&i| f64::from(weights[i]) >= least).collect();
    ranked.sort_unstable_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    let mut before = 0.0;
    ranked.retain(|&i| {
        let belongs = before < top_p * total;
        before += f64::from(weights[i]);
        belongs
    });
    ranked
}

#[cfg(test)]
mod tests {
    use super::super::table_model::TableModel;
    use super::super::{log_likelihoods, translate, DecodeError, Penalty};
    use super::*;
    use crate::config::LengthPenalty;
    use crate::model::Model;

    const EOS: u32 = 1;

    fn options(model: &TableModel, n_best: usize, sampling: Sampling) -> Options {
        Options {
            beam_size: 1,
            penalty: Penalty { kind: LengthPenalty::Length, exponent: 1.0 },
            no_repeat_ngram_size: 0,
            max_length_factor: 0.0,
            batch_size: 1000,
            n_best,
            sampling: Some(sampling),
            eos: EOS,
            start: model.pad(),
        }
    }

    fn run(models: &[&dyn Model], sources: &[Vec<u32>], options: &Options) -> Vec<Vec<Hypothesis>> {
        translate(models, sources, options, &mut |_| (), &|| false).unwrap()
    }

    /// Sources of 1 to 7 tokens, different ones.
    fn sources(n: u32) -> Vec<Vec<u32>> {
        (0..n).map(|i| (0..=i * 5 % 7).map(|j| (i * 3 + j) % 11).collect()).collect()
    }

    /// log P of each token after `last`, cut off and sharpened by hand.
    fn expected(model: &TableModel, source: &[u32], last: u32, sampling: &Sampling) -> Vec<f64> {
        let log_p = model.log_probabilities(source, last);
        let mut ranked: Vec<usize> = (0..log_p.len()).collect();
        ranked.sort_by(|&a, &b| log_p[b].total_cmp(&log_p[a]));
        let kept = if sampling.top_k > 0 { sampling.top_k } else { ranked.len() };
        let p: Vec<f64> = log_p.iter().map(|log_p| (log_p / sampling.temperature).exp()).collect();
        let total: f64 = ranked[..kept].iter().map(|&id| p[id]).sum();
        let (mut inside, mut chosen) = (0.0, vec![0.0; p.len()]);
        for &id in &ranked[..kept] {
            if inside < sampling.top_p * total {
                chosen[id] = p[id];
            }
            inside += p[id];
        }
        let total: f64 = chosen.iter().sum();
        chosen.iter().map(|p| p / total).collect()
    }

    /// Pearson's chi-squared of the second tokens given the first, and of the first: below what it exceeds once in 10⁵ times.
    #[test]
    fn translations_come_as_often_as_the_models_probabilities_say() {
        let model = TableModel::new(40, 6);
        let source = vec![3, 4];
        for (top_k, top_p, temperature) in [(0, 1.0, 1.0), (0, 1.0, 1.7), (3, 1.0, 1.0), (0, 0.8, 0.9), (4, 0.9, 1.5)] {
            let sampling = sampling(top_k, top_p, temperature);
            let found = run(&[&model], std::slice::from_ref(&source), &options(&model, 20_000, sampling));
            for last in (0..model.pad()).filter(|&last| last != EOS).chain([model.pad()]) {
                let at = usize::from(last != model.pad());
                let after = |hypothesis: &&Hypothesis| at == 0 || hypothesis.ids.first() == Some(&last);
                let next = |hypothesis: &Hypothesis| hypothesis.labels(EOS)[at] as usize;
                let mut counts = [0.0; 6];
                found[0].iter().filter(after).for_each(|hypothesis| counts[next(hypothesis)] += 1.0);
                let n: f64 = counts.iter().sum();
                let p = expected(&model, &source, last, &sampling);
                assert!(counts.iter().zip(&p).all(|(count, p)| *p > 0.0 || *count == 0.0), "{counts:?} {p:?}");
                let deviation =
                    |(count, p): (&f64, &f64)| if *p > 0.0 { (count - n * p).powi(2) / (n * p) } else { 0.0 };
                let chi_squared: f64 = if n > 0.0 { counts.iter().zip(&p).map(deviation).sum() } else { 0.0 };
                assert!(chi_squared < 29.0, "after {last}: {counts:?} {p:?}");
            }
        }
    }

    #[test]
    fn a_sample_depends_on_seed_line_and_number_alone() {
        let model = TableModel::new(41, 9);
        let sources = [sources(15), vec![vec![]], sources(3)].concat();
        let whole = options(&model, 5, sampling(0, 0.95, 1.1));
        let together = run(&[&model], &sources, &whole);
        assert!(together.iter().all(|samples| samples.len() == 5));
        assert_eq!(together[15], vec![Hypothesis::default(); 5]);
        let different = |a: &[Hypothesis], b: &[Hypothesis]| a.iter().zip(b).filter(|(a, b)| a.ids != b.ids).count();
        assert!(different(&together[0], &together[16]) >= 3, "the same line at another place");
        for (batch_size, threads) in [(0, 1), (9, 2), (40, 5), (1000, 4)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| run(&[&model], &sources, &Options { batch_size, ..whole }));
            assert_eq!(found, together);
        }
        for first_line in [0, 7, 17] {
            let sampling = Some(Sampling { first_line, ..sampling(0, 0.95, 1.1) });
            let rest = run(&[&model], &sources[first_line..], &Options { sampling, ..whole });
            assert_eq!(rest, together[first_line..]);
        }
        let fewer = run(&[&model], &sources, &Options { n_best: 2, ..whole });
        assert!(fewer.iter().zip(&together).all(|(fewer, all)| fewer[..] == all[..2]));
        let other = Some(Sampling { seed: 2, ..sampling(0, 0.95, 1.1) });
        let other = run(&[&model], &sources, &Options { sampling: other, ..whole });
        assert!(different(&other.concat(), &together.concat()) > 40);
    }

    #[test]
    fn scores_are_those_of_the_model_and_the_longest_are_cut() {
        let (a, b) = (TableModel::new(42, 7), TableModel::new(43, 7));
        let sources = sources(9);
        for models in [vec![&a as &dyn Model], vec![&a, &b]] {
            let options = options(&a, 3, sampling(3, 1.0, 2.0));
            let found = run(&models, &sources, &options);
            let pairs: Vec<_> = sources
                .iter()
                .zip(&found)
                .flat_map(|(source, found)| found.iter().map(|found| (source.clone(), found.labels(EOS))))
                .collect();
            let scores = log_likelihoods(&models, &pairs, options.start, 50, &mut |_| (), &|| false).unwrap();
            for (score, found) in scores.iter().zip(found.iter().flatten()) {
                assert!((score - found.score).abs() < 1e-4, "{score} {found:?}");
                assert!((found.normalized * found.length as f64 - found.score).abs() < 1e-9);
            }
        }
        let endless = TableModel::new(44, 7).without(EOS);
        let found = run(&[&endless], &sources, &options(&endless, 2, sampling(0, 1.0, 1.0)));
        assert!(found.iter().flatten().all(|found| found.ids.len() == 10 && found.length == 10));
    }

    #[test]
    fn the_most_probable_token_alone_is_greedy_search() {
        let model = TableModel::new(45, 9);
        let drawn = run(&[&model, &model], &sources(12), &options(&model, 1, sampling(1, 1.0, 1.0)));
        for (drawn, source) in drawn.iter().zip(sources(12)) {
            let labels = drawn[0].labels(EOS);
            for (last, &token) in std::iter::once(&model.pad()).chain(&labels).zip(&labels) {
                let log_p = model.log_probabilities(&source, *last);
                assert!(log_p.iter().all(|other| *other <= log_p[token as usize]));
            }
        }
    }

    #[test]
    fn a_stop_is_honoured() {
        let model = TableModel::new(46, 9);
        let options = options(&model, 2, sampling(0, 1.0, 1.0));
        let result = translate(&[&model], &sources(3), &options, &mut |_| (), &|| true);
        assert!(matches!(result, Err(DecodeError::Stopped)));
    }

    fn sampling(top_k: usize, top_p: f64, temperature: f64) -> Sampling {
        Sampling { top_k, top_p, temperature, seed: 1, first_line: 0 }
    }

    /// How often each token is drawn for numbers spread evenly.
    fn shares(probabilities: &[f64], sampling: &Sampling) -> Vec<f64> {
        let n = 10_000;
        let uniforms: Vec<f64> = (0..n).map(|i| (f64::from(i) + 0.5) / f64::from(n)).collect();
        let log_p: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32).collect();
        let mut shares = vec![0.0; probabilities.len()];
        for place in draw(&log_p, sampling, &uniforms) {
            shares[place.unwrap()] += 1.0 / f64::from(n);
        }
        shares
    }

    #[test]
    fn tokens_come_as_often_as_they_are_probable() {
        let p = [0.1, 0.4, 0.05, 0.25, 0.2];
        let near = |found: Vec<f64>, wanted: &[f64]| {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 2e-4), "{found:?} {wanted:?}");
        };
        near(shares(&p, &sampling(0, 1.0, 1.0)), &p);
        // p² over its sum
        let squares: Vec<f64> = p.iter().map(|p| p * p / 0.275).collect();
        near(shares(&p, &sampling(0, 1.0, 0.5)), &squares);
        near(shares(&p, &sampling(0, 0.84, 1.0)), &[0.0, 0.4 / 0.85, 0.0, 0.25 / 0.85, 0.2 / 0.85]);
        near(shares(&p, &sampling(0, 0.86, 1.0)), &[0.1 / 0.95, 0.4 / 0.95, 0.0, 0.25 / 0.95, 0.2 / 0.95]);
        near(shares(&p, &sampling(0, 1e-9, 1.0)), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        // the temperature comes first: 0.4² alone is 0.58 of the whole
        near(shares(&p, &sampling(0, 0.58, 0.5)), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        near(shares(&p, &sampling(0, 1.0, 1e-3)), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        near(shares(&p, &sampling(0, 1.0, 1e9)), &[0.2; 5]);
    }

    #[test]
    fn what_is_not_finite_gives_no_token() {
        for log_p in [&[f32::NAN, -1.0][..], &[f32::NEG_INFINITY; 2], &[f32::INFINITY, 0.0], &[]] {
            for top_p in [1.0, 0.9] {
                assert_eq!(draw(log_p, &sampling(0, top_p, 1.0), &[0.5]), [None], "{log_p:?}");
            }
        }
    }
}
