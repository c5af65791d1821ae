//! Ids are those that the tokenizers library gives for the saved tokenizer.json, whatever characters a line holds.

use nmt_train::fsio;
use nmt_train::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::{json, Map, Value};
use tempfile::TempDir;

/// A tokenizer with our rules that knows every byte, so that any difference between two texts shows in their ids.
fn all_bytes(normalizer: Value) -> Value {
    let special = ["<unk>", "<s>", "</s>"];
    let pieces = special.iter().map(|s| s.to_string()).chain((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let mut vocab: Map<String, Value> =
        pieces.chain(["▁".to_string()]).zip(0u32..).map(|(p, i)| (p, i.into())).collect();
    vocab.insert("<pad>".into(), 260.into());
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [token(0, "<unk>"), token(1, "<s>"), token(2, "</s>"), token(260, "<pad>")],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            {"type": "Digits", "individual_digits": true},
            {"type": "Punctuation", "behavior": "Isolated"},
        ]},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": []}
    })
}

/// Ours, and the library with the file that ours is saved to.
fn both(json: &Value) -> (Tokenizer, tokenizers::Tokenizer) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("t.json");
    fsio::write_atomic(&path, json.to_string().as_bytes()).unwrap();
    let ours = Tokenizer::load(&path).unwrap();
    let library = tokenizers::Tokenizer::from_bytes(ours.to_json().unwrap()).unwrap();
    (ours, library)
}

fn normalizers() -> Vec<Value> {
    let steps = |names: &[&str]| {
        let steps: Vec<Value> = names.iter().map(|name| json!({"type": name})).collect();
        json!({"type": "Sequence", "normalizers": steps})
    };
    let one = |name: &str| json!({ "type": name });
    vec![
        Value::Null,
        one("NFC"),
        one("NFD"),
        one("NFKC"),
        one("NFKD"),
        one("Lowercase"),
        steps(&["NFKC", "Lowercase"]),
        steps(&["Lowercase", "NFD"]),
    ]
}

#[track_caller]
fn assert_same(ours: &Tokenizer, library: &tokenizers::Tokenizer, lines: &[String], what: &Value) {
    let text: Vec<&str> = lines.iter().map(String::as_str).collect();
    let found = ours.encode_batch(&text).unwrap();
    for (line, ids) in lines.iter().zip(&found) {
        let wanted = library.encode_fast(line.as_str(), true).unwrap();
        assert_eq!(ids, wanted.get_ids(), "{line:?} with {what}");
    }
    // now all words are remembered
    assert_eq!(ours.encode_batch(&text).unwrap(), found);
}

#[test]
fn words_whose_normal_form_begins_with_a_space_have_the_librarys_ids() {
    let beginnings = ['\u{A0}', '\u{2009}', '\u{3000}', '\u{B4}', '\u{A8}', '\u{37A}', '\u{1FBD}', '\u{202F}', '▁'];
    for normalizer in normalizers() {
        let (ours, library) = both(&all_bytes(normalizer.clone()));
        let lines: Vec<String> = beginnings
            .iter()
            .flat_map(|c| {
                [format!("the {c}cat {c} sat{c} on{c}it"), format!("{c}the"), format!("{c}"), format!("a {c}")]
            })
            .collect();
        assert_same(&ours, &library, &lines, &normalizer);
    }
}

