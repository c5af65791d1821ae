//! What a file is that is not UTF-8 text, known from its first line.

/// Kind and cure.
pub(super) type Foreign = (&'static str, &'static str);

const UTF16: Foreign = ("UTF-16", "convert it, for example with iconv -f UTF-16 -t UTF-8");
const UTF32: Foreign = ("UTF-32", "convert it, for example with iconv -f UTF-32 -t UTF-8");
const NULS: Foreign =
    ("bytes of which many are zero", "UTF-16 is converted with iconv -f UTF-16LE -t UTF-8; else the file is damaged");
const UNPACK: &str = "unpack it first; gzip alone is read as it is";

/// How files begin; the longer of two that agree comes first.
const STARTS: [(&[u8], Foreign); 12] = [
    (b"\xFF\xFE\0\0", UTF32),
    (b"\0\0\xFE\xFF", UTF32),
    (b"\xFF\xFE", UTF16),
    (b"\xFE\xFF", UTF16),
    (b"\x28\xB5\x2F\xFD", ("zstd", UNPACK)),
    (b"\xFD7zXZ", ("xz", UNPACK)),
    (b"\x1F\x8B", ("gzip inside gzip", "unpack it once")),
    (b"BZh", ("bzip2", UNPACK)),
    (b"7z\xBC\xAF", ("7-Zip", UNPACK)),
    (b"PK\x03\x04", ("a zip file (or an office document)", UNPACK)),
    (b"PAR1", ("Parquet", "write it as .jsonl first")),
    (b"%PDF-", ("PDF", "extract the text first")),
];

/// Judges the first line of a file when there is reason for doubt: `None` if it is UTF-8 without many zeros, or not
/// known.
pub(super) fn foreign(line: &[u8]) -> Option<Foreign> {
    let zeros = line.iter().filter(|&&byte| byte == 0).count();
    if zeros == 0 && std::str::from_utf8(line).is_ok() {
        return None;
    }
    if line.get(257..262) == Some(b"ustar") {
        return Some(("tar", UNPACK));
    }
    let known = STARTS.iter().find(|(start, _)| line.starts_with(start)).map(|(_, kind)| *kind);
    // English in UTF-16 without a mark is half zeros, and a line of it a byte longer or shorter
    known.or((zeros >= 2 && 3 * zeros >= line.len()).then_some(NULS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_text_are_told_by_their_kind() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for (bytes, kind) in [
            (utf16("\u{FEFF}ein Haus"), "UTF-16"),
            (utf16("ein Haus"), "bytes of which many are zero"),
            (b"\x28\xB5\x2F\xFD\x04\x58\x99".to_vec(), "zstd"),
            (b"BZh91AY&SY\x99\x12".to_vec(), "bzip2"),
            (vec![0; 4096], "bytes of which many are zero"),
            ([&[b'a'; 257][..], &[b'u', b's', b't', b'a', b'r', 0]].concat(), "tar"),
        ] {
            assert_eq!(foreign(&bytes).map(|(kind, _)| kind), Some(kind));
        }
        for text in ["", "a", "a\0b c", "BZh or not", "%PDF-1.4 is a format", "\0", "PAR1"] {
            assert_eq!(foreign(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(foreign(b"f\xFCnf"), None, "Latin-1");
    }
}
