//! How recurrences visit packed sentences.
//!
//! Sentences do not depend on each other: each job carries some of them through all their steps and never waits for
//! another job. A *lane* is what a job holds of one sentence. The lanes of a job are sorted by length, longest first,
//! so that those alive at step t are the first ones and their states form one dense matrix.

use super::gemm::Threads;
use super::rows;
use super::unwritten::End;

/// Which end of each sentence a recurrence begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first token on.
    Forward,
    /// From the last token back.
    Reverse,
}

impl Direction {
    /// Token of step `t` in a sentence of `length` tokens.
    pub(super) fn token(self, t: usize, length: usize) -> usize {
        match self {
            Direction::Forward => t,
            Direction::Reverse => length - 1 - t,
        }
    }

    /// Where the tokens of a sentence are taken from when its steps are done in their order.
    pub(super) fn end(self) -> End {
        match self {
            Direction::Forward => End::First,
            Direction::Reverse => End::Last,
        }
    }

    /// Where they are taken from when the last step comes first.
    pub(super) fn other_end(self) -> End {
        match self {
            Direction::Forward => End::Last,
            Direction::Reverse => End::First,
        }
    }
}

/// Sentences that are worth a job: products with fewer rows than two tiles of the microkernel are slow.
const FEWEST: usize = 12;

/// What a job holds of one sentence.
pub(super) trait Lane: Send {
    /// Number of steps.
    fn steps(&self) -> usize;
}

/// Deals lanes out to one job a thread and does the jobs: `work` gets the lanes of a job, longest first, and the threads
/// it may share its products with. `elements` is the total work.
pub(super) fn run<L: Lane>(mut lanes: Vec<L>, elements: usize, work: impl Fn(Vec<L>, Threads) + Sync + Send) {
    let jobs = rayon::current_num_threads().min(lanes.len().div_ceil(FEWEST));
    lanes.sort_by_key(|lane| std::cmp::Reverse(lane.steps()));
    let mut hands: Vec<Vec<L>> = (0..jobs).map(|_| Vec::new()).collect();
    for (i, lane) in lanes.into_iter().enumerate() {
        hands[i % jobs].push(lane);
    }
    let threads = if jobs == 1 { Threads::All } else { Threads::One };
    rows::run(hands, elements, |lanes| work(lanes, threads));
}

/// Lanes alive at step `t`: the first ones of a job.
pub(super) fn alive<L: Lane>(lanes: &mut [L], t: usize) -> &mut [L] {
    let count = lanes.partition_point(|lane| lane.steps() > t);
    &mut lanes[..count]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    impl Lane for usize {
        fn steps(&self) -> usize {
            *self
        }
    }

    #[test]
    fn jobs_get_equal_shares_and_the_longest_come_first() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for (lanes, jobs) in [(0, 0), (1, 1), (12, 1), (13, 2), (31, 2)] {
            let lengths: Vec<usize> = (0..lanes).map(|i| i * 7 % 5).collect();
            let hands = Mutex::new(Vec::new());
            pool.install(|| run(lengths.clone(), 0, |lanes, _| hands.lock().unwrap().push(lanes)));
            let hands = hands.into_inner().unwrap();
            assert_eq!(hands.len(), jobs);
            assert!(hands.iter().all(|hand| hand.is_sorted_by(|a, b| a >= b) && hand.len().abs_diff(lanes / jobs) < 2));
            assert_eq!(hands.iter().flatten().sum::<usize>(), lengths.iter().sum::<usize>());
        }
    }

    #[test]
    fn the_dead_leave() {
        let mut lanes = [3usize, 2, 2, 0];
        assert_eq!([0, 1, 2, 3].map(|t| alive(&mut lanes, t).len()), [3, 3, 1, 0]);
        assert_eq!([0, 2].map(|t| Direction::Reverse.token(t, 3)), [2, 0]);
    }
}
