//! What is told before the first update, by a run and by `check` alike.

use crate::toy::Toy;
use serde_json::{json, Value};

/// A tokenizer.json of words or characters.
fn tokenizer(model: Value, pre_tokenizer: &str, pieces: impl IntoIterator<Item = String>) -> String {
    let pieces: std::collections::BTreeSet<String> = pieces.into_iter().collect();
    let vocab: serde_json::Map<String, Value> =
        std::iter::once("<unk>".to_string()).chain(pieces).zip(0u32..).map(|(p, id)| (p, id.into())).collect();
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": pre_tokenizer}, "post_processor": null, "decoder": null, "model": model,
    });
    file["model"]["vocab"] = Value::Object(vocab);
    file["model"]["unk_token"] = "<unk>".into();
    file.to_string()
}

fn words(toy: &Toy) -> Vec<String> {
    let text = toy.read("train.en") + &toy.read("train.de");
    text.split_whitespace().map(str::to_string).collect()
}

fn characters(suffix: &str) -> impl Iterator<Item = String> + '_ {
    let plain = "abcdefghijklmnopqrstuvwxyzäöüß".chars().map(|c| c.to_string());
    plain.clone().chain(plain.map(move |c| format!("{c}{suffix}")))
}

/// Lines of stderr that warn, without the colour and the step.
fn told(err: &str) -> Vec<&str> {
    err.lines().filter_map(|line| line.strip_prefix("warning: step 0: ")).collect()
}

/// Both ways tell the same; returns what.
#[track_caller]
fn warned(toy: &Toy, args: &str) -> Vec<String> {
    let check = toy.run(&format!("check --config toy.toml {args}")).exits(0);
    let run = toy
        .run(&format!("-q --config toy.toml --force --set train.max_updates=6 --set validation.valid_freq=0 {args}"));
    let found: Vec<String> = told(&check.err).into_iter().map(str::to_string).collect();
    let from_run = run.exits(0);
    // a run of six updates says more of its warm-up than one of sixty
    let others = |line: &&str| !line.starts_with("warm-up");
    assert_eq!(told(&from_run.err).into_iter().filter(others).collect::<Vec<_>>(), found, "{}", from_run.err);
    found
}

#[test]
fn nothing_is_told_of_a_run_that_is_all_right() {
    let toy = Toy::new();
    assert_eq!(warned(&toy, "--set schedule.warmup_updates=2"), [""; 0]);
    let err = toy.run("check --config toy.toml").exits(0).err;
    assert!(err.contains("unknown") && err.contains("0 source, 0 target"), "{err}");
}

#[test]
fn a_tokenizer_that_loses_spaces_is_told_once_with_an_example() {
    let toy = Toy::new();
    toy.write("t.json", tokenizer(json!({"type": "BPE", "merges": []}), "Whitespace", characters("")));
    let found = warned(&toy, "--set tokenizer.path=t.json");
    assert_eq!(found.len(), 1, "{found:?}");
    let counts =
        "80 of 80 source lines and 80 of 80 target lines of the training text come back changed, as \"der hund";
    assert!(found[0].contains(counts) && found[0].contains("becomes \"d e r h u n d"), "{}", found[0]);
}

#[test]
fn a_suffix_without_a_decoder_trains_and_writes_words() {
    let toy = Toy::new();
    let model = json!({"type": "BPE", "merges": [], "end_of_word_suffix": "</w>"});
    toy.write("t.json", tokenizer(model, "WhitespaceSplit", characters("</w>")));
    assert_eq!(warned(&toy, "--set tokenizer.path=t.json"), [""; 0]);
    let text = toy.pipe("translate run", "the dog sees a tree\n").exits(0).out;
    assert!(!text.contains("</w>") && text.lines().count() == 1, "{text}");
}

#[test]
fn unknown_tokens_are_counted_a_side_and_told_with_a_word() {
    let toy = Toy::new();
    toy.write(
        "t.json",
        tokenizer(
            json!({"type": "BPE", "merges": [], "end_of_word_suffix": "</w>"}),
            "WhitespaceSplit",
            characters("</w>"),
        ),
    );
    toy.write("train.de", toy.read("train.de").replace("hund", "หมา").replace("katze", "แมว"));
    let found = warned(&toy, "--set tokenizer.path=t.json --set data.test=[]");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("% of the target tokens of the training text (96 of ")
            && found[0].contains("for example in \"หมา\""),
        "{}",
        found[0]
    );
    toy.write("valid.de", "หมา\n".repeat(9));
    let found = warned(&toy, "--set tokenizer.path=t.json --set data.test=[] --set validation.tokenize=char");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(" and 75.0 % of the target tokens of data.valid (27 of 36) are unknown"), "{}", found[0]);
}

