//! Training text that is cut anew in each epoch: drawn ids against the tokenizer's own for every kind of tokenizer, and
//! runs with them.

use std::path::Path;
use std::sync::Arc;

use nmt_train::config::{load, Source, TokenizerConfig, TokenizerKind};
use nmt_train::data::Lengths;
use nmt_train::fsio;
use nmt_train::rng::{indexed_stream, Purpose};
use nmt_train::tokenizer::{MarianFiles, Sampler, Sampling, Scratch, Tokenizer, Tokenizers};
use nmt_train::train::Resources;
use proptest::prelude::*;
use serde_json::{json, Map, Value};

use super::resume::without_times;
use super::toy::Toy;

fn written(name: &str, bytes: &[u8]) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fsio::write_atomic(&path, bytes).unwrap();
    Tokenizer::load(&path).unwrap()
}

fn sentencepiece(name: &str) -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece").join(name)).unwrap()
}

const TEXT: [&str; 12] = [
    "the newest and the widest rivers are lower than the lowest hills",
    "Der Hund sieht 12.345 Häuser, die neuesten – und „ältere“.",
    "  two  spaces and   three ",
    "中国人 says 中国 twice, 國 once",
    "e\u{301}te\u{301} \u{A0}wide\u{3000}space x\u{200B}y",
    "▁mark and a▁b",
    "<s> </s> <unk> <new>newest<new>",
    "🙂🙂 ☃lowest☃ \u{1F1E9}\u{1F1EA}",
    "a",
    "lowestlowestlowestlowestlowest newestnewest",
    "[x] {y} don't we'll I'm",
    "tab\there \u{FFFD}",
];

fn trained(kind: TokenizerKind) -> Tokenizer {
    let lines = TEXT[..4].iter().cycle().take(40).map(|line| line.to_string());
    Tokenizer::train(&TokenizerConfig { kind, vocab_size: 160, ..TokenizerConfig::default() }, &[], lines).unwrap()
}

/// Merges learnt from a few words, characters of `TEXT` but for some, over rules of others.
fn merges(changes: &[(&str, Value)], parts: &[(&str, Value)]) -> Tokenizer {
    let own: Value = serde_json::from_str(&trained(TokenizerKind::Bpe).to_json().unwrap()).unwrap();
    let mut file = own.clone();
    for (part, value) in parts {
        file[*part] = value.clone();
    }
    for (key, value) in changes {
        file["model"][*key] = value.clone();
    }
    file["added_tokens"].as_array_mut().unwrap().truncate(3);
    let size = own["model"]["vocab"].as_object().unwrap().len();
    file["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": size, "content": "<new>", "single_word": false, "lstrip": true, "rstrip": false,
               "normalized": true, "special": false}));
    written("tokenizer.json", file.to_string().as_bytes())
}

/// A vocabulary of its own for rules that mark pieces otherwise.
fn marked(prefix: Option<&str>, suffix: Option<&str>, pre_tokenizer: Value, more: &[(&str, Value)]) -> Tokenizer {
    let (p, s) = (prefix.unwrap_or_default(), suffix.unwrap_or_default());
    let mut pieces = vec!["<unk>".to_string()];
    for c in "abcdefghijklmnopqrstuvwxyzĠÃ©".chars() {
        let forms = [format!("{c}"), format!("{p}{c}"), format!("{c}{s}"), format!("{p}{c}{s}")];
        pieces.extend(forms.into_iter().collect::<std::collections::BTreeSet<_>>());
    }
    let mut merges = Vec::new();
    for word in ["the", "lowest", "newest", "widest", "and"] {
        let marked = |at: usize, end: usize| {
            let (before, behind) = (if at == 0 { "" } else { p }, if end == word.len() { s } else { "" });
            format!("{before}{}{behind}", &word[at..end])
        };
        for end in 2..=word.len() {
            merges.push(json!([marked(0, end - 1), marked(end - 1, end)]));
            pieces.push(marked(0, end));
        }
        let tail = word.len() - 2;
        merges.push(json!([marked(tail, tail + 1), marked(tail + 1, tail + 2)]));
        pieces.push(marked(tail, tail + 2));
    }
    pieces.push(format!("rivers{s}"));
    let mut seen = std::collections::BTreeSet::new();
    pieces.retain(|piece| seen.insert(piece.clone()));
    let mut seen = std::collections::BTreeSet::new();
    merges.retain(|merge| seen.insert(merge.to_string()));
    let vocab: Map<String, Value> = pieces.into_iter().zip(0u32..).map(|(p, i)| (p, i.into())).collect();
    let mut model = json!({"type": "BPE", "dropout": 0.3, "unk_token": "<unk>", "continuing_subword_prefix": prefix,
                           "end_of_word_suffix": suffix, "fuse_unk": false, "byte_fallback": false,
                           "ignore_merges": false, "vocab": vocab, "merges": merges});
    for (key, value) in more {
        model[*key] = value.clone();
    }
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
                      "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model});
    written("tokenizer.json", file.to_string().as_bytes())
}

