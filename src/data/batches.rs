//! The order of training: which pairs make up batch `i` of an epoch, a pure function of (seed, epoch, i).

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::cache::{Dataset, Lengths, Span, Tokens};
use super::Side;
use crate::batch::{Batch, Sequences};
use crate::config::BatchType;
use crate::rng::{stream, Purpose};

/// Size of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Target tokens or pairs, 1 or more. With [`BatchType::Tokens`] the source side is held to
    /// [`SOURCE_SHARE`] times as many tokens, so that much longer sources (summarisation) can not exhaust the memory.
    pub size: usize,
    pub kind: BatchType,
}

/// See [`Batching::size`].
pub const SOURCE_SHARE: usize = 2;

impl Batching {
    fn fits(self, pairs: usize, source: usize, target: usize) -> bool {
        match self.kind {
            BatchType::Sentences => pairs <= self.size,
            BatchType::Tokens => target <= self.size && source <= self.size.saturating_mul(SOURCE_SHARE),
        }
    }
}

/// A side of a pair in an epoch; no two are the same, even where a pair comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub side: Side,
    /// Of the data set.
    pub pair: usize,
    pub epoch: u64,
    /// Number of the pair in the order of lengths, whatever the size of batches.
    pub item: u64,
}

/// Adds the ids of a side of a pair as they are in this epoch. Called from several threads at once.
pub type Draw<'a> = dyn Fn(Place, &mut Vec<u32>) + Sync + 'a;

/// The batches of one epoch. Every pair of a corpus of weight 1 is in exactly one of them; a pair larger than the limit
/// is a batch of its own. 4 bytes a pair, 16 more while it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    number: u64,
    /// Pairs, batch after batch.
    items: Vec<u32>,
    /// Range of each batch in `items`, in the order of training.
    batches: Vec<Range<u32>>,
    largest: usize,
}

impl Epoch {
    /// `data` says how long pairs are, or are to be expected where text is cut anew in each epoch: batches are filled
    /// with that, so that their number and order need no cutting. Draws the pairs (`Purpose::Mixture`), shuffles them (`Purpose::Order`), sorts by target and source length with
    /// the shuffled order among equals, cuts, and shuffles the batches.
    pub fn new(data: &impl Lengths, seed: u64, epoch: u64, batching: Batching) -> Self {
        let mut items = draw(data, seed, epoch);
        let mut order = stream(seed, Purpose::Order, epoch);
        order.shuffle(&mut items);
        let sorted = by_length(items);
        let (mut batches, heaviest) = cut(data, &sorted, batching);
        order.shuffle(&mut batches);
        let largest = batches.iter().position(|batch| *batch == heaviest).unwrap_or(0);
        let items = sorted.into_par_iter().map(|sorted| sorted.pair()).collect();
        Epoch { number: epoch, items, batches, largest }
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Only true of an empty data set.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Indices of the pairs of batch `i` < `len()`.
    pub fn pairs(&self, i: usize) -> &[u32] {
        let range = &self.batches[i];
        &self.items[range.start as usize..range.end as usize]
    }

    /// Batch `i` < `len()`; `data` is the one the epoch was made for.
    pub fn batch(&self, data: &Dataset, i: usize) -> Batch {
        let pairs = self.pairs(i);
        Batch {
            source: pack(pairs.iter().map(|&pair| data.source(pair as usize))),
            target: pack(pairs.iter().map(|&pair| data.target(pair as usize))),
            pairs: pairs.iter().map(|&pair| u64::from(pair)).collect(),
        }
    }

    /// As [`Epoch::batch`], with ids that are drawn anew in each epoch. Uses all threads.
    pub fn drawn(&self, i: usize, draw: &Draw) -> Batch {
        let (range, pairs) = (&self.batches[i], self.pairs(i));
        let ids = |place: Place| {
            let mut ids = Vec::new();
            draw(place, &mut ids);
            ids
        };
        let sides = pairs.par_iter().zip(range.clone()).map(|(&pair, item)| {
            let (pair, epoch, item) = (pair as usize, self.number, u64::from(item));
            [Side::Source, Side::Target].map(|side| ids(Place { side, pair, epoch, item }))
        });
        let sides: Vec<[Vec<u32>; 2]> = sides.collect();
        let side = |side: usize| Sequences::pack(sides.iter().map(|ids| ids[side].as_slice()));
        Batch { source: side(0), target: side(1), pairs: pairs.iter().map(|&pair| u64::from(pair)).collect() }
    }

    /// Index of the batch with the most work (tokens of both sides, then squares of lengths), to be tried first.
    pub fn largest(&self) -> usize {
        self.largest
    }
}

fn pack<'a>(sentences: impl Iterator<Item = Tokens<'a>>) -> Sequences {
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for sentence in sentences {
        sentence.extend(&mut ids);
        offsets.push(ids.len());
    }
    Sequences { ids, offsets: Arc::new(offsets) }
}

