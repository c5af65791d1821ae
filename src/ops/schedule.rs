//! The order in which recurrences visit packed sentences: step by step, all sentences still alive side by side.
//!
//! Sentences are ranked by length, longest first, so that the rows alive at step `t` are ranks `0..alive(t)` and form
//! one dense block of a *time-major* matrix: row `starts[t] + rank` is step `t` of the sentence with that rank.

/// Which end of each sentence a recurrence begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Reverse,
}

/// Time-major order of the tokens of packed sentences.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Sentence of each rank; equal lengths keep their order.
    pub(super) order: Vec<usize>,
    /// First time-major row of each step, and the number of rows at the end.
    pub(super) starts: Vec<usize>,
    /// Packed token of each time-major row.
    pub(super) tokens: Vec<usize>,
}

impl Schedule {
    /// `offsets`: borders of the packed sentences; empty sentences take part in no step.
    pub(super) fn new(offsets: &[usize], direction: Direction) -> Self {
        let sentences = offsets.len().saturating_sub(1);
        let length = |s: usize| offsets[s + 1] - offsets[s];
        let mut order: Vec<usize> = (0..sentences).collect();
        order.sort_by_key(|&s| std::cmp::Reverse(length(s)));
        let steps = order.first().map_or(0, |&s| length(s));
        let (mut starts, mut tokens) = (vec![0], Vec::new());
        let mut alive = sentences;
        for t in 0..steps {
            while length(order[alive - 1]) <= t {
                alive -= 1;
            }
            tokens.extend(order[..alive].iter().map(|&s| match direction {
                Direction::Forward => offsets[s] + t,
                Direction::Reverse => offsets[s + 1] - 1 - t,
            }));
            starts.push(tokens.len());
        }
        Schedule { order, starts, tokens }
    }

    /// Number of steps: the length of the longest sentence.
    pub(super) fn steps(&self) -> usize {
        self.starts.len() - 1
    }

    /// Time-major rows of step `t`.
    pub(super) fn rows(&self, t: usize) -> std::ops::Range<usize> {
        self.starts[t]..self.starts[t + 1]
    }

    /// Sentences alive at step `t`.
    pub(super) fn alive(&self, t: usize) -> usize {
        self.rows(t).len()
    }

    /// Rows of step `t` with the rows of the step before, rank by rank; only for `t` > 0.
    pub(super) fn before(&self, t: usize) -> usize {
        self.starts[t - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_sentence_comes_first_and_the_dead_leave() {
        let schedule = Schedule::new(&[0, 1, 4, 4, 6], Direction::Forward);
        assert_eq!(schedule.order, [1, 3, 0, 2]);
        assert_eq!(schedule.starts, [0, 3, 5, 6]);
        assert_eq!(schedule.tokens, [1, 4, 0, 2, 5, 3]);
        assert_eq!(Schedule::new(&[0, 1, 4, 4, 6], Direction::Reverse).tokens, [3, 5, 0, 2, 4, 1]);
        assert_eq!(Schedule::new(&[0], Direction::Forward).steps(), 0);
    }
}