/// With pieces for all bytes.
fn spelled_in_bytes(kind: &str) -> Tokenizer {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let plain = ["▁", "t", "h", "e", "th", "the", "▁the", "n", "w", "s", "st", "est", "ne", "new", "newest", "中国"];
    let pieces: Vec<String> = ["<unk>".to_string()].into_iter().chain(bytes).chain(plain.map(str::to_string)).collect();
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let model = match kind {
        "BPE" => {
            let vocab: Map<String, Value> = pieces.into_iter().zip(0u32..).map(|(p, i)| (p, i.into())).collect();
            let merges = [["t", "h"], ["th", "e"], ["▁", "the"], ["s", "t"], ["e", "st"], ["n", "e"], ["ne", "w"]];
            json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                   "vocab": vocab, "merges": merges})
        }
        _ => {
            let scores: Vec<Value> =
                pieces.iter().enumerate().map(|(i, p)| json!([p, -1.0 - (i as f64 * 0.7).sin().abs() * 6.0])).collect();
            json!({"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": scores})
        }
    };
    let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
                      "normalizer": normalizer, "pre_tokenizer": null, "post_processor": null, "decoder": null,
                      "model": model});
    written("tokenizer.json", file.to_string().as_bytes())
}

fn marian() -> Arc<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let spm = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece/unigram.model");
    let own = Tokenizer::load(&spm).unwrap();
    // some pieces of the model have no id, and the unknown one has
    let kept = own.tokens().into_iter().enumerate().filter(|(i, t)| i % 9 != 5 && !t.starts_with('<'));
    let tokens = ["</s>", "<unk>", ">>de<<"].map(str::to_string).into_iter().chain(kept.map(|(_, t)| t));
    let tokens = tokens.chain(["☃".to_string(), "<pad>".to_string()]);
    let vocab: Map<String, Value> = tokens.zip(0u32..).map(|(t, i)| (t, i.into())).collect();
    let path = folder.path().join("vocab.json");
    fsio::write_atomic(&path, Value::Object(vocab).to_string().as_bytes()).unwrap();
    let files = MarianFiles {
        source_spm: &spm,
        target_spm: &spm,
        vocab: &path,
        target_vocab: None,
        special: MarianFiles::usual(),
        marian: true,
    };
    Tokenizers::marian(&files).unwrap().source
}

