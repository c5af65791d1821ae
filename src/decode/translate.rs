//! Many sentences: sorted by length, packed into batches, decoded together, given back in the order they came in.

use candle_core::Tensor;

use super::distribution::{best_tokens, Candidate};
use super::sampling::{self, drawn_tokens, Samples};
use super::search::Search;
use super::sentence::Sentence;
use super::workers::{self, Watch};
use super::{check_ensemble, DecodeError, Hypothesis, Options, Penalty, Result};
use crate::batch::Sequences;
use crate::model::{Forward, Model, Output, StepState};

/// The `n_best` translations of each source, at least one each, best first, those that were cut at the maximum length
/// behind those that ended; or as many samples, in the order in which they were drawn. Several models vote with the mean of
/// their probabilities.
///
/// `sources`: ids with `</s>`; an empty one (an empty line) is translated to nothing with score 0. The result depends
/// on neither the order nor the batches, up to the rounding of matrix products, and on the number of threads not at all.
/// `on_progress` gets the number of sentences done; `stop` is asked at every step, or several times a second.
///
/// # Errors
/// [`DecodeError::Stopped`] when `stop` said so; no models, or models of different vocabularies; errors of candle.
pub fn translate(
    models: &[&dyn Model],
    sources: &[Vec<u32>],
    options: &Options,
    on_progress: &mut dyn FnMut(usize),
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Hypothesis>>> {
    let Some(sampling) = &options.sampling else {
        let found = translate_under(models, sources, options, &[options.penalty], on_progress, stop)?;
        return Ok(found.into_iter().flatten().collect());
    };
    let begin = |line: usize| Samples::new(options, sampling, line, sources[line].len());
    let next = |outputs: &[Output], states: &[Tensor], all: &mut [Samples]| {
        let mut uniforms: Vec<Vec<f64>> = all.iter_mut().flat_map(Samples::uniforms).collect();
        uniforms.resize(states[0].dim(0)?, Vec::new());
        drawn_tokens(outputs, states, sampling, &uniforms)
    };
    let way = Way { begin, next, fewest_rows: sampling::FEWEST_ROWS };
    let found = decode(models, sources, options, way, on_progress, stop)?;
    let blank = || vec![Hypothesis::default(); options.n_best.max(1)];
    Ok(found.into_iter().map(|samples| samples.map_or_else(blank, Samples::into_hypotheses)).collect())
}

/// [`translate`] under each of several length penalties, in their order, by one search: each gets what it would have got
/// alone. That of `options` has no say.
///
/// # Errors
/// As there.
pub fn translate_under(
    models: &[&dyn Model],
    sources: &[Vec<u32>],
    options: &Options,
    penalties: &[Penalty],
    on_progress: &mut dyn FnMut(usize),
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Vec<Hypothesis>>>> {
    let begin = |line: usize| Search::new(options, penalties, sources[line].len());
    let next = |outputs: &[Output], states: &[Tensor], all: &mut [Search]| {
        best_tokens(outputs, states, all.iter().map(Search::candidates).max().unwrap_or(0))
    };
    let way = Way { begin, next, fewest_rows: 0 };
    let mut translations = vec![vec![vec![Hypothesis::default()]; sources.len()]; penalties.len()];
    for (i, search) in decode(models, sources, options, way, on_progress, stop)?.into_iter().enumerate() {
        let hypotheses = search.into_iter().flat_map(Search::into_hypotheses);
        translations.iter_mut().zip(hypotheses).for_each(|(all, hypotheses)| all[i] = hypotheses);
    }
    Ok(translations)
}

/// How sentences are begun and tokens are chosen.
struct Way<B, N> {
    /// Of the source with this index.
    begin: B,
    /// Next tokens of each row, from the decoder states of each model; there may be more states than rows.
    next: N,
    /// Rows that are decoded at a time at least, the last of them for nothing.
    fewest_rows: usize,
}

/// Each source decoded to its end; nothing for one without ids.
fn decode<S: Sentence + Send>(
    models: &[&dyn Model],
    sources: &[Vec<u32>],
    options: &Options,
    way: Way<impl Fn(usize) -> S + Sync, impl Next<S>>,
    on_progress: &mut dyn FnMut(usize),
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Option<S>>> {
    check_ensemble(models)?;
    let outputs: Vec<Output> = models.iter().map(|model| model.output()).collect();
    let batches = batches(sources, options);
    let blank = sources.len() - batches.iter().map(Vec::len).sum::<usize>();
    on_progress(blank);
    let compute = |i: usize, watch: &dyn Watch| {
        let batch = &batches[i];
        let filling = std::iter::repeat_n(&batch[0], way.fewest_rows.saturating_sub(batch.len()));
        let source = Sequences::pack(batch.iter().chain(filling).map(|&i| sources[i].as_slice()));
        let sentences = batch.iter().map(|&i| (way.begin)(i)).collect();
        to_the_end(models, &outputs, &source, sentences, &way, watch)
    };
    let found = workers::run(models, batches.len(), blank, compute, on_progress, stop)?;
    let mut all: Vec<Option<S>> = sources.iter().map(|_| None).collect();
    batches.iter().flatten().zip(found.into_iter().flatten()).for_each(|(&i, sentence)| all[i] = Some(sentence));
    Ok(all)
}

/// Batches become smaller towards the end, so that threads finish together: one holds at most the `SHARE`th part of what is
/// left, but not for that fewer than so many tokens.
const SHARE: usize = 4;
const FEWEST: usize = 512;

/// Indices of the sources that are not empty, longest first, cut into batches. The longest come first so that a lack of
/// memory shows at once.
fn batches(sources: &[Vec<u32>], options: &Options) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sources.len()).filter(|&i| !sources[i].is_empty()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sources[i].len()));
    let [most, fewest] = [options.batch_size, FEWEST].map(|tokens| tokens / options.rows());
    let mut left: usize = sources.iter().map(Vec::len).sum();
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for i in order {
        let length = sources[i].len();
        match batches.last_mut() {
            Some(batch) if length <= room => batch.push(i),
            _ => {
                batches.push(vec![i]);
                room = most.min((left / SHARE).max(fewest));
            }
        }
        room = room.saturating_sub(length);
        left -= length;
    }
    batches
}

