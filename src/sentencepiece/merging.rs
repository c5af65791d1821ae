//! Merges of neighbours, the best first (Sennrich et al. 2016), each left out at random where that is wanted: BPE-dropout
//! (Provilkov et al. 2020, algorithm 1).
//!
//! Of the merges that are possible at a step each is left out with a probability p; the best of the others is made. What
//! was left out may be made at a later step; a step that leaves out all of them is the last. Merges are looked at from the
//! best on until one is kept, for those behind it do not matter: one draw for each that is looked at.
//!
//! SentencePiece never returns to a merge that it left out, and so cuts more at the same p; the `tokenizers` crate does as
//! the paper and draws also for merges that are no longer possible.

use std::collections::BinaryHeap;

/// A part of a text: its range, and what the one who joins parts knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

/// What two neighbours become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The greatest is made first, of equal ones the leftmost.
    pub order: i64,
    pub id: u32,
}

/// A part among its neighbours; empty once it was merged into the one before.
#[derive(Clone, Copy)]
struct Link {
    part: Part,
    previous: Option<u32>,
    next: Option<u32>,
}

impl Link {
    fn len(&self) -> usize {
        self.part.end - self.part.start
    }
}

/// Two neighbours that can be merged.
#[derive(PartialEq, Eq)]
struct Merge {
    join: Join,
    left: u32,
    right: u32,
    size: usize,
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.join.order.cmp(&other.join.order).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Merges parts; keeps its memory for the next text.
#[derive(Default)]
pub struct Merging {
    links: Vec<Link>,
    agenda: BinaryHeap<Merge>,
    left_out: Vec<Merge>,
}

impl Merging {
    /// Replaces neighbours among `parts`, which lie side by side, as long as `join` says what two of them become;
    /// `leaves_out` is asked once for each merge that is looked at.
    pub fn merge(
        &mut self,
        parts: &mut Vec<Part>,
        mut join: impl FnMut(Part, Part) -> Option<Join>,
        mut leaves_out: impl FnMut() -> bool,
    ) {
        self.begin(parts);
        for left in 1..parts.len() as u32 {
            self.propose(Some(left - 1), Some(left), &mut join);
        }
        while let Some(merge) = self.agenda.pop() {
            let Merge { join: Join { id, .. }, left, right, size } = merge;
            let (a, b) = (self.links[left as usize], self.links[right as usize]);
            // one of the two was merged with another since
            if a.len() == 0 || b.len() == 0 || a.len() + b.len() != size {
                continue;
            }
            if leaves_out() {
                self.left_out.push(merge);
                continue;
            }
            self.agenda.extend(self.left_out.drain(..));
            let whole = Part { start: a.part.start, end: b.part.end, id };
            self.links[left as usize] = Link { part: whole, next: b.next, ..a };
            if let Some(next) = b.next {
                self.links[next as usize].previous = Some(left);
            }
            self.links[right as usize].part.start = b.part.end;
            self.propose(a.previous, Some(left), &mut join);
            self.propose(Some(left), b.next, &mut join);
        }
        self.left_out.clear();
        parts.clear();
        parts.extend(self.links.iter().filter(|link| link.len() > 0).map(|link| link.part));
    }

    fn begin(&mut self, parts: &[Part]) {
        let count = parts.len() as u32;
        self.links.clear();
        self.links.extend(parts.iter().zip(0u32..).map(|(&part, i)| Link {
            part,
            previous: i.checked_sub(1),
            next: (i + 1 < count).then_some(i + 1),
        }));
    }

