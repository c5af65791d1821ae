//! The command line as a person uses it: the real program in a folder of its own.

use super::toy::{done, Toy};
use serde_json::Value;
use std::process::Stdio;

fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn training_leaves_its_files_and_one_json_object_on_stdout() {
    let toy = Toy::new();
    let done = toy.run("--config toy.toml --final-json -").exits(0).tells(&[
        "training pairs          80 of 80",
        "step 20/60",
        "valid  step 60",
        "saved  step 60",
        "stopped at step 60: max_updates",
        "nmt-train translate run",
        "nmt-train --resume run --set train.max_updates=120",
    ]);
    let end = json(&done.out);
    for key in [
        "run",
        "step",
        "stop_reason",
        "best_step",
        "best_nll",
        "test_bleu",
        "test_chrf",
        "seconds",
        "tokens",
        "tokens_per_second",
        "peak_memory_bytes",
    ] {
        assert!(!end[key].is_null(), "{key}: {end}");
    }
    assert_eq!((&end["resume_command"], &end["stop_reason"]), (&Value::Null, &"max_updates".into()));

    let files = toy.list("run");
    let expected = [
        "checkpoints",
        "command.txt",
        "config.toml",
        "debug.log",
        "metrics.jsonl",
        "tensorboard",
        "tokenizer.json",
        "translations",
    ];
    assert_eq!(files, expected);
    assert!(toy.read("run/command.txt").trim_end().ends_with("--config toy.toml --final-json -"));
    let checkpoints = toy.list("run/checkpoints");
    assert_eq!(checkpoints, ["best", "latest", "step-00000020", "step-00000040", "step-00000060"]);
    assert_eq!(toy.list("run/tensorboard").len(), 1);
    let translations = ["test.txt", "valid-00000020.txt", "valid-00000040.txt", "valid-00000060.txt"];
    assert_eq!(toy.list("run/translations"), translations);
    let pairs = toy.read("valid.en").lines().count();
    assert_eq!(toy.read("run/translations/test.txt").lines().count(), pairs);

    let rows = toy.rows("run");
    let events: Vec<_> = rows.iter().map(|row| row["event"].as_str().unwrap()).collect();
    let each = ["train", "valid", "checkpoint"];
    assert_eq!(events, [&["start"], &each[..], &each, &each, &["end"]].concat());
    for key in ["step", "epoch", "tokens", "seconds", "loss", "nll", "ppl", "lr", "grad_norm", "tokens_per_second"] {
        assert!(rows[1][key].is_number(), "{key}: {}", rows[1]);
    }
    for key in ["step", "tokens", "seconds_valid", "nll", "bleu", "chrf"] {
        assert!(rows[2][key].is_number(), "{key}: {}", rows[2]);
    }
    assert!(rows[8]["nll"].as_f64() < rows[2]["nll"].as_f64(), "it learns");
    assert_eq!(rows[10]["test_bleu"], end["test_bleu"]);
}

#[test]
fn final_json_goes_to_a_file_and_quiet_is_quiet() {
    let toy = Toy::new();
    let done = toy.run("-q --config toy.toml --final-json end.json").exits(0);
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""));
    assert_eq!(json(&toy.read("end.json"))["step"], 60);
}

#[test]
fn an_existing_run_is_kept_unless_forced() {
    let toy = Toy::trained();
    toy.write("run/notes.txt", "mine");
    let before = toy.read("run/metrics.jsonl");
    toy.run("--config toy.toml").exits(3).tells(&["run folder run exists", "nmt-train --resume run", "--force"]);
    assert_eq!(toy.read("run/metrics.jsonl"), before);

    toy.run("-q --config toy.toml --force --set train.max_updates=20").exits(0);
    assert_eq!(toy.rows("run").last().unwrap()["step"], 20);
    assert_eq!(toy.list("run/checkpoints"), ["best", "latest", "step-00000020"]);
    assert!(!toy.exists("run/translations/valid-00000040.txt"));
    assert_eq!(toy.read("run/notes.txt"), "mine", "--force deletes what a run makes and nothing else");
}