/// Decodes the sentences of one batch to their ends.
fn to_the_end<S: Sentence, B>(
    models: &[&dyn Model],
    outputs: &[Output],
    source: &Sequences,
    mut sentences: Vec<S>,
    way: &Way<B, impl Next<S>>,
    watch: &dyn Watch,
) -> Result<Vec<S>> {
    let mut states = models.iter().map(|model| begin(*model, source)).collect::<Result<Vec<_>>>()?;
    let mut open = sentences.len();
    loop {
        if watch.stopped() {
            return Err(DecodeError::Stopped);
        }
        let mut last: Vec<u32> = sentences.iter().flat_map(S::last_tokens).collect();
        last.resize(last.len().max(way.fewest_rows), last[0]);
        let decoded = states.iter_mut().map(|state| state.step(&last)).collect::<candle_core::Result<Vec<_>>>()?;
        let continuations = (way.next)(outputs, &decoded, &mut sentences)?;
        let mut rows = Vec::with_capacity(last.len());
        let mut first = 0;
        for sentence in &mut sentences {
            let end = first + sentence.rows();
            rows.extend(sentence.advance(&continuations[first..end]).into_iter().map(|parent| first + parent));
            first = end;
        }
        let alive = sentences.iter().filter(|sentence| sentence.rows() > 0).count();
        if alive < open {
            watch.done(open - alive);
            open = alive;
        }
        if rows.is_empty() {
            return Ok(sentences);
        }
        rows.resize(rows.len().max(way.fewest_rows), rows[0]);
        // Copying the caches is most of a cheap step; a greedy step in which nothing ends needs no copy.
        if rows.len() != last.len() || rows.iter().enumerate().any(|(row, &from)| row != from) {
            states.iter_mut().try_for_each(|state| state.select(&rows))?;
        }
    }
}

/// [`Way::next`].
trait Next<S>: Fn(&[Output], &[Tensor], &mut [S]) -> candle_core::Result<Vec<Vec<Candidate>>> + Sync {}

impl<S, F: Fn(&[Output], &[Tensor], &mut [S]) -> candle_core::Result<Vec<Vec<Candidate>>> + Sync> Next<S> for F {}

fn begin(model: &dyn Model, source: &Sequences) -> Result<Box<dyn StepState>> {
    Ok(model.begin(&model.encode(source, &Forward::eval())?)?)
}

#[cfg(test)]
mod tests {
    use super::super::log_likelihoods;
    use super::super::table_model::TableModel;
    use super::*;
    use crate::config::LengthPenalty;
    use std::cell::Cell;

    const EOS: u32 = 1;

