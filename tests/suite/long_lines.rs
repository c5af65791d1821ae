//! Memory follows the length of a line, not its square, where nothing is trained: in `translate`, `score` and validation.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::toy::{done, Toy};

/// What a line of [`LONG`] characters may cost more than a short one: half of what the square of its tokens takes.
const MORE: u64 = 50 << 20;

const LONG: usize = 10_000;

/// Single letters: a token each, half as many tokens as characters.
fn long_line(characters: usize) -> String {
    let letters = ["d", "e", "r", "h", "u", "n", "s", "i", "t", "a", "m", "o"];
    let line: Vec<&str> = (0..characters / 2).map(|i| letters[i * i % 11]).collect();
    line.join(" ") + " ."
}

/// What the process wrote to stdout, and the most memory it held; `None` where the system does not tell.
fn run(toy: &Toy, args: &str, input: &str) -> (String, Option<u64>) {
    toy.write("stdin", input);
    let mut command: Command = toy.command(args);
    command.stdin(File::open(toy.path("stdin")).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut peak = None;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kilobytes.map(|kilobytes| kilobytes << 10));
        std::thread::sleep(Duration::from_millis(2));
    }
    (done(child).exits(0).out, peak)
}

#[expect(clippy::print_stdout, reason = "says that something was skipped")]
fn assert_cheap(what: &str, short: Option<u64>, long: Option<u64>) {
    match (short, long) {
        (Some(short), Some(long)) => {
            assert!(long < short + MORE, "{what}: {} MiB instead of {} MiB", long >> 20, short >> 20);
        }
        _ => println!("skipped: no /proc here to tell the memory of a process"),
    }
}

/// Translations stop at a fiftieth of the source, so that a model that never ends costs no time.
fn trained(kind: &str) -> Toy {
    let toy = Toy::new();
    let args = format!("-q --config toy.toml --set model.kind={kind} --set decode.max_length_factor=0.02");
    toy.run(&args).exits(0);
    toy
}

#[test]
fn a_long_line_is_translated_and_scored_in_little_memory_and_changes_no_other() {
    for kind in ["transformer", "rnn"] {
        let toy = trained(kind);
        let short = ["the dog sees a tree", "a man hears", "the cat likes the river", "a woman finds a book"];
        let lines = short.join("\n") + "\n";
        let long = long_line(LONG);
        let with_long = [&short[..2], &[&long], &short[2..]].concat().join("\n") + "\n";

        let (without, small) = run(&toy, "translate run --beam 1", &lines);
        let (with, large) = run(&toy, "translate run --beam 1", &with_long);
        assert_cheap(&format!("{kind}, translate"), small, large);
        let mut with: Vec<&str> = with.lines().collect();
        assert_eq!(with.len(), 5);
        with.remove(2);
        assert_eq!(with, without.lines().collect::<Vec<_>>());

        toy.write("short", &lines);
        toy.write("source", &with_long);
        // α of the recurrent model would take 60 MB and the probabilities of the other one 100
        let target = [&short[..2], &[&long_line(6000)], &short[2..]].concat().join("\n") + "\n";
        toy.write("target", target);
        let (without, small) = run(&toy, "score run --source short --target short", "");
        let (with, large) = run(&toy, "score run --source source --target target", "");
        assert_cheap(&format!("{kind}, score"), small, large);
        let mut with: Vec<f64> = with.lines().map(|line| line.parse().unwrap()).collect();
        assert!(with.remove(2).is_finite());
        for (with, without) in with.iter().zip(without.lines()) {
            assert!((with - without.parse::<f64>().unwrap()).abs() < 1e-4, "{with} {without}");
        }
    }
}

#[test]
fn a_long_line_in_validation_text_costs_little_memory() {
    let toy = Toy::new();
    let args = "-q --config toy.toml --set train.max_updates=2 --set decode.max_length_factor=0.02 --force";
    let (_, small) = run(&toy, args, "");
    for language in ["en", "de"] {
        let text = toy.read(&format!("valid.{language}"));
        toy.write(&format!("valid.{language}"), format!("{text}{}\n", long_line(LONG)));
    }
    let (_, large) = run(&toy, args, "");
    assert_cheap("validation", small, large);
    assert!(toy
        .rows("run")
        .iter()
        .any(|row| row["event"] == "valid" && row["nll"].as_f64().is_some_and(f64::is_finite)));
}
