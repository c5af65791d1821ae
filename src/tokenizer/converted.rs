//! SentencePiece models of the Unigram and BPE kinds as a `tokenizer.json`: the same pieces, scores and normalization, for
//! programs that read nothing else.
//!
//! It comes close; what differs:
//! - A table of replacements is applied to the beginning of a grapheme, whose rest is lost ("ẹ" with an acute, decomposed);
//!   SentencePiece replaces the longest match and keeps the rest.
//! - Unigram adds scores in 64 bits, not in 32, which decides between equal cuts.
//! - Unigram takes the name of a special token for the token where the model does not know its characters.
//! - User-defined pieces are normalized; in BPE models one at the start of a line has no space before it.

use std::collections::HashMap;

use serde_json::{json, Map, Value};
use tokenizers::Tokenizer as Inner;

use super::{library, template, Error, Result};
use crate::sentencepiece::{Kind, ModelType, Piece, SentencePiece, SPACE};

/// A token, by id, and what it is to the model.
pub(super) struct Token<'a> {
    pub(super) name: &'a str,
    /// `None` for a token of the vocabulary alone.
    pub(super) piece: Option<&'a Piece>,
}

/// So much worse than the worst piece is what text must not become.
const NEVER: f64 = 1000.0;

/// The `tokenizer.json` of a model, tokens by id; `special`: ids of the unknown token, the end of a sentence and padding.
///
/// # Errors
/// Models of words and characters, and those with spaces behind words; what the library does not take.
pub(super) fn to_json(model: &SentencePiece, tokens: &[Token], special: [u32; 3]) -> Result<String> {
    if [ModelType::Word, ModelType::Char].contains(&model.model_type()) || model.rules().whitespace_as_suffix {
        return Err(Error::Inexpressible);
    }
    let is_bpe = model.model_type() == ModelType::Bpe;
    let has = |token: &Token, kind: Kind| token.piece.is_some_and(|piece| piece.kind == kind);
    // SentencePiece looks for them in normalized text, where no space is left; those with its mark would lose it here
    let is_own = |token: &Token| is_bpe && has(token, Kind::UserDefined) && !token.name.contains([' ', '▁']);
    let added = tokens.iter().zip(0u32..).filter_map(|(token, id)| {
        let is_special = special.contains(&id) || has(token, Kind::Control);
        (is_special || is_own(token)).then(|| {
            json!({"id": id, "content": token.name, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": !is_special, "special": is_special})
        })
    });
    let splits = tokens.iter().any(is_own);
    let [unk, eos, _] = special;
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": normalizer(model, splits), "pre_tokenizer": pre_tokenizer(model, tokens, splits),
        "post_processor": template::post_processor(tokens[eos as usize].name, eos), "decoder": decoder(model),
        "model": if is_bpe { bpe(model, tokens, unk) } else { unigram(model, tokens, unk) },
    });
    Inner::from_bytes(file.to_string()).and_then(|inner| inner.to_string(false)).map_err(library)
}

fn unigram(model: &SentencePiece, tokens: &[Token], unk: u32) -> Value {
    let normal =
        || model.pieces().iter().filter(|piece| piece.kind == Kind::Normal).map(|piece| f64::from(piece.score));
    let worst = normal().fold(0.0, f64::min);
    let score = |piece: &Piece| match piece.kind {
        Kind::Normal => f64::from(piece.score),
        Kind::UserDefined => -0.1,
        Kind::Unknown | Kind::Control | Kind::Unused | Kind::Byte => worst - NEVER,
    };
    // what was added behind the pieces need not be known to the model, and so no text becomes it
    let size = tokens.iter().rposition(|token| token.piece.is_some()).map_or(0, |last| last + 1);
    let slot = |token: &Token| json!([token.name, token.piece.map_or(worst - NEVER, score)]);
    let vocab: Vec<Value> = tokens[..size].iter().map(slot).collect();
    json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": model.has_byte_fallback()})
}

