//! The pieces of SentencePiece models against the library's own (`scripts/sentencepiece-fixtures.py` made them), and BLEU
//! over them.

use std::path::{Path, PathBuf};

use nmt_train::fsio;
use nmt_train::metrics::SpmTokenizer;
use nmt_train::tokenizer::{MarianFiles, Tokenizers};
use serde_json::Value;

use super::toy::Toy;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece")
}

/// A model of the project, or of a corpus folder beside it that may be absent.
fn find(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("NMT_SHARED").map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    [fixtures().join(name), shared.join("artefacts").join(name)].into_iter().find(|path| path.exists())
}

#[test]
#[expect(clippy::print_stdout, reason = "says that it was skipped")]
fn pieces_are_those_of_the_library() {
    let json: Value = serde_json::from_str(&fsio::read_to_string(&fixtures().join("pieces.json")).unwrap()).unwrap();
    let lines: Vec<&str> = json["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(lines.len() > 80);
    let mut compared = 0;
    for (name, pieces) in json["pieces"].as_object().unwrap() {
        let Some(path) = find(name) else {
            println!("skipped: {name} is not there");
            continue;
        };
        let model = SpmTokenizer::load(&path, None).unwrap();
        for (line, expected) in lines.iter().zip(pieces.as_array().unwrap()) {
            assert_eq!(model.tokens(line), expected.as_str().unwrap(), "{name}: {line:?}");
        }
        compared += 1;
    }
    assert!(compared >= 4, "{compared}");
}

#[test]
fn evaluate_counts_pieces_and_names_the_model() {
    let toy = Toy::new();
    let model = fixtures().join("unigram.model");
    toy.write("own.model", fsio::read(&model).unwrap());
    toy.write("h", "The old clock had stopped.\n");
    toy.write("r", "The old clock in the hall had stopped.\n");
    let told = toy.run("evaluate --hypothesis h --reference r -m bleu --tokenize spm:own.model").exits(0).out;
    let pieces = SpmTokenizer::load(&model, None).unwrap().tokens("The old clock had stopped.");
    let count = pieces.split(' ').count();
    assert!(told.contains(&format!("hyp_len = {count} ")) && told.contains("|tok:spm-own|"), "{told}");
    toy.write("broken.model", "{ \"model\": 1 }");
    toy.run("evaluate --hypothesis h --reference r --tokenize spm:broken.model")
        .exits(3)
        .tells(&["broken.model: not a SentencePiece model"]);
    toy.run("evaluate --hypothesis h --reference r --tokenize spm:absent.model").exits(3).tells(&["absent.model"]);
}

/// Ids of each line of `NMT_CHECK_LINES` (JSON strings, one a line), as JSON; those of both sides and what they are decoded
/// to. `NMT_CHECK_TOKENIZER` is a file, or a folder of MarianTokenizer.
fn ids_for_checks(tokenizer: &Path, lines: &Path, out: &Path) {
    let tokenizers = match tokenizer.is_dir() {
        true => {
            let [source_spm, target_spm, vocab, target_vocab] =
                ["source.spm", "target.spm", "vocab.json", "target_vocab.json"].map(|name| tokenizer.join(name));
            let target_vocab = target_vocab.exists().then_some(target_vocab.as_path());
            Tokenizers::marian(&MarianFiles {
                source_spm: &source_spm,
                target_spm: &target_spm,
                vocab: &vocab,
                target_vocab,
            })
        }
        false => Tokenizers::load(tokenizer, None),
    };
    let tokenizers = tokenizers.unwrap();
    let text = fsio::read_to_string(lines).unwrap();
    let lines: Vec<String> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let sides = [&tokenizers.source, &tokenizers.target].map(|side| {
        let ids = side.encode_batch(&lines).unwrap();
        let text: Vec<String> = ids.iter().map(|ids| side.decode(ids).unwrap()).collect();
        serde_json::json!({"ids": ids, "text": text, "tokens": side.tokens(), "json": side.to_json().ok(),
                           "special": [side.unk_id(), side.eos_id(), side.pad_id()]})
    });
    fsio::write_atomic(out, serde_json::to_string(&sides).unwrap().as_bytes()).unwrap();
}

#[test]
#[ignore = "gives ids to tests/interop/check_sentencepiece.py"]
fn writes_ids_for_checks() {
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")));
    ids_for_checks(&path("NMT_CHECK_TOKENIZER"), &path("NMT_CHECK_LINES"), &path("NMT_CHECK_OUT"));
}
