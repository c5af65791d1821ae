//! Reads SentencePiece models (`.model`, a protocol buffer) of the Unigram and BPE kinds and writes them as a
//! `tokenizer.json`: the same pieces, scores and normalization.
//!
//! Of two cuts of a word with equal scores Unigram may take another here, for SentencePiece adds scores in 32 bits and
//! the tokenizers library in 64.

use std::collections::HashMap;

use serde_json::{json, Map, Value};

/// Types of pieces.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const BYTE: u64 = 6;
/// Kinds of models.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

/// What is needed of a model.
struct Model {
    /// Text, score, type.
    pieces: Vec<(String, f32, u64)>,
    kind: u64,
    has_suffixes: bool,
    charsmap: Vec<u8>,
    has_dummy_prefix: bool,
    removes_spaces: bool,
}

impl Model {
    fn has_bytes(&self) -> bool {
        self.pieces.iter().any(|piece| piece.2 == BYTE)
    }
}

/// Whether a file looks like a model: it begins with a piece.
pub(super) fn is_model(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0A) && read(bytes).is_some_and(|model| !model.pieces.is_empty())
}

/// The model as `tokenizer.json`.
///
/// # Errors
/// A sentence about why it can not be had.
pub(super) fn to_json(bytes: &[u8]) -> Result<Value, String> {
    let model = read(bytes).ok_or("it is damaged")?;
    if ![UNIGRAM, BPE].contains(&model.kind) || model.has_suffixes {
        return Err(
            "it is a SentencePiece model of whole words, of characters or with spaces behind words; those of the \
                    unigram and bpe kinds with spaces before words are read. Train another with tokenizer.path = \"\""
                .to_string(),
        );
    }
    let unk = model.pieces.iter().position(|piece| piece.2 == UNKNOWN).ok_or("it has no unknown piece")?;
    let special = |(id, piece): (usize, &(String, f32, u64))| {
        json!({"id": id, "content": piece.0, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let specials = model.pieces.iter().enumerate().filter(|(_, piece)| [UNKNOWN, CONTROL].contains(&piece.2));
    let added: Vec<Value> = specials.map(special).collect();
    let scheme = if model.has_dummy_prefix { "always" } else { "never" };
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer(&model),
        "pre_tokenizer": metaspace, "post_processor": null, "decoder": null,
        "model": if model.kind == BPE { bpe(&model, unk) } else { unigram(&model, unk) },
    }))
}

fn unigram(model: &Model, unk: usize) -> Value {
    let vocab: Vec<Value> = model.pieces.iter().map(|(text, score, _)| json!([text, score])).collect();
    json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": model.has_bytes()})
}

/// SentencePiece joins the two neighbours that make the best piece, whatever they are: every way to make a piece of two
/// is a merge, the better piece first.
fn bpe(model: &Model, unk: usize) -> Value {
    let ids: HashMap<&str, usize> = model.pieces.iter().enumerate().map(|(id, piece)| (piece.0.as_str(), id)).collect();
    let is_normal = |text: &str| ids.get(text).is_some_and(|&id| model.pieces[id].2 == NORMAL);
    let mut by_score: Vec<usize> = (0..model.pieces.len()).filter(|&id| model.pieces[id].2 == NORMAL).collect();
    by_score.sort_by(|&a, &b| model.pieces[b].1.total_cmp(&model.pieces[a].1));
    let merges = by_score.into_iter().flat_map(|id| {
        let text = model.pieces[id].0.as_str();
        let cuts = text.char_indices().skip(1).map(move |(at, _)| text.split_at(at));
        let mut cuts: Vec<(&str, &str)> = cuts.filter(|(left, right)| is_normal(left) && is_normal(right)).collect();
        cuts.sort_by_key(|(left, _)| ids.get(left));
        cuts
    });
    let merges: Vec<Value> = merges.map(|(left, right)| json!([left, right])).collect();
    let vocab: Map<String, Value> =
        model.pieces.iter().zip(0u32..).map(|(piece, id)| (piece.0.clone(), id.into())).collect();
    json!({"type": "BPE", "dropout": null, "unk_token": model.pieces[unk].0, "continuing_subword_prefix": null,
           "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": model.has_bytes(), "ignore_merges": false,
           "vocab": vocab, "merges": merges})
}

