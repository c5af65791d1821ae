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
