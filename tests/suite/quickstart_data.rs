//! The committed corpora equal what their generator makes, and keep their promises.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

#[path = "../../data/generate/corpora/mod.rs"]
mod corpora;

fn made() -> &'static [corpora::Corpus] {
    static MADE: OnceLock<Vec<corpora::Corpus>> = OnceLock::new();
    MADE.get_or_init(corpora::all)
}

fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn committed_files_are_what_the_generator_makes() {
    for corpus in made() {
        for (name, text) in corpus.files() {
            assert!(data(&name) == text, "{name} differs; run: cargo run --release --example quickstart-data");
        }
    }
}

#[test]
fn the_read_me_quotes_the_counts() {
    let readme = data("README.md");
    for line in made().iter().flat_map(corpora::Corpus::counts) {
        assert!(readme.contains(&line), "data/README.md lacks: {line}");
    }
}

#[test]
fn held_out_sentences_occur_nowhere_else_on_either_side() {
    for corpus in made().iter().filter(|corpus| corpus.folder.starts_with("quickstart")) {
        for side in [0, 1] {
            let mut seen = HashSet::new();
            for line in corpus.sets.iter().flat_map(|(_, set)| [&set.source, &set.target][side]) {
                assert!(seen.insert(line), "{}: twice: {line}", corpus.folder);
            }
        }
    }
}

#[test]
fn four_in_five_held_out_sentences_hold_a_reserved_combination_and_no_training_sentence_does() {
    for corpus in made() {
        for (name, set) in &corpus.sets {
            let with = set.reserved.get("any").copied().unwrap_or(0);
            let wanted = if *name == "train" { 0 } else { set.source.len() * 4 / 5 };
            assert_eq!(with, wanted, "{}/{name}", corpus.folder);
        }
    }
}

#[test]
fn every_english_word_of_the_test_set_but_composed_numbers_occurs_in_training() {
    for corpus in made().iter().filter(|corpus| corpus.folder.starts_with("quickstart")) {
        let words = |set: &corpora::Set| -> Vec<String> {
            let text = set.source.join(" ").to_lowercase();
            text.split([' ', '.', ',', '?']).filter(|word| !word.is_empty()).map(str::to_string).collect()
        };
        let [(_, train), _, (_, test)] = &corpus.sets;
        let train: HashSet<String> = words(train).into_iter().collect();
        let is_number = |word: &str| word.contains(|c: char| c.is_ascii_digit() || c == '-');
        let strange: Vec<_> =
            words(test).into_iter().filter(|word| !train.contains(word) && !is_number(word)).collect();
        assert!(strange.is_empty(), "{strange:?}");
    }
}

#[test]
fn a_large_corpus_avoids_the_held_out_sentences() {
    let (mut source, mut target) = (Vec::new(), Vec::new());
    corpora::write_large(2000, &mut source, &mut target).unwrap();
    let (source, target) = (String::from_utf8(source).unwrap(), String::from_utf8(target).unwrap());
    assert_eq!((source.lines().count(), target.lines().count()), (2000, 2000));
    let [_, (_, valid), (_, test)] = &made()[0].sets;
    let held: HashSet<&str> =
        [&valid.source, &valid.target, &test.source, &test.target].into_iter().flatten().map(String::as_str).collect();
    assert!(source.lines().chain(target.lines()).all(|line| !held.contains(line)));
}
