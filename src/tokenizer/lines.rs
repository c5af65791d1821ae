//! Lines of text as ids, and ids as lines: the one way in and out for training, validation, `evaluate`, `score` and
//! `translate`, so that the same file means the same everywhere.

use super::{Result, Tokenizer};

impl Tokenizer {
    /// Ids of each line, `</s>` last; of a line that [`is_blank`] none at all. Uses all threads.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode_batch`].
    pub fn encode_lines(&self, lines: &[&str]) -> Result<Vec<Vec<u32>>> {
        let mut encoded = self.encode_batch(lines)?;
        for (ids, line) in encoded.iter_mut().zip(lines) {
            if is_blank(line) {
                ids.clear();
            }
        }
        Ok(encoded)
    }

    /// As [`Tokenizer::encode_lines`], for what a decoder is to say: of a blank line, `</s>` alone.
    ///
    /// # Errors
    /// As there.
    pub fn encode_labels(&self, lines: &[&str]) -> Result<Vec<Vec<u32>>> {
        let mut encoded = self.encode_lines(lines)?;
        for ids in encoded.iter_mut().filter(|ids| ids.is_empty()) {
            ids.push(self.eos);
        }
        Ok(encoded)
    }

    /// Text of ids without special tokens, on one line whatever the pieces hold.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn decode_line(&self, ids: &[u32]) -> Result<String> {
        Ok(one_line(&self.decode(ids)?))
    }
}

/// Whether a line shows nothing: white space, control characters and what Unicode lets programs ignore (joiners,
/// byte order marks, directions, variation selectors).
pub fn is_blank(line: &str) -> bool {
    line.chars().all(|c| c.is_whitespace() || c.is_control() || is_ignorable(c))
}

/// Unicode's property Default_Ignorable_Code_Point.
fn is_ignorable(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}'
        | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// A space for everything at which some program ends a line (`\r\n` is one), and no byte order mark at the start,
/// which readers of the file would take off.
fn one_line(text: &str) -> String {
    let text = text.trim_start_matches('\u{FEFF}');
    if !text.contains(breaks_lines) {
        return text.to_string();
    }
    text.replace("\r\n", " ").replace(breaks_lines, " ")
}

/// What Python's `str.splitlines` cuts at; every other reader's list is shorter.
fn breaks_lines(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_shows_nothing_is_blank() {
        for line in ["", " ", "\t \r", "\u{3000}\u{A0}", "\u{FEFF}", "\u{200B} \u{200D}\u{2060}", "\0\u{85}", "\u{AD}"]
        {
            assert!(is_blank(line), "{line:?}");
        }
        for line in [".", " a", "\u{FEFF}b", "\u{301}", "\u{FFFD}", "\u{E000}"] {
            assert!(!is_blank(line), "{line:?}");
        }
    }

    #[test]
    fn no_reader_finds_two_lines_in_one() {
        let text = "a\nb\r\nc\rd\u{B}e\u{C}f\u{1C}g\u{1D}h\u{1E}i\u{85}j\u{2028}k\u{2029}l";
        assert_eq!(one_line(text), "a b c d e f g h i j k l");
        assert_eq!(one_line("\u{FEFF}a\tb\0 \u{FEFF}c"), "a\tb\0 \u{FEFF}c");
    }
}
