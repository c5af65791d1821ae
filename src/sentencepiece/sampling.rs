//! Pieces of a text drawn at random: BPE-dropout word by word, or one of all ways of a unigram model.

use super::lattice::Lattice;
use super::merging::{Merging, Part};
use super::model::Cut;
use super::{Kind, ModelType, Piece, SentencePiece, SPACE};
use crate::rng::Stream;

/// How pieces are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// Each possible merge is left out at each step with this probability, see [`Merging`].
    BpeDropout(f64),
    /// A way to cut has the probability of its pieces to the power of this, over the sum of all ways.
    Unigram(f64),
}

/// Memory of one text for the next.
#[derive(Default)]
pub struct Scratch {
    pub merging: Merging,
    pub lattice: Lattice,
    pub parts: Vec<Part>,
    pub cuts: Vec<Cut>,
}

/// Where words end, as no piece reaches over it: before the mark of a space, or behind it.
///
/// Steps of BPE-dropout are counted word by word: in a text merged as a whole, what is left out at a step would be made up
/// for while other words are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    Before,
    Behind,
}

impl Border {
    /// `None` where pieces reach over words, which are then cut as one.
    pub fn of<'a>(pieces: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let free = |border: Self| {
            let lies_in = |piece: &str| {
                let spaces = || piece.chars().map(is_space);
                spaces().zip(spaces().skip(1)).any(|(left, right)| border.lies(left, right))
            };
            !pieces.clone().any(lies_in)
        };
        [Border::Before, Border::Behind].into_iter().find(|border| free(*border))
    }

    /// Whether it lies between two characters, of which is known whether they are marks.
    pub fn lies(self, left: bool, right: bool) -> bool {
        match self {
            Border::Before => !left && right,
            Border::Behind => left && !right,
        }
    }
}

/// Whether a character marks spaces in pieces: SentencePiece's mark, that of byte-level vocabularies, or a space itself.
pub fn is_space(character: char) -> bool {
    matches!(character, '▁' | 'Ġ' | ' ')
}

impl SentencePiece {
    /// Whether it draws pieces in this way; models of words and of characters draw none.
    pub fn can(&self, sampling: Sampling) -> bool {
        match sampling {
            Sampling::BpeDropout(_) => self.model_type() == ModelType::Bpe,
            Sampling::Unigram(_) => self.model_type() == ModelType::Unigram,
        }
    }

    /// Gives pieces of a normalized line one by one, as [`SentencePiece::encode`] does; user-defined pieces stay whole.
    pub fn sample(
        &self,
        text: &[u8],
        sampling: Sampling,
        scratch: &mut Scratch,
        rng: &mut Stream,
        give: impl FnMut(&[u8], u32),
    ) {
        let mut cuts = std::mem::take(&mut scratch.cuts);
        cuts.clear();
        match sampling {
            Sampling::BpeDropout(p) => {
                for word in self.words_of(text) {
                    self.bpe(text, word, &mut scratch.merging, || rng.uniform() < p, &mut cuts);
                }
            }
            Sampling::Unigram(alpha) => self.draw(text, alpha, &mut scratch.lattice, rng, &mut cuts),
        }
        self.give(text, &cuts, give);
        scratch.cuts = cuts;
    }

    /// Ranges of words.
    fn words_of(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let Some(border) = self.border else { return vec![(0, text.len())] };
        let mark: &[u8] = if self.rules().escape_whitespaces { SPACE.as_bytes() } else { b" " };
        let (mut words, mut start, mut at, mut left) = (Vec::new(), 0, 0, None);
        while at < text.len() {
            let right = text[at..].starts_with(mark);
            if left.is_some_and(|left| border.lies(left, right)) {
                words.push((start, at));
                start = at;
            }
            let (length, _) = self.symbol(&text[at..]);
            left = Some(text[at..at + length].ends_with(mark));
            at += length;
        }
        words.push((start, text.len()));
        words
    }

    /// Adds one of all ways to cut a text. User-defined pieces are cut out first.
    fn draw(&self, text: &[u8], alpha: f64, lattice: &mut Lattice, rng: &mut Stream, cuts: &mut Vec<Cut>) {
        let mut start = 0;
        while start < text.len() {
            let end = self.next_user_defined(text, start);
            lattice.begin(end - start);
            let mut at = start;
            while at < end {
                at += self.pieces_at(&text[at..end], |length, id, score| {
                    lattice.add(at - start, at - start + length, id, alpha * f64::from(score));
                });
            }
            lattice.draw(start, rng, cuts);
            start = end;
            if let (length @ 1.., true) = self.symbol(&text[start..]) {
                start += length;
                cuts.push((start, self.id(&text[start - length..start])));
            }
        }
    }

    /// Where the next user-defined piece begins, the end of the text without one.
    fn next_user_defined(&self, text: &[u8], mut at: usize) -> usize {
        if !self.normalizer.has_user_defined() {
            return text.len();
        }
        while let (length @ 1.., false) = self.symbol(&text[at..]) {
            at += length;
        }
        at
    }
}

/// The border of words in a model with these pieces.
pub(super) fn border(pieces: &[Piece]) -> Option<Border> {
    let merged = |piece: &&Piece| matches!(piece.kind, Kind::Normal | Kind::Unused);
    Border::of(pieces.iter().filter(merged).map(|piece| piece.text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_where_no_piece_reaches() {
        let of = |pieces: &[&'static str]| Border::of(pieces.iter().copied());
        assert_eq!(of(&["▁", "▁a", "ab", "▁▁▁"]), Some(Border::Before));
        assert_eq!(of(&["a▁", "ab", "▁▁"]), Some(Border::Behind));
        assert_eq!(of(&["a▁b", "ab"]), None);
        assert_eq!(of(&[]), Some(Border::Before));
    }
}
