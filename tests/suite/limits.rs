//! What a person types is refused where it can not be meant: numbers beyond the machine or beyond sense, bytes that are no
//! text; and what is printed can be typed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nmt_train::config::most_threads;
use rustix::process::{kill_process, Pid, Signal};

use super::toy::{done, Toy};

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let toy = Toy::trained();
    for (args, told) in [
        ("translate run --beam 0", "--beam must be 1 or more"),
        ("translate run --n-best 0", "--n-best must be 1 or more"),
        ("translate run --max-batch-tokens 0", "--max-batch-tokens must be 1 or more"),
        ("translate run --beam 1001", "--beam must be 1000 at most"),
        ("translate run --beam 18446744073709551615", "--beam must be 1000 at most"),
        ("translate run --n-best 18446744073709551615", "--n-best must be 1000 at most"),
        ("translate run --length-penalty NaN", "--length-penalty must be 0 or more"),
        ("translate run --length-penalty inf", "--length-penalty must be 0 or more"),
        ("translate run --length-penalty -0.5", "--length-penalty must be 0 or more"),
        ("score run --source valid.en --target valid.de --max-batch-tokens 0", "--max-batch-tokens must be 1 or more"),
        ("evaluate run --source valid.en --reference valid.de --beam 0", "--beam must be 1 or more"),
        ("check --config toy.toml --set decode.max_length_factor=1e300", "must be 1000 at most"),
        ("check --config toy.toml --set model.d_ff=4611686018427387904", "must be smaller"),
        ("check --config toy.toml --set tokenizer.vocab_size=9223372036854775807", "must be 16777216 at most"),
        ("report run --target nan", "--target must be a finite number"),
    ] {
        toy.pipe(args, "the dog\n").exits(3).tells(&[told]);
    }
    // one batch of everything: a number that can be meant
    toy.run("check --config toy.toml --set train.batch_size=9223372036854775807").exits(0);
    for args in ["translate run --n-best -1", "average run --last 0", "translate run --beam 99999999999999999999999"] {
        toy.pipe(args, "the dog\n").exits(2);
    }
}

#[test]
fn threads_are_bounded_by_the_cores_in_every_command() {
    let toy = Toy::trained();
    let (most, beyond) = (most_threads(), most_threads() + 1);
    let told = format!("must be {most} at most, 4 for ");
    for args in [
        "--config toy.toml --force",
        "--resume run",
        "check --config toy.toml",
        "tokenizer --config toy.toml --out t",
        "translate run",
        "evaluate run --source valid.en --reference valid.de",
        "score run --source valid.en --target valid.de",
        "average run --last 1",
        "report run",
        "init",
    ] {
        for threads in [beyond, 1_000_000, usize::MAX] {
            toy.pipe(&format!("{args} --threads {threads}"), "").exits(3).tells(&["--threads", &told]);
        }
    }
    let config = toy.run("check --config toy.toml --set threads=1000000").exits(3);
    config.tells(&["threads=1000000: must be", &told]);
    toy.pipe(&format!("translate run --threads {most}"), "the dog\n").exits(0);
}

/// A run folder comes from a machine with more cores: its own number is no order.
#[test]
fn a_run_of_a_larger_machine_is_used_with_the_cores_of_this_one() {
    let toy = Toy::trained();
    let expected = toy.pipe("translate run", "the dog sees a tree\n").exits(0).out;
    toy.run("-q --config toy.toml --set run_dir=second --set threads=2").exits(0);
    let config = toy.read("run/config.toml");
    assert!(config.contains("threads = 1\n"));
    toy.write("run/config.toml", config.replace("threads = 1\n", "threads = 1000000\n"));
    assert_eq!(toy.pipe("translate run", "the dog sees a tree\n").exits(0).out, expected);
    assert_eq!(toy.pipe("translate run second run", "the dog sees a tree\n").exits(0).out, expected);
    toy.run("--resume run --threads 1 --set train.max_updates=61").exits(0).tells(&["stopped at step 61"]);
}

