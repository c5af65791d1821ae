//! Losses of tokens by how often the training text has them: which words a model knows. A mean over all of them hides that
//! optimizers differ where tokens are rare.

use std::cmp::Reverse;

/// The last rank of each bin but the last one, which has the others and what training text never has. Rank 1 is the most
/// frequent token.
const EDGES: [usize; 5] = [30, 100, 300, 1000, 2000];

/// Names of the bins: in metrics.jsonl behind `nll_by_rank.`.
pub const NAMES: [&str; EDGES.len() + 1] = ["30", "100", "300", "1000", "2000", "more"];

/// The bin of each token of a vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Ranks(Vec<u8>);

impl Ranks {
    /// `counts[id]`: how often training text has that token. Of equal counts the smaller id has the smaller rank.
    pub fn of(counts: &[u64]) -> Self {
        let mut seen: Vec<usize> = (0..counts.len()).filter(|&id| counts[id] > 0).collect();
        seen.sort_by_key(|&id| (Reverse(counts[id]), id));
        let mut bins = vec![EDGES.len() as u8; counts.len()];
        for (before, id) in seen.into_iter().enumerate() {
            bins[id] = EDGES.partition_point(|&edge| edge <= before) as u8;
        }
        Ranks(bins)
    }
}

/// Mean losses, by bin.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ByRank {
    sums: [f64; NAMES.len()],
    tokens: [u64; NAMES.len()],
}

impl ByRank {
    /// Counts a token that cost `nll`; one that the ranks do not know is nowhere.
    pub fn add(&mut self, ranks: &Ranks, id: u32, nll: f64) {
        if let Some(&bin) = ranks.0.get(id as usize) {
            self.sums[usize::from(bin)] += nll;
            self.tokens[usize::from(bin)] += 1;
        }
    }

    /// Takes in those of other tokens.
    pub fn merge(&mut self, other: &ByRank) {
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, more)| *sum += more);
        self.tokens.iter_mut().zip(other.tokens).for_each(|(tokens, more)| *tokens += more);
    }

    /// Sum and tokens of each bin.
    pub fn parts(&self) -> [[f64; 2]; NAMES.len()] {
        std::array::from_fn(|bin| [self.sums[bin], self.tokens[bin] as f64])
    }

    /// The inverse of [`ByRank::parts`].
    pub fn of_parts(parts: [[f64; 2]; NAMES.len()]) -> Self {
        ByRank { sums: parts.map(|[sum, _]| sum), tokens: parts.map(|[_, tokens]| tokens as u64) }
    }

    /// Name and mean NLL in nats of the bins that have tokens, the most frequent first.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let bins = NAMES.iter().zip(&self.sums).zip(&self.tokens);
        bins.filter(|(_, &tokens)| tokens > 0).map(|((&name, &sum), &tokens)| (name, sum / tokens as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_in_the_bin_of_its_rank() {
        // id 0 is never there; id n is the n-th most frequent, but 7 and 8 as often
        let mut counts: Vec<u64> = (0..3000).map(|id| 10_000 - id).collect();
        (counts[0], counts[8]) = (0, counts[7]);
        let ranks = Ranks::of(&counts);
        let bin = |id: usize| NAMES[usize::from(ranks.0[id])];
        let edges = [(1, "30"), (30, "30"), (31, "100"), (100, "100"), (101, "300"), (300, "300"), (301, "1000")];
        for (rank, name) in edges.into_iter().chain([(1001, "2000"), (2000, "2000"), (2001, "more"), (2999, "more")]) {
            assert_eq!(bin(rank), name, "{rank}");
        }
        assert_eq!(bin(0), "more");
    }

    #[test]
    fn means_are_of_the_tokens_that_were_there() {
        let ranks = Ranks::of(&[5, 4, 0]);
        let mut found = ByRank::default();
        for (id, nll) in [(0, 1.0), (1, 2.0), (1, 3.0), (2, 7.0), (3, 99.0)] {
            found.add(&ranks, id, nll);
        }
        assert_eq!(found.iter().collect::<Vec<_>>(), [("30", 2.0), ("more", 7.0)]);
    }
}
