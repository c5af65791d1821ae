//! Draws one of all ways to cut a text into pieces (subword regularization, Kudo 2018, §3.3): a way has the probability
//! of its pieces, to the power α, over the sum of all ways. Forward filtering, backward sampling, so exactly that.

use super::model::Cut;
use crate::rng::Stream;

/// A piece at a place of the text.
struct Arc {
    start: usize,
    id: u32,
    /// α times the logarithm of its probability.
    score: f64,
    /// The arc before among those with the same end.
    other: Option<u32>,
}

/// What ends at a place.
#[derive(Clone, Copy)]
struct Place {
    /// Logarithm of the summed weights of all ways to get here.
    mass: f64,
    last: Option<u32>,
}

/// All ways through a text; keeps its memory for the next one.
#[derive(Default)]
pub struct Lattice {
    arcs: Vec<Arc>,
    places: Vec<Place>,
}

impl Lattice {
    /// Before any piece of a text of so many bytes.
    pub fn begin(&mut self, length: usize) {
        self.arcs.clear();
        self.places.clear();
        self.places.resize(length + 1, Place { mass: f64::NEG_INFINITY, last: None });
        self.places[0].mass = 0.0;
    }

    /// A piece; those that begin earlier come first. `score` is α times its log-probability.
    pub fn add(&mut self, start: usize, end: usize, id: u32, score: f64) {
        let mass = add_logs(self.places[end].mass, self.places[start].mass + score);
        let other = self.places[end].last.replace(self.arcs.len() as u32);
        self.places[end].mass = mass;
        self.arcs.push(Arc { start, id, score, other });
    }

    /// Adds the pieces of one way to `found`, whose places are behind `offset`; none if no way leads to the end.
    pub fn draw(&self, offset: usize, rng: &mut Stream, found: &mut Vec<Cut>) {
        let begin = found.len();
        let mut end = self.places.len() - 1;
        while let Some(arc) = self.choose(end, rng) {
            found.push((offset + end, arc.id));
            end = arc.start;
        }
        found[begin..].reverse();
    }

    /// One of the pieces that end here, by its share of all ways to get here.
    fn choose(&self, end: usize, rng: &mut Stream) -> Option<&Arc> {
        let place = &self.places[end];
        let mut arc = &self.arcs[place.last? as usize];
        if arc.other.is_none() {
            return Some(arc);
        }
        let mut rest = rng.uniform();
        // what rounding leaves of the sum is the first arc's
        while let Some(other) = arc.other {
            rest -= (self.places[arc.start].mass + arc.score - place.mass).exp();
            if rest < 0.0 {
                break;
            }
            arc = &self.arcs[other as usize];
        }
        Some(arc)
    }
}

/// ln(exp(a) + exp(b)).
fn add_logs(a: f64, b: f64) -> f64 {
    let (less, more) = if a < b { (a, b) } else { (b, a) };
    if less == f64::NEG_INFINITY {
        return more;
    }
    more + (less - more).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rng::{indexed_stream, Purpose};

    const PIECES: [(&str, f64); 8] =
        [("a", -2.0), ("b", -1.5), ("c", -3.0), ("ab", -2.2), ("bc", -3.1), ("abc", -4.0), ("ca", -2.9), ("aa", -9.0)];

    /// Probabilities of all ways, not yet divided by their sum.
    fn ways(text: &str, alpha: f64) -> Vec<(String, f64)> {
        if text.is_empty() {
            return vec![(String::new(), 1.0)];
        }
        let begins = PIECES.iter().filter(|(piece, _)| text.starts_with(piece));
        begins
            .flat_map(|(piece, score)| {
                let rest = ways(&text[piece.len()..], alpha).into_iter();
                rest.map(move |(way, weight)| (format!("{piece} {way}"), weight * (alpha * score).exp()))
            })
            .collect()
    }

    #[test]
    fn ways_are_drawn_by_their_exact_probabilities() {
        const DRAWS: u64 = 40_000;
        for (text, alpha) in [("abcabc", 1.0), ("abcabc", 0.1), ("aabca", 0.5), ("ba", 3.0), ("c", 0.2)] {
            let wanted = ways(text, alpha);
            let total: f64 = wanted.iter().map(|(_, weight)| weight).sum();
            let mut lattice = Lattice::default();
            lattice.begin(text.len());
            for start in 0..text.len() {
                for (id, (piece, score)) in PIECES.iter().enumerate() {
                    if text[start..].starts_with(piece) {
                        lattice.add(start, start + piece.len(), id as u32, alpha * score);
                    }
                }
            }
            let mut found = BTreeMap::<String, u64>::new();
            for draw in 0..DRAWS {
                let mut cuts = Vec::new();
                lattice.draw(7, &mut indexed_stream(3, Purpose::Segmentation, 0, draw), &mut cuts);
                assert_eq!(cuts.last().map(|cut| cut.0), Some(7 + text.len()));
                let way: String = cuts.iter().map(|(_, id)| format!("{} ", PIECES[*id as usize].0)).collect();
                *found.entry(way).or_default() += 1;
            }
            for (way, weight) in &wanted {
                let (share, probability) = (found.remove(way).unwrap_or(0) as f64 / DRAWS as f64, weight / total);
                let deviation = (probability * (1.0 - probability) / DRAWS as f64).sqrt();
                assert!(
                    (share - probability).abs() < 4.5 * deviation + 2.0 / DRAWS as f64,
                    "{way}: {share} {probability}"
                );
            }
            assert!(found.is_empty(), "{found:?}");
        }
    }

    #[test]
    fn long_texts_do_not_underflow() {
        let (length, mut lattice) = (20_000, Lattice::default());
        lattice.begin(length);
        for start in 0..length {
            lattice.add(start, start + 1, 0, -15.0);
            if start + 2 <= length {
                lattice.add(start, start + 2, 1, -30.0);
            }
        }
        let mut cuts = Vec::new();
        lattice.draw(0, &mut indexed_stream(3, Purpose::Segmentation, 0, 0), &mut cuts);
        // the golden ratio: both pieces are equally good a byte, and ways are equally likely
        let share = cuts.iter().filter(|(_, id)| *id == 1).count() as f64 / cuts.len() as f64;
        assert!((share - 0.382).abs() < 0.02, "{share}");
    }

    #[test]
    fn a_text_without_a_way_has_no_pieces() {
        let (mut lattice, mut cuts) = (Lattice::default(), Vec::new());
        lattice.begin(0);
        lattice.draw(0, &mut indexed_stream(3, Purpose::Segmentation, 0, 0), &mut cuts);
        lattice.begin(3);
        lattice.draw(0, &mut indexed_stream(3, Purpose::Segmentation, 0, 0), &mut cuts);
        assert!(cuts.is_empty());
    }
}
