//! A run that was killed and resumed ends with the same bits as one that never stopped: weights, optimizer state,
//! counters, metrics. Real processes, real SIGKILL, at several moments, one of them inside a save.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

const UPDATES: u64 = 90;
const SIGKILL: i32 = 9;

/// The tiny run of one test: its folder of text and the settings under test.
struct Toy {
    dir: tempfile::TempDir,
    settings: Vec<String>,
}

impl Toy {
    fn new(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for side in ["en", "de"] {
            let text = fs::read_to_string(format!("data/quickstart/train.{side}")).unwrap();
            let head = |n: usize| text.lines().take(n).collect::<Vec<_>>().join("\n") + "\n";
            write(&dir.path().join(format!("train.{side}")), &head(120));
            write(&dir.path().join(format!("valid.{side}")), &head(5));
        }
        let files = |name: &str| {
            let path = |side| format!("{:?}", dir.path().join(format!("{name}.{side}")));
            format!("[{}, {}]", path("en"), path("de"))
        };
        let mut all = vec![
            format!("data.train={}", files("train")),
            format!("data.valid={}", files("valid")),
            "data.test=[]".to_string(),
            format!("train.max_updates={UPDATES}"),
        ];
        all.extend(settings.iter().map(ToString::to_string));
        Toy { dir, settings: all }
    }

    fn run_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, name: &str, resume: bool) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nmt-train"));
        command.args(["--quiet", "--threads", "1"]).stdin(Stdio::null()).env_remove("NMT_TRAIN_FAULT");
        if resume {
            command.arg("--resume").arg(self.run_dir(name));
        } else {
            command.args(["--config", "tests/fixtures/toy.toml"]);
            for setting in &self.settings {
                command.args(["--set", setting]);
            }
            command.args(["--set", &format!("run_dir={}", self.run_dir(name).display())]);
        }
        command
    }

    /// Runs to the end.
    fn finish(&self, name: &str, resume: bool) {
        let output = self.command(name, resume).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs until metrics.jsonl speaks of `step`, then kills.
    fn kill_at(&self, name: &str, resume: bool, step: u64) -> ExitStatus {
        let mut child = self.command(name, resume).spawn().unwrap();
        let wanted = format!("\"step\":{step},");
        loop {
            let metrics = fs::read_to_string(self.run_dir(name).join("metrics.jsonl")).unwrap_or_default();
            let reached = metrics.lines().any(|line| line.contains("\"train\"") && line.contains(&wanted));
            if reached || child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap()
    }

    /// Everything of the last checkpoint that must not depend on interruptions.
    fn result(&self, name: &str) -> Ended {
        let run = self.run_dir(name);
        let checkpoint = run.join(format!("checkpoints/step-{UPDATES:08}"));
        let mut tensors = Vec::new();
        for entry in fs::read_dir(&checkpoint).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "safetensors") {
                let file = path.file_name().unwrap().to_string_lossy().into_owned();
                tensors.push((file, fs::read(&path).unwrap()));
            }
        }
        tensors.sort();
        let mut state: Value = serde_json::from_slice(&fs::read(checkpoint.join("state.json")).unwrap()).unwrap();
        // The length of the metrics file varies with the digits of its times.
        state.as_object_mut().unwrap().remove("metrics_bytes");
        without_times(&mut state);
        if run.join("average.safetensors").exists() {
            tensors.push(("average".to_string(), fs::read(run.join("average.safetensors")).unwrap()));
        }
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let rows = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let told = ["train", "valid", "average"];
        let mut rows: Vec<Value> = rows.filter(|row| told.iter().any(|event| row["event"] == *event)).collect();
        rows.iter_mut().for_each(without_times);
        Ended { tensors, state, rows }
    }
}

/// What a run left behind, without times.
struct Ended {
    /// File names and bytes of the last checkpoint's tensors.
    tensors: Vec<(String, Vec<u8>)>,
    state: Value,
    /// `train`, `valid` and `average` rows of metrics.jsonl.
    rows: Vec<Value>,
}

/// Removes what no two runs share: seconds, speeds, memory.
pub(super) fn without_times(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|name, _| {
            !(name.starts_with("seconds") || name.ends_with("per_second") || name == "peak_memory_bytes")
        });
        fields.values_mut().for_each(without_times);
    }
}

#[expect(clippy::disallowed_methods, reason = "test data, not a result")]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Kills at an early update, inside a save, and at a late update; compares with a run that was left alone.
fn killed_and_resumed_equals_uninterrupted(settings: &[&str]) {
    let toy = Toy::new(settings);
    toy.finish("whole", false);

    assert_eq!(toy.kill_at("killed", false, 17).signal(), Some(SIGKILL), "finished before it could be killed");
    let in_save = toy.command("killed", true).env("NMT_TRAIN_FAULT", "save:kill=2").status().unwrap();
    assert_eq!(in_save.signal(), Some(SIGKILL), "not killed inside its second save: {in_save}");
    assert_eq!(toy.kill_at("killed", true, 55).signal(), Some(SIGKILL), "finished before it could be killed");
    toy.finish("killed", true);

    let (whole, killed) = (toy.result("whole"), toy.result("killed"));
    assert!(whole.tensors.len() >= 2, "no tensors");
    assert_eq!(whole.tensors.len(), killed.tensors.len());
    for ((file, a), (_, b)) in whole.tensors.iter().zip(&killed.tensors) {
        assert!(a == b, "{file} differs");
    }
    assert_eq!(whole.state, killed.state);
    assert_eq!(whole.rows.len(), killed.rows.len());
    for (a, b) in whole.rows.iter().zip(&killed.rows) {
        assert_eq!(a, b);
    }
}