    fn options(model: &TableModel, beam_size: usize) -> Options {
        Options {
            beam_size,
            penalty: Penalty { kind: LengthPenalty::Length, exponent: 0.0 },
            no_repeat_ngram_size: 0,
            max_length_factor: 0.0,
            batch_size: 1000,
            n_best: 1,
            eos: EOS,
            start: model.pad(),
            sampling: None,
        }
    }

    fn run(models: &[&dyn Model], sources: &[Vec<u32>], options: &Options) -> Vec<Vec<Hypothesis>> {
        translate(models, sources, options, &mut |_| (), &|| false).unwrap()
    }

    /// Sources of 1 to 7 tokens, different ones.
    fn sources(n: u32) -> Vec<Vec<u32>> {
        (0..n).map(|i| (0..=i * 5 % 7).map(|j| (i * 3 + j) % 11).collect()).collect()
    }

    /// Whether a sequence of `n` tokens comes twice; 0 = none does.
    fn repeats(ids: &[u32], n: usize) -> bool {
        let all: Vec<&[u32]> = if n == 0 { Vec::new() } else { ids.windows(n).collect() };
        all.iter().enumerate().any(|(i, sequence)| all[..i].contains(sequence))
    }

    /// The best sequence of at most `left` tokens, `</s>` included, by trying all.
    fn exhaustive(model: &TableModel, source: &[u32], options: &Options) -> Hypothesis {
        let mut best = Hypothesis { normalized: f64::NEG_INFINITY, ..Hypothesis::default() };
        let mut open = vec![(Vec::new(), 0.0)];
        while let Some((ids, score)) = open.pop() {
            let last = ids.last().copied().unwrap_or(options.start);
            for (token, log_p) in model.log_probabilities(source, last).into_iter().enumerate() {
                let (token, score) = (token as u32, score + log_p);
                if token == EOS {
                    let normalized = options.penalty.normalize(score, ids.len() + 1);
                    if normalized > best.normalized {
                        best = Hypothesis { ids: ids.clone(), score, normalized, length: ids.len() + 1 };
                    }
                } else if token != model.pad() && ids.len() + 1 < options.max_length(source.len()) {
                    let mut longer = ids.clone();
                    longer.push(token);
                    if !repeats(&longer, options.no_repeat_ngram_size) {
                        open.push((longer, score));
                    }
                }
            }
        }
        best
    }

