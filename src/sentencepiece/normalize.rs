//! SentencePiece's normalization: replacements of the longest prefix by a table, white space as `▁`.

use super::trie::Trie;
use super::{Rules, SPACE};

/// The rules of a model.
pub(super) struct Normalizer {
    pub(super) rules: Rules,
    /// A double-array trie (darts-clone): prefixes that are replaced.
    trie: Vec<u32>,
    /// The replacements, each ended by 0.
    replacements: Vec<u8>,
    /// Taken as they are; `None` where there are none.
    user_defined: Option<Trie>,
}

impl Normalizer {
    /// `None` when the table is damaged.
    pub(super) fn new(rules: Rules, user_defined: Vec<(&[u8], u32)>) -> Option<Self> {
        let user_defined = (!user_defined.is_empty()).then(|| Trie::new(user_defined));
        let (mut trie, mut replacements) = (Vec::new(), Vec::new());
        if !rules.charsmap.is_empty() {
            let (size, rest) = rules.charsmap.split_at_checked(4)?;
            let size = u32::from_le_bytes(size.try_into().ok()?) as usize;
            let (units, text) = rest.split_at_checked(size)?;
            trie = units.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
            replacements = text.to_vec();
        }
        Some(Normalizer { rules, trie, replacements, user_defined })
    }

    /// The bytes that the model cuts into pieces.
    pub(super) fn normalize(&self, line: &[u8]) -> Vec<u8> {
        let rules = &self.rules;
        let space: &[u8] = if rules.escape_whitespaces { SPACE.as_bytes() } else { b" " };
        let mut input = line;
        let mut out = Vec::with_capacity(input.len() * 3 / 2 + 3);
        if rules.remove_extra_whitespaces {
            while let Some((b" ", length)) = self.prefix(input) {
                input = &input[length..];
            }
        }
        if input.is_empty() {
            return out;
        }
        if rules.add_dummy_prefix && !rules.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
        let mut after_space = rules.remove_extra_whitespaces;
        while let Some((mut text, length)) = self.prefix(input) {
            while let (true, Some(rest)) = (after_space, text.strip_prefix(b" ")) {
                text = rest;
            }
            for byte in text {
                match byte {
                    b' ' => out.extend_from_slice(space),
                    _ => out.push(*byte),
                }
            }
            if let Some(last) = text.last() {
                after_space = *last == b' ';
            }
            after_space &= rules.remove_extra_whitespaces;
            input = &input[length..];
        }
        while rules.remove_extra_whitespaces && out.ends_with(space) {
            out.truncate(out.len() - space.len());
        }
        if rules.add_dummy_prefix && rules.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
        out
    }

    /// What the beginning of the input becomes, and how many bytes of it; `None` at the end.
    fn prefix<'a>(&'a self, input: &'a [u8]) -> Option<(&'a [u8], usize)> {
        let first = *input.first()?;
        let length = self.as_it_is(input);
        if length > 0 {
            return Some((&input[..length], length));
        }
        match self.replaced(input) {
            Some((start, length)) => {
                let text = self.replacements.get(start..).unwrap_or_default();
                let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
                Some((&text[..end], length))
            }
            None => {
                let length = char_length(first).min(input.len());
                Some((&input[..length], length))
            }
        }
    }

    pub(super) fn has_user_defined(&self) -> bool {
        self.user_defined.is_some()
    }

    /// Bytes of the longest user-defined piece here.
    pub(super) fn as_it_is(&self, input: &[u8]) -> usize {
        self.user_defined.as_ref().and_then(|pieces| pieces.prefixes(input).last()).map_or(0, |(length, _)| length)
    }

    /// The longest prefix in the table: where its replacement begins, and its bytes.
    fn replaced(&self, input: &[u8]) -> Option<(usize, usize)> {
        let unit = |position: usize| self.trie.get(position).copied();
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut position = offset(unit(0)?);
        let mut longest = None;
        for (&byte, length) in input.iter().zip(1..) {
            position ^= usize::from(byte);
            let Some(found) = unit(position).filter(|unit| unit & (1 << 31 | 0xFF) == u32::from(byte)) else { break };
            position ^= offset(found);
            if found >> 8 & 1 == 1 {
                longest = unit(position).map(|leaf| ((leaf & !(1 << 31)) as usize, length));
            }
        }
        longest
    }
}

/// Bytes of the character that begins with this one.
pub(super) fn char_length(first: u8) -> usize {
    match first {
        0..=0xBF => 1,
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        _ => 4,
    }
}
