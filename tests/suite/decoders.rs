//! Pieces become text again by the marks of the tokenizer's own model, whatever decoder its file names or lacks.

use nmt_train::fsio;
use nmt_train::tokenizer::{RoundTrip, Tokenizer, Tokenizers};
use serde_json::{json, Value};
use tempfile::TempDir;

/// A file whose vocabulary is `<unk>` and these pieces, merged from the left.
fn file(model: Value, pre_tokenizer: Value, decoder: Value, pieces: &[&str]) -> Value {
    let vocab: serde_json::Map<String, Value> =
        ["<unk>"].iter().chain(pieces).zip(0u32..).map(|(p, id)| (p.to_string(), id.into())).collect();
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
    });
    file["model"]["vocab"] = Value::Object(vocab);
    file["model"]["unk_token"] = "<unk>".into();
    file
}

fn bpe(prefix: Option<&str>, suffix: Option<&str>, merges: &[(&str, &str)]) -> Value {
    json!({"type": "BPE", "dropout": null, "continuing_subword_prefix": prefix, "end_of_word_suffix": suffix,
           "fuse_unk": false, "byte_fallback": false, "merges": merges})
}

fn load(file: &Value) -> Tokenizer {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("t.json");
    fsio::write_atomic(&path, file.to_string().as_bytes()).unwrap();
    Tokenizer::load(&path).unwrap()
}

#[track_caller]
fn assert_gives_back(tokenizer: &Tokenizer, line: &str) {
    let ids = tokenizer.encode(line).unwrap();
    assert_eq!(tokenizer.round_trip(line, &ids).unwrap(), RoundTrip::Same, "{:?}", tokenizer.decode(&ids));
    assert_eq!(tokenizer.decode_line(&ids).unwrap().trim(), line);
    assert_eq!(tokenizer.decode(&ids[ids.len() - 1..]).unwrap(), "", "</s> alone");
    assert_eq!(tokenizer.decode(&[]).unwrap(), "");
}

fn split() -> Value {
    json!({"type": "WhitespaceSplit"})
}

/// Decoders that fit nothing here.
fn others() -> Vec<Value> {
    vec![
        Value::Null,
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        json!({"type": "WordPiece", "prefix": "//", "cleanup": false}),
        json!({"type": "BPEDecoder", "suffix": "<end>"}),
        json!({"type": "Fuse"}),
    ]
}

#[test]
fn a_suffix_ends_words() {
    for decoder in others() {
        let pieces = ["e", "i", "n", "n@", "H", "u", "d@", "ei", "ein@"];
        let model = bpe(None, Some("@"), &[("e", "i"), ("ei", "n@")]);
        let tokenizer = load(&file(model, split(), decoder.clone(), &pieces));
        assert_gives_back(&tokenizer, "ein Hund ein ein");
        assert_eq!(tokenizer.added().iter().any(|note| note.contains("its decoder (")), !decoder.is_null());
        assert_eq!((tokenizer.word(9).as_deref(), tokenizer.word(8)), (Some("ein"), None));
    }
}

#[test]
fn a_prefix_goes_on_with_words_in_word_pieces_and_in_pairs() {
    for decoder in others() {
        let pieces = ["H", "~u", "~n", "~d", "ein", "~un", "Hun"];
        let merges = [("~u", "~n"), ("H", "~un")];
        for model in [
            json!({"type": "WordPiece", "continuing_subword_prefix": "~", "max_input_chars_per_word": 100}),
            bpe(Some("~"), None, &merges),
        ] {
            let tokenizer = load(&file(model.clone(), split(), decoder.clone(), &pieces));
            let line = if model["type"] == "BPE" { "Hund H" } else { "ein Hund" };
            assert_gives_back(&tokenizer, line);
            assert_eq!((tokenizer.word(7).as_deref(), tokenizer.word(6)), (Some("Hun"), None));
        }
    }
}

#[test]
fn prefix_and_suffix_together_are_both_taken_off() {
    let pieces = ["H", "~u", "~n", "~d</w>", "H</w>"];
    let tokenizer = load(&file(bpe(Some("~"), Some("</w>"), &[]), split(), Value::Null, &pieces));
    assert_gives_back(&tokenizer, "Hund Hund H");
}

