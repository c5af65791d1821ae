//! Everything a person can get wrong or meet: one message that names the thing and the cure, the documented exit code,
//! no panic (`Toy::run` looks for that), and a way to go on.

use super::toy::{cut, done, flip_a_bit, Toy};

const STEP: &str = "run/checkpoints/step-000000";

#[test]
fn all_problems_of_a_config_come_at_once() {
    let toy = Toy::new();
    let text = toy.read("toy.toml").replace("d_ff = 32", "dff = 32").replace("heads = 2", "heads = \"two\"");
    toy.write("toy.toml", text);
    let done = toy.run("--config toy.toml --set optimizer.name=adm --set train.max_updates=-3").exits(3).tells(&[
        "toy.toml:14: unknown key `model.dff`; did you mean `model.d_ff`?",
        "toy.toml:15: model.heads = \"two\": expected a whole number",
        "--set optimizer.name=adm: expected \"adam\"",
        "did you mean \"adam\"?",
        "--set train.max_updates=-3",
        "4 problems in the configuration; nothing was started.",
    ]);
    assert_eq!(done.out, "");
    assert!(!toy.exists("run"));
    toy.run("--config absent.toml").exits(3).tells(&["absent.toml: can not read the configuration"]);
}

/// What is wrong with the text leaves a folder that the next attempt can use.
#[test]
fn bad_text_is_named_and_does_not_bar_the_next_attempt() {
    let toy = Toy::new();
    toy.write("short.de", "eins\nzwei\n");
    toy.write("latin1.de", [toy.read("train.de").as_bytes(), b"f\xfcnf\n"].concat());
    toy.write("more.en", format!("{}five\n", toy.read("train.en")));
    toy.write("empty.en", "");
    toy.write("empty.de", "");
    let train = |files: &str| format!("--config toy.toml --set data.train={files}");
    let cases = [
        (train(r#"["absent.en","train.de"]"#), "can not open absent.en: No such file or directory"),
        (
            train(r#"["train.en","short.de"]"#),
            "train.en has 80 lines, short.de has 2: the files must be line-aligned; the first line without a partner \
             is train.en:3",
        ),
        (train(r#"["more.en","latin1.de"]"#), "latin1.de:81: invalid UTF-8 at byte 2 of the line"),
        (train(r#"["empty.en","empty.de"]"#), "empty.en is empty"),
        (train("[]"), "data.train"),
        (train(r#"["toy.toml"]"#), "must be two files, source and target, or one with both sides that ends in .tsv"),
        ("--config toy.toml --set data.max_length=2".to_string(), "all 80 pairs were dropped: 80 longer than"),
        (r#"--config toy.toml --set data.valid=["absent.en","x.de"]"#.to_string(), "can not open absent.en"),
        ("--config toy.toml --set device=cuda".to_string(), "built without CUDA; use device = \"cpu\""),
        ("--config toy.toml --set tokenizer.vocab_size=9".to_string(), "tokenizer.vocab_size = 9 is too small"),
    ];
    for (args, message) in cases {
        if args.contains("cuda") && candle_core::utils::cuda_is_available() {
            continue;
        }
        let done = toy.run(&args).exits(3).tells(&[message]);
        let told = done.err.lines().last().unwrap();
        assert_eq!(told.matches("os error").count(), usize::from(told.contains("can not open")), "told twice: {told}");
        assert!(!toy.exists("run/config.toml") && !toy.exists("run/checkpoints"), "{args}");
    }
    toy.run("-q --config toy.toml").exits(0);
}

#[test]
fn tokenizers_of_others_are_completed_or_refused() {
    let toy = Toy::new();
    let file = |vocabulary: &str| {
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{{"type":"WhitespaceSplit"}},"post_processor":null,"decoder":null,
            "model":{{"type":"WordLevel","vocab":{{{vocabulary}}},"unk_token":"<unk>"}}}}"#
        )
    };
    toy.write("t.json", file(r#""the":0,"dog":1,"der":2,"hund":3"#));
    toy.run("check --config toy.toml --set tokenizer.path=t.json").exits(0).tells(&[
        "t.json: no unknown token; added <unk> as id 4",
        "added </s> as id 5",
        "added <pad> as id 6",
    ]);
    toy.write("t.json", file(r#""the":0,"dog":7"#));
    let holes = toy.run("check --config toy.toml --set tokenizer.path=t.json").exits(3);
    holes.tells(&["t.json: ids with holes", "largest id is 7", "id 1 has no token"]);
    toy.write("t.json", "{ \"model\": ");
    toy.run("check --config toy.toml --set tokenizer.path=t.json").exits(3).tells(&["t.json: not JSON"]);
    toy.write("t.json", "{}");
    let other = toy.run("check --config toy.toml --set tokenizer.path=t.json").exits(3);
    other.tells(&["t.json: not a tokenizer.json of the Hugging Face tokenizers library: it has no \"model\""]);
    let absent = toy.run("check --config toy.toml --set tokenizer.path=absent.json").exits(3);
    absent.tells(&["absent.json", "No such file"]);
}

#[test]
fn a_checkpoint_and_a_tokenizer_of_two_runs_do_not_go_together() {
    let toy = Toy::trained();
    toy.run("tokenizer -q --config toy.toml --set tokenizer.vocab_size=70 --out small").exits(0);
    toy.write("run/tokenizer.json", toy.read("small/tokenizer.json"));
    let told = ["the checkpoint has a vocabulary of 124, the tokenizer one of 70"];
    toy.pipe("translate run", "the dog\n").exits(3).tells(&told);
    toy.run("--resume run --set train.max_updates=61").exits(3).tells(&told);
    std::fs::remove_file(toy.path("run/tokenizer.json")).unwrap();
    toy.pipe("translate run", "the dog\n").exits(3).tells(&["run/tokenizer.json"]);
}

#[test]
fn a_folder_in_use_is_left_alone() {
    let toy = Toy::new();
    let mut child = toy.start_long_run();
    let told = [format!("run is in use by process {}", child.id())];
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    for args in ["--config toy.toml", "--config toy.toml --force", "--resume run"] {
        toy.run(args).exits(3).tells(&told);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(toy.rows("run").iter().any(|row| row["event"] == "train"));
    toy.run("-q --config toy.toml --force").exits(0);
}

#[test]
fn folders_that_are_no_runs_are_told_apart() {
    let toy = Toy::new();
    toy.run("--resume absent").exits(3).tells(&["there is no run folder absent"]);
    std::fs::create_dir(toy.path("folder")).unwrap();
    toy.run("--resume folder").exits(3).tells(&["folder is not a run folder: it has no config.toml"]);
    toy.pipe("translate folder", "a\n").exits(3).tells(&["folder is not a run folder"]);
    assert_eq!(toy.list("folder"), [""; 0], "nothing was written there");
}

#[test]
fn a_run_without_a_checkpoint_starts_over_with_the_command_it_prints() {
    let toy = Toy::trained();
    std::fs::remove_dir_all(toy.path("run/checkpoints")).unwrap();
    let command = "--config run/config.toml --force";
    toy.run("--resume run").exits(3).tells(&["run has no checkpoint to continue from", command]);
    toy.run(&format!("-q {command}")).exits(0);
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before_and_resume_ends_the_same() {
    let toy = Toy::trained();
    let sizes = toy.list(&format!("{STEP}20")).into_iter();
    let size: u64 = sizes.map(|name| toy.path(&format!("{STEP}20/{name}")).metadata().unwrap().len()).sum();
    let fault = format!("save:bytes={}", size * 3 / 2);
    let full = toy.run_with("--config toy.toml --set run_dir=full", b"", &[("NMT_TRAIN_FAULT", &fault)]).exits(1);
    full.tells(&[
        "no space left on the disk for full/checkpoints/step-00000040",
        "free some space there",
        "the last checkpoint is of update 20; go on with `nmt-train --resume full`",
    ]);
    assert_eq!(toy.list("full/checkpoints"), ["best", "latest", "step-00000020"]);
    toy.run("-q --resume full").exits(0);
    let model = |run: &str| std::fs::read(toy.path(&format!("{run}/checkpoints/step-00000060/model.safetensors")));
    assert_eq!(model("full").unwrap(), model("run").unwrap());
}

#[test]
fn damaged_checkpoints_are_reported_and_the_one_before_is_used() {
    let toy = Toy::trained();
    cut(&toy.path(&format!("{STEP}60/optimizer.safetensors")), 1000);
    flip_a_bit(&toy.path(&format!("{STEP}40/model.safetensors")));
    toy.run("--resume run").exits(0).tells(&[
        "step-00000060/optimizer.safetensors: 1000 bytes instead of",
        "step-00000040/model.safetensors: its checksum differs",
        "the checkpoint of update 20 is used",
        "stopped at step 60: max_updates",
    ]);
    toy.run("--resume run").exits(0).tells(&["already finished"]);

    for step in [20, 40, 60] {
        let path = toy.path(&format!("{STEP}{step}/state.json"));
        if path.exists() {
            cut(&path, 3);
        }
    }
    let none = toy.run("--resume run").exits(1);
    none.tells(&["no usable checkpoint in run/checkpoints", "step-00000060/state.json: 3 bytes instead of"]);
    let none = toy.pipe("translate run", "the dog\n").exits(1);
    none.tells(&["no usable checkpoint in run/checkpoints", "are missing, cut off or replaced"]);
}

#[test]
fn a_resume_refuses_what_would_make_another_run_and_notes_the_rest() {
    let toy = Toy::trained();
    let metrics = toy.read("run/metrics.jsonl");
    let refused = "--set seed=7 --set model.d_ff=64 --set train.batch_size=50 --set optimizer.lr=0.01";
    let done = toy.run(&format!("--resume run {refused}")).exits(3).tells(&[
        "run can not be continued with these changes:",
        "  seed: 1 -> 7 (would change the order of the data",
        "  model.d_ff: 32 -> 64 (would change the model)",
        "  train.batch_size: 100 -> 50 (would change the training data or its order)",
        "start a new run with another run_dir",
    ]);
    assert!(!done.err.contains("optimizer.lr"), "{}", done.err);
    assert_eq!(toy.read("run/metrics.jsonl"), metrics);
    toy.run("--resume run --set optimizer.lr=0.01 --set train.max_updates=61")
        .exits(0)
        .tells(&["changed: train.max_updates: 60 -> 61", "changed: optimizer.lr: 0.02 -> 0.01"]);
    let rewritten = toy.read("toy.toml").replace("max_updates = 60", "max_updates = 62");
    toy.write("toy.toml", rewritten);
    let config = toy.run("--resume run --config toy.toml").exits(0);
    config.tells(&["changed: train.max_updates: 61 -> 62", "changed: optimizer.lr: 0.01 -> 0.02"]);
}

#[test]
fn a_resume_notices_changed_text() {
    let toy = Toy::trained();
    let text = toy.read("train.de");
    toy.write("train.de", text.replacen("hund", "kind", 1));
    let told = ["the training text has changed since this run was started", "another run_dir"];
    toy.run("--resume run --set train.max_updates=61").exits(3).tells(&told);
    toy.write("train.de", text);
    toy.run("-q --resume run --set train.max_updates=61").exits(0);
}

#[test]
fn broken_input_of_translate_is_named_after_what_came_before_it() {
    let toy = Toy::trained();
    let good = toy.pipe("translate run", "the dog sees a tree\n").exits(0).out;
    let broken = toy.pipe("translate run", b"the dog sees a tree\n\xff\nthe cat\n").exits(3);
    assert_eq!(broken.out, good);
    broken.tells(&["stdin:2: not valid UTF-8"]);
    let which = toy.pipe("translate run --checkpoint newest", "a\n").exits(3);
    which.tells(&["--checkpoint newest: give best, latest, average or the number of an update"]);
    let absent = toy.pipe("translate run --checkpoint 7", "a\n");
    absent.tells(&["no whole checkpoint of step 7; there are [20, 40, 60]"]);
    toy.pipe("translate run --beam 0", "a\n").exits(3).tells(&["--beam"]);
    toy.run("evaluate --hypothesis absent --reference valid.de").exits(3).tells(&["can not open absent"]);
}

#[test]
fn a_run_that_diverges_keeps_its_last_good_checkpoint() {
    let toy = Toy::new();
    let sgd = "--set optimizer.name=sgd --set optimizer.lr=0.1 --set train.max_updates=20";
    toy.run(&format!("-q --config toy.toml {sgd}")).exits(0);
    let good = toy.read(&format!("{STEP}20/state.json"));
    let done = toy.run("--resume run --set optimizer.lr=1e30 --set train.max_updates=40 --final-json -").exits(4);
    let done = done.tells(&[
        "warning: step 21: the gradient of ",
        " is not finite; update skipped",
        "rolled back to this update; the learning rate is now 0.5 of the schedule's",
        "the learning rate is now 0.125 of the schedule's",
        "stopped at step 21: diverged",
        "nmt-train --resume run --set optimizer.lr=1.0e29",
    ]);
    let end: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&end["stop_reason"], &end["best_step"]), (&"diverged".into(), &20.into()));
    assert_eq!(toy.list("run/checkpoints"), ["best", "latest", "step-00000020"]);
    assert_eq!(toy.read(&format!("{STEP}20/state.json")), good);
    toy.run("-q --resume run --set optimizer.lr=0.1 --set train.max_updates=22").exits(0);

    let fresh = "--config toy.toml --set optimizer.name=sgd --set optimizer.lr=1e30 --set run_dir=fresh";
    let told = ["stopped at step 1: diverged", "nmt-train --config fresh/config.toml --force --set optimizer.lr="];
    let fresh = toy.run(fresh).exits(4).tells(&told);
    assert!(!fresh.err.contains("nmt-train translate"), "there is nothing to translate with: {}", fresh.err);
}

#[test]
fn a_process_without_a_readable_stderr_still_ends_with_its_code() {
    let toy = Toy::new();
    let mut command = toy.command("--config absent.toml");
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    done(child).exits(3);
}
