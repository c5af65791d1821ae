//! The edits of TER: Levenshtein distance in a beam, and block shifts.
//!
//! Port of sacreBLEU's `lib_ter.py`, copyright 2020 Memsource, Apache-2.0 (itself a port of tercom, Snover et al. 2006):
//! its heuristics, limits and order of preference decide the score, so they are kept even where they look arbitrary.

use std::ops::Range;

const MAX_SHIFT_SIZE: usize = 10;
const MAX_SHIFT_DISTANCE: usize = 50;
const MAX_SHIFT_CANDIDATES: usize = 1000;
const BEAM_WIDTH: usize = 25;
/// Larger than any distance, and more can be added to it.
const INFINITY: u32 = u32::MAX / 2;

/// Edits, shifts included, that turn `hypothesis` into `reference`; words are numbers.
pub(super) fn edits(hypothesis: &[u32], reference: &[u32]) -> u64 {
    if reference.is_empty() {
        return hypothesis.len() as u64;
    }
    let mut distance = Distance::new(hypothesis.len(), reference);
    let mut words = hypothesis.to_vec();
    let mut candidates = 0;
    let mut shifts = 0;
    while let Some(shifted) = best_shift(&words, reference, &mut distance, &mut candidates) {
        words = shifted;
        shifts += 1;
    }
    shifts + u64::from(distance.of(&words))
}

/// The shift that lowers the distance most, if one lowers it. None too when the candidates of this sentence are used up
/// (even if the last round found a shift, as in the original).
fn best_shift(words: &[u32], reference: &[u32], distance: &mut Distance, candidates: &mut usize) -> Option<Vec<u32>> {
    let before = i64::from(distance.of(words));
    let alignment = Alignment::of(&distance.trace());
    let mut best: Option<(Rank, Vec<u32>)> = None;
    'pairs: for start_h in 0..words.len() {
        let near = start_h.saturating_sub(MAX_SHIFT_DISTANCE)..reference.len().min(start_h + MAX_SHIFT_DISTANCE + 1);
        for start_r in near {
            let common = words[start_h..].iter().zip(&reference[start_r..]).take_while(|(h, r)| h == r);
            for length in 1..=common.take(MAX_SHIFT_SIZE).count() {
                if alignment.allows(start_h, start_r, length) {
                    try_targets(words, (start_h, start_r, length), &alignment, |target, shifted| {
                        *candidates += 1;
                        let gain = before - i64::from(distance.of(&shifted));
                        let rank = (gain, length, std::cmp::Reverse(start_h), std::cmp::Reverse(target));
                        if best.as_ref().is_none_or(|(top, _)| rank > *top) {
                            best = Some((rank, shifted));
                        }
                    });
                    if *candidates >= MAX_SHIFT_CANDIDATES {
                        break 'pairs;
                    }
                }
            }
        }
    }
    best.filter(|(rank, _)| rank.0 > 0 && *candidates < MAX_SHIFT_CANDIDATES).map(|(_, shifted)| shifted)
}

/// Order of shifts: gain, length, earliest start, earliest target.
type Rank = (i64, usize, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>);

/// Calls `visit` with each place of the hypothesis where the block may go, and the words after that.
fn try_targets(
    words: &[u32],
    (start_h, start_r, length): (usize, usize, usize),
    alignment: &Alignment,
    mut visit: impl FnMut(usize, Vec<u32>),
) {
    let mut previous = None;
    // before the first word of the block's place in the reference, then after each of its words but the last
    for offset in 0..=length {
        let target = match (start_r + offset).checked_sub(1) {
            None => 0,
            Some(position) => match alignment.hypothesis_before.get(position) {
                Some(&target) => target,
                None => break,
            },
        };
        if previous != Some(target) {
            previous = Some(target);
            visit(target, shift(words, start_h, length, target));
        }
    }
}