    /// Puts two neighbours on the agenda if they become something.
    fn propose(&mut self, left: Option<u32>, right: Option<u32>, join: &mut impl FnMut(Part, Part) -> Option<Join>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (a, b) = (self.links[left as usize].part, self.links[right as usize].part);
        if let Some(join) = join(a, b) {
            self.agenda.push(Merge { join, left, right, size: b.end - a.start });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rng::{indexed_stream, Purpose};

    /// Merges of letters, the first is the best.
    const MERGES: [&str; 6] = ["bc", "ab", "cd", "abc", "aa", "bcd"];

    fn join(text: &str, a: Part, b: Part) -> Option<Join> {
        let rank = MERGES.iter().position(|merge| *merge == &text[a.start..b.end])?;
        Some(Join { order: -(rank as i64), id: 0 })
    }

    fn letters(text: &str) -> Vec<Part> {
        (0..text.len()).map(|at| Part { start: at, end: at + 1, id: 0 }).collect()
    }

    fn shown(text: &str, parts: &[Part]) -> String {
        parts.iter().map(|part| &text[part.start..part.end]).collect::<Vec<_>>().join(" ")
    }

    /// Algorithm 1 word for word: the probability of each result, by every choice of merges to leave out.
    fn exact(text: &str, parts: &[Part], p: f64, probability: f64, found: &mut BTreeMap<String, f64>) {
        let merges: Vec<(Join, usize)> =
            (1..parts.len()).filter_map(|i| Some((join(text, parts[i - 1], parts[i])?, i - 1))).collect();
        for kept in 0u32..1 << merges.len() {
            let share: f64 = (0..merges.len()).map(|i| if kept >> i & 1 == 1 { 1.0 - p } else { p }).product();
            let best = (0..merges.len()).filter(|i| kept >> i & 1 == 1).max_by_key(|&i| {
                let (join, at) = merges[i];
                (join.order, std::cmp::Reverse(at))
            });
            match best.map(|i| merges[i].1) {
                Some(at) => {
                    let mut next = parts.to_vec();
                    next[at].end = next[at + 1].end;
                    next.remove(at + 1);
                    exact(text, &next, p, probability * share, found);
                }
                None => *found.entry(shown(text, parts)).or_default() += probability * share,
            }
        }
    }

    #[test]
    fn words_are_cut_as_often_as_algorithm_1_of_the_paper_says() {
        const DRAWS: u64 = 40_000;
        for (text, p) in [("abcd", 0.1), ("abcd", 0.5), ("abcdaa", 0.3), ("aaaa", 0.4), ("dabcbcd", 0.2)] {
            let mut wanted = BTreeMap::new();
            exact(text, &letters(text), p, 1.0, &mut wanted);
            assert!((wanted.values().sum::<f64>() - 1.0).abs() < 1e-9);
            let (mut found, mut merging) = (BTreeMap::<String, u64>::new(), Merging::default());
            for draw in 0..DRAWS {
                let mut rng = indexed_stream(5, Purpose::Segmentation, 0, draw);
                let mut parts = letters(text);
                merging.merge(&mut parts, |a, b| join(text, a, b), || rng.uniform() < p);
                *found.entry(shown(text, &parts)).or_default() += 1;
            }
            for (cut, probability) in &wanted {
                let share = found.remove(cut).unwrap_or(0) as f64 / DRAWS as f64;
                let deviation = (probability * (1.0 - probability) / DRAWS as f64).sqrt();
                let off = (share - probability).abs();
                assert!(off < 4.5 * deviation + 2.0 / DRAWS as f64, "{text} {p} {cut}: {share} {probability}");
            }
            assert!(found.is_empty(), "{text} {p}: {found:?}");
        }
    }

    #[test]
    fn all_merges_are_made_or_none() {
        let cut = |text: &str, leaves_out: bool| {
            let mut parts = letters(text);
            Merging::default().merge(&mut parts, |a, b| join(text, a, b), || leaves_out);
            shown(text, &parts)
        };
        for (text, whole) in [("", ""), ("a", "a"), ("abcdabc", "abc d abc"), ("aaaaa", "aa aa a"), ("bcd", "bcd")] {
            assert_eq!(cut(text, false), whole);
            assert_eq!(cut(text, true), text.split("").filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" "));
        }
    }
}
