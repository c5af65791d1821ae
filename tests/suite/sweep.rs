//! `nmt-train sweep` and the scripts that call it, run as a person runs them, with real training below.

use super::resume::without_times;
use super::toy::{done, Done, Toy};
use nmt_train::fsio;
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// Long enough to be stopped on its way.
const LONG: &str = "all: --config toy.toml --set train.max_updates=2000 --set validation.valid_freq=0 \
                    --set checkpoint.save_freq=500\n";

fn sweep(toy: &Toy, args: &str) -> Done {
    done(start(toy, args))
}

fn start(toy: &Toy, args: &str) -> Child {
    let mut command = command(toy, env!("CARGO_BIN_EXE_nmt-train"));
    command.arg("sweep").args(args.split_whitespace()).spawn().unwrap()
}

/// A command in the toy's folder; scripts in it find the program that is tested.
fn command(toy: &Toy, program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(toy.path("")).env_remove("NMT_TRAIN_FAULT");
    match program.ends_with("nmt-train") {
        true => command.env_remove("NMT_TRAIN"),
        false => command.env("NMT_TRAIN", env!("CARGO_BIN_EXE_nmt-train")),
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// What training left in metrics.jsonl, without times.
fn trained(toy: &Toy, run: &str) -> Vec<Value> {
    let mut rows = toy.rows(run);
    rows.retain(|row| row["event"] == "train" || row["event"] == "valid");
    rows.iter_mut().for_each(without_times);
    rows
}

#[test]
fn a_dry_run_prints_the_commands_of_all_combinations_in_the_shells_order() {
    let toy = Toy::new();
    toy.write(
        "s.txt",
        "# a comment\n\nall: --config toy.toml --set train.max_updates=20 # for all\n  \
         --set optimizer.name=adam --set optimizer.lr={1e-3,2e-3} --set seed={1..2}\n\
         all: --config toy.toml\n--set=optimizer.name=sgd --set 'data.train=[\"$(touch bad)\", \"{a,b}~*\"]'",
    );
    assert_eq!(sweep(&toy, "s.txt --count").exits(0).out, "5\n");
    let listed = sweep(&toy, "s.txt --dry-run --threads 1").exits(0);
    let adam = |lr: &str, seed: u32| {
        let run = format!("runs/sweep-s/name=adam,lr={lr},seed={seed}");
        format!(
            "nmt-train --config toy.toml --set train.max_updates=20 --set optimizer.name=adam --set optimizer.lr={lr} \
             --set seed={seed} --set run_dir={run} --threads 1 --quiet --final-json {run}/final.json\n"
        )
    };
    let quoted = "name=sgd,train=____touch_bad__,___a,b_____";
    let sgd = format!(
        "nmt-train --config toy.toml --set optimizer.name=sgd --set 'data.train=[\"$(touch bad)\", \"{{a,b}}~*\"]' \
         --set run_dir=runs/sweep-s/{quoted} --threads 1 --quiet --final-json runs/sweep-s/{quoted}/final.json\n"
    );
    let all = [adam("1e-3", 1), adam("1e-3", 2), adam("2e-3", 1), adam("2e-3", 2), sgd].concat();
    assert_eq!(listed.out.replace(env!("CARGO_BIN_EXE_nmt-train"), "nmt-train"), all);
    let second = sweep(&toy, "s.txt --dry-run --index 2 --out elsewhere/x").exits(0);
    assert!(second.out.contains("--set run_dir=elsewhere/x/name=adam,lr=1e-3,seed=2 "), "{}", second.out);
    assert_eq!(sweep(&toy, "s.txt --dry-run --line 2 --out elsewhere/x").exits(0).out, second.out, "its older name");
    let on_gpu = sweep(&toy, "s.txt --dry-run --index 5 --device cuda:1 --threads 1000000").exits(0).out;
    assert!(on_gpu.contains(" --device cuda:1 --threads 1000000 --quiet "), "for another machine: {on_gpu}");
    assert!(!toy.exists("runs") && !toy.exists("bad"), "it only looked");

    // a printed line can be pasted
    let line = all.lines().next().unwrap();
    let line = line.replacen("nmt-train", env!("CARGO_BIN_EXE_nmt-train"), 1);
    done(command(&toy, "sh").args(["-c", &line]).spawn().unwrap()).exits(0);
    assert!(toy.exists("runs/sweep-s/name=adam,lr=1e-3,seed=1/final.json"));
}

#[test]
fn a_failed_run_is_recorded_the_rest_goes_on_and_a_second_call_skips_what_is_done() {
    let toy = Toy::new();
    let lines = "all: --config toy.toml --set train.max_updates=20\n\
                 --set seed=1\n--set seed=3 --set data.train=absent.tsv\n--set seed={4,5}\n";
    toy.write("s.txt", lines);
    let failed =
        "failed   seed=3,train=absent.tsv: exit code 3, runs/sweep-s/seed=3,train=absent.tsv/sweep.log: nmt-train: can \
                  not open absent.tsv";
    let first = sweep(&toy, "s.txt --jobs 2").exits(1);
    first.tells(&[
        "started  seed=1",
        "done     seed=4: best_nll ",
        failed,
        "3 of 4 done, 1 failed\n",
        "s.txt --jobs 2 --retry",
    ]);
    let runs = ["seed=1", "seed=3,train=absent.tsv", "seed=4", "seed=5"];
    let status = |run: &str| toy.read(&format!("runs/sweep-s/{run}/sweep.status"));
    assert_eq!(runs.map(status), ["done\n", "failed 3\n", "done\n", "done\n"]);
    let end: Value = serde_json::from_str(&toy.read("runs/sweep-s/seed=4/final.json")).unwrap();
    assert_eq!((&end["step"], &end["run"]), (&20.into(), &"runs/sweep-s/seed=4".into()));

    let again = sweep(&toy, "s.txt").exits(1).tells(&["3 of 4 done, 1 failed\n", "nmt-train report runs/sweep-s\n"]);
    assert!(!again.err.contains("started"), "{}", again.err);
    let rest = sweep(&toy, "s.txt --dry-run --retry").exits(0).tells(&["failed      seed=3", "done        seed=5"]);
    assert_eq!(rest.out.lines().count(), 1, "{}", rest.out);
    toy.write("absent.tsv", "the dog\tder hund\n".repeat(50));
    sweep(&toy, "s.txt --retry").exits(0).tells(&["started  seed=3", "4 of 4 done\n"]);

    // what has a result keeps its line
    toy.write("s.txt", lines.replace("updates=20", "updates=30"));
    let changed = sweep(&toy, "s.txt").exits(3).tells(&[
        "s.txt:2: the line of runs/sweep-s/seed=1 changed",
        "it was  --config toy.toml --set train.max_updates=20 --set seed=1\n",
        "it is   --config toy.toml --set train.max_updates=30 --set seed=1\n",
        "4 problems in the configuration; nothing was started.",
    ]);
    assert!(!changed.err.contains("started "), "{}", changed.err);
}

#[test]
fn a_run_that_diverged_is_a_result() {
    let toy = Toy::new();
    let wild = "--set optimizer.name=sgd --set optimizer.lr=1e30 --set schedule.warmup_updates=0";
    toy.write("s.txt", format!("--config toy.toml {wild}\n"));
    sweep(&toy, "s.txt").exits(0).tells(&["diverged name=sgd", "1 of 1 done, 1 of them diverged\n"]);
    let again = sweep(&toy, "s.txt --retry").exits(0).tells(&["1 of 1 done, 1 of them diverged\n"]);
    assert!(!again.err.contains("started"), "{}", again.err);
}

#[test]
fn a_stopped_sweep_goes_on_and_ends_as_if_it_had_not_stopped() {
    let toy = Toy::new();
    toy.write("s.txt", format!("{LONG}--set seed={{1..3}}\n"));
    for (stop, began) in [(Signal::INT, "--config"), (Signal::USR1, "--resume")] {
        let child = start(&toy, "s.txt --jobs 2");
        for run in ["seed=1", "seed=2"] {
            toy.wait_for(&format!("runs/sweep-s/{run}/sweep.log"), began);
            toy.wait_for(&format!("runs/sweep-s/{run}/metrics.jsonl"), "\"train\"");
        }
        signal(&child, stop);
        let stopped = done(child).exits(75);
        stopped.tells(&["stopping: 2 running", "stopped  seed=1: ", "stopped; to go on: ", "s.txt --jobs 2\n"]);
        assert_eq!(toy.read("runs/sweep-s/seed=2/sweep.status"), "interrupted\n");
        assert!(!toy.exists("runs/sweep-s/seed=3"), "nothing new is started");
    }
    let listed = sweep(&toy, "s.txt --dry-run").exits(0).tells(&["interrupted seed=1", "new         seed=3"]);
    assert!(listed.out.contains("--resume runs/sweep-s/seed=1 --threads"), "{}", listed.out);
    sweep(&toy, "s.txt --jobs 2").exits(0).tells(&["resumed  seed=1", "started  seed=3", "3 of 3 done"]);

    sweep(&toy, "s.txt --out whole --jobs 3").exits(0);
    for run in ["seed=1", "seed=2", "seed=3"] {
        assert_eq!(trained(&toy, &format!("runs/sweep-s/{run}")), trained(&toy, &format!("whole/{run}")), "{run}");
    }
}

/// The sweep itself is killed: its run lives on, is left alone while it does, and is found finished or not afterwards.
#[test]
fn a_killed_sweep_finds_its_runs_again() {
    let toy = Toy::new();
    let endless = "--set train.max_updates=1000000000 --set validation.valid_freq=0 --set checkpoint.save_freq=0";
    toy.write("s.txt", format!("all: --config toy.toml {endless}\n--set seed=1\n"));
    let mut child = start(&toy, "s.txt");
    toy.wait_for("runs/sweep-s/seed=1/metrics.jsonl", "\"train\"");
    child.kill().unwrap();
    child.wait().unwrap();
    sweep(&toy, "s.txt").exits(1).tells(&["running elsewhere: seed=1: process", "0 of 1 done, 1 running elsewhere"]);

    kill_process(holder(&toy, "seed=1"), Signal::KILL).unwrap();
    let listed = loop {
        let listed = sweep(&toy, "s.txt --dry-run").exits(0);
        if !listed.err.contains("elsewhere") {
            break listed.tells(&["lost        seed=1"]);
        }
    };
    assert!(listed.out.contains("--config toy.toml") && listed.out.contains("--force"), "{}", listed.out);
    let log = toy.read("runs/sweep-s/seed=1/sweep.log");
    let child = start(&toy, "s.txt");
    while toy.read("runs/sweep-s/seed=1/sweep.log") == log {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    signal(&child, Signal::TERM);
    done(child).exits(75).tells(&["started  seed=1", "stopped  seed=1"]);
}

/// With a program in the place of nmt-train that takes its time to save.
#[test]
fn two_signals_at_once_are_one_and_a_later_one_ends_the_runs() {
    let toy = Toy::new();
    let slow = "#!/usr/bin/env bash\nexec >&2\n\
                trap 'echo told; [ $((told += 1)) -lt 2 ] || exit 143' TERM\necho ready\nwhile :; do sleep 0.1; done\n";
    toy.write("slow", slow);
    std::fs::set_permissions(toy.path("slow"), PermissionsExt::from_mode(0o755)).unwrap();
    toy.write("s.txt", "--config toy.toml --set seed=1\n");
    let mut command = toy.command("sweep s.txt");
    command.env("NMT_TRAIN", toy.path("slow")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    toy.wait_for("runs/sweep-s/seed=1/sweep.log", "ready");
    signal(&child, Signal::INT);
    signal(&child, Signal::TERM);
    toy.wait_for("runs/sweep-s/seed=1/sweep.log", "told");
    std::thread::sleep(std::time::Duration::from_millis(3100));
    assert_eq!(toy.read("runs/sweep-s/seed=1/sweep.log").matches("told").count(), 1);
    signal(&child, Signal::INT);
    done(child).exits(75).tells(&["stopped  seed=1"]);
    assert_eq!(toy.read("runs/sweep-s/seed=1/sweep.log").matches("told").count(), 2);
    assert_eq!(toy.read("runs/sweep-s/seed=1/sweep.status"), "interrupted\n");
}

#[test]
fn all_mistakes_of_a_file_are_told_before_anything_starts() {
    let toy = Toy::new();
    toy.write(
        "s.txt",
        "--set seed=1\n\
         all: --config toy.toml\n\
         --set seed={1..2}\n\
         --set seed=2\n\
         --set run_dir=x\n\
         --set seed=3 --resume x\n\
         --set seed=3 --force\n\
         --set seed=3 --threads 2\n\
         --set seed={4,5\n\
         --set seed={6, 7}\n\
         --set 'seed=8\n\
         --set\n\
         --set seed\n\
         --config other.toml --set seed=9\n\
         all: --set seed={1,2}\n\
         --quiet\n",
    );
    let said = sweep(&toy, "s.txt").exits(3).err;
    let expected = "\
nmt-train: s.txt:1: no config; give --config FILE, best in a line above that begins with all:
s.txt:4: names its run seed=2, as line 3 does
s.txt:5: --set run_dir=x: the sweep names the run folders; --out chooses where they are
s.txt:6: --resume: whether a run is new or goes on is for the sweep to say
s.txt:7: --force: whether a run is new or goes on is for the sweep to say
s.txt:8: --threads: threads are given to the sweep: --threads N
s.txt:9: `seed={4,5` does not expand: lists are {a,b}, ranges {1..3}, without spaces, of 10000 in all at most; a brace that is meant is quoted
s.txt:10: `seed={6,` does not expand: lists are {a,b}, ranges {1..3}, without spaces, of 10000 in all at most; a brace that is meant is quoted
s.txt:11: has a ' without its second
s.txt:12: --set needs a value
s.txt:13: --set seed: expected KEY=VALUE
s.txt:14: two configs: toy.toml and other.toml
s.txt:15: all: gives every run the same; what expands to several belongs into the lines
s.txt:16: `--quiet`: a line has only --set KEY=VALUE and --config FILE
14 problems in the configuration; nothing was started.
";
    assert_eq!(said, expected);
    toy.write("s.txt", "# nothing\n");
    assert_eq!(
        sweep(&toy, "s.txt").exits(3).err,
        "nmt-train: s.txt:1: no run in this file\n1 problem in the configuration; nothing was started.\n"
    );
    toy.write("s.txt", "all: --config toy.toml\n--set optimizer.nam=adam --set train.max_updates=-1\n--set seed=1\n");
    let said = sweep(&toy, "s.txt").exits(3).err;
    assert_eq!(said.lines().filter(|line| line.contains("optimizer.nam")).count(), 1, "{said}");
    let both =
        said.contains("s.txt:2: --set optimizer.nam=adam: unknown key") && said.contains("s.txt:2: --set train.max");
    assert!(both && said.contains("\n2 problems in the configuration"), "{said}");
    assert!(!toy.exists("runs"));

    let most = nmt_train::config::most_threads();
    for (args, message) in [
        ("absent.txt", "nmt-train: can not read absent.txt: "),
        ("", "<FILE>"),
        ("s.txt --jobs 0", "'--jobs <N>': 0 is not in 1.."),
        ("s.txt --jobs 99999999999999999999", "'--jobs <N>': "),
        ("s.txt --jobs 1000000", &format!("nmt-train: --jobs 1000000: {most} at most, 4 for each core\n")),
        ("s.txt --threads 1000000", &format!("nmt-train: --threads 1000000: {most} at most, 4 for each core\n")),
        ("s.txt --index 3", "nmt-train: --index 3: s.txt has 2 runs\n"),
        ("s.txt --frob", "unexpected argument '--frob'"),
    ] {
        sweep(&toy, args).exits(2).tells(&[message]);
    }
    let help = sweep(&toy, "--help").exits(0).out;
    for part in ["--dry-run", "Print the commands", "--index <I>", "{1..3}     # six runs", "Exit codes: 0 all done"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    let script = command(&toy, &format!("{SCRIPTS}/sweep.sh")).arg("--help").spawn().unwrap();
    assert_eq!(done(script).exits(0).out, help, "the script is the same command");
    let absent = command(&toy, &format!("{SCRIPTS}/sweep.sh")).env("NMT_TRAIN", "./absent").spawn().unwrap();
    done(absent).exits(2).tells(&["sweep.sh: there is no ./absent: cargo build --release, or set NMT_TRAIN"]);
}

#[test]
fn several_configs_are_in_the_names_of_their_runs() {
    let toy = Toy::new();
    toy.write("other.toml", toy.read("toy.toml"));
    toy.write("s.txt", "all: --config toy.toml\n--set seed=1\nall: --config other.toml\n--set seed=1\n");
    let listed = sweep(&toy, "s.txt --dry-run").exits(0);
    listed.tells(&["new         toy,seed=1\n", "new         other,seed=1\n"]);
}

#[test]
fn the_sweeps_of_the_project_are_without_mistakes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sweeps");
    let files = fsio::list(&folder).unwrap().into_iter().filter(|file| file.extension() == Some("txt".as_ref()));
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let mut command = Toy::new().command("sweep --dry-run --out absent");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        assert!(done(command.spawn().unwrap()).exits(0).out.lines().count() > 1, "{}", file.display());
    }
}

/// Folders as the shell script made them that was `nmt-train sweep` before: one run done, one interrupted, one failed.
#[test]
fn a_sweep_begun_by_the_old_script_goes_on() {
    let toy = Toy::new();
    let updates = "--config toy.toml --set train.max_updates=40";
    toy.write("s.txt", format!("all: {updates}\n--set seed={{1..4}} --set 'data.test=[]'\n"));
    let name = |seed: u32| format!("runs/sweep-s/seed={seed},test=__");
    for (seed, status) in [(1, "done\n"), (2, "interrupted\n"), (3, "failed 1\n")] {
        let folder = name(seed);
        std::fs::create_dir_all(toy.path(&folder)).unwrap();
        let set = format!("{updates} --set seed={seed} --set data.test=[]");
        if seed != 3 {
            let stop = if seed == 2 { " --set train.max_hours=1e-9" } else { "" };
            let run = format!("-q {set} --set run_dir={folder} --final-json {folder}/final.json{stop}");
            toy.run(&run).exits(if seed == 2 { 75 } else { 0 });
        }
        toy.write(&format!("{folder}/sweep.line"), format!("{updates} --set seed={seed} --set 'data.test=[]'\n"));
        toy.write(&format!("{folder}/sweep.log"), "2026-11-03 14:05:09 $ nmt-train -q\n");
        toy.write(&format!("{folder}/sweep.status"), status);
    }
    // the limit above was not the sweep's
    toy.write(&format!("{}/config.toml", name(2)), toy.read(&format!("{}/config.toml", name(1))));
    let before = toy.read(&format!("{}/metrics.jsonl", name(1)));
    sweep(&toy, "s.txt --threads 1").exits(1).tells(&["resumed  seed=2", "started  seed=4", "3 of 4 done, 1 failed\n"]);
    sweep(&toy, "s.txt --threads 1 --retry").exits(0).tells(&["started  seed=3", "4 of 4 done\n"]);
    assert_eq!(toy.read(&format!("{}/metrics.jsonl", name(1))), before, "what was done is left alone");
    assert!(toy.read(&format!("{}/sweep.log", name(2))).starts_with("2026-11-03 14:05:09 $ nmt-train -q\n2"));
    assert!((1..=4).all(|seed| toy.read(&format!("{}/sweep.status", name(seed))) == "done\n"));
    for run in [name(2), name(3)] {
        assert_eq!(toy.rows(&run).pop().unwrap()["step"], 40);
    }
}

/// One process is killed, as by a machine out of memory: the others do not notice.
#[test]
fn a_killed_run_has_failed_and_the_others_go_on() {
    let toy = Toy::new();
    toy.write("s.txt", format!("{LONG}--set seed=1\n--set seed={{2,3}} --set train.max_updates=20\n"));
    let child = start(&toy, "s.txt --jobs 2 --quiet");
    toy.wait_for("runs/sweep-s/seed=1/metrics.jsonl", "\"train\"");
    kill_process(holder(&toy, "seed=1"), Signal::KILL).unwrap();
    let ended = done(child).exits(1);
    assert_eq!(ended.err, "failed   seed=1: exit code 137, runs/sweep-s/seed=1/sweep.log: it said nothing\n");
    let all = sweep(&toy, "s.txt --dry-run --retry").exits(0);
    let all =
        all.tells(&["failed      seed=1", "done        seed=2,max_updates=20", "done        seed=3,max_updates=20"]);
    assert_eq!(all.out.lines().count(), 1, "{}", all.out);
    assert_eq!(toy.read("runs/sweep-s/seed=1/sweep.status"), "failed 137\n");
}

/// What was ignored when a sweep began stays so, as in a shell: `nohup`, and the script for Slurm.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_was_ignored_stays_ignored() {
    let toy = Toy::new();
    toy.write("s.txt", "--config toy.toml\n");
    let line = "trap '' HUP; exec \"$NMT_TRAIN\" sweep s.txt";
    let child = command(&toy, "bash").args(["-c", line]).spawn().unwrap();
    toy.wait_for("runs/sweep-s/toy/sweep.log", "--config");
    signal(&child, Signal::HUP);
    done(child).exits(0).tells(&["1 of 1 done\n"]);
}

/// The process that a run is.
fn holder(toy: &Toy, run: &str) -> Pid {
    let lock: Value = serde_json::from_str(&toy.read(&format!("runs/sweep-s/{run}/lock"))).unwrap();
    Pid::from_raw(i32::try_from(lock["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

/// A Slurm that knows what the scripts need of it: `sbatch` runs the tasks one after the other with a copy of the script,
/// `scontrol` writes down what it was asked. How the real one was tested: CONTRIBUTING.md.
fn slurm(toy: &Toy) -> String {
    let sbatch = r#"#!/usr/bin/env bash
[[ $1 =~ ^--array=1-([0-9]+)$ && $2 == scripts/slurm-array.sh ]] || exit 2
for option in signal=B:USR1@ requeue open-mode=append; do grep -q "^#SBATCH --$option" "$2" || exit 2; done
cp "$2" spooled
export SLURM_ARRAY_JOB_ID=77 SLURM_CPUS_PER_TASK=1
for ((i = 1; i <= BASH_REMATCH[1]; i++)); do
  SLURM_ARRAY_TASK_ID=$i bash spooled "${@:3}" || code=$?
done
exit "${code:-0}"
"#;
    std::fs::create_dir(toy.path("bin")).unwrap();
    for (name, text) in [("sbatch", sbatch), ("scontrol", "#!/bin/sh\necho \"$@\" >>asked\n")] {
        toy.write(&format!("bin/{name}"), text);
        std::fs::set_permissions(toy.path(&format!("bin/{name}")), PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::symlink(SCRIPTS, toy.path("scripts")).unwrap();
    format!("{}:{}", toy.path("bin").display(), std::env::var("PATH").unwrap())
}

fn task(toy: &Toy, path: &str, number: u32) -> Child {
    let mut command = command(toy, "bash");
    command.args(["scripts/slurm-array.sh", "s.txt"]).env("PATH", path);
    let number = number.to_string();
    command.envs([
        ("SLURM_ARRAY_TASK_ID", number.as_str()),
        ("SLURM_ARRAY_JOB_ID", "77"),
        ("SLURM_CPUS_PER_TASK", "1"),
    ]);
    command.spawn().unwrap()
}

#[test]
fn a_slurm_array_runs_every_line() {
    let toy = Toy::new();
    let path = slurm(&toy);
    toy.write("s.txt", "all: --config toy.toml --set train.max_updates=20\n--set seed={1,2}\n");
    let line = "sbatch --array=1-$(scripts/sweep.sh s.txt --count) scripts/slurm-array.sh s.txt --out o";
    let submitted = command(&toy, "bash").env("PATH", &path).args(["-c", line]).spawn().unwrap();
    done(submitted).exits(0).tells(&["done     seed=1", "done     seed=2"]);
    assert_eq!(["o/seed=1", "o/seed=2"].map(|run| toy.rows(run).pop().unwrap()["step"].clone()), [20, 20]);
    assert!(!toy.exists("asked"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_slurm_task_out_of_time_is_requeued_and_a_cancelled_one_is_not() {
    let toy = Toy::new();
    let path = slurm(&toy);
    toy.write("s.txt", format!("{LONG}--set seed={{1,2}}\n"));
    let child = task(&toy, &path, 2);
    toy.wait_for("runs/sweep-s/seed=2/metrics.jsonl", "\"train\"");
    signal(&child, Signal::USR1);
    done(child).exits(75).tells(&["stopping: 1 running", "stopped  seed=2"]);
    assert_eq!(toy.read("asked"), "requeue 77_2\n");

    // scancel: SIGTERM to every process of the task; the sweep is one, and does not hear it
    let child = task(&toy, &path, 2);
    toy.wait_for("runs/sweep-s/seed=2/lock", "}");
    signal(&child, Signal::TERM);
    let run = holder(&toy, "seed=2");
    let sweep_of_run = fsio::read_to_string(Path::new(&format!("/proc/{}/stat", run.as_raw_nonzero()))).unwrap();
    let parent = sweep_of_run.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).unwrap();
    kill_process(Pid::from_raw(parent.parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    kill_process(run, Signal::TERM).unwrap();
    let cancelled = done(child).exits(75).tells(&["resumed  seed=2", "stopped  seed=2"]);
    assert!(!cancelled.err.contains("stopping"), "{}", cancelled.err);
    assert_eq!(toy.read("asked"), "requeue 77_2\n", "not again");

    done(task(&toy, &path, 2)).exits(0).tells(&["resumed  seed=2", "done     seed=2"]);
    sweep(&toy, "s.txt --line 2 --out whole --threads 1").exits(0);
    assert_eq!(trained(&toy, "runs/sweep-s/seed=2"), trained(&toy, "whole/seed=2"));
}

/// The same seed gives every optimizer the same initial weights, the same batches in the same order and the same dropout.
#[test]
fn every_optimizer_has_the_same_start() {
    let toy = Toy::new();
    let names = [
        "adamw --set optimizer.weight_decay=0.1",
        "clipped-adam",
        "sgd",
        "schedule-free",
        "muon",
        "soap",
        "hvr",
        "hessian2",
    ];
    let variants = ["hessian2 --set optimizer.hessian2.variant=kron".to_string()];
    let others = [
        "adam --set train.ema_decay=0.9",
        "hessian2 --set optimizer.hessian2.scope=embeddings",
        "hessian2 --set optimizer.hessian2.rank=2",
        "hvr --set optimizer.hvr.form=literal",
    ];
    let options = names.into_iter().chain(others).map(str::to_string).chain(variants);
    let start = |number: usize, option: &str, seed: u64| {
        let few =
            "--set train.max_updates=3 --set train.log_freq=1 --set schedule.warmup_updates=0 --set model.dropout=0.2";
        let none = "--set validation.valid_freq=0 --set data.valid=[] --set data.test=[] --set validation.metrics=[]";
        toy.run(&format!(
            "-q --config toy.toml {few} {none} --set run_dir=runs/{number} --set seed={seed} --set optimizer.name={option}"
        ))
        .exits(0);
        let rows = trained(&toy, &format!("runs/{number}"));
        assert_eq!(rows.len(), 3, "{option}");
        let bits = |key: &str| rows[0][key].as_f64().unwrap().to_bits();
        let tokens: Vec<u64> = rows.iter().map(|row| row["tokens"].as_u64().unwrap()).collect();
        ([bits("loss"), bits("nll"), bits("grad_norm")], tokens, rows[2]["loss"].as_f64().unwrap())
    };
    let adam = start(0, "adam", 1);
    for (i, option) in options.enumerate() {
        let other = start(i + 1, &option, 1);
        assert_eq!((&other.0, &other.1), (&adam.0, &adam.1), "{option}");
        let averaged = option.starts_with("adam ");
        assert!(averaged == (other.2 == adam.2), "{option} goes its own way, an average does not");
    }
    assert_ne!(start(99, "adam", 2).0, adam.0, "another seed");
}
