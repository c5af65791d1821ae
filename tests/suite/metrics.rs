//! Metrics against sacreBLEU's own answers (`scripts/sacrebleu-fixtures.py` made them).

use std::fs;
use std::path::PathBuf;

use nmt_train::metrics::{bleu, chrf, sentence_bleu, ter, BleuOptions, BleuTokenizer, ChrfOptions, TerOptions};
use serde_json::Value;

/// One fixture file.
struct Fixture {
    name: String,
    json: Value,
}

impl Fixture {
    fn all() -> Vec<Fixture> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sacrebleu");
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= 40, "only {} fixtures", paths.len());
        let read = |path: PathBuf| Fixture {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            json: serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap(),
        };
        paths.into_iter().map(read).collect()
    }

    fn hypotheses(&self) -> Vec<&str> {
        strings(&self.json["hypotheses"])
    }

    fn references(&self) -> Vec<Vec<&str>> {
        self.json["references"].as_array().unwrap().iter().map(strings).collect()
    }

    /// The expected results of one metric.
    fn results(&self, metric: &str) -> &[Value] {
        self.json[metric].as_array().unwrap()
    }

    /// Compares what every metric has: the printed line, the signature, the score to 1e-9.
    fn same(&self, expected: &Value, line: &str, signature: &str, score: f64) {
        let name = &self.name;
        assert_eq!(line, expected["text"], "{name}: {signature}");
        let version = format!("nmt-train-{}", env!("CARGO_PKG_VERSION"));
        let theirs = expected["signature"].as_str().unwrap();
        assert!(theirs.ends_with("|version:2.6.0"));
        assert_eq!(signature, theirs.replace("2.6.0", &version), "{name}");
        self.close(score, &expected["score"], signature);
    }

    fn close(&self, value: f64, expected: &Value, what: &str) {
        let expected = expected.as_f64().unwrap();
        assert!((value - expected).abs() < 1e-9, "{}: {what}: {value} instead of {expected}", self.name);
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
}

fn flag(options: &Value, name: &str) -> bool {
    options[name].as_bool().unwrap_or(false)
}

#[test]
fn bleu_tokens_are_those_of_sacrebleu() {
    for fixture in Fixture::all() {
        for (name, lines) in fixture.json["tokenized"].as_object().unwrap() {
            let tokenizer = BleuTokenizer::from_name(name).unwrap();
            for (line, expected) in fixture.hypotheses().into_iter().zip(strings(lines)) {
                assert_eq!(tokenizer.tokens(line), expected, "{}: {name}: {line:?}", fixture.name);
            }
        }
    }
}

#[test]
fn bleu_is_that_of_sacrebleu() {
    for fixture in Fixture::all() {
        for expected in fixture.results("bleu") {
            let options = BleuOptions {
                tokenizer: BleuTokenizer::from_name(expected["tokenize"].as_str().unwrap()).unwrap(),
                lowercase: flag(expected, "lowercase"),
                effective_order: flag(expected, "effective_order"),
            };
            let score = bleu(&fixture.hypotheses(), &fixture.references(), &options).unwrap();
            fixture.same(expected, &score.to_string(), &score.signature(), score.score);
            fixture.close(score.bp, &expected["bp"], "bp");
            for n in 0..4 {
                fixture.close(score.precisions[n], &expected["precisions"][n], "precision");
                assert_eq!(score.counts[n], expected["counts"][n], "{}", fixture.name);
                assert_eq!(score.totals[n], expected["totals"][n], "{}", fixture.name);
            }
        }
    }
}

#[test]
fn chrf_is_that_of_sacrebleu() {
    for fixture in Fixture::all() {
        for expected in fixture.results("chrf") {
            let word_order = expected["word_order"].as_u64().unwrap_or(0) as usize;
            let options = ChrfOptions { word_order, lowercase: flag(expected, "lowercase") };
            let score = chrf(&fixture.hypotheses(), &fixture.references(), &options).unwrap();
            fixture.same(expected, &score.to_string(), &score.signature(), score.score);
        }
    }
}

#[test]
fn ter_is_that_of_sacrebleu() {
    for fixture in Fixture::all() {
        for expected in fixture.results("ter") {
            let options = TerOptions {
                normalized: flag(expected, "normalized"),
                no_punct: flag(expected, "no_punct"),
                asian_support: flag(expected, "asian_support"),
                case_sensitive: flag(expected, "case_sensitive"),
            };
            let score = ter(&fixture.hypotheses(), &fixture.references(), &options).unwrap();
            fixture.same(expected, &score.to_string(), &score.signature(), score.score);
            assert_eq!(score.num_edits, expected["num_edits"], "{}", fixture.name);
            fixture.close(score.ref_length, &expected["ref_length"], "reference length");
        }
    }
}

#[test]
fn sentence_scores_are_those_of_sacrebleu() {
    for fixture in Fixture::all() {
        let references = fixture.references();
        for (i, hypothesis) in fixture.hypotheses().into_iter().enumerate() {
            let lines: Vec<&str> = references.iter().map(|stream| stream[i]).collect();
            let streams: Vec<Vec<&str>> = lines.iter().map(|&line| vec![line]).collect();
            let check = |metric: &str, line: String| assert_eq!(line, fixture.json[metric][i], "{} {i}", fixture.name);
            check("sentence_bleu", sentence_bleu(hypothesis, &lines, &BleuOptions::default()).unwrap().to_string());
            check("sentence_chrf", chrf(&[hypothesis], &streams, &ChrfOptions::default()).unwrap().to_string());
            check("sentence_ter", ter(&[hypothesis], &streams, &TerOptions::default()).unwrap().to_string());
        }
    }
}
