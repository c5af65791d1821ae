//! Tokenizers: training, round trips, files of others, messages about bad input.

use std::io::Write;
use std::path::{Path, PathBuf};

use nmt_train::config::{Normalization, TokenizerConfig, TokenizerKind};
use nmt_train::tokenizer::{Tokenizer, Tokenizers};
use serde_json::{json, Value};
use tempfile::TempDir;

const KINDS: [TokenizerKind; 2] = [TokenizerKind::Bpe, TokenizerKind::Unigram];

fn data(name: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join(name);
    std::fs::read_to_string(path).unwrap().lines().map(str::to_string).collect()
}

fn german() -> impl Iterator<Item = String> {
    [data("quickstart/test.en"), data("quickstart/test.de")].concat().into_iter()
}

fn chinese() -> impl Iterator<Item = String> {
    [data("quickstart-zh/test.en"), data("quickstart-zh/test.zh")].concat().into_iter()
}

fn settings(kind: TokenizerKind, vocab_size: usize) -> TokenizerConfig {
    TokenizerConfig { kind, vocab_size, normalization: Normalization::Nfc, ..Default::default() }
}

fn trained(kind: TokenizerKind, vocab_size: usize, lines: impl Iterator<Item = String>) -> Tokenizer {
    Tokenizer::train(&settings(kind, vocab_size), &[], lines).unwrap()
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    let mut file = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
    file.write_all(bytes).unwrap();
    file.persist(&path).unwrap();
    path
}

fn load(json: &Value) -> Result<Tokenizer, String> {
    let folder = TempDir::new().unwrap();
    Tokenizer::load(&file(&folder, "t.json", json.to_string().as_bytes())).map_err(|e| message(&e.to_string(), &folder))
}

fn message(text: &str, folder: &TempDir) -> String {
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn special_tokens_come_first_and_padding_last() {
    for kind in KINDS {
        let tokenizer = trained(kind, 600, german());
        assert!(tokenizer.vocab_size() <= 600 && tokenizer.vocab_size() > 500, "{}", tokenizer.vocab_size());
        let tokens = tokenizer.tokens();
        assert_eq!(tokens[..3], ["<unk>", "<s>", "</s>"]);
        assert_eq!(tokens.last().map(String::as_str), Some("<pad>"));
        assert_eq!((tokenizer.unk_id(), tokenizer.eos_id()), (0, 2));
        assert_eq!(tokenizer.pad_id() as usize, tokenizer.vocab_size() - 1);
        assert!(tokenizer.added().is_empty(), "{:?}", tokenizer.added());
    }
}

#[test]
fn decoding_gives_the_text_back() {
    let odd = ["Anna  kauft   zwei Bücher.", "Um 15:45 Uhr, im Jahr 1998: 12.500 Euro?", "Thomas' Rock.", "", "a .b"];
    for kind in KINDS {
        let tokenizer = trained(kind, 700, german().chain(odd.iter().map(|s| s.to_string())));
        let lines: Vec<String> = german().chain(odd.iter().map(|s| s.to_string())).collect();
        let ids = tokenizer.encode_batch(&lines.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        for (line, ids) in lines.iter().zip(&ids) {
            assert_eq!(&tokenizer.decode(ids).unwrap(), line, "{kind:?}");
        }
        let tokenizer = trained(kind, 900, chinese());
        for line in chinese() {
            assert_eq!(tokenizer.decode(&tokenizer.encode(&line).unwrap()).unwrap(), line, "{kind:?}");
        }
    }
}

#[test]
fn chinese_keeps_all_characters_and_gets_pieces_of_several() {
    for kind in KINDS {
        let tokenizer = trained(kind, 900, chinese());
        let ids = tokenizer.encode("图书馆里有三只猫。").unwrap();
        assert!(!ids.contains(&tokenizer.unk_id()), "{kind:?}: {ids:?}");
        assert!(tokenizer.tokens().iter().any(|t| t.chars().filter(|c| *c > '\u{4e00}').count() > 1), "{kind:?}");
    }
}

#[test]
fn a_batch_equals_its_lines_one_by_one_and_ends_each_once() {
    let lines: Vec<String> =
        german().chain(["a  b".into(), " a ".into(), String::new(), "x ▁ y </s> z".into()]).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for kind in KINDS {
        let tokenizer = trained(kind, 500, german());
        // twice: the second time all words are remembered
        for _ in 0..2 {
            let batch = tokenizer.encode_batch(&lines).unwrap();
            for (line, ids) in lines.iter().zip(&batch) {
                assert_eq!(ids, &tokenizer.encode(line).unwrap(), "{line:?}");
                assert_eq!(ids.iter().filter(|id| **id == tokenizer.eos_id()).count(), 1, "{line:?}");
                assert_eq!(ids.last(), Some(&tokenizer.eos_id()));
                assert!(!ids.contains(&tokenizer.pad_id()));
            }
        }
    }
}

#[test]
fn digits_and_punctuation_stand_alone() {
    let tokenizer = trained(TokenizerKind::Bpe, 600, german());
    let word = |piece: &str| tokenizer.word(tokenizer.tokens().iter().position(|t| t == piece).unwrap() as u32);
    assert_eq!((word("9").as_deref(), word(".").as_deref(), word("e"), word("▁")), (Some("9"), Some("."), None, None));
    let text: Vec<String> =
        tokenizer.encode("1998.").unwrap().iter().map(|id| tokenizer.token(*id).unwrap_or_default()).collect();
    assert_eq!(text, ["▁", "1", "9", "9", "8", ".", "</s>"]);
}

#[test]
fn training_is_deterministic_on_any_number_of_threads() {
    let with_threads = |threads, kind| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| trained(kind, 1000, german().chain(chinese()).step_by(2)).to_json().unwrap())
    };
    for kind in KINDS {
        let first = with_threads(1, kind);
        assert!(first == with_threads(1, kind), "{kind:?} trained twice");
        assert!(first == with_threads(3, kind), "{kind:?} with three threads");
    }
}