#[test]
fn resuming_a_finished_run_says_so_and_how_to_extend_it() {
    let toy = Toy::new();
    let first = toy.run("-q --config toy.toml --final-json -").exits(0);
    let metrics = toy.read("run/metrics.jsonl");
    let again = toy
        .run("--resume run --final-json -")
        .exits(0)
        .tells(&["already finished: max_updates at step 60", "nmt-train --resume run --set train.max_updates=120"]);
    assert!(!again.err.contains("step 61"), "{}", again.err);
    assert_eq!(json(&again.out), json(&first.out));
    assert_eq!(toy.read("run/metrics.jsonl"), metrics);

    let more = toy.run("--resume run --set train.max_updates=70 --final-json -").exits(0);
    let more = more.tells(&["changed: train.max_updates: 60 -> 70", "goes on after           update 60"]);
    assert_eq!(json(&more.out)["step"], 70);
    let ends = toy.rows("run").iter().filter(|row| row["event"] == "end").count();
    assert_eq!(ends, 1, "the resumed run goes on where the checkpoint was, before the first end");
    assert_eq!(toy.read("run/command.txt").lines().count(), 2);
}

#[test]
fn early_stopping_and_epochs_end_a_run_and_can_be_extended_too() {
    let toy = Toy::new();
    toy.run("-q --config toy.toml --set train.max_epochs=2").exits(0);
    toy.run("--resume run").exits(0).tells(&["already finished: max_epochs", "--set train.max_epochs=4"]);
    let stuck = "--set optimizer.lr=1e-30 --set validation.early_stopping=1 --set run_dir=stuck";
    toy.run(&format!("-q --config toy.toml {stuck}")).exits(0);
    let told = toy.run("--resume stuck").exits(0);
    told.tells(&["already finished: early_stopping at step 40", "--set validation.early_stopping=2"]);
}

#[test]
fn a_run_that_died_before_its_test_is_tested_on_resume() {
    let toy = Toy::new();
    let first = toy.run("-q --config toy.toml --final-json -").exits(0);
    let rows = toy.read("run/metrics.jsonl");
    let (before, _end) = rows.trim_end().rsplit_once('\n').unwrap();
    toy.write("run/metrics.jsonl", format!("{before}\n"));
    std::fs::remove_file(toy.path("run/translations/test.txt")).unwrap();
    let again = json(&toy.run("-q --resume run --final-json -").exits(0).out);
    for key in ["step", "test_bleu", "test_chrf", "tokens"] {
        assert_eq!(again[key], json(&first.out)[key], "{key}");
    }
    assert!(toy.exists("run/translations/test.txt"));
    assert_eq!(toy.rows("run").last().unwrap()["event"], "end");
}

#[test]
fn a_moved_run_goes_on_where_it_is() {
    let toy = Toy::trained();
    std::fs::rename(toy.path("run"), toy.path("moved")).unwrap();
    toy.run("-q --resume moved --set train.max_updates=61").exits(0);
    assert!(!toy.exists("run"));
    assert_eq!(toy.rows("moved").last().unwrap()["run"], "moved");
}

#[test]
fn the_config_in_a_run_folder_starts_the_same_run_again() {
    let toy = Toy::new();
    toy.write("other.toml", toy.read("toy.toml").replace("run_dir = \"run\"", ""));
    toy.run("-q --config other.toml").exits(0);
    assert!(toy.exists("runs/other/config.toml"));
    let nll = toy.rows("runs/other").last().unwrap()["best_nll"].clone();
    toy.run("-q --config runs/other/config.toml --force").exits(0);
    assert_eq!(toy.rows("runs/other").last().unwrap()["best_nll"], nll);
    assert_eq!(toy.list("runs"), ["cache", "other"]);
}

#[test]
fn translations_keep_order_and_empty_lines_and_match_those_of_training() {
    let toy = Toy::trained();
    let valid = toy.read("valid.en");
    assert_eq!(toy.pipe("translate run", &valid).exits(0).out, toy.read("run/translations/test.txt"));
    let greedy = toy.pipe("translate run --beam 1 --checkpoint 60", &valid).exits(0).out;
    assert_eq!(greedy, toy.read("run/translations/valid-00000060.txt"));
    let one_by_one = toy.pipe("translate run --batch-size 1", &valid).exits(0).out;
    assert_eq!(one_by_one, toy.read("run/translations/test.txt"));

    let lines: Vec<_> = greedy.lines().collect();
    let source: Vec<_> = valid.lines().collect();
    let input = format!("{}\n\n   \n{}\r\n{}", source[3], source[0], source[1]);
    let output = toy.pipe("translate run --beam 1 --checkpoint latest", input).exits(0).out;
    assert_eq!(output, format!("{}\n\n\n{}\n{}\n", lines[3], lines[0], lines[1]));
    assert_eq!(toy.pipe("translate run", "").exits(0).out, "");
}

