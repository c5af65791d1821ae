//! The program on a GPU, against the program on the CPU: losses, checkpoints that move between the two, exact resume,
//! decoding, the size of a batch. Ignored in a build without the feature `cuda`, failing in one that finds no device.

use serde_json::Value;

use crate::toy::Toy;

/// The numbers `key` of the rows `event` of a run.
fn numbers(toy: &Toy, run: &str, event: &str, key: &str) -> Vec<f64> {
    let rows = toy.rows(run).into_iter().filter(|row| row["event"] == event);
    rows.filter_map(|row| row.get(key).and_then(Value::as_f64)).collect()
}

/// Asserts that two runs tell the same losses up to `bound`.
#[track_caller]
fn close(toy: &Toy, runs: [&str; 2], bound: f64) {
    for (event, key) in [("train", "loss"), ("train", "grad_norm"), ("valid", "nll")] {
        let [a, b] = runs.map(|run| numbers(toy, run, event, key));
        assert!(!a.is_empty() && a.len() == b.len(), "{event} {key}: {a:?} and {b:?}");
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= bound * b.abs().max(1.0), "{event} {key} of {runs:?}: {a} and {b}");
        }
    }
}

const SHORT: &str = "--set train.max_updates=20 --set train.log_freq=5 --set validation.valid_freq=10 \
                     --set checkpoint.save_freq=10 --set model.dropout=0.1 --set optimizer.lr=0.005";

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn losses_of_both_models_are_those_of_the_cpu() {
    let toy = Toy::new();
    let kinds = [
        ("transformer", ""),
        ("pre-norm", "--set model.norm=pre --set model.tied_embeddings=none --set model.activation=gelu"),
        ("gru", "--set model.kind=rnn"),
        ("lstm", "--set model.kind=rnn --set model.rnn.cell=lstm --set model.rnn.attention=luong"),
    ];
    for (name, kind) in kinds {
        for (device, precision) in [("cpu", "f32"), ("cuda", "f32"), ("cuda", "tf32"), ("cuda", "bf16")] {
            let settings = format!("--set device={device} --set train.precision={precision}");
            let run = format!("--set run_dir={name}-{device}-{precision}");
            toy.run(&format!("-q --config toy.toml {SHORT} {kind} {settings} {run}")).exits(0);
        }
        let run = |rest: &str| format!("{name}-{rest}");
        close(&toy, [&run("cuda-f32"), &run("cpu-f32")], 1e-3);
        close(&toy, [&run("cuda-tf32"), &run("cpu-f32")], 2e-2);
        close(&toy, [&run("cuda-bf16"), &run("cpu-f32")], 1e-1);
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn losses_of_all_optimizers_are_those_of_the_cpu() {
    let toy = Toy::new();
    let optimizers = [
        "adam",
        "adamw --set optimizer.weight_decay=0.1 --set train.gradient_accumulation_steps=2",
        "clipped-adam --set train.ema_decay=0.9",
        "sgd --set optimizer.sgd.momentum=0.9",
        "schedule-free",
        "muon",
        "soap",
        "hvr",
        "hvr --set optimizer.hvr.form=diag",
        "adam --set embedding_distance.form=bridge --set embedding_distance.warmup_updates=0",
        "hessian2",
        "hessian2 --set optimizer.hessian2.variant=kron",
    ];
    for (i, optimizer) in optimizers.iter().enumerate() {
        for device in ["cpu", "cuda"] {
            let settings = format!("--set optimizer.name={optimizer} --set device={device}");
            toy.run(&format!("-q --config toy.toml {SHORT} {settings} --set run_dir={device}{i}")).exits(0);
        }
        close(&toy, [&format!("cuda{i}"), &format!("cpu{i}")], 5e-3);
    }
}

/// Settings of an optimizer, or of a variant of hessian2 by its name alone.
fn named(optimizer: &str) -> String {
    match optimizer {
        "kron" => "--set optimizer.name=hessian2 --set optimizer.hessian2.variant=kron".to_string(),
        name => format!("--set optimizer.name={name}"),
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_resumed_run_has_the_same_bits() {
    let toy = Toy::new();
    for optimizer in ["adamw", "soap", "hvr", "hessian2", "kron"] {
        let settings = format!("{SHORT} --set device=cuda {}", named(optimizer));
        toy.run(&format!("-q --config toy.toml {settings} --set run_dir={optimizer}-whole")).exits(0);
        let half = format!("{settings} --set train.max_updates=10 --set run_dir={optimizer}-halves");
        toy.run(&format!("-q --config toy.toml {half}")).exits(0);
        toy.run(&format!("-q --resume {optimizer}-halves --set train.max_updates=20")).exits(0);
        for file in ["model.safetensors", "optimizer.safetensors"] {
            let [whole, halves] = ["whole", "halves"].map(|run| {
                let path = format!("{optimizer}-{run}/checkpoints/step-00000020/{file}");
                std::fs::read(toy.path(&path)).unwrap()
            });
            assert!(whole == halves, "{file} of {optimizer}");
        }
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn checkpoints_move_both_ways_and_translate_alike() {
    let toy = Toy::new();
    for optimizer in ["adamw", "muon", "soap", "hvr", "hessian2", "kron"] {
        let settings = format!("{SHORT} {} --set checkpoint.keep_last=9", named(optimizer));
        let moved = [("cpu", "cuda"), ("cuda", "cpu")];
        for (first, then) in moved {
            let run = format!("{optimizer}-{first}-{then}");
            let half = format!("--set train.max_updates=10 --set device={first} --set run_dir={run}");
            toy.run(&format!("-q --config toy.toml {settings} {half}")).exits(0);
            toy.run(&format!("-q --resume {run} --set train.max_updates=20 --set device={then}")).exits(0);
        }
        let [a, b] = moved.map(|(first, then)| format!("{optimizer}-{first}-{then}"));
        // where a factor lacks rank, soap's bases are made of rounding
        close(&toy, [&a, &b], if optimizer == "soap" { 5e-3 } else { 1e-3 });
        let translations = ["cpu", "cuda"].map(|device| {
            let command = format!("translate {a} -q --beam 3 --n-best 2 --device {device}");
            toy.pipe(&command, toy.read("valid.en")).exits(0).out
        });
        // sentence and words, without the score
        let words = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.rsplit_once(" ||| ")).map(|(words, _)| words.to_string()).collect()
        };
        let [on_cpu, on_gpu] = [words(&translations[0]), words(&translations[1])];
        assert!(!on_cpu.is_empty());
        assert_eq!(on_cpu, on_gpu);
    }
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn the_size_of_a_batch_is_found_and_written_down() {
    let toy = Toy::new();
    let settings = "--set device=cuda --set train.batch_size=auto --set train.max_updates=3";
    toy.run(&format!("--config toy.toml {settings}")).exits(0).tells(&["train.batch_size = \"auto\": "]);
    assert!(!toy.read("run/config.toml").contains("batch_size = \"auto\""));
    // on the CPU, memory does not end with an error
    toy.run("--config toy.toml --set train.batch_size=auto --set run_dir=other")
        .exits(3)
        .tells(&["train.batch_size = \"auto\"", "on the CPU give a number"]);
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_device_that_is_not_there_is_a_sentence() {
    let toy = Toy::new();
    toy.run("--config toy.toml --set device=cuda:7").exits(3).tells(&["device = \"cuda:7\": the GPU cannot be used"]);
    assert!(!toy.exists("run"));
}

#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a build with CUDA")]
fn without_cudas_libraries_the_program_says_what_is_missing() {
    let toy = Toy::new();
    // where a driver is installed, it is found without this variable
    let output = toy.command("--config toy.toml --version").env_remove("LD_LIBRARY_PATH").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(3) {
        assert!(told.starts_with("nmt-train: this build is for NVIDIA GPUs and does not run here (lib"), "{told}");
        assert!(told.contains("install NVIDIA's driver") && told.lines().count() == 1, "{told}");
    } else {
        assert!(output.status.success(), "{told}");
    }
}
