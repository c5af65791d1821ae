//! The manifest vouches for the files of a checkpoint; its last line vouches for the manifest, in this format and in any newer
//! one: so a newer program's is told from a damaged one.

use xxhash_rust::xxh3::xxh3_64;

/// Name of the field; the value is XXH3, 64 bits, hexadecimal, of the text with an empty value.
pub(super) const SEAL: &str = "manifest_xxh3";

/// A JSON object as text, closed by its own checksum; one that it has is replaced.
pub fn seal(object: &str) -> String {
    let body = unsealed(object).unwrap_or_else(|| object.trim_end());
    let body = body.strip_suffix('}').unwrap_or(body).trim_end();
    let text = |hash: &str| format!("{body},\n  \"{SEAL}\": \"{hash}\"\n}}");
    text(&format!("{:016x}", xxh3_64(text("").as_bytes())))
}

/// The object up to its seal, without the end.
fn unsealed(text: &str) -> Option<&str> {
    let at = text.rfind(&format!("\"{SEAL}\""))?;
    Some(text[..at].trim_end().trim_end_matches(','))
}

/// Whether a text is as it was sealed, to the byte; `None`: it has no seal.
pub(super) fn holds(text: &str) -> Option<bool> {
    unsealed(text).map(|_| seal(text) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_shows() {
        let text = seal("{\n  \"format_version\": 1,\n  \"files\": [ { \"xxh3\": \"\" } ]\n}");
        assert_eq!(holds(&text), Some(true));
        assert_eq!(seal(&text), text);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        assert_eq!(value[SEAL].as_str().map(str::len), Some(16));
        for i in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[i / 8] ^= 1 << (i % 8);
            let told = String::from_utf8(bytes).ok().is_some_and(|text| holds(&text) == Some(true));
            assert!(!told, "bit {i}");
        }
        assert_eq!(holds("{\n  \"format_version\": 1\n}"), None);
    }
}
