//! `translate --sampling`: a sample depends on seed, line and number alone, and what makes no sense is refused.

use std::io::Write;
use std::process::{Child, Stdio};

use serde_json::Value;

use super::toy::Toy;

/// With blank lines, and lines that come twice.
fn text(toy: &Toy) -> String {
    let valid = toy.read("valid.en");
    format!("{valid}\n{valid}the dog\n \n{}", valid.lines().next().unwrap())
}

/// A job that waits for more text of its pipe, having answered some lines.
fn waiting(toy: &Toy, args: &str, text: &str) -> Child {
    let mut command = toy.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    toy.wait_for("out.partial/record.json", &format!("\"lines\":{},", text.lines().count()));
    child
}

#[test]
fn neither_threads_nor_batches_nor_other_lines_show_in_a_sample() {
    for kind in ["transformer", "rnn"] {
        let toy = Toy::new();
        toy.run(&format!("-q --config toy.toml --set model.kind={kind} --set train.max_updates=10")).exits(0);
        let text = text(&toy);
        for how in ["--samples 3", "--samples 2 --top-k 20 --temperature 1.5", "--top-p 0.9 --format json"] {
            let args = format!("translate run --sampling {how}");
            let all = toy.pipe(&args, &text).exits(0).out;
            for other in ["--max-batch-tokens 1", "--threads 2", "--threads 4 --max-batch-tokens 60"] {
                assert_eq!(toy.pipe(&format!("{args} {other}"), &text).exits(0).out, all, "{kind} {how} {other}");
            }
            let few: String = text.split_inclusive('\n').take(3).collect();
            assert!(all.starts_with(&toy.pipe(&args, &few).exits(0).out), "{kind} {how}");
            assert_ne!(toy.pipe(&format!("{args} --seed 4"), &text).exits(0).out, all);

            let mut job = waiting(&toy, &format!("{args} --output out"), &few);
            job.kill().unwrap();
            job.wait().unwrap();
            toy.write("in", &text);
            let told = toy.run(&format!("{args} --seed 5 --input in --output out")).exits(3);
            told.tells(&["--sampling top-k", "seed 5"]);
            toy.run(&format!("{args} --input in --output out --force")).exits(0);
            assert_eq!(toy.read("out"), all);
            std::fs::remove_file(toy.path("out")).unwrap();
        }
    }
}

#[test]
fn samples_are_listed_as_drawn_and_of_every_line() {
    let toy = Toy::trained();
    let text = text(&toy);
    let listed = toy.pipe("translate run --sampling --samples 3", &text).exits(0).out;
    let numbers: Vec<usize> = listed.lines().map(|line| line.split(" ||| ").next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..text.lines().count()).flat_map(|line| [line; 3]).collect::<Vec<_>>());
    let first: String =
        listed.lines().step_by(3).map(|line| format!("{}\n", line.split(" ||| ").nth(1).unwrap())).collect();
    assert_eq!(toy.pipe("translate run --sampling", &text).exits(0).out, first);
    let objects = toy.pipe("translate run --sampling --samples 3 --format json --alignment", &text).exits(0).out;
    let of_objects: String = objects
        .lines()
        .zip(0..)
        .flat_map(|(line, number)| {
            let object: Value = serde_json::from_str(line).unwrap();
            let one = |found: &Value| {
                let (text, score) = (found["text"].as_str().unwrap(), found["score"].as_f64().unwrap());
                format!("{number} ||| {text} ||| {score:.6}\n")
            };
            object["translations"].as_array().unwrap().iter().map(one).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(of_objects, listed);
    // one probable token at each step is what greedy search finds, until it ends
    let greedy = toy.pipe("translate run --beam 1", &text).exits(0).out;
    assert_eq!(toy.pipe("translate run --sampling --top-k 1", &text).exits(0).out, greedy);
    toy.pipe("translate run run --sampling --samples 2", &text).exits(0);
}

#[test]
fn a_run_may_sample_by_its_config_but_not_in_validation() {
    let toy = Toy::trained();
    toy.run("-q --config toy.toml --set decode.sampling=true --set decode.top_k=5 --set run_dir=b").exits(0);
    let bleu = |run: &str| -> Vec<Value> {
        toy.rows(run).into_iter().filter(|row| row["event"] == "valid").map(|row| row["bleu"].clone()).collect()
    };
    assert_eq!(bleu("run"), bleu("b"));
    let valid = toy.read("valid.en");
    let drawn = toy.pipe("translate run --sampling --top-k 5", &valid).exits(0).out;
    assert_eq!(toy.pipe("translate b", &valid).exits(0).out, drawn);
    assert_eq!(toy.read("b/translations/test.txt"), drawn);
    let found = toy.pipe("translate run", &valid).exits(0).out;
    assert_eq!(toy.pipe("translate b --sampling=false", &valid).exits(0).out, found);
    toy.run("tune b --beam 3 --length-penalty 1").exits(0);
    let scores = toy.run("evaluate run --source valid.en --reference valid.de --sampling --top-k 5").exits(0).out;
    let of_file = toy.run("evaluate --hypothesis b/translations/test.txt --reference valid.de").exits(0).out;
    assert_eq!(scores, of_file);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_cure() {
    let toy = Toy::trained();
    for (args, code, told) in [
        ("--top-k 3", 2, "--top-k needs --sampling"),
        ("--seed 3", 2, "--seed needs --sampling"),
        ("--sampling=false --temperature 2", 2, "--temperature needs --sampling"),
        ("--samples 3", 2, "--samples needs --sampling"),
        ("--sampling --n-best 3", 2, "give --samples N"),
        ("--sampling --beam 5", 2, "--beam is of a search"),
        ("--sampling --no-repeat-ngram-size 3", 2, "--no-repeat-ngram-size is of a search"),
        ("--sampling --samples 0", 3, "--samples must be 1 or more"),
        ("--sampling --samples 1001", 3, "--samples must be 1000 at most"),
        ("--sampling --top-p 0", 3, "--top-p must be in (0, 1]"),
        ("--sampling --top-p nan", 3, "--top-p must be in (0, 1]"),
        ("--sampling --temperature 0", 3, "--temperature must be above 0"),
        ("--sampling --temperature inf", 3, "--temperature must be above 0"),
    ] {
        toy.pipe(&format!("translate run {args}"), "the dog\n").exits(code).tells(&[told]);
    }
    for (set, told) in [("decode.top_p=1.5", "must be in (0, 1]"), ("decode.temperature=0", "must be above 0")] {
        toy.run(&format!("check --config toy.toml --set {set}")).exits(3).tells(&[told]);
    }
}
