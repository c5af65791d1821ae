//! Bytes from anywhere, given to everything here that reads files: an error is right, a panic or much memory never. One list for
//! the fuzzer (`scripts/fuzz.sh`) and for the test that repeats what it once found (`tests/fixtures/untrusted/READER/`).

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use nmt_train::checkpoint::{self, Store};
use nmt_train::config::{self, Corpora, Corpus, DataConfig, Source};
use nmt_train::data;
use nmt_train::interop::pickle;
use nmt_train::metrics::{self, BleuTokenizer};
use nmt_train::model::pretrained;
use nmt_train::params::{Init, ParamKind, ParamSet};
use nmt_train::run::{rows, Ledger};
use nmt_train::scores::Metric;
use nmt_train::sentencepiece::SentencePiece;
use nmt_train::sweep;
use nmt_train::tokenizer::Tokenizer;

/// Reads bytes, whatever they are.
pub(crate) type Read = fn(&[u8]);

/// What reads, under its name.
pub(crate) const READERS: [(&str, Read); 14] = [
    ("config", config_file),
    ("set", set),
    ("tsv", |bytes| corpus(bytes, "tsv")),
    ("jsonl", |bytes| corpus(bytes, "jsonl")),
    ("gz", |bytes| corpus(bytes, "tsv.gz")),
    ("tokenizer-json", tokenizer_json),
    ("sentencepiece", sentencepiece),
    ("vectors", vectors),
    ("manifest", manifest),
    ("safetensors", safetensors),
    ("state", state),
    ("sweep", sweep_file),
    ("pickle", torch_file),
    ("scores", scores),
];

/// A folder of this process, in memory where the system has such a place.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = parent.join(format!("nmt-train-untrusted-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = scratch().join(name);
    put(&path, bytes);
    path
}

/// Not synced to the disk, which would take longer than what is tried.
#[expect(clippy::disallowed_methods, reason = "a file that may be torn is one more input")]
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn config_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    if let Ok(loaded) = config::load(&Source::Text { name: "c.toml".to_string(), text }, &[]) {
        loaded.config.to_toml().unwrap();
    }
}

/// `--set` arguments, one a line.
fn set(bytes: &[u8]) {
    let sets: Vec<String> = String::from_utf8_lossy(bytes).lines().map(str::to_string).collect();
    let text = "data.train = ['a.tsv']\ntrain.max_updates = 10\n".to_string();
    let _ = config::load(&Source::Text { name: "c.toml".to_string(), text }, &sets);
}

fn corpus(bytes: &[u8], ending: &str) {
    let path = file(&format!("text.{ending}"), bytes).to_string_lossy().into_owned();
    let corpus = Corpus { files: vec![path], columns: Vec::new(), weight: 1.0, tag: String::new() };
    let _ = data::held_out(&Corpora(vec![corpus]), &DataConfig::default());
}

fn tokenizer_json(bytes: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::load(&file("tokenizer.json", bytes)) {
        if let Ok(ids) = tokenizer.encode("Ein Satz, mit 3 Zahlen\u{301}.") {
            let _ = tokenizer.decode(&ids);
        }
    }
}

fn sentencepiece(bytes: &[u8]) {
    if let Ok(model) = SentencePiece::parse(bytes) {
        model.encode("Ein Satz, mit 3 Zahlen\u{301}.", |_, _| ());
        let _ = model.normalize(" \u{fb01}n  x ");
    }
}

fn vectors(bytes: &[u8]) {
    let mut params = ParamSet::new(1, DType::F32, &Device::Cpu);
    params.add("e", ParamKind::Table { tied: false }, &[3, 2], Init::Zeros).unwrap();
    let words = |id: u32| ["the", "a"].get(id as usize).map(|word| word.to_string());
    let path = file("words.vec", bytes);
    let _ = pretrained::fill(params.get("e").unwrap(), &path, &words);
}

/// A checkpoint whose manifest is these bytes.
fn manifest(bytes: &[u8]) {
    let run = scratch().join("run");
    let folder = run.join("checkpoints/step-00000007");
    fs::create_dir_all(&folder).unwrap();
    put(&folder.join("manifest.json"), bytes);
    let store = Store::at(&run);
    let _ = store.load_newest(&Device::Cpu, &|_| Ok(()), &mut Vec::new());
    let _ = store.state(7);
}

fn safetensors(bytes: &[u8]) {
    let _ = checkpoint::from_bytes(bytes);
    let mut params = ParamSet::new(1, DType::F32, &Device::Cpu);
    params.add("w", ParamKind::Matrix, &[2, 2], Init::Zeros).unwrap();
    let _ = checkpoint::load_weights(&file("model.safetensors", bytes), &params);
}

/// state.json, and the rows of metrics.jsonl.
fn state(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        if let Ok(ledger) = Ledger::read(&value) {
            ledger.to_json().unwrap();
            let _ = (ledger.best().cloned(), ledger.ranked(Metric::Bleu), ledger.weights_kept());
        }
    }
    if let Ok(rows) = rows::parse(&String::from_utf8_lossy(bytes)) {
        let _ = rows::that_hold(rows);
    }
}

fn sweep_file(bytes: &[u8]) {
    let _ = sweep::parse("sweep.txt", &String::from_utf8_lossy(bytes));
}

fn torch_file(bytes: &[u8]) {
    let _ = pickle::read(&file("pytorch_model.bin", bytes));
}

/// Lines as hypotheses and references, by turns.
fn scores(bytes: &[u8]) {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
    let lines: Vec<&str> = text.lines().collect();
    let hypotheses: Vec<&str> = lines.iter().step_by(2).copied().collect();
    let mut references: Vec<&str> = lines.iter().skip(1).step_by(2).copied().collect();
    references.resize(hypotheses.len(), "a");
    for tokenizer in [BleuTokenizer::V13a, BleuTokenizer::Zh, BleuTokenizer::Intl, BleuTokenizer::Char] {
        let _ = metrics::measure(Metric::Bleu, &hypotheses, &[references.clone()], &tokenizer, true);
    }
    for metric in [Metric::ChrfPlusPlus, Metric::Ter] {
        let _ = metrics::measure(metric, &hypotheses, &[references.clone()], &BleuTokenizer::None, false);
    }
}

#[test]
fn what_the_fuzzer_found_is_an_error_now() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/untrusted");
    let mut tried = 0;
    for (name, read) in READERS {
        read(b"");
        let mut files: Vec<PathBuf> =
            fs::read_dir(all.join(name)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            read(&fs::read(&file).unwrap());
            tried += 1;
        }
    }
    let folders = fs::read_dir(&all).map_or(0, |entries| entries.count());
    assert!(tried >= folders, "a folder that is no reader's");
    let _ = fs::remove_dir_all(scratch());
}
