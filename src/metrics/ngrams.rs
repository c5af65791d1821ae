//! N-grams as sorted multisets: counts, unions and overlaps without hash order.

use std::collections::HashMap;

/// Gives equal words equal numbers within one segment.
#[derive(Default)]
pub(super) struct Numbering<'a>(HashMap<&'a str, u32>);

impl<'a> Numbering<'a> {
    /// The number of every word, new words counted on.
    pub(super) fn number(&mut self, words: impl Iterator<Item = &'a str>) -> Vec<u32> {
        words
            .map(|word| {
                let next = self.0.len() as u32;
                *self.0.entry(word).or_insert(next)
            })
            .collect()
    }
}

/// Bits that hold one Unicode scalar value; six of them fit a key.
pub(super) const CHAR_BITS: u32 = 21;
/// Bits that hold one word number; four of them fit a key.
pub(super) const WORD_BITS: u32 = 32;

/// All n-grams of order `n` in ascending order, repeats kept. Each is one integer of `n` symbols of `bits` bits, so
/// `n * bits` must be 128 at most.
pub(super) fn sorted_ngrams(symbols: &[u32], n: usize, bits: u32) -> Vec<u128> {
    debug_assert!(n as u32 * bits <= u128::BITS);
    let mut ngrams: Vec<u128> =
        symbols.windows(n).map(|w| w.iter().fold(0, |key, &symbol| (key << bits) | u128::from(symbol))).collect();
    ngrams.sort_unstable();
    ngrams
}

/// Size of the multiset intersection: the clipped matches.
pub(super) fn overlap(a: &[u128], b: &[u128]) -> u64 {
    let (mut i, mut j, mut matches) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                matches += 1;
                i += 1;
                j += 1;
            }
        }
    }
    matches
}

/// The multiset union: every n-gram as often as in the side that has it more often.
pub(super) fn union(a: &[u128], b: &[u128]) -> Vec<u128> {
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::with_capacity(a.len().max(b.len()));
    while i < a.len() && j < b.len() {
        let smaller = a[i].min(b[j]);
        i += usize::from(a[i] == smaller);
        j += usize::from(b[j] == smaller);
        out.push(smaller);
    }
    out.extend_from_slice(&a[i..]);
    out.extend_from_slice(&b[j..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_clips_and_union_takes_the_larger_count() {
        let (a, b) = ([1, 1, 1, 2, 4], [1, 1, 2, 2, 3]);
        assert_eq!(overlap(&a, &b), 3);
        assert_eq!(union(&a, &b), [1, 1, 1, 2, 2, 3, 4]);
    }

    #[test]
    fn ngrams_longer_than_the_text_do_not_exist() {
        assert_eq!(sorted_ngrams(&[7, 8], 3, WORD_BITS), []);
        assert_eq!(sorted_ngrams(&[2, 1, 2], 1, CHAR_BITS), [1, 2, 2]);
    }
}