/// Pairs of this epoch: each corpus ⌊weight⌋ times whole, and a random part for the rest. The size of that part is
/// rounded at random, so its expectation is exact. Lengths are looked up here, in the order of the text and not of a
/// shuffle: memory is fast in its own order only.
fn draw(data: &impl Lengths, seed: u64, epoch: u64) -> Vec<Sized> {
    let spans = data.spans();
    let mut mixture = stream(seed, Purpose::Mixture, epoch);
    let mut items = Vec::new();
    for span in spans {
        let weight = span.weight.max(0.0);
        for _ in 0..weight.floor() as u64 {
            items.par_extend(sized(data, span.pairs.clone()));
        }
        if weight.fract() > 0.0 && !span.pairs.is_empty() {
            let mut all: Vec<u32> = span.pairs.clone().collect();
            let part = (weight.fract() * all.len() as f64 + mixture.uniform()).floor() as usize;
            for i in 0..part.min(all.len()) {
                let other = i + mixture.below(all.len() - i);
                all.swap(i, other);
            }
            all.truncate(part);
            items.par_extend(sized(data, all));
        }
    }
    // Tiny corpora with tiny weights: an epoch without a batch would never end.
    if items.is_empty() {
        let first = spans.iter().find(|span| !span.pairs.is_empty()).map(|span| span.pairs.start);
        items.par_extend(sized(data, first));
    }
    items
}

/// A pair and its lengths in the bits of one number: target, source, pair.
#[derive(Clone, Copy, Default)]
struct Sized(u64);

/// Longer sides are clipped to this.
const CLIP: usize = 0xFFFF;
const SOURCE: u32 = 32;
const TARGET: u32 = 48;

impl Sized {
    fn new((source, target): (usize, usize), pair: u32) -> Self {
        Sized((target.min(CLIP) as u64) << TARGET | (source.min(CLIP) as u64) << SOURCE | u64::from(pair))
    }

    fn pair(self) -> u32 {
        self.0 as u32
    }

    fn length(self, side: u32) -> usize {
        (self.0 >> side) as usize & CLIP
    }

    /// Looked up again where one is clipped only, for that is all over the text.
    fn lengths(self, data: &impl Lengths) -> (usize, usize) {
        match (self.length(SOURCE), self.length(TARGET)) {
            (source, target) if source.max(target) < CLIP => (source, target),
            _ => data.lengths(self.pair() as usize),
        }
    }
}

fn sized<'a, P>(data: &'a impl Lengths, pairs: P) -> impl ParallelIterator<Item = Sized> + 'a
where
    P: IntoParallelIterator<Item = u32, Iter: 'a>,
{
    pairs.into_par_iter().map(|pair| Sized::new(data.lengths(pair as usize), pair))
}

/// `items` sorted by target then source length, keeping their order among equals.
fn by_length(mut items: Vec<Sized>) -> Vec<Sized> {
    let mut other = vec![Sized::default(); items.len()];
    sort(&items, &mut other, SOURCE);
    sort(&other, &mut items, TARGET);
    items
}

/// A counting sort by the length of one side: stable, and in one pass for any number of pairs.
fn sort(items: &[Sized], sorted: &mut [Sized], side: u32) {
    let mut next = vec![0; CLIP + 2];
    items.iter().for_each(|item| next[item.length(side) + 1] += 1);
    for length in 0..=CLIP {
        next[length + 1] += next[length];
    }
    for &item in items {
        let place: &mut usize = &mut next[item.length(side)];
        sorted[*place] = item;
        *place += 1;
    }
}

/// Batches of sentence pairs held in memory (validation), in order of length and without randomness: indices into
/// `lengths`, which are source and target tokens.
pub fn batches_by_length(lengths: &[(usize, usize)], batching: Batching) -> Vec<Vec<usize>> {
    struct Plain<'a>(&'a [(usize, usize)]);
    impl Lengths for Plain<'_> {
        fn lengths(&self, i: usize) -> (usize, usize) {
            self.0[i]
        }

        fn spans(&self) -> &[Span] {
            &[]
        }
    }
    let data = Plain(lengths);
    let sorted = by_length(sized(&data, 0..lengths.len() as u32).collect());
    let indices = |batch: Range<u32>| {
        sorted[batch.start as usize..batch.end as usize].iter().map(|sorted| sorted.pair() as usize).collect()
    };
    cut(&data, &sorted, batching).0.into_iter().map(indices).collect()
}

