//! Ranks of an MPI job, with real launchers (`scripts/mpi-setup.sh`): bit for bit one process that takes as many micro-batches,
//! and no end that loses anything.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::toy::{done, Done, Toy};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OpenMpi,
    Mpich,
}

impl Kind {
    /// Its folder, if it is installed; else says so.
    #[expect(clippy::print_stdout, reason = "says that it was skipped")]
    fn folder(self) -> Option<PathBuf> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mpi");
        let all = std::env::var_os("NMT_MPI_TESTS").map_or(own, PathBuf::from);
        let folder = all.join(if self == Kind::OpenMpi { "openmpi" } else { "mpich" });
        if folder.join("bin/mpirun").exists() {
            return Some(folder);
        }
        println!("skipped: there is no {} (scripts/mpi-setup.sh makes it)", folder.display());
        None
    }
}

/// The program on `n` ranks that find the library of `library`.
fn ranks_of(toy: &Toy, launcher: &Path, kind: Kind, n: usize, args: &str) -> Command {
    let program = toy.command("").get_program().to_os_string();
    let mut command = Command::new(launcher.join("bin/mpirun"));
    command.args(["-n", &n.to_string()]);
    if kind == Kind::OpenMpi {
        command.args(["--bind-to", "none", "--oversubscribe"]);
    }
    command.arg(program).args(args.split_whitespace()).current_dir(toy.path(""));
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").env_remove("NMT_TRAIN_FAULT");
    let known = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    command.env("LD_LIBRARY_PATH", format!("{}:{known}", launcher.join("lib").display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ranks(toy: &Toy, kind: Kind, n: usize, args: &str) -> Option<Command> {
    let folder = kind.folder()?;
    Some(ranks_of(toy, &folder, kind, n, args))
}

fn run(command: Command) -> Done {
    done(start(command))
}

fn start(mut command: Command) -> Child {
    command.spawn().unwrap()
}

/// Without what another clock or machine would say otherwise.
fn timeless(toy: &Toy, run: &str) -> Vec<Value> {
    let mut rows = toy.rows(run);
    let own = ["path", "run", "threads", "ranks", "communication", "peak_memory_bytes", "resume_command"];
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        row.retain(|key, _| {
            !own.contains(&key.as_str()) && !key.starts_with("seconds") && !key.ends_with("per_second")
        });
    }
    rows
}

/// Weights and state of the optimizer in all checkpoints, by name.
fn checkpoints(toy: &Toy, run: &str) -> Vec<(String, Vec<u8>)> {
    let folders = toy.list(&format!("{run}/checkpoints")).into_iter().filter(|name| name.starts_with("step-"));
    let files = folders.flat_map(|step| {
        ["model.safetensors", "raw.safetensors", "optimizer.safetensors"].map(|file| format!("{step}/{file}"))
    });
    let there = files.filter(|file| toy.exists(&format!("{run}/checkpoints/{file}")));
    there.map(|file| (file.clone(), std::fs::read(toy.path(&format!("{run}/checkpoints/{file}"))).unwrap())).collect()
}

#[track_caller]
fn same(toy: &Toy, a: &str, b: &str, what: &str) {
    let (left, right) = (checkpoints(toy, a), checkpoints(toy, b));
    assert!(!left.is_empty());
    for ((name, left), (_, right)) in left.iter().zip(&right) {
        assert!(left == right, "{what}: {name}");
    }
    assert_eq!(left.len(), right.len(), "{what}");
}

#[test]
fn ranks_are_one_process_that_takes_all_their_micro_batches() {
    let phases = "\n[[phase]]\nfrom_update = 20\noptimizer = \"hessian2\"\nobjective = \"joint\"\n[[phase]]\nfrom_update = \
                  40\noptimizer = \"adam\"\nobjective = \"distance\"\ntrainable = \"embeddings\"\n[embedding_distance]\nform = \
                  \"bridge\"\nweight = 0.1\n";
    for (kind, n, settings, more) in [
        (Kind::OpenMpi, 2, "--set train.ema_decay=0.9 --set model.dropout=0.1", ""),
        (Kind::Mpich, 2, "--set optimizer.name=hessian2 --set train.share_optimizer=always", ""),
        (Kind::OpenMpi, 3, "--set optimizer.name=soap --set train.share_optimizer=always", ""),
        (Kind::OpenMpi, 2, "--set optimizer.name=hessian2 --set optimizer.hessian2.variant=kron", ""),
        (Kind::Mpich, 2, "--set optimizer.name=schedule-free --set schedule.kind=constant", ""),
        (Kind::OpenMpi, 2, "--set model.kind=rnn --set train.r_drop_alpha=1 --set model.dropout=0.2", ""),
        // fewer batches in an epoch than ranks
        (Kind::OpenMpi, 4, "--set train.batch_size=300 --set checkpoint.average_last=2", ""),
        (Kind::OpenMpi, 2, "--set train.share_optimizer=always", phases),
    ] {
        let toy = Toy::new();
        toy.write("toy.toml", toy.read("toy.toml") + more);
        let args = format!("-q --config toy.toml {settings}");
        let Some(command) = ranks(&toy, kind, n, &format!("{args} --set run_dir=ranks")) else { continue };
        run(command).exits(0);
        toy.run(&format!("{args} --set run_dir=alone --set train.gradient_accumulation_steps={n}")).exits(0);
        same(&toy, "alone", "ranks", settings);
        assert_eq!(timeless(&toy, "alone"), timeless(&toy, "ranks"), "{settings}");
        assert_eq!(toy.list("alone/translations"), toy.list("ranks/translations"));
        for file in toy.list("alone/translations") {
            let text = |run: &str| toy.read(&format!("{run}/translations/{file}"));
            assert_eq!(text("alone"), text("ranks"), "{settings} {file}");
        }
        let config = |run: &str| toy.read(&format!("{run}/config.toml")).replace(run, "");
        assert_eq!(config("alone"), config("ranks"), "the run is that of one process");
    }
}

/// On a GPU that is emulated NCCL is too; a real one is only one, which NCCL lets one rank have.
#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn gradients_go_from_gpu_to_gpu_where_nccl_connects_them() {
    for (kind, n, settings, refused) in [
        (Kind::OpenMpi, 2, "--set train.ema_decay=0.9 --set model.dropout=0.1", false),
        (Kind::OpenMpi, 3, "--set optimizer.name=hessian2 --set train.share_optimizer=always", false),
        (Kind::Mpich, 2, "--set optimizer.name=muon --set train.share_optimizer=always", false),
        // fewer batches in an epoch than ranks
        (Kind::OpenMpi, 4, "--set train.batch_size=300", false),
        (Kind::OpenMpi, 2, "--set optimizer.name=hessian2", true),
    ] {
        let toy = Toy::new();
        let args = format!("-q --config toy.toml --set device=cuda --set train.max_updates=20 {settings}");
        let Some(mut command) = ranks(&toy, kind, n, &format!("{args} --set run_dir=ranks")) else { continue };
        if refused {
            command.env("EMULATED_NCCL_REFUSES", "1");
        }
        let told = run(command).exits(0).err;
        toy.run(&format!("{args} --set run_dir=alone --set train.gradient_accumulation_steps={n}")).exits(0);
        same(&toy, "alone", "ranks", settings);
        let is_emulated = toy.rows("ranks").iter().any(|row| row["computed_by"].to_string().contains("Emulated GPU"));
        assert!(!is_emulated || told.contains("not from GPU to GPU: rank 0") == refused, "{settings}: {told}");
    }
}

#[test]
fn a_run_goes_on_with_as_many_ranks_as_share_its_micro_batches_evenly() {
    let toy = Toy::new();
    let settings = "-q --config toy.toml --set optimizer.name=hessian2 --set train.share_optimizer=always";
    let Some(first) =
        ranks(&toy, Kind::OpenMpi, 4, &format!("{settings} --set run_dir=ranks --set train.max_updates=20"))
    else {
        return;
    };
    run(first).exits(0);
    let refused = ranks(&toy, Kind::OpenMpi, 3, "-q --resume ranks --set train.max_updates=40").map(run);
    refused.unwrap().exits(3).tells(&["4 micro-batches", "3 ranks can not share evenly"]);
    let second = ranks(&toy, Kind::OpenMpi, 2, "-q --resume ranks --set train.max_updates=40").map(run);
    second.unwrap().exits(0);
    toy.run("-q --resume ranks --set train.max_updates=60").exits(0);
    toy.run(&format!("{settings} --set run_dir=alone --set train.gradient_accumulation_steps=4")).exits(0);
    let last =
        |run: &str| checkpoints(&toy, run).into_iter().filter(|(name, _)| name.contains("60")).collect::<Vec<_>>();
    assert!(!last("alone").is_empty() && last("alone") == last("ranks"));
}

/// A job of two ranks that would go on for hours, once it trains.
fn long_job(toy: &Toy, kind: Kind, more: &str, env: &[(&str, &str)]) -> Option<Child> {
    let args = "-q --config toy.toml --set train.max_updates=1000000000 --set validation.valid_freq=0";
    let mut command = ranks(toy, kind, 2, &format!("{args} {more}"))?;
    let child = start({
        command.envs(env.iter().copied());
        command
    });
    toy.wait_for("run/metrics.jsonl", "\"checkpoint\"");
    Some(child)
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Processes of the job that a launcher started, by rank.
fn ranks_under(launcher: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut parents = vec![launcher];
    while let Some(parent) = parents.pop() {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()) {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.trim() == "nmt-train" {
                found.push(child);
            }
            parents.push(child);
        }
    }
    found.sort_unstable();
    found
}

/// What is left trains on, to the same end as a run that nothing happened to.
#[track_caller]
fn goes_on(toy: &Toy) {
    let saved =
        toy.list("run/checkpoints").into_iter().filter_map(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
    let end = saved.max().unwrap() + 10;
    let resumed =
        ranks(toy, Kind::OpenMpi, 2, &format!("-q --resume run --set train.max_updates={end}")).map(run).unwrap();
    resumed.exits(0);
    toy.run(&format!(
        "-q --config toy.toml --set run_dir=alone --set train.gradient_accumulation_steps=2 --set validation.valid_freq=0 \
         --set train.max_updates={end}"
    ))
    .exits(0);
    let last = |run: &str| {
        let at = format!("step-{end:08}/");
        checkpoints(toy, run).into_iter().filter(|(name, _)| name.starts_with(&at)).collect::<Vec<_>>()
    };
    assert!(!last("alone").is_empty() && last("alone") == last("run"));
}

#[test]
fn a_signal_to_the_launcher_saves_and_ends_all_ranks_with_75() {
    for kind in [Kind::OpenMpi, Kind::Mpich] {
        let toy = Toy::new();
        let Some(job) = long_job(&toy, kind, "", &[]) else { continue };
        signal(job.id(), rustix::process::Signal::USR1);
        done(job).exits(75);
        if Kind::OpenMpi.folder().is_some() {
            goes_on(&toy);
        }
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_job_and_nothing_that_was_saved_is_lost() {
    for victim in [0, 1] {
        let toy = Toy::new();
        let Some(job) = long_job(&toy, Kind::OpenMpi, "", &[]) else { return };
        let ranks = ranks_under(job.id());
        assert_eq!(ranks.len(), 2);
        signal(ranks[victim], rustix::process::Signal::KILL);
        assert_ne!(done(job).code, Some(0));
        goes_on(&toy);
    }
}

#[test]
fn a_launcher_that_is_killed_takes_its_ranks_along() {
    let toy = Toy::new();
    let Some(job) = long_job(&toy, Kind::OpenMpi, "", &[]) else { return };
    let ranks = ranks_under(job.id());
    signal(job.id(), rustix::process::Signal::KILL);
    let _ = job.wait_with_output();
    // they notice by themselves; the lock of the run is free when they are gone
    while ranks.iter().any(|rank| Path::new(&format!("/proc/{rank}")).exists()) {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    goes_on(&toy);
}

#[test]
fn a_panic_a_full_disk_and_a_rank_that_hangs_end_all_with_a_message() {
    let toy = Toy::new();
    let command = |fault: &str, more: &str| {
        let args = format!("-q --config toy.toml --force {more}");
        let mut command = ranks(&toy, Kind::OpenMpi, 2, &args)?;
        command.env("NMT_TRAIN_FAULT", fault);
        Some(start(command).wait_with_output().unwrap())
    };
    let Some(panicked) = command("rank:panic=1@20", "") else { return };
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!panicked.status.success() && told(&panicked).contains("a fault for tests"), "{}", told(&panicked));
    let full = command("save:bytes=20000", "").unwrap();
    assert!(full.status.code() == Some(1) && told(&full).contains("no space left"), "{}", told(&full));
    let hung = command("rank:hang=1@20", "--mpi-timeout 2").unwrap();
    assert!(hung.status.code() == Some(1) && told(&hung).contains("rank 1 on "), "{}", told(&hung));
    assert!(told(&hung).contains("did not come to the next step for 2 s"), "{}", told(&hung));
}

#[test]
fn what_was_started_wrongly_is_told_once() {
    let toy = Toy::new();
    let (Some(open), Some(mpich)) = (Kind::OpenMpi.folder(), Kind::Mpich.folder()) else { return };
    let once = |command: Command, part: &str| {
        let done = run(command).exits(3);
        assert_eq!(done.err.matches(part).count(), 1, "{}", done.err);
    };
    let args = "-q --config toy.toml";
    let mut other = ranks_of(&toy, &mpich, Kind::Mpich, 2, args);
    other.env("LD_LIBRARY_PATH", open.join("lib")).env("NMT_MPI_LIB", "libmpi.so.40");
    once(other, "the MPI library sees 1");
    let mut none = ranks_of(&toy, &mpich, Kind::Mpich, 2, args);
    none.env("NMT_MPI_LIB", "no-such-library.so");
    once(none, "no MPI library can be loaded");
    once(ranks_of(&toy, &open, Kind::OpenMpi, 2, "-q --config toy.toml --set model.layers=0"), "model.layers");
    assert!(!toy.exists("run"));
}

#[test]
fn ranks_translate_evaluate_and_score_as_one() {
    let toy = Toy::trained();
    for args in [
        "translate run --input valid.en --n-best 2 --format json",
        "translate run --input train.en --sampling --seed 3",
        "evaluate run --source valid.en --reference valid.de",
        "score run --source valid.en --target valid.de",
    ] {
        let Some(command) = ranks(&toy, Kind::Mpich, 3, args) else { return };
        assert_eq!(run(command).exits(0).out, toy.run(args).exits(0).out, "{args}");
    }
}
