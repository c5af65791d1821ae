//! The most probable pieces of a line (Kudo 2018), as SentencePiece's `EncodeOptimized` finds them, rounding and ties
//! included.

use super::model::Cut;
use super::normalize::char_length;
use super::{Kind, SentencePiece};

/// A character in no piece costs this more than the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The score of user-defined pieces, better than that of any others.
const USER_DEFINED: f32 = -0.1;

/// The best way to a position.
#[derive(Clone, Copy, Default)]
struct Best {
    id: u32,
    score: f32,
    /// Where its last piece begins; nothing ends here yet without it.
    start: Option<usize>,
}

impl SentencePiece {
    pub(super) fn unigram(&self, text: &[u8]) -> Vec<Cut> {
        let mut best = vec![Best::default(); text.len() + 1];
        let mut start = 0;
        while start < text.len() {
            let so_far = best[start].score;
            start += self.pieces_at(&text[start..], |bytes, id, score| {
                best[start + bytes].improve(score + so_far, start, id);
            });
        }
        let (mut cuts, mut end) = (Vec::new(), text.len());
        while let Some(start) = best[end].start {
            cuts.push((end, best[end].id));
            end = start;
        }
        cuts.reverse();
        cuts
    }

    /// Gives bytes, id and score of each piece that the text begins with, and the unknown one for want of a piece of one
    /// character. Returns the bytes of that character.
    pub(super) fn pieces_at(&self, text: &[u8], mut give: impl FnMut(usize, u32, f32)) -> usize {
        let length = char_length(text[0]).min(text.len());
        let mut is_known = false;
        for (bytes, id) in self.text.prefixes(text) {
            let piece = self.piece(id);
            let score = match piece.kind {
                Kind::Unused => continue,
                Kind::UserDefined => USER_DEFINED,
                _ => piece.score,
            };
            give(bytes, id, score);
            is_known |= bytes == length;
        }
        if !is_known {
            give(length, self.unknown, self.min_score - UNKNOWN_PENALTY);
        }
        length
    }
}

impl Best {
    fn improve(&mut self, score: f32, start: usize, id: u32) {
        if self.start.is_none() || score > self.score {
            *self = Best { id, score, start: Some(start) };
        }
    }
}