/// Every kind of BPE tokenizer that loads.
fn bpe_tokenizers() -> Vec<(&'static str, Arc<Tokenizer>)> {
    let bytes = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let whole = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let lower = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]});
    vec![
        ("own", trained(TokenizerKind::Bpe)),
        ("with an added token", merges(&[], &[])),
        ("lower case", merges(&[("fuse_unk", false.into())], &[("normalizer", lower)])),
        ("a line as one word", merges(&[], &[("pre_tokenizer", Value::Null), ("normalizer", whole)])),
        ("suffix", marked(None, Some("</w>"), json!({"type": "WhitespaceSplit"}), &[])),
        ("prefix", marked(Some("##"), None, json!({"type": "BertPreTokenizer"}), &[("fuse_unk", true.into())])),
        ("both", marked(Some("##"), Some("</w>"), json!({"type": "Whitespace"}), &[])),
        ("byte level", marked(None, None, bytes(true), &[])),
        ("byte level, a line as one word", marked(None, None, bytes(false), &[])),
        ("ignores merges", marked(None, None, bytes(true), &[("ignore_merges", true.into())])),
        ("byte fallback", spelled_in_bytes("BPE")),
        ("SentencePiece", sentencepiece("bpe.model")),
        ("SentencePiece, suffix", sentencepiece("suffix.model")),
        ("SentencePiece, bytes", sentencepiece("bytes.model")),
    ]
    .into_iter()
    .map(|(name, tokenizer)| (name, Arc::new(tokenizer)))
    .filter(|(_, tokenizer)| tokenizer.model_name() == "BPE")
    .collect()
}

fn unigram_tokenizers() -> Vec<(&'static str, Arc<Tokenizer>)> {
    vec![
        ("own", trained(TokenizerKind::Unigram)),
        ("byte fallback", spelled_in_bytes("Unigram")),
        ("SentencePiece", sentencepiece("unigram.model")),
        ("SentencePiece, suffix", sentencepiece("suffix.model")),
        ("SentencePiece, bytes", sentencepiece("bytes.model")),
        ("SentencePiece, ids", sentencepiece("ids.model")),
    ]
    .into_iter()
    .map(|(name, tokenizer)| (name, Arc::new(tokenizer)))
    .chain([("Marian", marian())])
    .filter(|(_, tokenizer)| tokenizer.model_name() == "Unigram")
    .collect()
}

fn drawn(sampler: &Sampler, line: &str, draw: u64) -> Vec<u32> {
    let spelling = sampler.spell(&[line]).unwrap().remove(0);
    let mut ids = Vec::new();
    let mut rng = indexed_stream(1, Purpose::Segmentation, 0, draw);
    sampler.sample(&spelling, &mut Scratch::default(), &mut rng, &mut ids);
    ids
}

#[test]
fn without_a_merge_left_out_ids_are_those_of_the_tokenizer() {
    let tokenizers = bpe_tokenizers();
    assert!(tokenizers.len() >= 12, "{}", tokenizers.len());
    for (name, tokenizer) in tokenizers {
        let sampler = Sampler::new(Arc::clone(&tokenizer), Sampling::BpeDropout(0.0)).unwrap();
        for line in TEXT {
            assert_eq!(drawn(&sampler, line, 0), tokenizer.encode(line).unwrap(), "{name}: {line}");
        }
    }
}

#[test]
fn the_most_probable_way_is_that_of_the_tokenizer() {
    let tokenizers = unigram_tokenizers();
    assert!(tokenizers.len() >= 5, "{}", tokenizers.len());
    for (name, tokenizer) in tokenizers {
        let sampler = Sampler::new(Arc::clone(&tokenizer), Sampling::Unigram(1e5)).unwrap();
        for line in TEXT {
            assert_eq!(drawn(&sampler, line, 0), tokenizer.encode(line).unwrap(), "{name}: {line}");
        }
    }
}

#[test]
fn drawn_ids_say_the_same_text() {
    let both = [(bpe_tokenizers(), Sampling::BpeDropout(0.4)), (unigram_tokenizers(), Sampling::Unigram(0.2))];
    for (tokenizers, sampling) in both {
        for (name, tokenizer) in tokenizers {
            let sampler = Sampler::new(Arc::clone(&tokenizer), sampling).unwrap();
            let mut differ = 0;
            for line in TEXT {
                let ids = tokenizer.encode(line).unwrap();
                let text = tokenizer.decode(&ids).unwrap();
                for draw in 0..20 {
                    let found = drawn(&sampler, line, draw);
                    // what is unknown is nothing in text, and may be known in other pieces
                    if !ids.contains(&tokenizer.unk_id()) && !found.contains(&tokenizer.unk_id()) {
                        assert_eq!(tokenizer.decode(&found).unwrap(), text, "{name}: {line}");
                    }
                    assert_eq!(found.last(), Some(&tokenizer.eos_id()));
                    differ += usize::from(found != ids);
                }
            }
            assert!(differ > 20, "{name}: {differ} of 240 drawn lines differ");
        }
    }
}