#[test]
fn bytes_with_a_suffix_are_bytes_first() {
    let pieces = ["H", "u", "n", "d</w>", "Ã", "¼", "Ã</w>", "¼</w>", "f", "r</w>"];
    let rules = json!({"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    for decoder in
        [Value::Null, json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})]
    {
        let tokenizer = load(&file(bpe(None, Some("</w>"), &[]), rules.clone(), decoder, &pieces));
        assert_gives_back(&tokenizer, "für Hund ü");
    }
}

#[test]
fn spaces_within_pieces_are_kept() {
    let pieces = ["a", "b", " ", ".", "<0xC3>", "<0xA4>"];
    let mut model = bpe(None, None, &[]);
    model["byte_fallback"] = true.into();
    for rules in [Value::Null, json!({"type": "Punctuation", "behavior": "Isolated"})] {
        let tokenizer = load(&file(model.clone(), rules, Value::Null, &pieces));
        assert_gives_back(&tokenizer, "ab a.bä b");
    }
}

#[test]
fn a_normalizer_may_write_the_spaces() {
    let pieces = ["a", "b", "_", "_a"];
    let mut file = file(bpe(None, None, &[("_", "a")]), Value::Null, Value::Null, &pieces);
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]});
    let tokenizer = load(&file);
    assert_gives_back(&tokenizer, "ab a ba");
    assert_eq!((tokenizer.word(4).as_deref(), tokenizer.word(1)), (Some("a"), None));
}

#[test]
fn metaspace_may_have_another_mark() {
    let rule = json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": true});
    let tokenizer = load(&file(bpe(None, None, &[]), rule, Value::Null, &["_", "a", "b"]));
    assert_gives_back(&tokenizer, "ab a b");
}

#[test]
fn whole_words_are_joined_by_spaces_and_each_is_a_word() {
    let tokenizer = load(&file(json!({"type": "WordLevel"}), split(), Value::Null, &["ein", "Hund"]));
    assert_gives_back(&tokenizer, "ein Hund");
    assert_eq!(tokenizer.word(2).as_deref(), Some("Hund"));
    assert_eq!(tokenizer.word(tokenizer.eos_id()), None);
}

#[test]
fn a_decoder_that_fits_is_left_alone() {
    let decoder = json!({"type": "WordPiece", "prefix": "~", "cleanup": true});
    let model = json!({"type": "WordPiece", "continuing_subword_prefix": "~", "max_input_chars_per_word": 100});
    let tokenizer = load(&file(model, json!({"type": "BertPreTokenizer"}), decoder, &["ein", "~en", "Hund", "."]));
    assert!(
        tokenizer.to_json().unwrap().contains(r#""cleanup": true"#)
            || tokenizer.to_json().unwrap().contains(r#""cleanup":true"#)
    );
    assert_gives_back(&tokenizer, "einen Hund.");
}

#[test]
fn what_can_not_be_given_back_is_told_apart_from_what_is_only_normalized() {
    let mut lowercase = file(bpe(None, None, &[]), json!({"type": "Whitespace"}), Value::Null, &["a", "b", "."]);
    lowercase["normalizer"] = json!({"type": "Lowercase"});
    let tokenizer = load(&lowercase);
    let trip = |line: &str| tokenizer.round_trip(line, &tokenizer.encode(line).unwrap()).unwrap();
    assert_eq!(trip("a b"), RoundTrip::Same);
    assert_eq!(trip("A b"), RoundTrip::Normalized("a b".into()));
    assert_eq!(trip("ab."), RoundTrip::Different("a b .".into()));
    assert_eq!(trip("ac"), RoundTrip::Unknown);
}

/// A run's tokenizer keeps its fingerprint, also one saved before decoders were looked at.
#[test]
fn the_file_of_a_run_has_the_fingerprint_it_had() {
    let folder = TempDir::new().unwrap();
    let tokenizer = load(&file(bpe(None, Some("@"), &[]), split(), Value::Null, &["a", "b", "a@", "b@"]));
    let path = folder.path().join("tokenizer.json");
    fsio::write_atomic(&path, tokenizer.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(Tokenizers::load_saved(folder.path()).unwrap().fingerprint(), tokenizer.fingerprint());
    let mut old: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
    old["decoder"] = Value::Null;
    fsio::write_atomic(&path, old.to_string().as_bytes()).unwrap();
    let old = Tokenizers::load_saved(folder.path()).unwrap().source;
    assert_ne!(old.fingerprint(), tokenizer.fingerprint());
    assert_eq!(old.decode_line(&old.encode("ab a").unwrap()).unwrap(), "ab a");
}