/// SentencePiece joins the two neighbours that make the best piece, whatever they are: every way to make a piece of two
/// is a merge, the better piece first.
fn bpe(model: &SentencePiece, tokens: &[Token], unk: u32) -> Value {
    let normal = |token: &Token| token.piece.filter(|piece| piece.kind == Kind::Normal).map(|piece| piece.score);
    let mut by_score: Vec<(usize, f32)> =
        tokens.iter().enumerate().filter_map(|(id, token)| Some((id, normal(token)?))).collect();
    by_score.sort_by(|a, b| b.1.total_cmp(&a.1));
    let rank: HashMap<&str, usize> =
        by_score.iter().enumerate().map(|(rank, (id, _))| (tokens[*id].name, rank)).collect();
    let is_piece = |text: &str| rank.contains_key(text);
    let mut merges = Vec::new();
    for (id, _) in &by_score {
        let text = tokens[*id].name;
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut cuts: Vec<(&str, &str)> = cuts.filter(|(left, right)| is_piece(left) && is_piece(right)).collect();
        cuts.sort_by_key(|(left, _)| rank.get(left));
        merges.extend(cuts.into_iter().map(|(left, right)| json!([left, right])));
    }
    let vocab: Map<String, Value> =
        tokens.iter().zip(0u32..).map(|(token, id)| (token.name.to_string(), id.into())).collect();
    json!({"type": "BPE", "dropout": null, "unk_token": tokens[unk as usize].name, "continuing_subword_prefix": null,
           "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": model.has_byte_fallback(),
           "ignore_merges": false, "vocab": vocab, "merges": merges})
}

/// What stands for a space in pieces.
fn space(model: &SentencePiece) -> &'static str {
    if model.rules().escape_whitespaces {
        SPACE
    } else {
        " "
    }
}

/// `splits`: user-defined pieces, which become what this makes of them, are to have no space before them.
fn normalizer(model: &SentencePiece, splits: bool) -> Value {
    let rules = model.rules();
    let replace = |pattern: Value, by: &str| json!({"type": "Replace", "pattern": pattern, "content": by});
    let mut steps = Vec::new();
    if !rules.charsmap.is_empty() {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(&rules.charsmap)}));
    }
    if rules.remove_extra_whitespaces {
        // only the space itself, where the library's Strip takes all white space
        steps.extend([replace(json!({"Regex": "^ +"}), ""), replace(json!({"Regex": " {2,}"}), " ")]);
    }
    if rules.add_dummy_prefix && !splits {
        steps.push(json!({"type": "Prepend", "prepend": " "}));
    }
    if rules.escape_whitespaces {
        steps.push(replace(json!({"String": " "}), SPACE));
    }
    if rules.remove_extra_whitespaces {
        steps.push(replace(json!({"Regex": format!("{}+$", space(model))}), ""));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

/// Words are cut apart where no piece reaches over their borders, which is faster and the same.
fn pre_tokenizer(model: &SentencePiece, tokens: &[Token], splits: bool) -> Value {
    let crosses = |token: &Token| token.piece.is_some() && token.name.chars().skip(1).any(|c| SPACE.contains(c));
    let scheme = if splits && model.rules().add_dummy_prefix { "first" } else { "never" };
    json!({"type": "Metaspace", "replacement": space(model), "prepend_scheme": scheme,
           "split": !tokens.iter().any(crosses)})
}

fn decoder(model: &SentencePiece) -> Value {
    let rules = model.rules();
    let spaces = json!({"type": "Replace", "pattern": {"String": space(model)}, "content": " "});
    let bytes = model.has_byte_fallback().then(|| json!({"type": "ByteFallback"}));
    let strips = rules.add_dummy_prefix || rules.remove_extra_whitespaces;
    let start = strips.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    let steps = [spaces].into_iter().chain(bytes).chain([json!({"type": "Fuse"})]).chain(start);
    json!({"type": "Sequence", "decoders": steps.collect::<Vec<_>>()})
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

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(texts, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }
}
