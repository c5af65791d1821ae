//! Learns byte-pair merges (Sennrich et al. 2016, algorithm 1) with a strict order among equally frequent pairs.
//!
//! The trainer of the `tokenizers` crate keeps several queue entries for one pair when two merges spell the same
//! piece, and takes equal ones in the order of a randomly seeded hash map; it also counts in 32 bits. The merges
//! learnt here run in that crate's model.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Longest piece in characters, `▁` included.
const MAX_PIECE: usize = 16;
/// Least number of occurrences of a pair worth a piece.
const MIN_COUNT: i64 = 2;

type Pair = (u32, u32);

/// Pieces by id, and the merges in order of rank.
pub(super) struct Learnt {
    pub(super) pieces: Vec<String>,
    pub(super) merges: Vec<(String, String)>,
}

struct Learner {
    words: Vec<Vec<u32>>,
    counts: Vec<i64>,
    pairs: HashMap<Pair, i64>,
    /// Words that held the pair once; some no longer do.
    places: HashMap<Pair, Vec<u32>>,
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

/// Adds pieces to `first` (special tokens) and `alphabet` until there are `size`, or nothing repeats. `words` must
/// consist of characters of the alphabet.
pub(super) fn learn(first: &[&str], alphabet: &[char], words: &[(String, u64)], size: usize) -> Learnt {
    let mut pieces: Vec<String> = first.iter().map(|s| s.to_string()).collect();
    let mut ids: HashMap<String, u32> = HashMap::new();
    for character in alphabet {
        ids.insert(character.to_string(), pieces.len() as u32);
        pieces.push(character.to_string());
    }
    let mut lengths: Vec<usize> = vec![1; pieces.len()];
    let mut learner = Learner::new(words, &ids);
    let mut merges = Vec::new();
    while pieces.len() < size {
        let Some(pair) = learner.most_frequent() else { break };
        let (left, right) = (pair.0 as usize, pair.1 as usize);
        if lengths[left] + lengths[right] > MAX_PIECE {
            continue;
        }
        let text = format!("{}{}", pieces[left], pieces[right]);
        merges.push((pieces[left].clone(), pieces[right].clone()));
        let id = *ids.entry(text.clone()).or_insert_with(|| {
            pieces.push(text);
            lengths.push(lengths[left] + lengths[right]);
            pieces.len() as u32 - 1
        });
        learner.merge(pair, id);
    }
    Learnt { pieces, merges }
}

impl Learner {
    fn new(words: &[(String, u64)], ids: &HashMap<String, u32>) -> Self {
        let mut buffer = [0; 4];
        let mut learner = Learner {
            words: words
                .iter()
                .map(|(word, _)| word.chars().filter_map(|c| ids.get(&*c.encode_utf8(&mut buffer)).copied()).collect())
                .collect(),
            counts: words.iter().map(|(_, count)| *count as i64).collect(),
            pairs: HashMap::new(),
            places: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for (at, word) in learner.words.iter().enumerate() {
            for pair in word.windows(2) {
                let pair = (pair[0], pair[1]);
                *learner.pairs.entry(pair).or_insert(0) += learner.counts[at];
                let places = learner.places.entry(pair).or_default();
                if places.last() != Some(&(at as u32)) {
                    places.push(at as u32);
                }
            }
        }
        // the queue orders its entries totally, so the order of this map does not matter
        learner.queue = learner.pairs.iter().map(|(pair, count)| (*count, Reverse(*pair))).collect();
        learner
    }

    /// The most frequent pair, the smallest ids among equals; it will not be returned again unless it reappears.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.pairs.get(&pair).copied().unwrap_or(0);
            if now == count && now >= MIN_COUNT {
                self.pairs.remove(&pair);
                return Some(pair);
            }
            if now < count && now >= MIN_COUNT {
                self.queue.push((now, Reverse(pair)));
            }
        }
        None
    }

    /// Writes `id` for each occurrence of the pair.
    fn merge(&mut self, pair: Pair, id: u32) {
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown: Vec<Pair> = Vec::new();
        for at in places {
            let word = &mut self.words[at as usize];
            let count = self.counts[at as usize];
            if !word.windows(2).any(|w| (w[0], w[1]) == pair) {
                continue;
            }
            for old in word.windows(2) {
                if let Some(total) = self.pairs.get_mut(&(old[0], old[1])) {
                    *total -= count;
                }
            }
            replace(word, pair, id);
            for new in word.windows(2) {
                let new = (new[0], new[1]);
                *self.pairs.entry(new).or_insert(0) += count;
                if new.0 == id || new.1 == id {
                    let places = self.places.entry(new).or_default();
                    if places.last() != Some(&at) {
                        places.push(at);
                    }
                    grown.push(new);
                }
            }
        }
        grown.sort_unstable();
        grown.dedup();
        self.queue.extend(grown.into_iter().map(|pair| (self.pairs.get(&pair).copied().unwrap_or(0), Reverse(pair))));
    }
}

/// Left to right, without overlaps.
fn replace(word: &mut Vec<u32>, pair: Pair, id: u32) {
    let (mut read, mut write) = (0, 0);
    while read < word.len() {
        if read + 1 < word.len() && (word[read], word[read + 1]) == pair {
            word[write] = id;
            read += 2;
        } else {
            word[write] = word[read];
            read += 1;
        }
        write += 1;
    }
    word.truncate(write);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        list.iter().map(|(word, count)| (word.to_string(), *count)).collect()
    }

    #[test]
    fn merges_are_those_of_the_paper() {
        // Sennrich et al. 2016, figure 1, with "." for the end of a word
        let text = words(&[("low.", 5), ("lower.", 2), ("newest.", 6), ("widest.", 3)]);
        let learnt = learn(&[], &['.', 'd', 'e', 'i', 'l', 'n', 'o', 'r', 's', 't', 'w'], &text, 15);
        let merges: Vec<String> = learnt.merges.iter().map(|(a, b)| format!("{a}+{b}")).collect();
        // "e+s", "s+t", "t+." occur nine times each, then "t+." and "es+t": older pieces come first
        assert_eq!(merges, ["e+s", "t+.", "es+t.", "l+o"]);
        assert_eq!(learnt.pieces.len(), 15);
    }

    #[test]
    fn counts_stay_right_where_a_pair_overlaps_itself() {
        let learnt = learn(&[], &['a'], &words(&[("aaaa", 3), ("aaa", 2)]), 10);
        let merges: Vec<String> = learnt.merges.iter().map(|(a, b)| format!("{a}+{b}")).collect();
        assert_eq!(merges, ["a+a", "aa+aa", "aa+a"]);
    }

    #[test]
    fn a_piece_spelled_by_two_merges_has_one_id() {
        let text = words(&[("abc", 10), ("ab", 5), ("bcx", 30), ("xabc", 3)]);
        let learnt = learn(&[], &['a', 'b', 'c', 'x'], &text, 100);
        let mut pieces = learnt.pieces.clone();
        pieces.sort();
        pieces.dedup();
        assert_eq!(pieces.len(), learnt.pieces.len());
    }
}