/// Files of others: the saved file, read by the library, gives the ids that training sees.
#[test]
fn files_of_others_have_the_librarys_ids() {
    let pieces = ["a", "b", "##a", "##b", "ab", "▁", "▁a", "Ġ", "Ġa", ".", "a</w>", "b</w>", "é", "Ã", "©"];
    let vocab: Map<String, Value> =
        ["<unk>"].iter().chain(&pieces).zip(0u32..).map(|(p, i)| (p.to_string(), i.into())).collect();
    let scores: Vec<Value> = ["<unk>"].iter().chain(&pieces).map(|p| json!([p, -1.5])).collect();
    let bpe = |suffix: Option<&str>| {
        json!({"type": "BPE", "dropout": 0.3, "unk_token": "<unk>", "continuing_subword_prefix": null,
               "end_of_word_suffix": suffix, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []})
    };
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                      "strip_accents": null, "lowercase": true});
    let word_piece = json!({"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
                            "max_input_chars_per_word": 100, "vocab": vocab});
    let unigram = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": scores});
    let lines = ["ab a. b", " a\u{A0}b ", "é e\u{301}", "\u{3000}a", "a\u{200B}b", "x <new> y a<new>", "", "ba  ab"];
    for (model, pre_tokenizer, normalizer) in [
        (bpe(None), metaspace.clone(), json!({"type": "NFKC"})),
        (bpe(None), bytes, Value::Null),
        (bpe(Some("</w>")), json!({"type": "WhitespaceSplit"}), json!({"type": "NFC"})),
        (word_piece, json!({"type": "BertPreTokenizer"}), bert),
        (unigram, metaspace, json!({"type": "NFKD"})),
    ] {
        let added = json!([{"id": 16, "content": "<new>", "single_word": false, "lstrip": true, "rstrip": false,
                            "normalized": true, "special": false}]);
        let (ours, library) = both(&json!({
            "version": "1.0", "padding": null, "added_tokens": added, "normalizer": normalizer,
            "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model,
        }));
        assert_same(&ours, &library, &lines.map(str::to_string), &pre_tokenizer);
        let blank = ours.encode_lines(&["", " \u{3000}", "\u{FEFF}", "a"]).unwrap();
        assert!(blank[..3].iter().all(Vec::is_empty) && blank[3].last() == Some(&ours.eos_id()), "{blank:?}");
    }
}

/// Every character that a normalization changes stands at the beginning, in the middle and at the end of a word, and
/// alone. Those it leaves alone do so by the hundred, for they can not hide each other's faults.
#[test]
fn every_character_has_the_librarys_ids_anywhere_in_a_word() {
    let all = (0..=0x1_FFFFu32).chain(0x2_F800..0x2_FA20).chain(0xE_0000..0xE_0200);
    let all: Vec<char> = all.filter_map(char::from_u32).filter(|c| *c != '\n').collect();
    for normalizer in normalizers() {
        let (ours, library) = both(&all_bytes(normalizer.clone()));
        let is_changed = |c: &char| {
            let mut text = tokenizers::NormalizedString::from(c.to_string());
            library.get_normalizer().is_some_and(|n| tokenizers::Normalizer::normalize(n, &mut text).is_err())
                || text.get() != c.to_string()
                || c.is_whitespace()
                || *c == '▁'
        };
        let (changed, plain): (Vec<char>, Vec<char>) = all.iter().partition(|c| is_changed(c));
        let mut lines: Vec<String> = changed.iter().map(|c| format!("b {c}a x{c}y z{c} {c}")).collect();
        if normalizer == json!({"type": "NFKC"}) {
            let words = |some: &[char]| some.iter().map(|c| format!("{c}a z{c}")).collect::<Vec<_>>().join(" ");
            lines.extend(plain.chunks(100).map(words));
        }
        assert_same(&ours, &library, &lines, &normalizer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_lines_have_the_librarys_ids(
        lines in prop::collection::vec(
            prop::collection::vec(
                prop_oneof![
                    Just(' '), Just(' '), Just('a'), Just('\u{301}'), Just('\u{A0}'), Just('\u{200B}'), Just('\u{3000}'),
                    Just('\u{1161}'), Just('\u{1100}'), Just('7'), Just('.'), Just('▁'), any::<char>(),
                    prop::char::range('\u{A0}', '\u{37F}'), prop::char::range('\u{2000}', '\u{206F}'),
                    prop::char::range('\u{3000}', '\u{30FF}'),
                ],
                0..12,
            ).prop_map(|c| c.into_iter().collect::<String>()),
            1..20,
        ),
        which in 0usize..8,
    ) {
        let normalizer = normalizers().swap_remove(which);
        let (ours, library) = both(&all_bytes(normalizer.clone()));
        let text: Vec<&str> = lines.iter().map(String::as_str).collect();
        for (line, ids) in lines.iter().zip(ours.encode_batch(&text).unwrap()) {
            let wanted = library.encode_fast(line.as_str(), true).unwrap();
            prop_assert_eq!(&ids[..], wanted.get_ids(), "{:?}", line);
        }
    }
}