#[test]
fn references_that_the_tokenizer_changes_are_told_with_their_share() {
    let toy = Toy::new();
    let decomposed = toy.read("valid.de").replace("der", "de\u{301}r");
    toy.write("train.de", toy.read("train.de").replace("der", "d\u{e9}r"));
    toy.write("valid.de", decomposed);
    let found = warned(&toy, "--set data.test=[]");
    assert_eq!(found.len(), 1, "{found:?}");
    let part = "of the references of data.valid (2 of 9 lines looked at)";
    assert!(
        found[0].contains("22.2 %") && found[0].contains(part) && found[0].contains("(U+00E9 where U+0065 was)"),
        "{}",
        found[0]
    );
    let found = warned(&toy, "--set data.test=[] --set tokenizer.normalization=none");
    assert!(found.iter().all(|line| !line.contains("references")), "{found:?}");
    toy.write("valid.de", "Der Hund\n".repeat(9));
    let found = warned(&toy, "--set data.test=[] --set tokenizer.lowercase=true");
    assert!(found[0].contains("100.0 %") && found[0].contains("tokenizer.lowercase (now true)"), "{found:?}");
}

#[test]
fn word_vectors_fill_the_rows_of_whole_words_and_few_are_told() {
    let toy = Toy::new();
    let vector = " 0.5".repeat(16);
    let line = |word: &str| format!("{word}{vector}\n");
    let all: std::collections::BTreeSet<String> = words(&toy).into_iter().collect();
    toy.write("all.vec", format!("{} 16\n", all.len()) + &all.iter().map(|word| line(word)).collect::<String>());
    toy.write("wl.json", tokenizer(json!({"type": "WordLevel"}), "WhitespaceSplit", words(&toy)));
    let args = "check --config toy.toml --set tokenizer.path=wl.json --set model.pretrained_embeddings=";
    let done = toy.run(&format!("{args}all.vec")).exits(0);
    let filled = format!("all.vec: {0} of {1} rows filled from {0} vectors", all.len(), all.len() + 3);
    assert!(done.err.contains(&filled) && told(&done.err).is_empty(), "{}", done.err);

    toy.write("few.vec", ["dog", "Hund", "Haus"].map(line).concat());
    let done = toy.run(&format!("{args}few.vec")).exits(0);
    let found = told(&done.err);
    assert_eq!(found.len(), 1, "{found:?}");
    let text = format!("fill only 1 of the {} rows of the embedding table", all.len() + 3);
    let words = format!("{} pieces are words", all.len());
    assert!(found[0].contains(&text) && found[0].contains(&words), "{}", found[0]);
    assert!(found[0].contains("the file begins with \"dog\", \"Hund\", \"Haus\""), "{}", found[0]);
}

#[test]
fn warm_up_longer_than_the_run_is_told_whatever_ends_it() {
    let toy = Toy::new();
    for limit in ["train.max_updates=60", "train.max_epochs=2"] {
        let args = format!(
            "check --config toy.toml --set train.max_updates=0 --set schedule.warmup_updates=4000 --set {limit}"
        );
        let done = toy.run(&args).exits(0);
        let found = told(&done.err);
        assert!(found.len() == 1 && found[0].starts_with("warm-up is longer than the run"), "{}", done.err);
    }
}

#[test]
fn held_out_pairs_that_are_blank_or_too_long_are_counted() {
    let toy = Toy::new();
    toy.write("valid.en", "the dog\n \n".to_string() + &"a tree ".repeat(100) + "\n");
    toy.write("valid.de", "der hund\neinen baum\n".to_string() + &"einen baum ".repeat(100) + "\n");
    let done = toy.run("check --config toy.toml --set data.test=[]").exits(0);
    let rows: Vec<String> =
        done.err.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in ["with a blank side 1, none", "longer than max_length 1, none"] {
        assert!(rows.iter().any(|line| line.contains(row)), "{row}: {}", done.err);
    }
    let found = told(&done.err);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("1 of 3 pairs of data.valid have a blank side"), "{}", found[0]);
    assert!(found[1].contains("longer than data.max_length = 100 tokens, the longest has"), "{}", found[1]);

    toy.write("valid.en", "\u{FEFF}\n\u{3000}\n\u{200B}\n");
    let done = toy.run("check --config toy.toml --set data.test=[]").exits(3);
    assert!(done.err.contains("data.valid: no pair has text on both sides"), "{}", done.err);
}

/// The test scores that training prints are those of `evaluate` on the same files, blank lines included.
#[test]
fn blank_held_out_lines_score_the_same_in_training() {
    let toy = Toy::new();
    let blank =
        |text: String| text.lines().flat_map(|line| [line, " "]).map(|line| format!("{line}\n")).collect::<String>();
    for side in ["en", "de"] {
        toy.write(&format!("valid.{side}"), blank(toy.read(&format!("valid.{side}"))));
    }
    toy.run("-q --config toy.toml").exits(0);
    let translations = toy.read("run/translations/test.txt");
    let lines: Vec<&str> = translations.lines().collect();
    assert_eq!(lines.len(), 18);
    assert!(lines.iter().skip(1).step_by(2).all(|line| line.is_empty()), "{lines:?}");
}
