//! What translations of a bad run look like is told while it trains, in its record, in its report and by `evaluate`; what the
//! references look like themselves is not.

use super::toy::Toy;

/// Each source ten times, each time with another target: only their length can be learnt.
fn mixed_up(toy: &Toy) {
    let lines = |side: &str| toy.read(&format!("train.{side}")).lines().map(str::to_string).collect::<Vec<_>>();
    let (source, target) = (lines("en"), lines("de"));
    let at = |i: usize| (i % 80, (i * 37 + i / 80 * 11) % 80);
    let text = |lines: Vec<&String>| lines.into_iter().map(|line| format!("{line}\n")).collect::<String>();
    toy.write("mixed.en", text((0..800).map(|i| &source[at(i).0]).collect()));
    toy.write("mixed.de", text((0..800).map(|i| &target[at(i).1]).collect()));
}

/// A validation set of 40 lines.
fn with_held_out(toy: &Toy) {
    for side in ["en", "de"] {
        let lines: String = toy.read(&format!("train.{side}")).lines().step_by(2).map(|l| format!("{l}\n")).collect();
        toy.write(&format!("valid.{side}"), lines);
    }
}

fn warned(err: &str, what: &str) -> usize {
    err.lines().filter(|line| line.starts_with("warning:") && line.contains(what)).count()
}

#[test]
fn a_corpus_whose_sides_do_not_belong_together_is_told_once_and_in_the_report() {
    let toy = Toy::new();
    mixed_up(&toy);
    with_held_out(&toy);
    let done = toy.run(r#"--config toy.toml --set data.train=["mixed.en","mixed.de"] --set validation.valid_freq=10"#);
    let done = done.exits(0);
    assert_eq!(
        warned(&done.err, "equal the translation of another source (of the references 0.0 %)"),
        1,
        "{}",
        done.err
    );
    done.tells(&["    hypotheses identical ", "the lines of the two sides of data.train belong together"]);
    let rows = toy.rows("run");
    let last = rows.iter().rfind(|row| row["event"] == "valid").unwrap();
    assert!(last["hypotheses.identical"].as_f64() > Some(0.5), "{last}");
    assert_eq!((&rows[0]["references.identical"], &rows[0]["references"]), (&0.0.into(), &40.into()));
    let report = toy.run("report run --json report.json --csv report.csv").exits(0);
    assert!(
        report.out.contains("run: ") && report.out.contains("equal the translation of another source"),
        "{}",
        report.out
    );
    assert!(toy.read("report.json").contains(r#""hypotheses.identical": "#));
    assert!(toy.read("report.csv").lines().next().unwrap().contains("hypotheses.identical"));
    assert!(toy.read("run/report.html").contains("Identical to the translation of another source, %"));
    let told = toy.run("evaluate run --source valid.en --reference valid.de").exits(0);
    told.tells(&["hypotheses identical ", "equal the translation of another source"]);
}

#[test]
fn copies_are_told_where_references_are_none() {
    let toy = Toy::new();
    with_held_out(&toy);
    let copy = r#"--config toy.toml --set data.train=["train.en","train.en"] --set train.max_updates=120"#;
    let done = toy.run(copy).exits(0);
    assert_eq!(warned(&done.err, "100.0 % of the first training pairs (80 of 80) have the same text on both sides"), 1);
    assert_eq!(
        warned(&done.err, "of the translations are copies of their source (of the references 0.0 %)"),
        1,
        "{}",
        done.err
    );
    // a task of copying
    let same = format!(r#"{copy} --force --set data.valid=["valid.en","valid.en"] --set data.test=[]"#);
    let done = toy.run(&same).exits(0);
    assert_eq!(warned(&done.err, "copies of their source"), 0, "{}", done.err);
    assert!(toy.rows("run")[0]["references.copied"] == 1.0);
}

#[test]
fn evaluate_tells_the_same_of_any_translations() {
    let toy = Toy::new();
    with_held_out(&toy);
    let reference = toy.read("valid.de");
    toy.write("short.de", reference.lines().map(|line| format!("{}\n", &line[..3])).collect::<String>());
    let score = |file: &str| toy.run(&format!("evaluate --hypothesis {file} --reference valid.de")).exits(0);
    assert_eq!(score("valid.de").err, "");
    score("short.de").tells(&[
        "hypotheses identical 100.0 %",
        "length_ratio 0.20",
        "have 0.20 of the references' length",
    ]);
    let quiet = toy.run("evaluate -q --hypothesis short.de --reference valid.de").exits(0);
    assert_eq!(quiet.err, "");
}