#[test]
fn with_all_merges_left_out_pieces_are_characters_or_bytes() {
    for (name, tokenizer) in bpe_tokenizers() {
        let sampler = Sampler::new(Arc::clone(&tokenizer), Sampling::BpeDropout(1.0)).unwrap();
        for line in &TEXT[..2] {
            for id in drawn(&sampler, line, 0) {
                let token = tokenizer.token(id).unwrap();
                let bare = token.trim_start_matches("##").trim_end_matches("</w>");
                let is_one = bare.chars().count() == 1 || bare.starts_with('<') && bare.ends_with('>');
                assert!(is_one, "{name}: {token}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn random_lines_have_the_tokenizers_ids(
        line in prop::collection::vec(
            prop_oneof![
                Just(' '), Just(' '), Just('t'), Just('h'), Just('e'), Just('n'), Just('w'), Just('s'), Just('▁'),
                Just('7'), Just('.'), Just('中'), Just('\u{301}'), Just('\u{3000}'), any::<char>(),
            ],
            0..30,
        ).prop_map(|c| c.into_iter().filter(|c| *c != '\n').collect::<String>()),
        seed: u64,
    ) {
        thread_local! {
            static ALL: Vec<(&'static str, Arc<Tokenizer>)> = bpe_tokenizers();
        }
        ALL.with(|all| {
            for (name, tokenizer) in all {
                let sampler = Sampler::new(Arc::clone(tokenizer), Sampling::BpeDropout(0.0)).unwrap();
                prop_assert_eq!(drawn(&sampler, &line, seed), tokenizer.encode(&line).unwrap(), "{}", name);
                let sampler = Sampler::new(Arc::clone(tokenizer), Sampling::BpeDropout(0.5)).unwrap();
                let (once, again) = (drawn(&sampler, &line, seed), drawn(&sampler, &line, seed));
                prop_assert_eq!(once, again);
            }
            Ok(())
        })?;
    }
}

#[test]
fn a_tokenizer_of_another_kind_is_told_with_a_cure() {
    let toy = Toy::new();
    let with = |set: &str| format!("check --config toy.toml {set}");
    let told = |set: &str, exit: i32, parts: &[&str]| toy.run(&with(set)).exits(exit).tells(parts);
    told("--set tokenizer.bpe_dropout=1.0", 3, &["tokenizer.bpe_dropout=1.0", "must be in [0, 1)"]);
    told("--set tokenizer.sampling_alpha=-0.1", 3, &["must be 0 or more"]);
    told("--set tokenizer.sampling_alpha=0.1", 3, &["sampling_alpha", "must be 0 with kind = \"bpe\"", "bpe_dropout"]);
    told(
        "--set tokenizer.target_bpe_dropout=0.1 --set tokenizer.kind=unigram",
        3,
        &["tokenizer.target_bpe_dropout=0.1: must be 0 with kind = \"unigram\"", "tokenizer.sampling_alpha"],
    );
    told(
        "--set tokenizer.bpe_dropout=0.1 --set tokenizer.sampling_alpha=0.1",
        3,
        &["tokenizer.sampling_alpha", "must be 0 on a side with bpe_dropout"],
    );
    let model = fsio::read(Path::new("tests/fixtures/sentencepiece/unigram.model")).unwrap();
    toy.write("u.model", model);
    told(
        "--set tokenizer.path=u.model --set tokenizer.bpe_dropout=0.1",
        3,
        &[
            "tokenizer.bpe_dropout = 0.1 is for BPE tokenizers",
            "the source is a Unigram model",
            "and tokenizer.sampling_alpha for",
        ],
    );
    toy.write("w.model", fsio::read(Path::new("tests/fixtures/sentencepiece/word.model")).unwrap());
    told(
        "--set tokenizer.path=w.model --set tokenizer.sampling_alpha=0.1",
        3,
        &[
            "tokenizer.sampling_alpha = 0.1 is for Unigram tokenizers",
            "is a word model",
            "tokenizer.sampling_alpha = 0",
        ],
    );
}

/// What a run did, without times.
fn rows(toy: &Toy, run: &str) -> Vec<Value> {
    let mut rows = toy.rows(run);
    rows.retain(|row| row["event"] == "train" || row["event"] == "valid");
    rows.iter_mut().for_each(without_times);
    rows
}

#[test]
fn runs_do_not_depend_on_threads_and_count_what_they_train() {
    let toy = Toy::new();
    for set in [
        "--set tokenizer.bpe_dropout=0.3",
        "--set tokenizer.target_bpe_dropout=0.5 --set train.batch_type=sentences --set train.batch_size=7",
        "--set tokenizer.kind=unigram --set tokenizer.sampling_alpha=0.2",
    ] {
        for threads in [1, 5] {
            let run = format!("run-{threads}");
            toy.run(&format!(
                "-q --force --config toy.toml {set} --set train.log_freq=1 --set run_dir={run} --threads {threads}"
            ))
            .exits(0);
        }
        let (one, five) = (rows(&toy, "run-1"), rows(&toy, "run-5"));
        assert_eq!(one, five, "{set}");
        let tokens: Vec<u64> = one.iter().filter_map(|row| row["tokens"].as_u64()).collect();
        let mean = tokens.last().unwrap() / 60;
        if !set.contains("sentences") {
            assert!((80..=105).contains(&mean), "{set}: {mean} tokens an update of 100");
        }
        let sizes: std::collections::BTreeSet<u64> = tokens.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(sizes.len() > 5, "{set}: batches of all epochs have the same tokens, {sizes:?}");
    }
}

#[test]
fn the_table_says_what_is_cut_anew_and_how_much_longer_it_becomes() {
    let toy = Toy::new();
    let told = |set: &str| toy.run(&format!("check --config toy.toml {set}")).exits(0).err;
    assert!(!told("").contains("longer"));
    let both = told("--set tokenizer.bpe_dropout=0.3");
    assert!(both.contains("BPE-dropout 0.3 (source ") && both.contains(" % longer, target "), "{both}");
    let target = told("--set tokenizer.target_bpe_dropout=0.3");
    assert!(target.contains("BPE-dropout 0.3 of the target (") && !target.contains("of the source"), "{target}");
    let unequal = told("--set tokenizer.bpe_dropout=0.3 --set tokenizer.target_bpe_dropout=0.1");
    assert!(
        unequal.contains("BPE-dropout 0.3 of the source (") && unequal.contains("0.1 of the target ("),
        "{unequal}"
    );
}

#[test]
fn text_that_becomes_too_long_to_be_cut_anew_is_told() {
    let toy = Toy::new();
    let set = "--set tokenizer.bpe_dropout=0.9";
    toy.run(&format!("check --config toy.toml {set} --set data.max_length=14")).exits(0).tells(&[
        "would be longer than data.max_length = 14",
        "so stay as they are",
        "raise data.max_length",
    ]);
    assert!(!toy.run(&format!("check --config toy.toml {set}")).exits(0).err.contains("stay as they are"));
}

#[test]
fn how_text_is_cut_belongs_to_a_run() {
    let toy = Toy::new();
    toy.run("-q --config toy.toml --set tokenizer.bpe_dropout=0.1").exits(0);
    toy.run("-q --resume run --set train.max_updates=80 --set tokenizer.bpe_dropout=0.2")
        .exits(3)
        .tells(&["tokenizer.bpe_dropout: 0.1 -> 0.2", "would change the training data or its order"]);
    toy.run("-q --resume run --set train.max_updates=80").exits(0);
}

#[test]
fn dropout_in_a_file_is_told_and_does_not_touch_ids() {
    let toy = Toy::new();
    toy.run("tokenizer --config toy.toml --out own").exits(0);
    let mut file: Value = serde_json::from_str(&toy.read("own/tokenizer.json")).unwrap();
    file["model"]["dropout"] = 0.5.into();
    toy.write("noisy.json", file.to_string());
    let loaded = |name: &str| Tokenizer::load(&toy.path(name)).unwrap();
    let (own, noisy) = (loaded("own/tokenizer.json"), loaded("noisy.json"));
    assert_eq!(own.encode("the dog likes the river").unwrap(), noisy.encode("the dog likes the river").unwrap());
    assert_eq!(own.fingerprint(), noisy.fingerprint());
    toy.run("check --config toy.toml --set tokenizer.path=noisy.json")
        .exits(0)
        .tells(&["noisy.json: its model leaves out merges (dropout 0.5)", "tokenizer.bpe_dropout = 0.5"]);
}

/// The text, the tokenizer and the batches of a run on the toy text.
fn resources(toy: &Toy, set: &[&str]) -> Resources {
    let file = |name: &str| toy.path(name).display().to_string();
    let text = format!("data.train = [{:?}, {:?}]\ntokenizer.vocab_size = 200\n", file("train.en"), file("train.de"));
    let mut set: Vec<String> = set.iter().map(ToString::to_string).collect();
    set.extend(["train.max_updates=1", "validation.metrics=[]"].map(str::to_string));
    let config = load(&Source::Text { name: "toy".to_string(), text }, &set).unwrap_or_else(|e| panic!("{e}")).config;
    Resources::load(&config, None, &toy.path("cache"), &mut |_| {}).unwrap()
}

#[test]
fn no_sentence_becomes_longer_than_max_length() {
    let toy = Toy::new();
    let plain = resources(&toy, &[]);
    let most = (0..plain.train.len()).map(|i| plain.train.lengths(i)).map(|(s, t)| s.max(t)).max().unwrap();
    for length in [most, most + 2, 500] {
        let set = [format!("data.max_length={length}"), "tokenizer.bpe_dropout=0.2".to_string()];
        let resources = resources(&toy, &set.each_ref().map(String::as_str));
        let (epoch, mut longest, mut whole) = (resources.epoch(3), 0, 0);
        for i in 0..epoch.len() {
            let batch = resources.batch(&epoch, i);
            for (k, &pair) in batch.pairs.iter().enumerate() {
                longest = longest.max(batch.source.get(k).len()).max(batch.target.get(k).len());
                whole += usize::from(batch.target.get(k) == resources.train.target(pair as usize).to_vec());
            }
        }
        assert!(longest <= length, "{longest} {length}");
        assert_eq!(longest > most + 2, length == 500);
        assert_eq!(whole == resources.train.len(), length == most, "{whole} are as always");
    }
}

/// `train.batch_size` is what an update trains on, whatever is left out.
#[test]
fn batches_are_filled_with_the_tokens_to_be_expected() {
    let toy = Toy::new();
    for dropout in [0.0, 0.1, 0.6, 0.9] {
        let set = [format!("tokenizer.bpe_dropout={dropout}"), "train.batch_size=300".to_string()];
        let resources = resources(&toy, &set.each_ref().map(String::as_str));
        let (mut tokens, mut batches) = (0, 0);
        for number in 0..5 {
            let epoch = resources.epoch(number);
            // the last pairs make a smaller batch
            let sizes: Vec<usize> = (0..epoch.len()).map(|i| resources.batch(&epoch, i).target.tokens()).collect();
            let smallest = sizes.iter().min().unwrap();
            assert!(sizes.iter().all(|&size| size < 300 * 6 / 5), "{dropout}: {sizes:?}");
            tokens += sizes.iter().sum::<usize>() - smallest;
            batches += sizes.len() - 1;
        }
        let mean = tokens as f64 / batches as f64;
        assert!((270.0..310.0).contains(&mean), "{dropout}: {mean}");
    }
}
