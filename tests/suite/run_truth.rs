//! The edges of a run: what its record, its pointers and its last screen say there is so.

use serde_json::Value;

use super::toy::{done, Toy};

fn pointer(toy: &Toy, name: &str) -> String {
    toy.read(&format!("run/checkpoints/{name}")).trim().to_string()
}

fn steps(toy: &Toy, event: &str) -> Vec<u64> {
    toy.rows("run").iter().filter(|row| row["event"] == event).map(|row| row["step"].as_u64().unwrap()).collect()
}

fn state(toy: &Toy, step: u64) -> Value {
    serde_json::from_str(&toy.read(&format!("run/checkpoints/step-{step:08}/state.json"))).unwrap()
}

/// A validation whose loss is no number made its checkpoint and all later ones unreadable.
#[test]
fn a_validation_without_a_number_leaves_checkpoints_that_load() {
    for fault in ["score:nan=40", "score:inf=40", "score:nan=20,score:nan=40,score:inf=60"] {
        let toy = Toy::new();
        let done = toy.run_with("--config toy.toml", b"", &[("NMT_TRAIN_FAULT", fault)]).exits(0);
        let all = fault.matches("score").count() == 3;
        let first = if all { 20 } else { 40 };
        done.tells(&[&format!("warning: step {first}: the validation loss is not a finite number; it counts as no")]);
        assert_eq!(toy.exists("run/checkpoints/best"), !all);
        assert!(all || pointer(&toy, "best") != "step-00000040");
        let told = toy.pipe("translate run", "the dog\n").exits(0).err;
        assert_eq!(told.contains("no checkpoint has a validation score"), all, "{told}");
        toy.run("-q --resume run --set train.max_updates=80").exits(0);
        let rows = toy.rows("run");
        let scored = rows.iter().filter(|row| row["event"] == "valid" && row["nll"].is_number());
        let best = scored.min_by(|a, b| a["nll"].as_f64().unwrap().total_cmp(&b["nll"].as_f64().unwrap())).unwrap();
        assert_eq!(pointer(&toy, "best"), format!("step-{:08}", best["step"].as_u64().unwrap()));
        let back = |row: &&Value| row["event"] == "valid" && row["step"] == 40;
        assert_eq!(toy.rows("run").iter().find(back).unwrap()["nll"], Value::Null);
    }
}

/// A checkpoint written by an older program, with `null` for such a loss, is readable.
#[test]
fn checkpoints_of_older_programs_go_on() {
    let toy = Toy::trained();
    let mut old = state(&toy, 60);
    let fields = old.as_object_mut().unwrap();
    for key in ["unit", "in_force_at"] {
        fields.remove(key).unwrap();
    }
    let scored = [20, 40, 60].map(|step| serde_json::json!({"step": step, "score": null}));
    fields["scored"] = scored.to_vec().into();
    fields["since_log"]["loss"] = Value::Null;
    fields.insert("best".to_string(), serde_json::json!({"step": 60, "value": 1.0, "nll": 1.0, "bleu": 2.0}));
    fields.insert("validations_without_improvement".to_string(), 0.into());
    toy.replace_in_checkpoint("run/checkpoints/step-00000060", "state.json", &old.to_string());
    toy.write("run/checkpoints/best", r#"{"metric": "nll", "checkpoints": [{"step": 60, "score": 1.0}]}"#);
    toy.pipe("translate run", "the dog\n").exits(0);
    toy.run("-q --resume run --set train.max_updates=80").exits(0);
    assert_eq!(pointer(&toy, "best"), "step-00000080");
}

/// Stopped before a due validation and resumed without more to train: it is validated, and the pointer knows.
#[test]
fn a_checkpoint_that_is_validated_later_becomes_the_best() {
    let toy = Toy::new();
    let mut child = toy.start_long_run();
    let id = child.id().to_string();
    std::process::Command::new("kill").args(["-INT", &id]).status().unwrap();
    child.wait().unwrap();
    let step = steps(&toy, "end")[0];
    assert_eq!(pointer(&toy, "latest"), format!("step-{step:08}"));
    let equal = format!("--resume run --set train.max_updates={step} --set validation.valid_freq=20 --final-json -");
    let done = toy.run(&equal).exits(0);
    let end: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&end["best_step"], pointer(&toy, "best")), (&step.into(), format!("step-{step:08}")));
    assert_eq!(state(&toy, step)["validated_at"], step);
    let rows = toy.read("run/metrics.jsonl");
    let again = toy.run(&equal).exits(0).tells(&["already finished: max_updates"]);
    assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap()["best_step"], step);
    assert_eq!(toy.read("run/metrics.jsonl"), rows, "nothing was validated or tested again");
    assert_eq!(steps(&toy, "checkpoint").iter().filter(|&&at| at == step).count(), 1);
}