    #[test]
    fn a_beam_as_large_as_the_space_finds_what_exhaustive_search_finds() {
        for (seed, exponent, no_repeat_ngram_size) in [(1, 0.0, 0), (2, 1.0, 0), (3, 0.6, 2), (4, 1.0, 1), (5, 1.0, 3)]
        {
            let model = TableModel::new(seed, 4);
            let penalty = Penalty { kind: LengthPenalty::Length, exponent };
            let options = Options { penalty, no_repeat_ngram_size, ..options(&model, 1 << 10) };
            let sources = sources(4);
            for (found, source) in run(&[&model], &sources, &options).iter().zip(&sources) {
                let best = exhaustive(&model, source, &options);
                assert_eq!(found[0].ids, best.ids, "seed {seed}");
                assert!((found[0].score - best.score).abs() < 1e-4);
                assert!((found[0].normalized - best.normalized).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn beam_one_follows_the_most_probable_token() {
        let model = TableModel::new(5, 9);
        let options = options(&model, 1);
        let sources = sources(12);
        for (found, source) in run(&[&model], &sources, &options).iter().zip(&sources) {
            let (mut ids, mut last) = (Vec::new(), options.start);
            while ids.len() < options.max_length(source.len()) {
                let log_p = model.log_probabilities(source, last);
                last =
                    (0..log_p.len() as u32).max_by(|&a, &b| log_p[a as usize].total_cmp(&log_p[b as usize])).unwrap();
                if last == EOS {
                    break;
                }
                ids.push(last);
            }
            assert_eq!(found[0].ids, ids);
        }
    }

    /// However many of the most probable tokens are barred, the next one is found.
    #[test]
    fn nothing_that_may_not_be_repeated_hides_what_may_be_said() {
        let model = TableModel::new(5, 9);
        for (no_repeat_ngram_size, beam_size) in [(1, 1), (2, 1), (1, 2), (3, 4)] {
            let options = Options { no_repeat_ngram_size, max_length_factor: 2.0, ..options(&model, beam_size) };
            let sources = sources(12);
            let found = run(&[&model], &sources, &options);
            assert!(found.iter().all(|found| !repeats(&found[0].ids, no_repeat_ngram_size)));
            let free = run(&[&model], &sources, &Options { no_repeat_ngram_size: 0, ..options });
            assert!(
                beam_size > 1 || free.iter().any(|free| repeats(&free[0].ids, no_repeat_ngram_size)),
                "nothing to bar"
            );
            for (found, source) in found.iter().zip(&sources).filter(|_| beam_size == 1) {
                let (mut ids, mut last) = (Vec::new(), options.start);
                while ids.len() < options.max_length(source.len()) {
                    let log_p = model.log_probabilities(source, last);
                    let may = |token: &u32| !repeats(&[ids.as_slice(), &[*token]].concat(), no_repeat_ngram_size);
                    let free = (0..log_p.len() as u32).filter(|token| *token != model.pad()).filter(may);
                    last = free.max_by(|&a, &b| log_p[a as usize].total_cmp(&log_p[b as usize])).unwrap();
                    if last == EOS {
                        break;
                    }
                    ids.push(last);
                }
                assert_eq!(found[0].ids, ids);
            }
        }
    }

    #[test]
    fn batches_and_order_do_not_change_translations() {
        let model = TableModel::new(6, 9);
        let sources = sources(15);
        let options = Options { n_best: 3, ..options(&model, 3) };
        let together = run(&[&model], &sources, &options);
        for (batch_size, threads) in [(0, 1), (9, 1), (0, 3), (9, 2), (9, 5), (1000, 4)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| run(&[&model], &sources, &Options { batch_size, ..options }));
            assert_eq!(found, together);
        }
        let backwards: Vec<_> = sources.iter().rev().cloned().collect();
        let mut result = run(&[&model], &backwards, &options);
        result.reverse();
        assert_eq!(result, together);
    }

    #[test]
    fn batches_are_full_longest_first_and_smaller_towards_the_end() {
        let model = TableModel::new(6, 9);
        let sources: Vec<Vec<u32>> = (0..300).map(|i| vec![1; i * 7 % 20]).collect();
        for (batch_size, beam_size) in [(0, 1), (160, 1), (320, 2), (100_000, 1)] {
            let batches = batches(&sources, &Options { batch_size, ..options(&model, beam_size) });
            let order: Vec<usize> = batches.iter().flatten().map(|&i| sources[i].len()).collect();
            assert!(order.len() == 285 && order.is_sorted_by(|a, b| a >= b));
            let sizes: Vec<usize> = batches.iter().map(|b| b.iter().map(|&i| sources[i].len()).sum()).collect();
            let most = (batch_size / beam_size).min((2850 / SHARE).max(FEWEST / beam_size)).max(19);
            assert!(sizes.iter().all(|&size| size <= most), "{sizes:?}");
            assert!(sizes[0] + 19 > most && sizes[sizes.len() - 2] <= FEWEST.max(19), "{sizes:?}");
        }
    }

    #[test]
    fn an_empty_line_stays_empty_and_where_it_was() {
        let model = TableModel::new(7, 9);
        let full = sources(2);
        let sources = [vec![], full[0].clone(), vec![], full[1].clone()];
        let result = run(&[&model], &sources, &options(&model, 2));
        assert_eq!((&result[0], &result[2]), (&vec![Hypothesis::default()], &vec![Hypothesis::default()]));
        assert_eq!([result[1].clone(), result[3].clone()], run(&[&model], &full, &options(&model, 2))[..]);
        assert!(run(&[&model], &[], &options(&model, 2)).is_empty());
    }

    #[test]
    fn n_best_lists_are_sorted_distinct_and_free_of_padding() {
        let model = TableModel::new(8, 6);
        let penalty = Penalty { kind: LengthPenalty::Gnmt, exponent: 1.0 };
        let options = Options { n_best: 5, penalty, ..options(&model, 5) };
        for list in run(&[&model], &sources(10), &options) {
            assert_eq!(list.len(), 5);
            for pair in list.windows(2) {
                assert!(pair[0].normalized >= pair[1].normalized && pair[0].ids != pair[1].ids);
            }
            assert!(list.iter().all(|h| !h.ids.contains(&model.pad()) && !h.ids.contains(&EOS)));
        }
    }

    #[test]
    fn the_best_does_not_depend_on_how_many_are_returned() {
        for (seed, exponent) in [(20, 0.0), (21, 0.6), (22, 1.0), (23, 2.0)] {
            let model = TableModel::new(seed, 8);
            let penalty = Penalty { kind: LengthPenalty::Length, exponent };
            let options = Options { penalty, max_length_factor: 1.0, n_best: 5, ..options(&model, 5) };
            let all = run(&[&model], &sources(20), &options);
            for n_best in 1..5 {
                let some = run(&[&model], &sources(20), &Options { n_best, ..options });
                assert!(some.iter().zip(&all).all(|(some, all)| some[..] == all[..n_best]), "{n_best} of {exponent}");
            }
        }
    }

    #[test]
    fn penalties_that_share_a_search_find_what_each_finds_alone() {
        for (seed, n_best) in [(30, 1), (31, 3), (32, 4)] {
            let model = TableModel::new(seed, 8);
            let options = Options { max_length_factor: 1.0, n_best, ..options(&model, 4) };
            let of = |kind, exponent| Penalty { kind, exponent };
            let kinds = [LengthPenalty::Length, LengthPenalty::Gnmt];
            let penalties: Vec<Penalty> =
                kinds.into_iter().flat_map(|kind| [0.0, 0.7, 1.0, 3.0].map(|exponent| of(kind, exponent))).collect();
            let together =
                translate_under(&[&model], &sources(20), &options, &penalties, &mut |_| (), &|| false).unwrap();
            for (together, &penalty) in together.iter().zip(&penalties) {
                assert_eq!(*together, run(&[&model], &sources(20), &Options { penalty, ..options }), "{penalty:?}");
            }
            assert!(together.windows(2).any(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn an_ensemble_of_one_model_twice_is_that_model() {
        let model = TableModel::new(9, 9);
        let sources = sources(8);
        let options = options(&model, 3);
        let (one, two) = (run(&[&model], &sources, &options), run(&[&model, &model], &sources, &options));
        for (one, two) in one.iter().zip(&two) {
            assert_eq!(one[0].ids, two[0].ids);
            assert!((one[0].score - two[0].score).abs() < 1e-4);
        }
    }

    #[test]
    fn an_ensemble_needs_models_of_one_vocabulary() {
        let (small, large) = (TableModel::new(1, 8), TableModel::new(1, 9));
        let attempt = |models: &[&dyn Model]| {
            translate(models, &sources(1), &options(&small, 1), &mut |_| (), &|| false).unwrap_err().to_string()
        };
        assert!(attempt(&[&small, &large]).ends_with("model 1 has 8 tokens, model 2 has 9"));
        assert!(attempt(&[]).contains("at least one model"));
    }

    #[test]
    fn a_stop_is_honoured_at_the_next_step() {
        let model = TableModel::new(10, 9).without(EOS);
        let asked = Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        let result = translate(&[&model], &sources(3), &options(&model, 2), &mut |_| (), &stop);
        assert!(matches!(result, Err(DecodeError::Stopped)));
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn a_model_that_never_ends_is_cut_at_the_maximum_length() {
        let model = TableModel::new(11, 9).without(EOS);
        let sources = sources(5);
        let options = Options { max_length_factor: 1.5, n_best: 2, ..options(&model, 2) };
        for (list, source) in run(&[&model], &sources, &options).iter().zip(&sources) {
            let longest = (1.5 * source.len() as f64) as usize + 10;
            assert_eq!(list.len(), 2);
            assert!(list.iter().all(|h| h.ids.len() == longest && h.length == longest));
        }
    }

    #[test]
    fn scores_are_the_log_probabilities_of_the_translations() {
        let (a, b) = (TableModel::new(12, 9), TableModel::new(13, 9));
        let sources = sources(9);
        for models in [vec![&a as &dyn Model], vec![&a, &b]] {
            let options = options(&a, 4);
            let found = run(&models, &sources, &options);
            let pairs = sources.iter().zip(&found).filter(|(_, list)| list[0].length > list[0].ids.len());
            let pairs: Vec<_> = pairs.map(|(s, list)| (s.clone(), [&list[0].ids[..], &[EOS]].concat())).collect();
            assert!(!pairs.is_empty());
            let scores = log_likelihoods(&models, &pairs, options.start, 20, &mut |_| (), &|| false).unwrap();
            let expected = found.iter().filter(|list| list[0].length > list[0].ids.len()).map(|list| list[0].score);
            for (score, expected) in scores.iter().zip(expected) {
                assert!((score - expected).abs() < 1e-4, "{score} {expected}");
            }
        }
    }

    #[test]
    fn progress_counts_every_sentence_once() {
        let model = TableModel::new(14, 9);
        let mut counts = Vec::new();
        let sources = [sources(6), vec![vec![]]].concat();
        let options = Options { batch_size: 8, ..options(&model, 2) };
        translate(&[&model], &sources, &options, &mut |done| counts.push(done), &|| false).unwrap();
        assert!(counts.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(counts.last(), Some(&7));
    }
}