#[test]
fn unseen_characters_are_unknown_and_lost_in_decoding() {
    for kind in KINDS {
        let tokenizer = trained(kind, 500, german());
        let ids = tokenizer.encode("Anna 猫").unwrap();
        assert!(ids.contains(&tokenizer.unk_id()), "{kind:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap().trim_end(), "Anna");
    }
}

#[test]
fn normalization_and_lower_case_apply_before_the_vocabulary() {
    let config =
        TokenizerConfig { normalization: Normalization::Nfkc, lowercase: true, ..settings(TokenizerKind::Bpe, 500) };
    let tokenizer = Tokenizer::train(&config, &[], german()).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("ＡＮＮＡ kauft").unwrap()).unwrap(), "anna kauft");
}

#[test]
fn saved_tokenizers_load_to_the_same_ids() {
    let folder = TempDir::new().unwrap();
    let line = "Der Hund schläft um 15:45 Uhr.";
    let joint = Tokenizers::joint(trained(TokenizerKind::Unigram, 500, german()));
    joint.save(folder.path()).unwrap();
    let again = Tokenizers::load_saved(folder.path()).unwrap();
    assert!(again.is_joint());
    assert_eq!(again.fingerprint(), joint.fingerprint());
    assert_eq!(again.source.encode(line).unwrap(), joint.source.encode(line).unwrap());
    assert!(again.added().is_empty(), "{:?}", again.added());

    let folder = TempDir::new().unwrap();
    let two = Tokenizers::separate(
        trained(TokenizerKind::Bpe, 300, data("quickstart/test.en").into_iter()),
        trained(TokenizerKind::Bpe, 400, data("quickstart/test.de").into_iter()),
    );
    two.save(folder.path()).unwrap();
    let again = Tokenizers::load_saved(folder.path()).unwrap();
    assert!(!again.is_joint());
    assert_eq!(again.fingerprint(), two.fingerprint());
    assert_eq!(again.target.encode(line).unwrap(), two.target.encode(line).unwrap());
}

#[test]
fn the_file_ends_lines_for_other_tools_too() {
    let tokenizer = trained(TokenizerKind::Bpe, 400, german());
    let plain = tokenizers::Tokenizer::from_bytes(tokenizer.to_json().unwrap()).unwrap();
    for line in german() {
        assert_eq!(plain.encode(line.as_str(), true).unwrap().get_ids(), tokenizer.encode(&line).unwrap());
    }
    assert_eq!(plain.token_to_id("<pad>"), Some(tokenizer.pad_id()));
}