/// Roll-backs cut the record, and a report of a run that was given up counts it as infinite.
#[test]
fn a_roll_back_leaves_each_event_once_and_the_report_says_what_became_of_the_run() {
    let toy = Toy::new();
    let logged =
        "-q --config toy.toml --set train.log_freq=1 --set validation.valid_freq=5 --set checkpoint.keep_best=0";
    toy.run_with(logged, b"", &[("NMT_TRAIN_FAULT", "gradient:nan=48-50")]).exits(0);
    for event in ["train", "valid", "checkpoint"] {
        let steps = steps(&toy, event);
        assert!(steps.windows(2).all(|two| two[0] < two[1]), "{event}: {steps:?}");
        assert_eq!(steps.last(), Some(&60));
    }
    assert!(toy.run("report run --json -").exits(0).out.contains(r#""state": "finished""#));

    let faults = "gradient:nan=48-50,gradient:nan=60-62,gradient:nan=70-72,gradient:nan=80-82";
    toy.run_with(&format!("{logged} --force"), b"", &[("NMT_TRAIN_FAULT", faults)]).exits(4);
    assert!(toy.run("report run --json -").exits(0).out.contains(r#""state": "diverged""#));
    let end = toy.rows("run").pop().unwrap();
    assert_eq!((&end["event"], &end["stop_reason"]), (&"end".into(), &"diverged".into()));
    assert_eq!(pointer(&toy, "latest"), "step-00000040");
}

/// Another metric judges by its own scores, never by those of the one before.
#[test]
fn a_metric_that_is_changed_on_resume_chooses_the_best_anew() {
    let toy = Toy::trained();
    let best = |metric: &str| {
        let scored = state(&toy, 60)["scored"].as_array().unwrap().clone();
        let sign = if metric == "nll" { -1.0 } else { 1.0 };
        let value = |scored: &&Value| sign * scored[metric].as_f64().unwrap();
        scored.iter().rev().max_by(|a, b| value(a).total_cmp(&value(b))).unwrap()["step"].as_u64().unwrap()
    };
    for metric in ["bleu", "chrf", "nll"] {
        let done =
            toy.run(&format!("--resume run --set validation.early_stopping_metric={metric} --final-json -")).exits(0);
        let end: Value = serde_json::from_str(&done.out).unwrap();
        let note = format!("the best is chosen by {metric} now");
        assert!(done.err.contains(&note) && done.err.contains("3 of the 3 validations"), "{}", done.err);
        assert_eq!(end["best_step"], best(metric), "{metric}");
        assert_eq!(pointer(&toy, "best"), format!("step-{:08}", best(metric)), "{metric}");
    }
    // The same for another text, which the first scores say nothing of.
    toy.write("other.en", "a man sees the river\n");
    toy.write("other.de", "ein mann sieht den fluss\n");
    let other = r#"--resume run --set data.valid=["other.en","other.de"] --set train.max_updates=80"#;
    toy.run(other).exits(0).tells(&["the validation text is another: 0 of the 3 validations"]);
    assert_eq!(pointer(&toy, "best"), "step-00000080");
}

/// Extending a schedule that decays jumped the rate, or trained at a rate of zero; what is proposed trains.
#[test]
fn a_longer_run_of_a_schedule_that_decays_is_the_users_decision() {
    for kind in ["cosine", "linear"] {
        let toy = Toy::new();
        let done = toy.run(&format!("--config toy.toml --set schedule.kind={kind} --set train.log_freq=1")).exits(0);
        let rates: Vec<f64> = rates(&toy);
        assert!(rates.iter().all(|&rate| rate > 0.0), "{rates:?}");
        let proposed = done.err.lines().find_map(|line| line.trim().strip_prefix("next")?.split_once("nmt-train"));
        let proposed =
            proposed.into_iter().chain(done.err.lines().filter_map(|line| line.split_once("nmt-train --resume")));
        let proposed = proposed.last().unwrap().1.trim().trim_start_matches("--resume").trim().to_string();

        let before = toy.read("run/metrics.jsonl");
        let refused = toy.run("--resume run --set train.max_updates=90").exits(3);
        assert_eq!(toy.read("run/metrics.jsonl"), before);
        let ways: Vec<&str> = refused.err.lines().filter_map(|line| line.trim().strip_prefix("nmt-train ")).collect();
        assert_eq!(ways.len(), 3, "{}", refused.err);
        for (i, way) in ways.iter().copied().chain([format!("--resume {proposed}").as_str()]).enumerate() {
            copy(&toy, "run", &format!("way{i}"));
            let way = way.replace("--resume run", &format!("--resume way{i}"));
            toy.run(&format!("-q {way}")).exits(0);
            let rows = toy.rows(&format!("way{i}"));
            let added: Vec<f64> = rows
                .iter()
                .filter(|row| row["event"] == "train" && row["step"].as_u64() > Some(60))
                .map(|row| row["lr"].as_f64().unwrap())
                .collect();
            assert!(added.len() >= 30 && added.iter().all(|&rate| rate > 0.0), "{way}: {added:?}");
        }
    }
}

fn rates(toy: &Toy) -> Vec<f64> {
    let rows = toy.rows("run");
    rows.iter().filter(|row| row["event"] == "train").map(|row| row["lr"].as_f64().unwrap()).collect()
}

fn copy(toy: &Toy, from: &str, to: &str) {
    let status = std::process::Command::new("cp").arg("-r").args([toy.path(from), toy.path(to)]).status();
    assert!(status.unwrap().success());
}

/// At the border of a phase the weights of the optimizer that trained them are validated and saved: the average x of
/// schedule-free, not the y it trains at.
#[test]
fn what_is_validated_at_the_border_of_a_phase_is_what_is_saved() {
    let toy = Toy::new();
    let phases = "phase=[{from_update=20,optimizer='schedule-free'},{from_update=40,optimizer='adam'}]";
    toy.run(&format!("-q --config toy.toml --set {phases}")).exits(0);
    let border = "run/checkpoints/step-00000040";
    let bytes = |name: &str| std::fs::read(toy.path(&format!("{border}/{name}"))).unwrap();
    assert!(bytes("model.safetensors") != bytes("raw.safetensors"), "x is y");
    let told = toy.rows("run").into_iter().find(|row| row["event"] == "valid" && row["step"] == 40).unwrap();
    let score = "evaluate run --checkpoint 40 --beam 1 --source valid.en --reference valid.de --metrics bleu";
    let line = toy.run(score).exits(0).out;
    assert!(line.contains(&format!("{:.2}", told["bleu"].as_f64().unwrap())), "{line} {told}");

    for (set, key) in [("schedule.kind=inverse-sqrt", "schedule.kind"), ("train.ema_decay=0.9", "train.ema_decay")] {
        let wrong = format!("check --config toy.toml --set {phases} --set {set}");
        toy.run(&wrong).exits(3).tells(&[key, "in phase 1"]);
    }
}

#[test]
fn the_tokenizer_of_another_run_is_refused_even_if_it_has_the_same_size() {
    let toy = Toy::trained();
    let size = toy.read("run/tokenizer.json").matches("▁").count();
    assert!(size > 0);
    // the same pieces under other ids
    let own = toy.read("run/tokenizer.json");
    let mut json: Value = serde_json::from_str(&own).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let keys: Vec<String> = vocab.keys().filter(|key| key.chars().count() == 1).take(2).cloned().collect();
    let (a, b) = (vocab[&keys[0]].clone(), vocab[&keys[1]].clone());
    (vocab[&keys[0]], vocab[&keys[1]]) = (b, a);
    toy.write("run/tokenizer.json", json.to_string());
    let told = ["the tokenizer in run is not the one this run was trained with"];
    toy.pipe("translate run", "the dog\n").exits(3).tells(&told);
    toy.run("score run --source valid.en --target valid.de").exits(3).tells(&told);
    toy.run("average run --last 2").exits(0);
    toy.pipe("translate run --checkpoint average", "the dog\n").exits(3).tells(&told);
    toy.write("run/tokenizer.json", own);
    toy.pipe("translate run --checkpoint average", "the dog\n").exits(0);
}

#[test]
fn which_checkpoint_is_used_is_said_where_it_is_not_the_obvious_one() {
    let toy = Toy::trained();
    assert_eq!(toy.pipe("translate run", "the dog\n").exits(0).err, "");
    let best = pointer(&toy, "best");
    std::fs::remove_dir_all(toy.path(&format!("run/checkpoints/{best}"))).unwrap();
    let told = toy.pipe("translate run", "the dog\n").exits(0).err;
    assert!(told.contains("is gone or damaged; the latest, update"), "{told}");
    let toy = Toy::new();
    toy.run("-q --config toy.toml --set data.valid=[] --set validation.metrics=[]").exits(0);
    assert!(!toy.exists("run/checkpoints/best"));
    let told = toy.pipe("translate run", "the dog\n").exits(0).err;
    assert!(told.contains("no checkpoint has a validation score") && told.contains("update 60, is used"), "{told}");
    assert_eq!(toy.pipe("translate run --checkpoint latest", "the dog\n").exits(0).err, "");
}

#[test]
fn a_run_that_got_worse_says_so() {
    let toy = Toy::new();
    let wild = "--config toy.toml --set optimizer.name=sgd --set optimizer.lr=1e6 --set train.max_updates=40";
    let done = toy.run(wild);
    if done.code == Some(0) {
        done.tells(&["guessing has", "try a lower optimizer.lr"]);
    } else {
        done.exits(4);
    }
}

#[test]
fn printed_commands_can_be_pasted_wherever_the_run_lies() {
    let toy = Toy::new();
    let mut command = toy.command("-q --config toy.toml --set");
    command.arg("run_dir=my runs/it's a run").args(["--final-json", "-"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let end: Value = serde_json::from_str(&done(command.spawn().unwrap()).exits(0).out).unwrap();
    for next in end["next_commands"].as_array().unwrap() {
        let next = next.as_str().unwrap();
        let script = next.replacen("nmt-train", env!("CARGO_BIN_EXE_nmt-train"), 1).replace("=120", "=61");
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("{script} </dev/null"))
            .current_dir(toy.path(""))
            .output();
        assert!(status.as_ref().unwrap().status.success(), "{next}: {status:?}");
    }
}
