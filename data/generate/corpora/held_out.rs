//! Which combinations of words are kept out of the training text.
//!
//! A combination is a kind ("adjective", "object", …) and two words. Its hash decides for ever: one in sixteen is
//! reserved for the test set, another one in sixteen for the validation set, the rest is free.

use std::collections::BTreeMap;

/// Reserved combinations met while a sentence is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Marks {
    pub(crate) test: Vec<&'static str>,
    pub(crate) valid: Vec<&'static str>,
}

impl Marks {
    /// Notes the combination if it is reserved.
    pub(crate) fn meet(&mut self, kind: &'static str, a: &str, b: &str) {
        match hash(&[kind, a, b]) % 16 {
            0 => self.test.push(kind),
            1 => self.valid.push(kind),
            _ => {}
        }
    }

    pub(crate) fn is_free(&self) -> bool {
        self.test.is_empty() && self.valid.is_empty()
    }
}

/// FNV-1a with a final mix, over the parts and their borders.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut h: u64 = 0xCBF2_9CE4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0xFF]) {
            h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    h = (h ^ (h >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    h ^ (h >> 33)
}

/// Sentences that hold at least one reserved combination, by kind; "any" counts each sentence once.
pub(crate) fn tally<'a>(sentences: impl Iterator<Item = &'a [&'static str]>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for kinds in sentences {
        let mut kinds = kinds.to_vec();
        if !kinds.is_empty() {
            kinds.push("any");
        }
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            *counts.entry(kind).or_insert(0) += 1;
        }
    }
    counts
}
