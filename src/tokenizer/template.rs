//! The parts of a trained `tokenizer.json` that are the same for every vocabulary.
//!
//! Words begin with `▁` (a space before them); each digit and each punctuation mark stands alone, so numbers are
//! spelled with ten pieces and "Haus." shares its pieces with "Haus". Text of scripts without spaces is one word
//! between two marks. Decoding gives back the normalized text exactly, but for spaces at its start.

use serde_json::{json, Value};

use crate::config::Normalization;

/// Special tokens of a trained tokenizer with the ids 0, 1, 2; padding has the last.
pub(super) const SPECIALS: [&str; 3] = ["<unk>", "<s>", "</s>"];
pub(super) const PAD: &str = "<pad>";

/// Whether every trained tokenizer has a special token of this name.
pub(super) fn is_special(name: &str) -> bool {
    SPECIALS.contains(&name) || name == PAD
}

/// The piece that stands for a space.
fn metaspace() -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})
}

/// How words are cut before the model sees them.
pub(super) fn pre_tokenizer() -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        metaspace(),
        {"type": "Digits", "individual_digits": true},
        {"type": "Punctuation", "behavior": "Isolated"},
    ]})
}

pub(super) fn normalizer(normalization: Normalization, lowercase: bool) -> Value {
    let unicode = match normalization {
        Normalization::Nfkc => Some("NFKC"),
        Normalization::Nfc => Some("NFC"),
        Normalization::None => None,
    };
    let steps: Vec<Value> =
        unicode.into_iter().chain(lowercase.then_some("Lowercase")).map(|step| json!({"type": step})).collect();
    match steps.len() {
        0 => Value::Null,
        1 => steps[0].clone(),
        _ => json!({"type": "Sequence", "normalizers": steps}),
    }
}

/// Appends the token `eos` to one text and to each of a pair.
pub(super) fn post_processor(eos: &str, id: u32) -> Value {
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let end = || json!({"SpecialToken": {"id": eos, "type_id": 0}});
    json!({
        "type": "TemplateProcessing",
        "single": [text("A"), end()],
        "pair": [text("A"), end(), text("B"), end()],
        "special_tokens": {eos: {"id": eos, "ids": [id], "tokens": [eos]}},
    })
}

/// A whole `tokenizer.json` around a model whose vocabulary has `size` pieces and begins with [`SPECIALS`]; `tags` come
/// between these and padding.
pub(super) fn file(model: Value, size: usize, tags: &[&str], normalizer: Value) -> Value {
    let token = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let specials = SPECIALS.iter().enumerate().map(|(id, name)| token(id, name));
    let behind = tags.iter().copied().chain([PAD]).zip(size..).map(|(name, id)| token(id, name));
    let added: Vec<Value> = specials.chain(behind).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer(),
        "post_processor": post_processor(SPECIALS[2], 2),
        "decoder": metaspace(),
        "model": model,
    })
}
