//! Random sequences of processes on one run, with real kills, real signals and faults on demand: whatever happens on the
//! way, the run ends as the one that was left alone, and its record, its pointers and its report tell the truth.
//!
//! The same on the ledger alone, a hundred thousand times: `src/run/tests.rs`.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use nmt_train::rng::{stream, Purpose, Stream};
use serde_json::Value;

use super::resume::without_times;
use super::toy::Toy;

const UPDATES: u64 = 60;

/// Settings that a sequence may have.
const OPTIONS: [&str; 7] = [
    "",
    "--set optimizer.name=adamw --set train.ema_decay=0.9",
    "--set schedule.kind=cosine --set schedule.total_updates=60",
    "--set phase=[{from_update=20,optimizer='schedule-free'},{from_update=40,optimizer='adam'}]",
    "--set schedule.kind=plateau --set schedule.plateau_patience=0",
    "--set checkpoint.average_last=2 --set validation.valid_freq=10 --set checkpoint.keep_last=1",
    "--set train.gradient_accumulation_steps=2 --set phase=[{from_update=30,optimizer='sgd'}]",
];

/// Faults by where the run is: the same ones strike again after a kill.
const FAULTS: [&str; 4] = ["", "score:nan=20,score:inf=40", "gradient:nan=33-34", "score:nan=40,gradient:nan=25-29"];

struct Case {
    toy: Toy,
    settings: String,
    fault: &'static str,
}

impl Case {
    fn command(&self, run: &str, extra: &str) -> Command {
        let exists = self.toy.exists(&format!("{run}/checkpoints/latest"));
        let args = match exists {
            true => format!("-q --resume {run} {extra}"),
            false => format!("-q --force --config toy.toml {} --set run_dir={run} {extra}", self.settings),
        };
        let mut command = self.toy.command(&args);
        if !self.fault.is_empty() {
            command.env("NMT_TRAIN_FAULT", self.fault);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts a process and kills or interrupts it after a while, or lets it end.
    fn disturb(&self, rng: &mut Stream) {
        // What waits for improvements is changed by the validation at the end of a shorter run.
        let waits = self.settings.contains("plateau");
        let extra = match rng.below(5) {
            _ if waits => String::new(),
            0 => format!("--set train.max_updates={}", 1 + rng.below(UPDATES as usize)),
            1 => "--set validation.early_stopping_metric=bleu".to_string(),
            _ => String::new(),
        };
        let mut child = self.command("run", &extra).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + rng.below(250) as u64));
        match rng.below(3) {
            0 => drop(child.kill()),
            1 => drop(Command::new("kill").args(["-INT", &child.id().to_string()]).status()),
            _ => {}
        }
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("panicked"), "{told}");
        // killed, interrupted, done; diverged; 3: a longer run of a schedule that decays, which is decided below
        assert!(
            [None, Some(0), Some(3), Some(4), Some(75)].contains(&output.status.code()),
            "{:?} {told}",
            output.status
        );
        self.check("run", output.status.code().is_none());
    }

    fn finish(&self, run: &str) -> Option<i32> {
        let back = "--set train.max_updates=60 --set validation.early_stopping_metric=nll";
        let output = self.command(run, back).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!([Some(0), Some(4)].contains(&output.status.code()), "{told}");
        self.check(run, false);
        output.status.code()
    }

    /// What must hold of a run folder whenever no process is in it; `killed`: the last one did not end by itself.
    fn check(&self, run: &str, killed: bool) {
        if !self.toy.exists(&format!("{run}/checkpoints/latest")) {
            return;
        }
        let folders: Vec<String> =
            self.toy.list(&format!("{run}/checkpoints")).into_iter().filter(|name| name.starts_with("step-")).collect();
        let pointer = |name: &str| {
            let path = format!("{run}/checkpoints/{name}");
            self.toy.exists(&path).then(|| self.toy.read(&path).trim().to_string())
        };
        // A process that dies between writing a checkpoint and pointing at it is set right by the next one.
        let latest = pointer("latest").unwrap();
        assert!(Some(&latest) == folders.last() || killed && folders.contains(&latest), "{latest} of {folders:?}");
        for folder in &folders {
            let step: u64 = folder.trim_start_matches("step-").parse().unwrap();
            self.toy.pipe(&format!("translate {run} --beam 1 --checkpoint {step}"), "the dog\n").exits(0);
        }
        let newest = folders.last().unwrap();
        let state: Value =
            serde_json::from_str(&self.toy.read(&format!("{run}/checkpoints/{newest}/state.json"))).unwrap();
        let metric = state["unit"]["metric"].as_str().unwrap();
        let sign = if metric == "nll" { 1.0 } else { -1.0 };
        let scored = state["scored"].as_array().unwrap().iter();
        let there = scored.filter_map(|scored| {
            let folder = format!("step-{:08}", scored["step"].as_u64()?);
            folders.contains(&folder).then_some((sign * scored[metric].as_f64()?, folder))
        });
        let best = there.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, folder)| folder);
        // likewise
        if pointer("best") != best {
            let known = |pointed: String| pointed == "average" || folders.contains(&pointed);
            assert!(pointer("best").is_none_or(known), "{folders:?}");
        }

        let mut told = BTreeMap::new();
        for row in self.rows(run).into_iter().filter(|row| row["event"] != "start" && row["event"] != "end") {
            let (event, step) = (row["event"].as_str().unwrap().to_string(), row["step"].as_u64().unwrap());
            let before = told.insert(event.clone(), step);
            assert!(before.is_none_or(|before| before < step), "{event} {step} after {before:?}");
        }
    }

    fn rows(&self, run: &str) -> Vec<Value> {
        let text = self.toy.read(&format!("{run}/metrics.jsonl"));
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Weights, optimizer, rows: everything that must not depend on what happened on the way.
    fn result(&self, run: &str) -> (Vec<Vec<u8>>, Vec<Value>) {
        let folder = format!("{run}/checkpoints/{}", self.toy.read(&format!("{run}/checkpoints/latest")).trim());
        let tensors = self.toy.list(&folder).into_iter().filter(|name| name.ends_with(".safetensors"));
        let tensors = tensors.map(|name| std::fs::read(self.toy.path(&format!("{folder}/{name}"))).unwrap()).collect();
        let mut rows: Vec<Value> = self.rows(run);
        rows.retain(|row| row["event"] == "train" || row["event"] == "valid");
        rows.iter_mut().for_each(without_times);
        // Which metric judged at the time of a validation is told in its row.
        for row in rows.iter_mut().filter_map(Value::as_object_mut) {
            row.retain(|name, _| !["early_stopping_metric", "is_best", "improvement"].contains(&name.as_str()));
        }
        (tensors, rows)
    }
}