/// Moves `length` words from `start` to before the word `target`.
fn shift(words: &[u32], start: usize, length: usize, target: usize) -> Vec<u32> {
    let end = start + length;
    let block = &words[start..end];
    if target < start {
        [&words[..target], block, &words[target..start], &words[end..]].concat()
    } else if target > end {
        [&words[..start], &words[end..target], block, &words[target..]].concat()
    } else {
        // inside itself: as many words as it would move by come before it
        let after = (length + target).min(words.len());
        [&words[..start], &words[end..after], block, &words[after..]].concat()
    }
}

/// One step of turning the hypothesis into the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Same,
    Substitute,
    /// A reference word that the hypothesis lacks.
    Insert,
    /// A hypothesis word too many.
    Delete,
}

/// Which words of both sides belong together.
struct Alignment {
    /// For each reference position: one past the hypothesis position aligned to it.
    hypothesis_before: Vec<usize>,
    reference_errors: Vec<bool>,
    hypothesis_errors: Vec<bool>,
}

impl Alignment {
    fn of(trace: &[Op]) -> Alignment {
        let mut alignment =
            Alignment { hypothesis_before: Vec::new(), reference_errors: Vec::new(), hypothesis_errors: Vec::new() };
        for &op in trace {
            if op != Op::Insert {
                alignment.hypothesis_errors.push(op != Op::Same);
            }
            if op != Op::Delete {
                alignment.hypothesis_before.push(alignment.hypothesis_errors.len());
                alignment.reference_errors.push(op != Op::Same);
            }
        }
        alignment
    }

    /// Whether a block is worth a shift: something is wrong on both sides, and its place is not within itself.
    fn allows(&self, start_h: usize, start_r: usize, length: usize) -> bool {
        let wrong = |errors: &[bool], start: usize| errors[start..start + length].iter().any(|&error| error);
        // one past the aligned position, so `<` and `<=` swap
        let before = self.hypothesis_before[start_r];
        let within = start_h < before && before <= start_h + length;
        wrong(&self.hypothesis_errors, start_h) && wrong(&self.reference_errors, start_r) && !within
    }
}

/// Levenshtein distance to one reference within a beam around the diagonal. Hypotheses must all have the length given at
/// the start; rows of the prefix that two calls in a row share are kept.
struct Distance<'a> {
    reference: &'a [u32],
    words: Vec<u32>,
    /// One row a hypothesis word and one before the first: the columns of 0..=`reference.len()` that lie in the beam, and
    /// the first of their cells. The others are infinitely far away.
    rows: Vec<(Range<usize>, usize)>,
    cost: Vec<u32>,
    op: Vec<Op>,
    /// Rows whose words are those of `words`.
    valid: usize,
}

impl<'a> Distance<'a> {
    fn new(length: usize, reference: &'a [u32]) -> Self {
        let columns = reference.len() + 1;
        let ratio = if length == 0 { 1.0 } else { reference.len() as f64 / length as f64 };
        // wide enough that neighbouring rows overlap when the lengths differ very much
        let wide = if (BEAM_WIDTH as f64) < ratio / 2.0 { ratio / 2.0 } else { 0.0 };
        let beam = (BEAM_WIDTH as f64 + wide).ceil() as usize;
        let band = |i: usize| {
            let diagonal = (i as f64 * ratio).floor() as usize;
            diagonal.saturating_sub(beam)..if i == length { columns } else { columns.min(diagonal + beam) }
        };
        let mut rows = vec![(0..columns, 0)];
        let mut cells = columns;
        for i in 1..=length {
            rows.push((band(i), cells));
            cells += band(i).len();
        }
        let mut cost = vec![INFINITY; cells];
        for (cell, distance) in cost[..columns].iter_mut().zip(0..) {
            *cell = distance;
        }
        Distance { reference, words: vec![0; length], rows, op: vec![Op::Insert; cells], cost, valid: 0 }
    }

    /// The distance of these words.
    fn of(&mut self, words: &[u32]) -> u32 {
        let common = self.words[..self.valid].iter().zip(words).take_while(|(a, b)| a == b).count();
        self.words.copy_from_slice(words);
        for i in common + 1..=words.len() {
            self.fill_row(i);
        }
        self.valid = words.len();
        self.cost[self.cost.len() - 1]
    }

