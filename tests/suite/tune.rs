//! `tune`: its scores are those of `evaluate`, and what it keeps is used.

use serde_json::Value;

use super::toy::Toy;

const FILES: &str = "--source valid.en --reference valid.de";

/// What `evaluate` prints of a setting, "BLEU = 12.34" and "chrF2 = 56.78" without the rest of the line.
fn evaluated(toy: &Toy, runs: &str, setting: &Value) -> [String; 2] {
    let args = format!(
        "--beam {} --length-penalty {} --length-penalty-type {}",
        setting["beam_size"],
        setting["length_penalty"],
        setting["length_penalty_type"].as_str().unwrap()
    );
    let out = toy.run(&format!("evaluate {runs} {FILES} {args}")).exits(0).out;
    let score = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let mut lines = out.lines().map(score);
    [lines.next().unwrap(), lines.next().unwrap()]
}

fn told(setting: &Value) -> [String; 2] {
    [("BLEU", "bleu"), ("chrF2", "chrf")].map(|(label, key)| format!("{label} = {:.2}", setting[key].as_f64().unwrap()))
}

#[test]
fn each_setting_has_the_scores_of_evaluate() {
    let toy = Toy::trained();
    toy.run("-q --config toy.toml --set seed=2 --set tokenizer.path=run/tokenizer.json --set run_dir=b").exits(0);
    for runs in ["run", "run b"] {
        let grid = "--beam 4,1 --length-penalty 0,1,2 --length-penalty-type length,gnmt --json -";
        let found: Value =
            serde_json::from_str(&toy.run(&format!("tune {runs} --checkpoint best {grid}")).exits(0).out).unwrap();
        let settings = found["settings"].as_array().unwrap();
        // no penalty is one, whatever its formula
        assert_eq!((settings.len(), settings[0]["beam_size"].clone()), (10, Value::from(1)));
        for setting in settings {
            assert_eq!(told(setting), evaluated(&toy, runs, setting), "{setting}");
        }
        let score = |setting: &Value| setting["bleu"].as_f64().unwrap();
        let best = settings.iter().map(score).fold(0.0, f64::max);
        assert_eq!(score(&found["best"]), best);
        assert_eq!(found["pairs"], toy.read("valid.en").lines().count());
    }
}

#[test]
fn the_best_is_told_as_a_command_and_kept_on_demand() {
    let toy = Toy::trained();
    let before = toy.read("run/config.toml");
    let grid = "--beam 2 --length-penalty 0.5,1.5 --length-penalty-type gnmt --metric chrf";
    let found = toy.run(&format!("tune run {grid} --json found.json")).exits(0).tells(&["beam 2: "]);
    assert_eq!(toy.read("run/config.toml"), before);
    let best: Value = serde_json::from_str(&toy.read("found.json")).unwrap();
    let penalty = &best["best"]["length_penalty"];
    let command = format!("nmt-train translate run --beam 2 --length-penalty {penalty} --length-penalty-type gnmt");
    assert!(found.out.contains(&format!("to use it    {command}\n")), "{}", found.out);
    assert_eq!(best["command"], command);

    let used = toy.run(&format!("evaluate run {FILES} {}", command.split_once("run ").unwrap().1)).exits(0).out;
    toy.run(&format!("tune run {grid} --write")).exits(0).tells(&["written to run/config.toml"]);
    assert_eq!(toy.run(&format!("evaluate run {FILES}")).exits(0).out, used);
    let changed: Vec<(String, String)> = before
        .lines()
        .zip(toy.read("run/config.toml").lines())
        .filter(|(old, new)| old != new)
        .map(|(_, new)| new.split_once(" = ").unwrap())
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    let penalty = format!("{:?}", penalty.as_f64().unwrap());
    let wanted = [("beam_size", "2"), ("length_penalty", &penalty), ("length_penalty_type", "\"gnmt\"")];
    assert_eq!(changed, wanted.map(|(key, value)| (key.to_string(), value.to_string())));
    assert!(toy.read("run/command.txt").trim_end().ends_with("--write"));
    toy.run("-q --resume run --set train.max_updates=80").exits(0);
    assert_eq!(toy.read("run/config.toml").matches("length_penalty_type = \"gnmt\"").count(), 1);
}

#[test]
fn what_can_not_be_tuned_is_told_with_its_cure() {
    let toy = Toy::trained();
    toy.run("-q --config toy.toml --set data.valid=[] --set validation.metrics=[] --set run_dir=bare").exits(0);
    toy.run("tune bare").exits(3).tells(&["bare has no validation text", "--source FILE --reference FILE"]);
    toy.run(&format!("tune bare {FILES} --beam 1 --length-penalty 1")).exits(0);
    for (args, told) in [
        ("run --beam 0", "--beam must be 1 or more"),
        ("run --beam 5,1001", "--beam must be 1000 at most, not 1001"),
        ("run --length-penalty 1,-0.5", "--length-penalty must be 0 or more"),
        ("run bare --write", "--write keeps a setting in the config of one run"),
        ("run --source valid.en --reference train.de", "valid.en has"),
        ("absent", "there is no run folder absent"),
    ] {
        toy.run(&format!("tune {args}")).exits(3).tells(&[told]);
    }
    std::fs::rename(toy.path("valid.en"), toy.path("moved.en")).unwrap();
    toy.run("tune run").exits(3).tells(&["valid.en", "--source FILE --reference FILE"]);
    toy.write("empty", "");
    toy.run("tune run --source empty --reference empty").exits(3).tells(&["no line to translate"]);
    toy.write("blank", "\n \n");
    toy.run("tune run --source blank --reference blank --beam 2").exits(0);
}
