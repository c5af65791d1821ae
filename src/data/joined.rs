//! Line breaks inside the fields of a file: one line in is one line out, so they become spaces, and are counted.

use serde::{Deserialize, Serialize};

use crate::config::Corpora;
use crate::units;

/// Fields with line breaks inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Fields, not breaks.
    pub count: u64,
    /// Index of the corpus of the first one.
    pub first_corpus: usize,
    /// 1-based line of the first one in its file.
    pub first_line: u64,
}

impl Joined {
    /// For the pre-flight table: "3 fields had line breaks inside, now spaces, the first at t.jsonl:1".
    pub fn describe(&self, corpora: &Corpora) -> String {
        let file = corpora.0.get(self.first_corpus).and_then(|corpus| corpus.files.first());
        let s = if self.count == 1 { "" } else { "s" };
        let place = format!("{}:{}", file.map_or("", String::as_str), self.first_line);
        format!("{} field{s} had line breaks inside, now spaces, the first at {place}", units::count(self.count))
    }

    /// Adds `fields` of a line to a count that begins with the first.
    pub(super) fn add(count: &mut Option<Joined>, fields: u64, corpus: usize, line: u64) {
        match count {
            _ if fields == 0 => {}
            Some(known) => known.count += fields,
            None => *count = Some(Joined { count: fields, first_corpus: corpus, first_line: line }),
        }
    }
}

/// The text with each run of `\n` and `\r` as one space, and none at its ends; `None` if it has no such character.
/// Other characters at which some programs end lines stay, as they do in plain text.
pub(super) fn one_line(text: &str) -> Option<String> {
    let breaks = ['\n', '\r'];
    if !text.contains(breaks) {
        return None;
    }
    let parts: Vec<&str> = text.split(breaks).filter(|part| !part.is_empty()).collect();
    Some(parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_become_one_space_and_none_at_the_ends() {
        for (text, wanted) in [
            ("a\nb", "a b"),
            ("a\r\nb", "a b"),
            ("a\rb", "a b"),
            ("a\n\n\r\nb\n", "a b"),
            ("\r\na", "a"),
            ("\n", ""),
            ("a \n b", "a   b"),
        ] {
            assert_eq!(one_line(text).as_deref(), Some(wanted), "{text:?}");
        }
        for text in ["", "a b", "a\u{2028}b\u{85}\x0B\x0C"] {
            assert_eq!(one_line(text), None);
        }
    }
}
