//! Text of pieces.

use super::{Kind, SentencePiece, SPACE};

impl SentencePiece {
    /// The text of pieces and their ids, as the library's `DecodePieces` gives it; a piece that the model has not goes with
    /// the id of the unknown one and stands for itself.
    pub fn decode<'a>(&'a self, pieces: impl IntoIterator<Item = (&'a str, u32)>) -> String {
        let (mut text, mut bytes) = (String::new(), Vec::new());
        let rules = self.rules();
        let (mut is_start, mut space_seen) = (true, false);
        for (piece, id) in pieces {
            let own = self.piece(id);
            if own.kind == Kind::Byte {
                bytes.extend(byte(&own.text));
                continue;
            }
            spell(&mut bytes, &mut text);
            is_start &= !space_seen && text.is_empty();
            space_seen = false;
            match own.kind {
                Kind::Control => (),
                Kind::Unknown if piece == own.text => text.push_str(&self.unknown_surface),
                Kind::Unknown => text.push_str(piece),
                _ => {
                    let strips = is_start && (rules.add_dummy_prefix || rules.remove_extra_whitespaces);
                    let rest = piece.strip_prefix(SPACE).filter(|_| strips);
                    // one space, or all of them where the model knows no two in a row
                    space_seen = rest.is_some() && !rules.remove_extra_whitespaces;
                    text.push_str(&rest.unwrap_or(piece).replace(SPACE, " "));
                }
            }
        }
        spell(&mut bytes, &mut text);
        match &self.denormalizer {
            Some(rules) => String::from_utf8_lossy(&rules.normalize(text.as_bytes())).into_owned(),
            None => text,
        }
    }
}

/// The byte that a piece like `<0xE4>` stands for.
pub(super) fn byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_plain = digits.len() == 2 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
    u8::from_str_radix(digits, 16).ok().filter(|_| is_plain)
}

/// Moves bytes to the text: U+FFFD for each that is part of no character.
fn spell(bytes: &mut Vec<u8>, text: &mut String) {
    for part in bytes.utf8_chunks() {
        text.push_str(part.valid());
        text.extend(part.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    bytes.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_and_each_stray_one_is_replaced() {
        assert_eq!((byte("<0xE4>"), byte("<0x0a>"), byte("<0x+1>"), byte("<0xE44>")), (Some(0xE4), None, None, None));
        let mut text = String::from("a");
        spell(&mut vec![0xC3, 0xA4, 0xE4, 0xB8, b'b', 0xE4], &mut text);
        assert_eq!(text, "aä\u{FFFD}\u{FFFD}b\u{FFFD}");
    }
}