#[test]
fn whatever_happens_on_the_way_a_run_ends_as_the_one_that_was_left_alone() {
    let mut compared = 0;
    for case in 0..24 {
        let mut rng = stream(case, Purpose::Probe, 7);
        let settings = OPTIONS[rng.below(OPTIONS.len())].to_string();
        let fault = FAULTS[rng.below(FAULTS.len())];
        let case = Case { toy: Toy::new(), settings, fault };
        let whole = case.finish("whole");
        for _ in 0..1 + rng.below(3) {
            case.disturb(&mut rng);
        }
        let resumed = case.finish("run");
        for (run, code) in [("whole", whole), ("run", resumed)] {
            let report = case.toy.run(&format!("report {run} --json -")).exits(0).out;
            let expected = if code == Some(4) { r#""state": "diverged""# } else { r#""state": "finished""# };
            assert!(report.contains(expected), "{run} ended with {code:?}: {report}");
        }
        // A roll-back goes to the newest checkpoint, and a signal makes one more of them.
        if fault.contains("gradient") {
            continue;
        }
        let (a, b) = (case.result("whole"), case.result("run"));
        assert!(a.0 == b.0, "tensors differ: {} {fault}", case.settings);
        // A run that was shorter for a while has validations of its own.
        let valid = |rows: &[Value]| rows.iter().filter(|row| row["event"] == "valid").count();
        if valid(&a.1) == valid(&b.1) {
            assert_eq!(a.1, b.1, "{} {fault}", case.settings);
        }
        compared += 1;
    }
    assert!(compared >= 8, "{compared}");
}