/// A small file of others: no special tokens, byte-level or not.
fn foreign(vocab: Value, added: Value) -> Value {
    json!({
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
}

fn token(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

#[test]
fn missing_special_tokens_are_added_and_named() {
    let tokenizer = load(&foreign(json!({"a": 0, "b": 1, "Ġ": 2}), json!([]))).unwrap();
    assert_eq!(
        tokenizer.added(),
        [
            "no unknown token (none is needed: all bytes are known); added <unk> as id 3",
            "no token for the end of a sentence; added </s> as id 4",
            "no padding token as the last id; added <pad> as id 5",
        ]
    );
    assert_eq!((tokenizer.unk_id(), tokenizer.eos_id(), tokenizer.pad_id()), (3, 4, 5));
    // neither cut to two tokens nor merged at random
    assert_eq!(tokenizer.encode("ab ba").unwrap(), [0, 1, 2, 1, 0, 4]);
    assert_eq!(tokenizer.decode(&[0, 1, 2, 1, 0, 4, 5]).unwrap(), "ab ba");
}

#[test]
fn special_tokens_of_others_are_recognized() {
    let added = json!([token(3, "[UNK]"), token(4, "<|endoftext|>"), token(5, "[PAD]")]);
    let tokenizer = load(&foreign(json!({"a": 0, "b": 1, "Ġ": 2}), added)).unwrap();
    assert!(tokenizer.added().is_empty(), "{:?}", tokenizer.added());
    assert_eq!((tokenizer.unk_id(), tokenizer.eos_id(), tokenizer.pad_id()), (3, 4, 5));
}

#[test]
fn padding_elsewhere_than_last_stays_and_a_second_one_is_added() {
    let added = json!([token(0, "<pad>"), token(1, "<unk>"), token(2, "</s>")]);
    let vocab = json!({"<pad>": 0, "<unk>": 1, "</s>": 2, "a": 3});
    let tokenizer = load(&foreign(vocab, added)).unwrap();
    assert_eq!(tokenizer.added(), ["no padding token as the last id; added <nmt_pad> as id 4"]);
    assert_eq!(tokenizer.pad_id(), 4);
}

#[test]
fn ids_with_holes_are_refused() {
    let error = load(&foreign(json!({"a": 0, "b": 1, "c": 5}), json!([]))).err().unwrap();
    assert_eq!(
        error,
        "t.json: ids with holes: 3 tokens, but the largest id is 5 and id 2 has no token; renumber the vocabulary so \
         that its ids are 0 to 2"
    );
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    let folder = TempDir::new().unwrap();
    let error = |path: &Path| message(&Tokenizer::load(path).err().unwrap().to_string(), &folder);
    assert!(error(&folder.path().join("absent.json")).contains("absent.json"));
    let text = error(&file(&folder, "a.json", b"not json"));
    assert!(text.starts_with("a.json: not JSON (expected"), "{text}");
    let text = error(&file(&folder, "b.json", b"{\"a\": 1}"));
    assert_eq!(text, "b.json: not a tokenizer.json of the Hugging Face tokenizers library: it has no \"model\"");
    let text = error(&file(&folder, "c.json", b"{\"model\": {\"type\": \"Nothing\"}}"));
    assert!(text.starts_with("c.json: not a tokenizer.json of the Hugging Face tokenizers library: "), "{text}");
    let text = error(&file(&folder, "d.json.gz", b"\x1f\x8b damaged"));
    assert!(text.contains("d.json.gz"), "{text}");
}

#[test]
fn text_that_can_not_train_is_refused() {
    let train = |config: &TokenizerConfig, lines: Vec<String>| {
        Tokenizer::train(config, &[], lines.into_iter()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let small = settings(TokenizerKind::Bpe, 40);
    let error = train(&small, german().collect());
    let words: Vec<&str> = error.split(' ').collect();
    assert!(error.starts_with("tokenizer.vocab_size = 40 is too small: the text has "), "{error}");
    let least: usize = words.iter().rev().find_map(|word| word.parse().ok()).unwrap();
    assert_eq!(train(&settings(TokenizerKind::Bpe, least), german().collect()), "");
    assert_eq!(train(&small, vec![" ".into()]), "the training text has no words to train a tokenizer on");
}

#[test]
#[expect(clippy::print_stdout, reason = "says that it was skipped")]
fn a_published_tokenizer_without_padding_loads_with_it_added() {
    let shared = std::env::var("NMT_SHARED").unwrap_or_else(|_| "../shared".to_string());
    let path = Path::new(&shared).join("artefacts/bpe-65k-no-pad.tokenizer.json.gz");
    if !path.exists() {
        println!("skipped: {} is absent", path.display());
        return;
    }
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!(
        tokenizer.added(),
        [
            "no unknown token (none is needed: all bytes are known); added <unk> as id 65000",
            "no padding token as the last id; added <pad> as id 65001",
        ]
    );
    assert_eq!(tokenizer.token(tokenizer.eos_id()).as_deref(), Some("<EOT>"));
    assert_eq!(tokenizer.token(tokenizer.pad_id()).as_deref(), Some("<pad>"));
    assert_eq!(tokenizer.vocab_size(), tokenizer.tokens().len());
    for line in ["Der Hund schläft.", "图书馆里有三只猫。", "def f(x):  return x"] {
        let ids = tokenizer.encode(line).unwrap();
        assert_eq!(ids.last(), Some(&tokenizer.eos_id()));
        assert_eq!(tokenizer.decode(&ids).unwrap(), line);
    }
}

/// Ids from Python's sentencepiece 0.2: `SentencePieceProcessor(model_file=…).encode(line)`.
#[test]
#[expect(clippy::print_stdout, reason = "says that it was skipped")]
fn sentencepiece_models_give_sentencepieces_ids() {
    let shared = std::env::var("NMT_SHARED").unwrap_or_else(|_| "../shared".to_string());
    let folder = Path::new(&shared).join("artefacts");
    if !folder.is_dir() {
        println!("skipped: {} is absent", folder.display());
        return;
    }
    let lines = [
        "The cat sleeps.",
        "  Ein  Hund frisst ½ Fisch\u{3000}… ",
        "图书馆里有三只猫。",
        "Größe 1998: „naïve“ café",
        "a \u{85}b",
    ];
    let golden: [(&str, &str, [&[u32]; 5]); 3] = [
        (
            "sp200.model",
            "</s>",
            [
                &[120, 20, 8, 7, 27, 47, 7, 9, 51, 8, 25, 9, 18],
                &[90, 36, 7, 144, 153, 86, 16, 81, 38, 7, 158, 0, 191, 117, 12, 62, 7, 18, 18, 18],
                &[7, 0],
                &[7, 91, 16, 128, 198, 8, 7, 158, 165, 165, 174, 157, 7, 0, 13, 24, 0, 37, 8, 0, 7, 27, 24, 28, 0],
                &[42, 7, 0, 30],
            ],
        ),
        (
            "spm_example.model",
            "</s>",
            [
                &[28, 3074, 1982, 13, 3],
                &[14407, 4640, 1289, 5833, 13, 13, 20, 383, 0, 1028, 1158, 10834, 991],
                &[36, 0],
                &[8622, 0, 107, 2859, 8858, 148, 36, 0, 1548, 0, 94, 0, 5533, 0],
                &[8, 36, 0, 974],
            ],
        ),
        (
            "t5_tokenizer_base.model",
            "</s>",
            [
                &[37, 1712, 2085, 7, 5],
                &[890, 14587, 9030, 7, 7, 17, 209, 2, 357, 21252, 3, 233],
                &[3, 2],
                &[12622, 6260, 10, 395, 29, 9, 2, 162, 735, 11949],
                &[3, 9, 3, 2, 115],
            ],
        ),
    ];
    for (name, eos, ids) in golden {
        let tokenizer = Tokenizer::load(&folder.join(name)).unwrap();
        assert_eq!(tokenizer.token(tokenizer.eos_id()).as_deref(), Some(eos), "{name}");
        for (line, ids) in lines.iter().zip(ids) {
            let wanted: Vec<u32> = ids.iter().copied().chain([tokenizer.eos_id()]).collect();
            assert_eq!(tokenizer.encode(line).unwrap(), wanted, "{name} {line:?}");
        }
        assert_eq!(tokenizer.decode_line(&tokenizer.encode(lines[0]).unwrap()).unwrap(), lines[0], "{name}");
    }
}
