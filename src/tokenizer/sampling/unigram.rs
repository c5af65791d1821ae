//! Pieces drawn from the Unigram model of a `tokenizer.json`: all ways to cut a word that the tokenizers crate considers,
//! with its scores.

use std::collections::HashMap;

use tokenizers::models::unigram::Unigram as Library;

use super::Bytes;
use crate::rng::Stream;
use crate::sentencepiece::{Scratch, Trie};
use crate::tokenizer::{Error, Result};

/// A character in no piece costs this more than the worst piece.
const UNKNOWN_PENALTY: f64 = 10.0;

/// A Unigram model.
pub(super) struct Unigram {
    pieces: Trie,
    /// By id.
    scores: Vec<f64>,
    unk: Option<u32>,
    unknown_score: f64,
    bytes: Bytes,
}

impl Unigram {
    /// # Errors
    /// What the library can not write.
    pub(super) fn of(model: &Library) -> Result<Self> {
        let pieces: Vec<(&str, u32)> = model.iter().zip(0..).map(|((piece, _), id)| (piece.as_str(), id)).collect();
        let ids: HashMap<&str, u32> = pieces.iter().copied().collect();
        let json = serde_json::to_value(model).map_err(|e| Error::Library(e.to_string()))?;
        // of a piece that is there twice the last one counts
        let strings = pieces.iter().filter(|(piece, id)| ids.get(piece) == Some(id));
        Ok(Unigram {
            scores: model.iter().map(|(_, score)| *score).collect(),
            unk: json["unk_id"].as_u64().map(|id| id as u32),
            unknown_score: model.min_score - UNKNOWN_PENALTY,
            bytes: Bytes::of(&ids, model.byte_fallback()),
            pieces: Trie::new(strings.map(|(piece, id)| (piece.as_bytes(), *id)).collect()),
        })
    }

    /// Adds the ids of a word, drawn with the power `alpha`.
    pub(super) fn sample(&self, text: &[u8], alpha: f64, scratch: &mut Scratch, rng: &mut Stream, ids: &mut Vec<u32>) {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let Scratch { lattice, cuts, .. } = scratch;
        lattice.begin(text.len());
        for (start, character) in text.char_indices() {
            let mut is_known = false;
            for (length, id) in self.pieces.prefixes(&text.as_bytes()[start..]) {
                lattice.add(start, start + length, id, alpha * self.scores[id as usize]);
                is_known |= length == character.len_utf8();
            }
            if let Some(unk) = self.unk.filter(|_| !is_known) {
                lattice.add(start, start + character.len_utf8(), unk, alpha * self.unknown_score);
            }
        }
        cuts.clear();
        lattice.draw(0, rng, cuts);
        let (mut start, mut unknown_from) = (0, None);
        for &(end, id) in cuts.iter() {
            if Some(id) == self.unk {
                unknown_from.get_or_insert(start);
            } else {
                if let Some(from) = unknown_from.take() {
                    self.unknown(&text[from..start], ids);
                }
                ids.push(id);
            }
            start = end;
        }
        if let Some(from) = unknown_from {
            self.unknown(&text[from..], ids);
        }
    }

    /// What is unknown in a row: a piece by chance, bytes, or the unknown one.
    fn unknown(&self, text: &str, ids: &mut Vec<u32>) {
        match (self.pieces.get(text.as_bytes()), self.bytes.spell(text)) {
            (Some(id), _) => ids.push(id),
            (None, Some(bytes)) => ids.extend(bytes),
            (None, None) => ids.extend(self.unk),
        }
    }
}