/// Cuts sorted pairs into batches; also returns the one with the most work.
fn cut(data: &impl Lengths, items: &[Sized], batching: Batching) -> (Vec<Range<u32>>, Range<u32>) {
    let (mut batches, mut heaviest) = (Vec::new(), ((0, 0), 0..0));
    let mut start = 0;
    while start < items.len() {
        let (mut end, mut source, mut target, mut squares) = (start, 0, 0, 0);
        while end < items.len() {
            let (s, t) = items[end].lengths(data);
            if end > start && !batching.fits(end + 1 - start, source + s, target + t) {
                break;
            }
            (source, target, squares) = (source + s, target + t, squares + s * s + t * t);
            end += 1;
        }
        let batch = start as u32..end as u32;
        let work = (source + target, squares);
        if work > heaviest.0 {
            heaviest = (work, batch.clone());
        }
        batches.push(batch);
        start = end;
    }
    (batches, heaviest.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Text {
        lengths: Vec<(usize, usize)>,
        spans: Vec<Span>,
    }

    impl Lengths for Text {
        fn lengths(&self, i: usize) -> (usize, usize) {
            self.lengths[i]
        }

        fn spans(&self) -> &[Span] {
            &self.spans
        }
    }

    /// Sentence lengths like those of real text; `weights` of corpora of equal size.
    fn text(n: usize, weights: &[f64]) -> Text {
        let mut rng = stream(9, Purpose::Text, 0);
        let length = |base: f64| (base.exp().round() as usize).clamp(2, 100);
        let lengths = (0..n).map(|_| {
            let log = 2.6 + 0.6 * rng.normal();
            (length(log), length(log + 0.2 * rng.normal()))
        });
        let lengths = lengths.collect();
        let part = n / weights.len();
        let spans = weights.iter().enumerate().map(|(i, &weight)| {
            let end = if i + 1 == weights.len() { n } else { (i + 1) * part };
            Span { pairs: (i * part) as u32..end as u32, weight }
        });
        Text { lengths, spans: spans.collect() }
    }

    fn tokens(size: usize) -> Batching {
        Batching { size, kind: BatchType::Tokens }
    }

    fn times(epoch: &Epoch, n: usize) -> Vec<usize> {
        let mut times = vec![0; n];
        for i in 0..epoch.len() {
            for &pair in epoch.pairs(i) {
                times[pair as usize] += 1;
            }
        }
        times
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_epoch_holds_every_pair_once_in_batches_within_the_limit(
            lengths in proptest::collection::vec((1usize..60, 1usize..60), 1..300),
            size in 1usize..200,
            sentences: bool,
            seed: u64,
        ) {
            let n = lengths.len();
            let data = Text { lengths, spans: vec![Span { pairs: 0..n as u32, weight: 1.0 }] };
            let batching = Batching { size, kind: if sentences { BatchType::Sentences } else { BatchType::Tokens } };
            let epoch = Epoch::new(&data, seed, 3, batching);
            prop_assert!(times(&epoch, n).iter().all(|&t| t == 1));
            let sum = |i: usize| epoch.pairs(i).iter().fold((0, 0), |(s, t), &pair| {
                let (a, b) = data.lengths[pair as usize];
                (s + a, t + b)
            });
            for i in 0..epoch.len() {
                let pairs = epoch.pairs(i).len();
                let (source, target) = sum(i);
                prop_assert!(pairs > 0);
                prop_assert!(pairs == 1 || batching.fits(pairs, source, target), "{pairs} {source} {target}");
                let (s, t) = sum(epoch.largest());
                prop_assert!(source + target <= s + t);
            }
            prop_assert_eq!(&epoch, &Epoch::new(&data, seed, 3, batching));
        }
    }

    #[test]
    fn order_and_contents_of_batches_change_with_epoch_and_seed() {
        let data = text(5000, &[1.0]);
        let first = Epoch::new(&data, 1, 0, tokens(500));
        for other in [Epoch::new(&data, 1, 1, tokens(500)), Epoch::new(&data, 2, 0, tokens(500))] {
            assert_ne!(first.batches, other.batches, "the same order of lengths");
            assert_ne!(first.items, other.items, "the same pairs together");
        }
        let positions = first.batches.windows(2).filter(|two| two[0].end == two[1].start).count();
        assert!(positions < first.len() / 5, "batches come in order of length");
    }

    #[test]
    fn batches_are_nearly_full() {
        let data = text(20_000, &[1.0]);
        for size in [1000, 4096] {
            let epoch = Epoch::new(&data, 1, 0, tokens(size));
            let target: usize = data.lengths.iter().map(|&(_, target)| target).sum();
            let fill = target as f64 / (epoch.len() * size) as f64;
            assert!((0.9..=1.0).contains(&fill), "{fill}");
        }
    }

    #[test]
    fn a_pair_beyond_the_limit_is_a_batch_of_its_own() {
        for (long, limit) in [(500, 20), (70_000, 65_700)] {
            let lengths = vec![(5, 5), (2 * long, 5), (5, long), (5, 5)];
            let data = Text { lengths, spans: vec![Span { pairs: 0..4, weight: 1.0 }] };
            let epoch = Epoch::new(&data, 1, 0, tokens(limit));
            let batches: Vec<&[u32]> = (0..epoch.len()).map(|i| epoch.pairs(i)).collect();
            assert!(batches.contains(&&[1][..]) && batches.contains(&&[2][..]), "{batches:?}");
            assert_eq!(times(&epoch, 4), [1; 4]);
        }
    }

    #[test]
    fn validation_batches_hold_every_pair_once_in_order_of_length() {
        let lengths = [(4, 9), (3, 2), (5, 5), (900, 900), (4, 2)];
        let wanted = [vec![1, 4, 2], vec![0], vec![3]];
        assert_eq!(batches_by_length(&lengths, tokens(10)), wanted);
        assert!(batches_by_length(&[], tokens(10)).is_empty());
    }

    #[test]
    fn no_side_of_a_pair_is_drawn_like_another() {
        let data = text(300, &[1.0, 2.0]);
        for (size, kind) in [(500, BatchType::Tokens), (7, BatchType::Sentences)] {
            let epoch = Epoch::new(&data, 1, 4, Batching { size, kind });
            let places = std::sync::Mutex::new(Vec::new());
            for i in 0..epoch.len() {
                let batch = epoch.drawn(i, &|place, ids| {
                    ids.extend([place.pair as u32, (place.side == Side::Target).into()]);
                    places.lock().unwrap().push(place);
                });
                let pairs = epoch.pairs(i);
                assert!(pairs.iter().enumerate().all(|(k, &pair)| batch.source.get(k) == [pair, 0]));
                assert!(pairs.iter().enumerate().all(|(k, &pair)| batch.target.get(k) == [pair, 1]));
            }
            let places = places.into_inner().unwrap();
            assert!(places.iter().all(|place| place.epoch == 4));
            let mut items: Vec<_> = places.iter().map(|place| (place.item, place.side == Side::Target)).collect();
            items.sort_unstable();
            let wanted = (0..450).flat_map(|item| [(item, false), (item, true)]);
            assert_eq!(items, wanted.collect::<Vec<_>>());
        }
    }

    #[test]
    fn weights_are_expected_passes() {
        let data = text(3000, &[1.0, 2.0, 0.5]);
        let mut sums = vec![0; 3000];
        for epoch in 0..20 {
            let epoch = Epoch::new(&data, 1, epoch, tokens(500));
            let times = times(&epoch, 3000);
            assert!(times[..1000].iter().all(|&t| t == 1));
            assert!(times[1000..2000].iter().all(|&t| t == 2));
            assert!(times[2000..].iter().all(|&t| t <= 1));
            assert_eq!(times[2000..].iter().sum::<usize>(), 500);
            sums.iter_mut().zip(times).for_each(|(sum, t)| *sum += t);
        }
        let seen = sums[2000..].iter().filter(|&&sum| sum > 0).count();
        assert!(seen > 990, "the half is not drawn anew: {seen} of 1000 seen in 20 epochs");
    }

    #[test]
    fn a_fraction_of_a_tiny_corpus_is_right_on_average_and_never_nothing() {
        let data = text(4, &[1.0, 0.25]);
        let taken = (0..400).filter(|&epoch| times(&Epoch::new(&data, 1, epoch, tokens(500)), 4)[2..] != [0, 0]);
        let taken = taken.count();
        assert!((150..250).contains(&taken), "{taken}");
        let nothing = text(1, &[1e-9]);
        assert_eq!(Epoch::new(&nothing, 1, 0, tokens(500)).len(), 1);
    }
}
