//! A toy corpus and the real program run on it: 80 sentences, a model of 8 thousand parameters, a fraction of a second.

use nmt_train::{checkpoint, fsio};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Trains 60 updates, validates and saves every 20.
const CONFIG: &str = r#"
run_dir = "run"
threads = 1
device = "cpu"
[data]
train = ["train.en", "train.de"]
valid = ["valid.en", "valid.de"]
test = ["valid.en", "valid.de"]
[tokenizer]
vocab_size = 200
[model]
layers = 1
d_model = 16
d_ff = 32
heads = 2
dropout = 0.0
[model.rnn]
hidden_size = 16
embedding_size = 16
[train]
batch_size = 100
max_updates = 60
log_freq = 20
label_smoothing = 0.0
[optimizer]
lr = 0.02
[schedule]
kind = "constant"
warmup_updates = 5
[validation]
valid_freq = 20
[decode]
beam_size = 3
[checkpoint]
save_freq = 20
"#;

const SUBJECTS: [(&str, &str); 5] = [
    ("the dog", "der hund"),
    ("the cat", "die katze"),
    ("a man", "ein mann"),
    ("a woman", "eine frau"),
    ("the child", "das kind"),
];
const VERBS: [(&str, &str); 4] = [("sees", "sieht"), ("likes", "mag"), ("hears", "hört"), ("finds", "findet")];
const OBJECTS: [(&str, &str); 4] =
    [("the house", "das haus"), ("a tree", "einen baum"), ("the river", "den fluss"), ("a book", "ein buch")];

/// The program under test: the one this was built with, or as cargo's variable says where the tests were carried elsewhere.
fn program() -> String {
    std::env::var("CARGO_BIN_EXE_nmt-train").unwrap_or_else(|_| env!("CARGO_BIN_EXE_nmt-train").into())
}

/// A folder with `train.*`, `valid.*` and `toy.toml`, in which the program runs.
pub(crate) struct Toy {
    dir: tempfile::TempDir,
}

/// What a process left.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// Asserts the exit code; both streams are in the message.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Asserts that stderr tells all of these.
    #[track_caller]
    pub(crate) fn tells(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is missing in:\n{}", self.err);
        }
        self
    }
}

impl Toy {
    pub(crate) fn new() -> Self {
        let toy = Toy { dir: tempfile::tempdir().unwrap() };
        let mut pairs = Vec::new();
        for subject in SUBJECTS {
            for verb in VERBS {
                for object in OBJECTS {
                    pairs.push([
                        format!("{} {} {}", subject.0, verb.0, object.0),
                        format!("{} {} {}", subject.1, verb.1, object.1),
                    ]);
                }
            }
        }
        for (side, language) in ["en", "de"].into_iter().enumerate() {
            let lines = |step| pairs.iter().step_by(step).map(|pair| format!("{}\n", pair[side])).collect::<String>();
            toy.write(&format!("train.{language}"), lines(1));
            toy.write(&format!("valid.{language}"), lines(9));
        }
        toy.write("toy.toml", CONFIG);
        toy
    }

    /// With a finished run in `run`.
    pub(crate) fn trained() -> Self {
        let toy = Toy::new();
        toy.run("-q --config toy.toml").exits(0);
        toy
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fsio::read_to_string(&self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fsio::write_atomic(&self.path(name), bytes.as_ref()).unwrap();
    }

    /// Gives a file of a checkpoint other content, and the manifest its size and checksum.
    pub(crate) fn replace_in_checkpoint(&self, checkpoint: &str, file: &str, content: &str) {
        self.write(&format!("{checkpoint}/{file}"), content);
        let path = format!("{checkpoint}/manifest.json");
        let mut manifest: Value = serde_json::from_str(&self.read(&path)).unwrap();
        let entries = manifest["files"].as_array_mut().unwrap();
        let entry = entries.iter_mut().find(|entry| entry["name"] == file).unwrap();
        entry["bytes"] = content.len().into();
        entry["xxh3"] = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(content.as_bytes())).into();
        self.write(&path, checkpoint::seal(&manifest.to_string()));
    }

    /// Rows of a run's metrics.jsonl.
    pub(crate) fn rows(&self, run: &str) -> Vec<Value> {
        let text = self.read(&format!("{run}/metrics.jsonl"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Names in a folder, sorted.
    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().map(OsStr::to_string_lossy).unwrap().into_owned();
        fsio::list(&self.path(folder)).unwrap().iter().map(name).collect()
    }

    /// The program with arguments separated by spaces.
    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = Command::new(program());
        command.args(args.split_whitespace()).current_dir(self.dir.path());
        command.env_remove("NMT_TRAIN_FAULT").env_remove("NMT_TRAIN_UNITS");
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &str) -> Done {
        self.run_with(args, b"", &[])
    }

    /// With arguments that may hold spaces.
    #[track_caller]
    pub(crate) fn run_words(&self, words: &[&str]) -> Done {
        let mut command = self.command("");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        done(command.spawn().unwrap())
    }

    /// With text on stdin.
    #[track_caller]
    pub(crate) fn pipe(&self, args: &str, input: impl AsRef<[u8]>) -> Done {
        self.run_with(args, input.as_ref(), &[])
    }

    /// With environment variables too. No process may panic, whatever it is given.
    #[track_caller]
    pub(crate) fn run_with(&self, args: &str, input: &[u8], env: &[(&str, &str)]) -> Done {
        let mut command = self.command(args);
        command.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A process that ends without reading closes the pipe; that is its right.
        let _ = child.stdin.take().unwrap().write_all(input);
        done(child)
    }

    /// Starts a run that would go on for hours, and waits until it trains.
    pub(crate) fn start_long_run(&self) -> Child {
        let args = "-q --config toy.toml --set train.max_updates=1000000000 --set validation.valid_freq=0";
        let mut command = self.command(args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.wait_for("run/metrics.jsonl", "\"train\"");
        child
    }

    /// Waits until a file has a text.
    pub(crate) fn wait_for(&self, file: &str, text: &str) {
        let started = Instant::now();
        while !std::fs::read_to_string(self.path(file)).is_ok_and(|found| found.contains(text)) {
            assert!(started.elapsed() < Duration::from_secs(120), "{file} never had {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Waits for a process.
#[track_caller]
pub(crate) fn done(child: Child) -> Done {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let done = Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!done.err.contains("panicked"), "{}", done.err);
    done
}

/// Cuts a file to `bytes`.
pub(crate) fn cut(path: &Path, bytes: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// Changes one bit in the middle of a file.
pub(crate) fn flip_a_bit(path: &Path) {
    let mut bytes = fsio::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fsio::write_atomic(path, &bytes).unwrap();
}
