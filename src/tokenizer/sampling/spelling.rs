//! A line as it is before a model cuts it into pieces: words, each text or a token that is one already, in bytes.
//!
//! A word is a number of seven bits a byte, lowest first, the upper bit set in all but the last byte: for text twice its
//! bytes, which follow; for a token twice its id and one.

/// A word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tokenizer) enum Word<'a> {
    /// Normalized text, which the model cuts.
    Text(&'a [u8]),
    /// An id that stays as it is.
    Token(u32),
}

/// Adds a word to a line.
pub(in crate::tokenizer) fn push(word: Word, line: &mut Vec<u8>) {
    match word {
        Word::Text(text) => {
            number(text.len() as u64 * 2, line);
            line.extend_from_slice(text);
        }
        Word::Token(id) => number(u64::from(id) * 2 + 1, line),
    }
}

fn number(mut number: u64, line: &mut Vec<u8>) {
    while number >= 0x80 {
        line.push(number as u8 | 0x80);
        number >>= 7;
    }
    line.push(number as u8);
}

/// The words of a line; ends where bytes make no sense.
pub(super) fn words(mut line: &[u8]) -> impl Iterator<Item = Word<'_>> {
    std::iter::from_fn(move || {
        let (mut number, mut shift) = (0, 0);
        loop {
            let (&byte, rest) = line.split_first()?;
            line = rest;
            number |= u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte < 0x80 || shift > 56 {
                break;
            }
        }
        if number % 2 == 1 {
            return Some(Word::Token((number / 2) as u32));
        }
        let (text, rest) = line.split_at_checked((number / 2) as usize)?;
        line = rest;
        Some(Word::Text(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written() {
        let long = "ä".repeat(100_000);
        let line = [
            Word::Text("▁Haus".as_bytes()),
            Word::Token(u32::MAX),
            Word::Text(b""),
            Word::Token(0),
            Word::Text(long.as_bytes()),
            Word::Token(63),
            Word::Token(64),
        ];
        let mut bytes = Vec::new();
        line.iter().for_each(|word| push(*word, &mut bytes));
        assert_eq!(words(&bytes).collect::<Vec<_>>(), line);
        assert_eq!(words(&[]).count(), 0);
        for cut in 0..200 {
            assert!(words(&bytes[..bytes.len() - cut]).count() <= line.len());
        }
        assert_eq!(words(&[0xFF; 20]).count(), 2, "20 bytes of noise are no endless number");
    }
}
