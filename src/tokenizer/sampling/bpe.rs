//! Pieces drawn from the merges of a `tokenizer.json`. With nothing left out they are those of the tokenizers crate.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::models::bpe::BPE;

use super::Bytes;
use crate::rng::Stream;
use crate::sentencepiece::{is_space, Border, Join, Part, Scratch, Trie};
use crate::tokenizer::{Error, Result};

/// A BPE model.
pub(super) struct Bpe {
    /// Ids of pieces.
    vocabulary: Trie,
    /// The range of each left piece in `merges`.
    ranges: Vec<u32>,
    /// By left, then right piece.
    merges: Vec<Merge>,
    unk: Option<u32>,
    /// Of pieces within and at the end of words.
    prefix: String,
    suffix: String,
    fuses_unknown: bool,
    bytes: Bytes,
    /// A word that is a piece is one, whatever merges make of it.
    ignores_merges: bool,
    border: Option<Border>,
}

struct Merge {
    right: u32,
    join: Join,
}

impl Bpe {
    /// # Errors
    /// What the library can not write.
    pub(super) fn of(model: &BPE) -> Result<Self> {
        let broken = || Error::Library("a BPE model without merges".to_string());
        // its merges are to be had in this way only
        let json = serde_json::to_value(model).map_err(|e| Error::Library(e.to_string()))?;
        let mut pieces: Vec<(String, u32)> = model.get_vocab().into_iter().collect();
        pieces.sort_unstable();
        let ids: HashMap<&str, u32> = pieces.iter().map(|(piece, id)| (piece.as_str(), *id)).collect();
        let prefix = model.continuing_subword_prefix.clone().unwrap_or_default();
        let mut joins = Vec::new();
        for (rank, merge) in json["merges"].as_array().ok_or_else(broken)?.iter().enumerate() {
            let (left, right) = two(merge).ok_or_else(broken)?;
            // the library cuts the prefix off by its length
            let whole = format!("{left}{}", right.get(prefix.len()..).unwrap_or_default());
            let id = |piece: &str| ids.get(piece).copied().ok_or_else(broken);
            joins.push((id(left)?, Merge { right: id(right)?, join: Join { order: -(rank as i64), id: id(&whole)? } }));
        }
        joins.sort_by_key(|(left, merge)| (*left, merge.right));
        let size = ids.values().max().map_or(0, |id| id + 1);
        let ranges = (0..=size).map(|id| joins.partition_point(|(left, _)| *left < id) as u32).collect();
        Ok(Bpe {
            ranges,
            border: Border::of(pieces.iter().map(|(piece, _)| piece.as_str())),
            merges: joins.into_iter().map(|(_, merge)| merge).collect(),
            unk: model.unk_token.as_deref().and_then(|name| ids.get(name)).copied(),
            prefix,
            suffix: model.end_of_word_suffix.clone().unwrap_or_default(),
            fuses_unknown: model.fuse_unk,
            bytes: Bytes::of(&ids, model.byte_fallback),
            ignores_merges: model.ignore_merges,
            vocabulary: Trie::new(pieces.iter().map(|(piece, id)| (piece.as_bytes(), *id)).collect()),
        })
    }

    /// Adds the ids of a word, merges left out with probability `p`.
    pub(super) fn sample(&self, text: &[u8], p: f64, scratch: &mut Scratch, rng: &mut Stream, ids: &mut Vec<u32>) {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let first = ids.len();
        if let Some(whole) = self.vocabulary.get(text.as_bytes()).filter(|_| self.ignores_merges) {
            // a piece that merges do not make is left out as a whole; p = 0 is asked of no one
            self.merge(text, scratch, || false, ids);
            let is_made = ids[first..] == [whole];
            ids.truncate(first);
            if !is_made && rng.uniform() >= p {
                ids.push(whole);
                return;
            }
        }
        self.merge(text, scratch, || rng.uniform() < p, ids);
    }

    fn merge(&self, text: &str, scratch: &mut Scratch, mut leaves_out: impl FnMut() -> bool, ids: &mut Vec<u32>) {
        let Scratch { merging, parts, .. } = scratch;
        let mut finish = |parts: &mut Vec<Part>| {
            merging.merge(parts, |a, b| self.join(a, b), &mut leaves_out);
            ids.extend(parts.drain(..).map(|part| part.id));
        };
        parts.clear();
        let (mut is_unknown, mut left) = (false, None);
        for (at, character) in text.char_indices() {
            let (end, right) = (at + character.len_utf8(), is_space(character));
            let ends_word = self.border.is_some_and(|border| left.is_some_and(|left| border.lies(left, right)));
            left = Some(right);
            if let Some(id) = self.leaf(&text[at..end], at == 0, end == text.len()) {
                push(self.unk.filter(|_| std::mem::take(&mut is_unknown)), parts);
                if ends_word {
                    finish(parts);
                }
                push(Some(id), parts);
            } else if let Some(bytes) = self.bytes.spell(&text[at..end]) {
                push(bytes, parts);
            } else {
                push(self.unk.filter(|_| is_unknown && !self.fuses_unknown), parts);
                is_unknown = true;
            }
        }
        push(self.unk.filter(|_| is_unknown), parts);
        finish(parts);
    }

    /// The piece of a character in its place.
    fn leaf(&self, character: &str, is_first: bool, is_last: bool) -> Option<u32> {
        let prefix = if is_first { "" } else { self.prefix.as_str() };
        let suffix = if is_last { self.suffix.as_str() } else { "" };
        match (prefix, suffix) {
            ("", "") => self.vocabulary.get(character.as_bytes()),
            _ => self.vocabulary.get([prefix, character, suffix].concat().as_bytes()),
        }
    }

    fn join(&self, a: Part, b: Part) -> Option<Join> {
        let left = a.id as usize;
        let merges = &self.merges[self.ranges[left] as usize..self.ranges[left + 1] as usize];
        merges.binary_search_by_key(&b.id, |merge| merge.right).ok().map(|at| merges[at].join)
    }
}

/// Places do not matter to merges by ids, but order does.
fn push(ids: impl IntoIterator<Item = u32>, parts: &mut Vec<Part>) {
    for id in ids {
        let start = parts.last().map_or(0, |part| part.end);
        parts.push(Part { start, end: start + 1, id });
    }
}

fn two(merge: &Value) -> Option<(&str, &str)> {
    Some((merge.get(0)?.as_str()?, merge.get(1)?.as_str()?))
}
