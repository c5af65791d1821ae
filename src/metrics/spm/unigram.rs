//! The most probable pieces of a line (Kudo 2018), as SentencePiece's `EncodeOptimized` finds them, single precision and
//! ties included.

use super::{char_length, SentencePiece};
use crate::sentencepiece::Kind;

/// A character in no piece costs this more than the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best way to a position.
#[derive(Clone, Copy, Default)]
struct Best {
    id: u32,
    score: f32,
    /// Where its last piece begins; nothing ends here yet without it.
    start: Option<usize>,
}

impl SentencePiece {
    /// Pieces of normalized text with their ids.
    pub(super) fn unigram<'a>(&self, text: &'a [u8]) -> Vec<(&'a [u8], u32)> {
        let unknown_score = self.min_score - UNKNOWN_PENALTY;
        let mut best = vec![Best::default(); text.len() + 1];
        let mut start = 0;
        while start < text.len() {
            let so_far = best[start].score;
            let length = char_length(text[start]).min(text.len() - start);
            let mut is_known = false;
            for (end, id) in self.pieces_at(text, start) {
                let piece = self.piece(id);
                let score = match piece.kind {
                    Kind::Unused => continue,
                    // in the library the length times a score that is all but zero, less this
                    Kind::UserDefined => -0.1,
                    _ => piece.score,
                };
                let score = score + so_far;
                if best[end].start.is_none() || score > best[end].score {
                    best[end] = Best { id, score, start: Some(start) };
                }
                is_known |= end - start == length;
            }
            if !is_known {
                let (end, score) = (start + length, unknown_score + so_far);
                if best[end].start.is_none() || score > best[end].score {
                    best[end] = Best { id: self.unknown, score, start: Some(start) };
                }
            }
            start += length;
        }
        let (mut found, mut end) = (Vec::new(), text.len());
        while let Some(start) = best[end].start {
            found.push((&text[start..end], best[end].id));
            end = start;
        }
        found.reverse();
        found
    }

    /// Ends and ids of the pieces that begin here, shortest first.
    fn pieces_at<'a>(&'a self, text: &'a [u8], start: usize) -> impl Iterator<Item = (usize, u32)> + 'a {
        let last = text.len().min(start + self.longest);
        (start + 1..=last).filter_map(move |end| Some((end, *self.text.get(&text[start..end])?)))
    }
}