#[test]
fn n_best_and_scores_have_their_formats() {
    let toy = Toy::trained();
    let valid = toy.read("valid.en");
    let best: Vec<String> = toy.pipe("translate run", &valid).out.lines().map(str::to_string).collect();

    let scored = toy.pipe("translate run --scores", &valid).exits(0).out;
    let scored: Vec<(f64, &str)> =
        scored.lines().map(|line| line.split_once('\t').map(|(s, t)| (s.parse().unwrap(), t)).unwrap()).collect();
    assert!(scored.iter().zip(&best).all(|((score, text), best)| *score < 0.0 && text == best), "{scored:?}");

    let n_best = toy.pipe("translate run --n-best 3", &valid).exits(0).out;
    let mut previous = (usize::MAX, 0.0);
    let mut firsts = Vec::new();
    for line in n_best.lines() {
        let parts: Vec<_> = line.split(" ||| ").collect();
        assert_eq!(parts.len(), 3, "{line}");
        let (number, score): (usize, f64) = (parts[0].parse().unwrap(), parts[2].parse().unwrap());
        if number == previous.0 {
            assert!(score <= previous.1, "best first: {n_best}");
        } else {
            firsts.push(parts[1].to_string());
        }
        previous = (number, score);
    }
    assert_eq!(firsts, best);
    assert!(n_best.lines().count() > 2 * best.len(), "{n_best}");
}

#[test]
fn score_agrees_with_the_search() {
    let toy = Toy::trained();
    let found = toy.pipe("translate run --scores --length-penalty 0", toy.read("valid.en")).exits(0).out;
    let (scores, texts): (Vec<f64>, Vec<&str>) =
        found.lines().map(|line| line.split_once('\t').map(|(s, t)| (s.parse::<f64>().unwrap(), t)).unwrap()).unzip();
    toy.write("hypotheses", texts.join("\n"));
    let again = toy.run("score run --source valid.en --target hypotheses").exits(0).out;
    let again: Vec<f64> = again.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(again.len(), scores.len());
    assert!(again.iter().zip(&scores).all(|(a, b)| (a - b).abs() < 1e-4), "{again:?} {scores:?}");
    let done = toy.run("score run --source train.en --target valid.de").exits(3);
    done.tells(&["train.en has 80 lines, valid.de has 9"]);
}

#[test]
fn ensembles_share_one_tokenizer() {
    let toy = Toy::trained();
    let second = "-q --config toy.toml --set seed=2 --set tokenizer.path=run/tokenizer.json";
    toy.run(&format!("{second} --set run_dir=second")).exits(0);
    toy.run("-q --config toy.toml --set tokenizer.vocab_size=90 --set run_dir=other").exits(0);
    let valid = toy.read("valid.en");
    let both = toy.pipe("translate run second", &valid).exits(0).out;
    assert_eq!(both.lines().count(), valid.lines().count());
    assert_eq!(toy.pipe("translate run run", &valid).exits(0).out, toy.pipe("translate run", &valid).out);
    let refused = toy.pipe("translate run other", &valid).exits(3);
    refused.tells(&["run and other have different tokenizers", "tokenizer.path = \"run/tokenizer.json\""]);
}

#[test]
fn evaluate_gives_the_scores_of_training_for_a_run_and_for_its_file() {
    let toy = Toy::trained();
    let end = toy.rows("run").pop().unwrap();
    let run = toy.run("evaluate run --source valid.en --reference valid.de").exits(0).out;
    let file = toy.run("evaluate --hypothesis run/translations/test.txt --reference valid.de").exits(0).out;
    assert_eq!(run, file);
    let lines: Vec<_> = run.lines().collect();
    assert_eq!(lines.len(), 2);
    for (line, name, score) in [(lines[0], "BLEU", "test_bleu"), (lines[1], "chrF", "test_chrf")] {
        let number = format!("{:.2}", end[score].as_f64().unwrap());
        assert!(line.starts_with(name) && line.contains(&number) && line.contains("|"), "{line} {number}");
    }
    let more = toy.run("evaluate --hypothesis valid.de --reference valid.de -m ter,chrf++,bleu").exits(0).out;
    assert_eq!(more.lines().count(), 3, "{more}");
    let unequal = toy.run("evaluate run --source train.en --reference valid.de").exits(3);
    unequal.tells(&["train.en has 80 lines, valid.de has 9"]);
}