#[test]
fn transformer_with_adam_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[]);
}

#[test]
fn gru_with_clipped_adam_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&["model.kind=rnn", "optimizer.name=clipped-adam"]);
}

#[test]
fn lstm_with_sgd_and_a_plateau_resumes_bit_for_bit() {
    let schedule = ["schedule.kind=plateau", "schedule.plateau_patience=0"];
    let rnn = ["model.kind=rnn", "model.rnn.cell=lstm", "model.rnn.attention=luong"];
    let sgd = ["optimizer.name=sgd", "optimizer.sgd.momentum=0.9", "optimizer.lr=0.5"];
    killed_and_resumed_equals_uninterrupted(&[&schedule[..], &rnn[..], &sgd[..]].concat());
}

#[test]
fn hvr_with_a_chosen_window_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[
        "optimizer.name=hvr",
        "optimizer.hvr.automatic=window-and-lambda",
        "optimizer.hvr.truncation=spectral",
    ]);
}

#[test]
fn schedule_free_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[
        "optimizer.name=schedule-free",
        "optimizer.weight_decay=0.01",
        "schedule.kind=constant",
    ]);
}

#[test]
fn adamw_with_average_and_accumulation_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[
        "optimizer.name=adamw",
        "optimizer.weight_decay=0.01",
        "train.ema_decay=0.99",
        "train.gradient_accumulation_steps=2",
        "model.norm=pre",
    ]);
}

/// With an average of averages, and weights that are validated more often than saved.
#[test]
fn the_average_of_validations_resumes_bit_for_bit() {
    let settings = ["checkpoint.average_last=3", "validation.valid_freq=7", "checkpoint.keep_last=1"];
    killed_and_resumed_equals_uninterrupted(&[&settings[..], &["train.ema_decay=0.9"]].concat());
}

#[test]
fn muon_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&["optimizer.name=muon", "optimizer.weight_decay=0.01"]);
}

#[test]
fn soap_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&["optimizer.name=soap"]);
}

#[test]
fn hessian2_white_resumes_bit_for_bit() {
    // blocks shorter than the sides, so that weights have several factors
    killed_and_resumed_equals_uninterrupted(&["optimizer.name=hessian2", "optimizer.hessian2.block_size=12"]);
}

#[test]
fn gru_with_literal_rank_two_on_embeddings_resumes_bit_for_bit() {
    let scope = "optimizer.hessian2.scope=embeddings";
    let rank = "optimizer.hessian2.rank=2";
    killed_and_resumed_equals_uninterrupted(&["model.kind=rnn", "optimizer.name=hessian2", scope, rank]);
}

/// Kills also between two looks at the inputs.
#[test]
fn hessian2_kron_resumes_bit_for_bit() {
    variant_resumes_bit_for_bit("kron");
}

fn variant_resumes_bit_for_bit(variant: &str) {
    killed_and_resumed_equals_uninterrupted(&[
        "optimizer.name=hessian2",
        &format!("optimizer.hessian2.variant={variant}"),
        "optimizer.hessian2.statistics_freq=3",
        "optimizer.hessian2.block_size=12",
    ]);
}

#[test]
fn phases_with_an_embedding_distance_resume_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[
        "embedding_distance.form=bridge",
        "embedding_distance.guard=variance-floor",
        "embedding_distance.min_count=2",
        "embedding_distance.sample_size=10",
        "embedding_distance.warmup_updates=10",
        "embedding_distance.measure_freq=7",
        "embedding_distance.max_rank_drop=0.01",
        "phase=[{from_update=20, objective='joint', optimizer='adamw'}, \
         {from_update=50, optimizer='adam', objective='distance', trainable='embeddings', lr=1e-3}]",
    ]);
}

#[test]
fn text_cut_anew_in_each_epoch_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&["tokenizer.bpe_dropout=0.2", "tokenizer.target_bpe_dropout=0.4"]);
    killed_and_resumed_equals_uninterrupted(&["tokenizer.kind=unigram", "tokenizer.target_sampling_alpha=0.2"]);
}

#[test]
fn gru_with_pairs_from_attention_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[
        "model.kind=rnn",
        "embedding_distance.form=bridge",
        "embedding_distance.metric=cosine",
        "embedding_distance.pairs=attention",
        "embedding_distance.attention_from=0.1",
        "embedding_distance.min_attention=0.2",
        "embedding_distance.measure_freq=7",
    ]);
}

#[test]
fn r_drop_with_word_dropout_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[
        "train.r_drop_alpha=5.0",
        "model.source_word_dropout=0.1",
        "model.target_word_dropout=0.1",
        "train.gradient_accumulation_steps=2",
        "optimizer.name=hessian2",
        "optimizer.hessian2.variant=kron",
        "optimizer.hessian2.statistics_freq=3",
        "optimizer.hessian2.block_size=12",
    ]);
}

#[test]
fn gru_with_r_drop_and_word_dropout_resumes_bit_for_bit() {
    killed_and_resumed_equals_uninterrupted(&[
        "model.kind=rnn",
        "train.r_drop_alpha=5.0",
        "model.source_word_dropout=0.1",
        "model.target_word_dropout=0.1",
        "train.ema_decay=0.99",
    ]);
}
