//! Reads SentencePiece models (`.model`, a protocol buffer) of the Unigram and BPE kinds and writes them as a
//! `tokenizer.json`: the same pieces, scores and normalization.
//!
//! Of two cuts of a word with equal scores Unigram may take another here, for SentencePiece adds scores in 32 bits and
//! the tokenizers library in 64.

use std::collections::HashMap;

use serde_json::{json, Map, Value};

use crate::sentencepiece::{Kind, ModelType, Piece, Proto};

/// Whether a file looks like a model: it begins with a piece.
pub(super) fn is_model(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0A) && Proto::parse(bytes).is_some()
}

/// The model as `tokenizer.json`.
///
/// # Errors
/// A sentence about why it can not be had.
pub(super) fn to_json(bytes: &[u8]) -> Result<Value, String> {
    let model = Proto::parse(bytes).ok_or("it is damaged")?;
    if model.model_type == ModelType::Other || model.normalizer.whitespace_as_suffix {
        return Err(
            "it is a SentencePiece model of whole words, of characters or with spaces behind words; those of the \
                    unigram and bpe kinds with spaces before words are read. Train another with tokenizer.path = \"\""
                .to_string(),
        );
    }
    let unk = model.pieces.iter().position(|piece| piece.kind == Kind::Unknown).ok_or("it has no unknown piece")?;
    let special = |(id, piece): (usize, &Piece)| {
        json!({"id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let specials =
        model.pieces.iter().enumerate().filter(|(_, piece)| [Kind::Unknown, Kind::Control].contains(&piece.kind));
    let added: Vec<Value> = specials.map(special).collect();
    let scheme = if model.normalizer.add_dummy_prefix { "always" } else { "never" };
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer(&model),
        "pre_tokenizer": metaspace, "post_processor": null, "decoder": null,
        "model": if model.model_type == ModelType::Bpe { bpe(&model, unk) } else { unigram(&model, unk) },
    }))
}

fn unigram(model: &Proto, unk: usize) -> Value {
    let vocab: Vec<Value> = model.pieces.iter().map(|piece| json!([piece.text, piece.score])).collect();
    json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": has_bytes(model)})
}

/// SentencePiece joins the two neighbours that make the best piece, whatever they are: every way to make a piece of two
/// is a merge, the better piece first.
fn bpe(model: &Proto, unk: usize) -> Value {
    let ids: HashMap<&str, usize> =
        model.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
    let is_normal = |text: &str| ids.get(text).is_some_and(|&id| model.pieces[id].kind == Kind::Normal);
    let mut by_score: Vec<usize> =
        (0..model.pieces.len()).filter(|&id| model.pieces[id].kind == Kind::Normal).collect();
    by_score.sort_by(|&a, &b| model.pieces[b].score.total_cmp(&model.pieces[a].score));
    let merges = by_score.into_iter().flat_map(|id| {
        let text = model.pieces[id].text.as_str();
        let cuts = text.char_indices().skip(1).map(move |(at, _)| text.split_at(at));
        let mut cuts: Vec<(&str, &str)> = cuts.filter(|(left, right)| is_normal(left) && is_normal(right)).collect();
        cuts.sort_by_key(|(left, _)| ids.get(left));
        cuts
    });
    let merges: Vec<Value> = merges.map(|(left, right)| json!([left, right])).collect();
    let vocab: Map<String, Value> =
        model.pieces.iter().zip(0u32..).map(|(piece, id)| (piece.text.clone(), id.into())).collect();
    json!({"type": "BPE", "dropout": null, "unk_token": model.pieces[unk].text, "continuing_subword_prefix": null,
           "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": has_bytes(model), "ignore_merges": false,
           "vocab": vocab, "merges": merges})
}

fn normalizer(model: &Proto) -> Value {
    let replace = |pattern: &str, by: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": by});
    let mut steps = Vec::new();
    if !model.normalizer.charsmap.is_empty() {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&model.normalizer.charsmap)}));
    }
    if model.normalizer.remove_extra_whitespaces {
        // in this order; only the space itself, where the library's Strip takes all white space
        steps.extend([replace("^ +| +$", ""), replace(" {2,}", " ")]);
    }
    match steps.is_empty() {
        true => Value::Null,
        false => json!({"type": "Sequence", "normalizers": steps}),
    }
}

fn has_bytes(model: &Proto) -> bool {
    model.pieces.iter().any(|piece| piece.kind == Kind::Byte)
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