#[test]
fn the_average_of_checkpoints_translates() {
    let toy = Toy::trained();
    let valid = toy.read("valid.en");
    toy.pipe("translate run --checkpoint average", &valid).exits(3).tells(&["nmt-train average run --last 5"]);
    toy.run("average run --last 9").exits(3).tells(&["run has 3 checkpoints, 9 were asked for"]);
    toy.run("average run --last 2").exits(0);
    let averaged = toy.pipe("translate run --checkpoint average", &valid).exits(0).out;
    assert_eq!(averaged.lines().count(), valid.lines().count());
    toy.run("average run --last 1").exits(0);
    let one = toy.pipe("translate run --checkpoint average", &valid).exits(0).out;
    assert_eq!(one, toy.pipe("translate run --checkpoint latest", &valid).out);
}

#[test]
fn check_looks_and_leaves_no_run_folder() {
    let toy = Toy::new();
    let done = toy.run("check --config toy.toml").exits(0);
    done.tells(&["training pairs          80 of 80", "the largest batch", "gradient norm"]);
    assert!(!toy.exists("run"));
}

#[test]
fn init_prints_a_config_that_trains_once_it_has_text() {
    let toy = Toy::new();
    let text = toy.run("init").exits(0).out;
    toy.write("mine.toml", &text);
    let small = "--set model.layers=1 --set model.d_model=16 --set model.d_ff=16 --set model.heads=2 --threads 1";
    let text = "--set data.train=[\"train.en\",\"train.de\"] --set train.max_updates=1 --set tokenizer.vocab_size=99";
    let none = "--set data.valid=[] --set data.test=[] --set validation.metrics=[]";
    toy.run(&format!("check --config mine.toml {small} {text} {none}")).exits(0);
    assert!(toy.run("init --preset quickstart").exits(0).out.contains("max_updates"));
    toy.run("init --preset nonsense").exits(3).tells(&["nonsense", "quickstart", "transformer-base"]);
}

#[test]
fn tokenizer_writes_what_training_would_use() {
    let toy = Toy::trained();
    toy.run("tokenizer --config toy.toml --out vocabulary").exits(0).tells(&["trained on the training text"]);
    assert_eq!(toy.read("vocabulary/tokenizer.json"), toy.read("run/tokenizer.json"));
    toy.run("tokenizer --config toy.toml --out vocabulary").exits(3).tells(&["tokenizer.json exists", "--out"]);
    let separate = "--set tokenizer.joint=false --set model.tied_embeddings=none --out two";
    toy.run(&format!("tokenizer --config toy.toml {separate}")).exits(0);
    assert_eq!(toy.list("two"), ["tokenizer.json", "tokenizer.target.json"]);
}

#[test]
fn a_recurrent_model_with_two_vocabularies_and_averaged_weights_goes_all_the_way() {
    let toy = Toy::new();
    let changes = "--set model.kind=rnn --set tokenizer.joint=false --set model.tied_embeddings=none \
                   --set train.ema_decay=0.9 --set optimizer.name=clipped-adam --set tokenizer.kind=unigram";
    toy.run(&format!("-q --config toy.toml {changes} --set train.max_updates=40")).exits(0);
    toy.run("-q --resume run --set train.max_updates=60").exits(0);
    let resumed = toy.pipe("translate run", toy.read("valid.en")).exits(0).out;
    toy.run(&format!("-q --config toy.toml {changes} --set run_dir=straight")).exits(0);
    assert_eq!(toy.pipe("translate straight", toy.read("valid.en")).exits(0).out, resumed);
    assert!(resumed.lines().any(|line| !line.is_empty()), "{resumed}");
}

#[test]
fn without_arguments_the_short_help_is_printed() {
    let toy = Toy::new();
    toy.run("").exits(2).tells(&["Usage:", "--config", "translate runs/quickstart <in.txt"]);
    toy.run("--set seed=2").exits(2).tells(&["--config"]);
    assert!(toy.run("--version").exits(0).out.starts_with("nmt-train "));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let toy = Toy::trained();
    let input = std::fs::File::open(toy.path("train.en")).unwrap();
    let mut command = toy.command("translate run");
    let mut child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done = done(child).exits(0);
    assert_eq!(done.err, "");
}