    fn fill_row(&mut self, i: usize) {
        let ((band_above, start_above), (band, start)) = (&self.rows[i - 1], &self.rows[i]);
        let (above, row) = self.cost.split_at_mut(*start);
        let (above, ops) = (&above[*start_above..], &mut self.op[*start..]);
        let above = |j: usize| if band_above.contains(&j) { above[j - band_above.start] } else { INFINITY };
        let mut left = INFINITY;
        for (cell, j) in band.clone().enumerate() {
            if j == 0 {
                left = above(0) + 1;
                (row[0], ops[0]) = (left, Op::Delete);
                continue;
            }
            let (cost, op) =
                if self.words[i - 1] == self.reference[j - 1] { (0, Op::Same) } else { (1, Op::Substitute) };
            // of equal costs the first wins: tercom's order, deletion and insertion swapped as the alignment is read from
            // the other side
            let mut best = (INFINITY, Op::Substitute);
            for (cost, op) in [(above(j - 1) + cost, op), (above(j) + 1, Op::Delete), (left + 1, Op::Insert)] {
                if cost < best.0 {
                    best = (cost, op);
                }
            }
            left = best.0;
            (row[cell], ops[cell]) = best;
        }
    }

    /// The edits of the last words given, from their first to their last.
    fn trace(&self) -> Vec<Op> {
        let (mut i, mut j) = (self.words.len(), self.reference.len());
        let mut trace = Vec::with_capacity(i + j);
        while i > 0 || j > 0 {
            let (band, start) = &self.rows[i];
            let op = if band.contains(&j) { self.op[start + j - band.start] } else { Op::Insert };
            trace.push(op);
            i = i.saturating_sub(usize::from(op != Op::Insert));
            j = j.saturating_sub(usize::from(op != Op::Delete));
        }
        trace.reverse();
        trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_block_is_one_edit() {
        assert_eq!(edits(&[4, 5, 6, 1, 2, 3], &[1, 2, 3, 4, 5, 6]), 1);
        assert_eq!(edits(&[1, 2, 3], &[1, 2, 3]), 0);
    }

    #[test]
    fn a_missing_side_costs_the_other() {
        assert_eq!(edits(&[], &[1, 2, 3]), 3);
        assert_eq!(edits(&[1, 2], &[]), 2);
    }

    #[test]
    fn shifts_keep_all_words_wherever_they_go() {
        let words = [0, 1, 2, 3, 4, 5];
        assert_eq!(shift(&words, 3, 2, 1), [0, 3, 4, 1, 2, 5]);
        assert_eq!(shift(&words, 1, 2, 5), [0, 3, 4, 1, 2, 5]);
        assert_eq!(shift(&words, 1, 2, 2), [0, 3, 1, 2, 4, 5]);
        for target in 0..=6 {
            let mut shifted = shift(&words, 3, 3, target);
            shifted.sort_unstable();
            assert_eq!(shifted, words);
        }
    }

    #[test]
    fn memory_follows_the_length() {
        let long: Vec<u32> = (0..20_000).collect();
        let distance = Distance::new(long.len(), &long);
        assert!(distance.cost.len() < 60 * long.len(), "{} cells", distance.cost.len());
        assert_eq!(edits(&long[1..], &long), 1);
    }

    #[test]
    fn words_outside_the_beam_do_not_match_as_in_sacrebleu() {
        let long: Vec<u32> = (0..400).collect();
        assert_eq!(edits(&[7], &long), 400);
        assert_eq!(edits(&[390], &long), 399);
        assert_eq!(edits(&long[..5], &long), 400);
        assert_eq!(edits(&long[300..305], &long), 399);
        assert_eq!(edits(&long, &[7, 8]), 398);
        assert_eq!(edits(&long, &[390]), 399);
    }
}