fn normalizer(model: &Model) -> Value {
    let replace = |pattern: &str, by: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": by});
    let mut steps = Vec::new();
    if !model.charsmap.is_empty() {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&model.charsmap)}));
    }
    if model.removes_spaces {
        // in this order; only the space itself, where the library's Strip takes all white space
        steps.extend([replace("^ +| +$", ""), replace(" {2,}", " ")]);
    }
    match steps.is_empty() {
        true => Value::Null,
        false => json!({"type": "Sequence", "normalizers": steps}),
    }
}

fn read(bytes: &[u8]) -> Option<Model> {
    let mut model = Model {
        pieces: Vec::new(),
        kind: UNIGRAM,
        has_suffixes: false,
        charsmap: Vec::new(),
        has_dummy_prefix: true,
        removes_spaces: true,
    };
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => model.pieces.push(read_piece(piece)?),
            (2, Field::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    match field? {
                        (3, Field::Number(kind)) => model.kind = kind,
                        (24, Field::Number(suffixes)) => model.has_suffixes = suffixes != 0,
                        _ => (),
                    }
                }
            }
            (3, Field::Bytes(normalizer)) => {
                for field in Fields(normalizer) {
                    match field? {
                        (2, Field::Bytes(charsmap)) => model.charsmap = charsmap.to_vec(),
                        (3, Field::Number(prefix)) => model.has_dummy_prefix = prefix != 0,
                        (4, Field::Number(removes)) => model.removes_spaces = removes != 0,
                        _ => (),
                    }
                }
            }
            _ => (),
        }
    }
    Some(model)
}

fn read_piece(bytes: &[u8]) -> Option<(String, f32, u64)> {
    let (mut text, mut score, mut kind) = (None, 0.0, NORMAL);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(bytes)) => text = Some(std::str::from_utf8(bytes).ok()?.to_string()),
            (2, Field::Four(bytes)) => score = f32::from_le_bytes(bytes),
            (3, Field::Number(number)) => kind = number,
            _ => (),
        }
    }
    Some((text?, score, kind))
}

/// The value of a field of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// Number and value of each field of a message; `None` and then the end where it is damaged.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Eight)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            match digit <= three.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field `number` of a message, as bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        field(1, &[field(1, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec(), vec![0x18, kind]].concat())
    }

    #[test]
    fn a_model_becomes_a_file_with_its_pieces_scores_and_rules() {
        let pieces = [piece("<unk>", 0.0, 2), piece("</s>", 0.0, 3), piece("▁a", -1.5, 1)].concat();
        let bytes = [pieces.clone(), field(2, &[0x18, 1]), field(3, &[0x18, 0])].concat();
        assert!(is_model(&bytes));
        let file = to_json(&bytes).unwrap();
        assert_eq!(file["model"]["vocab"], json!([["<unk>", 0.0], ["</s>", 0.0], ["▁a", -1.5]]));
        assert_eq!((&file["model"]["unk_id"], &file["pre_tokenizer"]["prepend_scheme"]), (&json!(0), &json!("never")));
        assert_eq!(file["added_tokens"].as_array().unwrap().len(), 2);
        let error = to_json(&[pieces, field(2, &[0x18, 3])].concat()).unwrap_err();
        assert!(error.contains("of whole words"), "{error}");
    }

    #[test]
    fn pairs_are_merged_by_the_score_of_what_they_make() {
        let texts = [("b", -9.0), ("a", -8.0), ("c", -7.0), ("bc", -2.0), ("ab", -1.0), ("abc", -0.5)];
        let pieces = texts.map(|(text, score)| piece(text, score, 1)).concat();
        let bytes = [piece("<unk>", 0.0, 2), pieces, field(2, &[0x18, 2])].concat();
        let model = &to_json(&bytes).unwrap()["model"];
        assert_eq!(model["merges"], json!([["a", "bc"], ["ab", "c"], ["a", "b"], ["b", "c"]]));
        assert_eq!((&model["unk_token"], &model["vocab"]["abc"]), (&json!("<unk>"), &json!(6)));
    }

    #[test]
    fn what_is_cut_or_something_else_is_no_model() {
        let bytes = [piece("<unk>", 0.0, 2), piece("▁a", -1.5, 1)].concat();
        assert!(
            !is_model(&bytes[..bytes.len() - 1])
                && !is_model(b"\n")
                && !is_model(b"\n{\"model\": 1}")
                && !is_model(b"")
        );
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(texts, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }
}
