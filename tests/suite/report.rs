//! `nmt-train report` on real runs: what it prints and writes, and what it says about bad input.

use super::toy::Toy;
use serde_json::Value;

/// Runs of two optimizers, two horizons, two seeds in `sweep/`.
fn swept() -> Toy {
    let toy = Toy::new();
    let schedule = "--set schedule.kind=cosine --set data.test=[] --set checkpoint.save_freq=0";
    for (name, updates, seed) in
        [("adam", 60, 1), ("adam", 60, 2), ("adam", 20, 1), ("hessian2", 60, 1), ("hessian2", 20, 1)]
    {
        let set = format!("--set optimizer.name={name} --set train.max_updates={updates} --set seed={seed}");
        let folder = format!("--set run_dir=sweep/{name}-{updates}-{seed}");
        toy.run(&format!("-q --config toy.toml {schedule} {set} {folder}")).exits(0);
    }
    toy
}

#[test]
fn a_sweep_is_compared_as_text_csv_json_and_page() {
    let toy = swept();
    let done = toy.run("report sweep --csv runs.csv --json report.json").exits(0);
    done.tells(&["written: runs.csv", "written: report.json", "written: sweep/report.html"]);
    let text = toy.run("report sweep").exits(0).out;
    for part in [
        "transformer 1+1, d_model 16",
        "Target: NLL ",
        "ends at its best horizon, 60 updates (median of 2 seeds)",
        "hessian2 ",
        "horizons of 20, 60 updates",
        "the baseline has 2 seeds",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert_eq!(toy.read("runs.csv").lines().count(), 1 + 5);
    let json: Value = serde_json::from_str(&toy.read("report.json")).unwrap();
    let comparison = &json["tasks"][0]["comparison"];
    assert_eq!((&comparison["baseline"], &comparison["horizon"]), (&"adam".into(), &60.into()));
    let page = toy.read("sweep/report.html");
    assert!(page.contains("<h1>5 runs, 1 task</h1>") && page.contains("<svg"), "{page}");
    // the table is for people, so a file asked for on stdout comes alone
    let csv = toy.run("report sweep --csv -").exits(0).out;
    assert!(csv.starts_with("run,task,") && csv.lines().count() == 6, "{csv}");
}

#[test]
fn one_run_has_a_report_and_the_next_run_clears_it() {
    let toy = Toy::trained();
    toy.run("report run").exits(0).tells(&["written: run/report.html"]);
    assert!(toy.read("run/report.html").contains("<h1>1 run, 1 task</h1>"));
    toy.run("-q --config toy.toml --force").exits(0);
    assert!(!toy.exists("run/report.html"));
}

#[test]
fn the_loss_is_told_by_frequency_of_the_token() {
    let toy = Toy::new();
    // words that are rarer than the toy's own, one of them in the validation text
    for (file, word, count) in
        [("train.en", "x", 90), ("train.de", "y", 90), ("valid.en", "x", 1), ("valid.de", "y", 1)]
    {
        let more: String = (0..count).map(|i| format!("{word}{}\n", 100 + i)).collect();
        toy.write(file, toy.read(file) + &more);
    }
    toy.run("-q --config toy.toml --set tokenizer.vocab_size=150").exits(0);
    let rows = toy.rows("run");
    for row in rows.iter().filter(|row| row["event"] == "valid") {
        let of = |rank: &str| row.get(format!("nll_by_rank.{rank}")).and_then(Value::as_f64);
        let (frequent, rare, nll) = (of("30").unwrap(), of("100").unwrap(), row["nll"].as_f64().unwrap());
        assert!(frequent.min(rare) < nll && nll < frequent.max(rare) && of("1000").is_none(), "{row}");
    }
    toy.run("report run --csv runs.csv --json report.json").exits(0);
    let json: Value = serde_json::from_str(&toy.read("report.json")).unwrap();
    let last = rows.iter().rfind(|row| row["event"] == "valid").unwrap();
    let run = &json["tasks"][0]["methods"][0]["settings"][0]["runs"][0];
    assert_eq!(run["nll_by_rank.30"], last["nll_by_rank.30"], "{json}");
    assert!(toy.read("runs.csv").lines().next().unwrap().ends_with("nll_by_rank.2000,nll_by_rank.more"));
    assert!(toy.read("run/report.html").contains("Loss by frequency of the token"));
}

#[test]
fn a_target_and_a_baseline_can_be_given() {
    let toy = swept();
    let both = "report sweep/adam-60-1 sweep/hessian2-60-1 --baseline hessian2 --target 99";
    let text = toy.run(both).exits(0).out;
    assert!(text.contains("Target: NLL 99.000, as given; ratios are to hessian2"), "{text}");
    toy.run(&format!("{both} --html page.html")).exits(0).tells(&["written: page.html"]);
    assert!(toy.exists("page.html") && !toy.exists("sweep/adam-60-1/report.html"));
}

#[test]
fn bad_input_is_named() {
    let toy = Toy::trained();
    toy.run("report nowhere").exits(3).tells(&["there is no run folder nowhere"]);
    std::fs::create_dir(toy.path("empty")).unwrap();
    toy.run("report empty").exits(3).tells(&["empty holds no run: neither it nor a folder in it has a config.toml"]);
    toy.run("report run --baseline lion")
        .exits(3)
        .tells(&["no finished run of the baseline (lion); the runs are of: adam"]);
    toy.run("report run --csv - --json -").exits(3).tells(&["only one of --csv, --json and --html can go to stdout"]);
    let metrics = toy.read("run/metrics.jsonl");
    toy.write("run/metrics.jsonl", format!("damaged\n{metrics}"));
    toy.run("report run").exits(3).tells(&["run: metrics.jsonl:1: expected value"]);
}