#[test]
fn arguments_that_are_not_utf8_are_an_error_of_the_command_line() {
    let toy = Toy::new();
    let bad = OsStr::from_bytes(b"caf\xE9");
    for args in [
        "--config",
        "--config toy.toml --set",
        "--config toy.toml --final-json",
        "--resume",
        "check --config",
        "init --preset",
        "tokenizer --config toy.toml --out",
        "translate",
        "translate run --checkpoint",
        "evaluate --reference valid.de --hypothesis",
        "evaluate run --source valid.en --reference",
        "score run --source valid.en --target",
        "average --last 1",
        "average run --last 1 --out",
        "report",
        "report run --html",
        "",
    ] {
        let mut command = toy.command(args);
        let child =
            command.arg(bad).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        done(child).exits(2).tells(&["is not valid UTF-8: \"caf\\xE9\""]);
    }
}

#[test]
fn the_recorded_command_can_be_pasted_into_a_shell() {
    let toy = Toy::new();
    toy.write("my conf's.toml", toy.read("toy.toml"));
    let mut command = toy.command("-q --set run_dir=run --config");
    let status = command.arg("my conf's.toml").status().unwrap();
    assert!(status.success());
    let recorded = toy.read("run/command.txt");
    assert!(recorded.trim_end().ends_with("--config 'my conf'\\''s.toml'"), "{recorded}");
    let script = format!("{} --force", recorded.trim_end());
    let again = std::process::Command::new("sh").args(["-c", &script]).current_dir(toy.path("")).status().unwrap();
    assert!(again.success());
}

#[test]
fn a_table_comes_before_a_page_that_can_not_be_written() {
    let toy = Toy::trained();
    let table = toy.run("report run").exits(0).out;
    assert!(table.contains("adam"), "{table}");
    std::fs::remove_file(toy.path("run/report.html")).unwrap();
    // stands for a folder that is only read, which a test of root can not make
    std::fs::create_dir(toy.path("run/report.html")).unwrap();
    let done = toy.run("report run").exits(0).tells(&["warning: the page was not written", "--html FILE"]);
    assert_eq!(done.out, table);
    // asked for by name it is a fault, still after the table
    let asked = toy.run("report run --html absent/page.html").exits(1);
    assert_eq!(asked.out, table);
    let csv = toy.run("report run --csv absent/rows.csv").exits(1);
    assert_eq!(csv.out, table);
    assert!(!toy.run("report run --csv -").exits(0).out.contains("Target:"), "the rows alone");
}

#[test]
fn a_signal_ends_a_translation_at_once() {
    let toy = Toy::trained();
    let mut command = toy.command("translate run");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(2), "as any program, for the sake of loops in a shell");
}

/// A terminal is made by `script` of util-linux; without it this is skipped.
#[test]
#[expect(clippy::print_stdout, reason = "says that it was skipped")]
fn ctrl_c_ends_the_prompt() {
    use std::io::{Read, Write};
    let there =
        std::process::Command::new("script").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        println!("skipped: there is no `script`");
        return;
    }
    let toy = Toy::trained();
    let mut command = std::process::Command::new("script");
    let program = format!("'{}' translate run", env!("CARGO_BIN_EXE_nmt-train"));
    command.args(["-q", "-e", "-c", &program, "/dev/null"]).current_dir(toy.path(""));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut wait_for = |prompts: usize| {
        let mut byte = [0];
        while shown.matches("en> ").count() < prompts && screen.read(&mut byte).unwrap() > 0 {
            shown.push(char::from(byte[0]));
        }
        shown.clone()
    };
    wait_for(1);
    keys.write_all(b"the dog sees a tree\n").unwrap();
    let answered = wait_for(2);
    assert!(answered.lines().count() >= 3, "{answered}");
    keys.write_all(b"\x03").unwrap();
    // `script -e` ends with 128 + the signal
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{answered}");
}
