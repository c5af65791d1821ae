//! Speed of training a tokenizer and of encoding with it.
//!
//! `cargo bench --bench tokenizer -- FILE...` (plain or .gz; default: the quickstart corpus), `VOCAB=8000`,
//! `RAYON_NUM_THREADS=2`; `TOKENIZER=FILE` measures that one too, a tokenizer.json or a SentencePiece model.
#![allow(clippy::print_stdout, reason = "the result of a benchmark")]

use std::io::Read;
use std::time::Instant;

use nmt_train::config::{TokenizerConfig, TokenizerKind};
use nmt_train::tokenizer::Tokenizer;

fn main() {
    let mut files: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if files.is_empty() {
        let file = |side| format!("{}/data/quickstart/train.{side}", env!("CARGO_MANIFEST_DIR"));
        files = vec![file("en"), file("de")];
    }
    let lines: Vec<String> =
        files.iter().map(|name| text(name)).flat_map(|t| t.lines().map(str::to_string).collect::<Vec<_>>()).collect();
    let vocab_size = std::env::var("VOCAB").ok().and_then(|size| size.parse().ok()).unwrap_or(8000);
    println!("{} lines, {} threads", lines.len(), rayon::current_num_threads());
    for kind in [TokenizerKind::Bpe, TokenizerKind::Unigram] {
        let config = TokenizerConfig { kind, vocab_size, ..Default::default() };
        let start = Instant::now();
        let tokenizer = Tokenizer::train(&config, &[], lines.iter().cloned()).expect("text that can train");
        println!("{kind:?} {}: trained in {:.2} s", tokenizer.vocab_size(), start.elapsed().as_secs_f64());
        encode(&tokenizer, &lines);
    }
    if let Ok(name) = std::env::var("TOKENIZER") {
        let tokenizer = Tokenizer::load(name.as_ref()).expect("a tokenizer");
        println!("{name} {}", tokenizer.vocab_size());
        encode(&tokenizer, &lines);
    }
}

fn encode(tokenizer: &Tokenizer, lines: &[String]) {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for pass in ["first pass", "second pass"] {
        let (start, busy) = (Instant::now(), cpu_seconds());
        let tokens: usize = lines
            .chunks(20_000)
            .map(|batch| tokenizer.encode_batch(batch).expect("no faults").iter().map(Vec::len).sum::<usize>())
            .sum();
        let (seconds, busy) = (start.elapsed().as_secs_f64(), cpu_seconds() - busy);
        println!(
            "    {pass}: {tokens} tokens, {:.2} M tokens/s, {:.2} M a CPU second",
            tokens as f64 / seconds / 1e6,
            tokens as f64 / busy / 1e6
        );
    }
}

/// Processor time of all threads so far (Linux), which a busy machine does not distort.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |field: usize| stat.split(' ').nth(field).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(13) + ticks(14)) / 100.0
}

fn text(name: &str) -> String {
    let bytes = std::fs::read(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut text = String::new();
    match name.ends_with(".gz") {
        true => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).map(|_| ()),
        false => bytes.as_slice().read_to_string(&mut text).map(|_| ()),
    }
    .unwrap_or_else(|e| panic!("{name}: {e}"));
    text
}
