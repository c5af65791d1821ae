//! Pieces of SentencePiece's BPE model: any two neighbours are merged that make a piece, those with the best score first.

use std::collections::BTreeMap;

use super::merging::{Join, Merging, Part};
use super::model::Cut;
use super::{Kind, SentencePiece};

/// What a part is known by: one that grows, or a user-defined piece, which is never merged.
const OPEN: u32 = 0;
const FROZEN: u32 = 1;

impl SentencePiece {
    /// Adds the pieces of `text[start..end]`; see [`Merging`] for `leaves_out`.
    pub(super) fn bpe(
        &self,
        text: &[u8],
        (start, end): (usize, usize),
        merging: &mut Merging,
        leaves_out: impl FnMut() -> bool,
        found: &mut Vec<Cut>,
    ) {
        let mut parts = self.symbols(text, start, end);
        // pieces that are never given out: where to cut them again
        let mut unused: BTreeMap<&[u8], usize> = BTreeMap::new();
        let join = |a: Part, b: Part| {
            if a.id == FROZEN || b.id == FROZEN {
                return None;
            }
            let whole = &text[a.start..b.end];
            let piece = self.piece(self.text.get(whole)?);
            if piece.kind == Kind::Unused {
                unused.insert(whole, a.end - a.start);
            }
            Some(Join { order: order(piece.score), id: OPEN })
        };
        merging.merge(&mut parts, join, leaves_out);
        for part in parts {
            self.give_out(text, &unused, part.start, part.end, found);
        }
    }

    /// Characters and user-defined pieces.
    fn symbols(&self, text: &[u8], mut start: usize, end: usize) -> Vec<Part> {
        let mut parts = Vec::with_capacity(end - start);
        while start < end {
            let (length, frozen) = self.symbol(&text[start..end]);
            parts.push(Part { start, end: start + length, id: if frozen { FROZEN } else { OPEN } });
            start += length;
        }
        parts
    }

    /// The piece, or the parts of one that is not given out.
    fn give_out(&self, text: &[u8], unused: &BTreeMap<&[u8], usize>, start: usize, end: usize, found: &mut Vec<Cut>) {
        let piece = &text[start..end];
        match unused.get(piece) {
            Some(&cut) => {
                self.give_out(text, unused, start, start + cut, found);
                self.give_out(text, unused, start + cut, end, found);
            }
            None => found.push((end, self.id(piece))),
        }
    }
}

/// Numbers in the order of [`f32::total_cmp`].
fn order(score: f32) -> i64 {
    let bits = score.to_bits() as i32;
    i64::from(bits ^ ((bits >> 31) as u32 >> 1) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_keep_their_order() {
        let rising = [f32::NEG_INFINITY, -3.5, -1e-20, -0.0, 0.0, 1e-20, 2.0, f32::INFINITY];
        assert!(rising.windows(2).all(|two| order(two[0]) < order(two[1])));
    }
}
