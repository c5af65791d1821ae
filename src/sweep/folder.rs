//! The folder of one run: what became of the run so far, and the command that begins it or goes on.
//!
//! Beside what nmt-train writes there: `final.json`, `sweep.log` (its stderr), `sweep.line` (its arguments), `sweep.status`
//! (`done`, `diverged`, `interrupted`, `failed CODE`).

use std::path::PathBuf;

use super::{Options, RunLine};
use crate::checkpoint::Store;
use crate::fsio::{self, Holder, RunLock};
use crate::run::Paths;

const STATUS: &str = "sweep.status";

/// What became of a run so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    New,
    /// Died before its first checkpoint.
    Lost,
    Interrupted,
    Done,
    Diverged,
    /// With this exit code.
    Failed(i32),
    /// Another process is at it.
    Elsewhere(Holder),
}

impl State {
    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            State::New => "new",
            State::Lost => "lost",
            State::Interrupted => "interrupted",
            State::Done => "done",
            State::Diverged => "diverged",
            State::Failed(_) => "failed",
            State::Elsewhere(_) => "elsewhere",
        }
    }

    /// Whether the run is to be started; `retry` tries again what failed.
    pub fn is_due(&self, retry: bool) -> bool {
        match self {
            State::New | State::Lost | State::Interrupted => true,
            State::Failed(_) => retry,
            State::Done | State::Diverged | State::Elsewhere(_) => false,
        }
    }
}

/// Folder of a run of a sweep.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Touches nothing.
    pub fn of(run: &RunLine, options: &Options) -> Self {
        Folder { root: options.out.join(&run.name) }
    }

    pub(super) fn paths(&self) -> Paths {
        Paths::of(&self.root)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("sweep.log")
    }

    pub(super) fn final_json(&self) -> PathBuf {
        self.root.join("final.json")
    }

    /// Who is at the run, if anybody is.
    pub(super) fn holder(&self) -> Option<Holder> {
        RunLock::holder(&self.root)
    }

    /// What became of the run so far.
    pub fn state(&self) -> State {
        if let Some(holder) = self.holder() {
            return State::Elsewhere(holder);
        }
        let status = fsio::read_to_string(&self.root.join(STATUS)).unwrap_or_default();
        let mut words = status.split_whitespace();
        match words.next() {
            Some("done") => State::Done,
            Some("diverged") => State::Diverged,
            Some("failed") => State::Failed(words.next().and_then(|code| code.parse().ok()).unwrap_or(1)),
            _ if self.has_checkpoint() => State::Interrupted,
            _ if self.paths().config().exists() => State::Lost,
            _ => State::New,
        }
    }

    fn has_checkpoint(&self) -> bool {
        Store::at(&self.root).steps().is_ok_and(|steps| !steps.is_empty())
    }

    /// Whether what there is was made by this very line. What failed before its first checkpoint may have another.
    ///
    /// # Errors
    /// What is there instead, and the cure.
    pub(super) fn belongs_to(&self, run: &RunLine, state: &State) -> Result<(), String> {
        let (root, now) = (self.root.display(), run.text());
        match fsio::read_to_string(&self.paths().sweep_line()) {
            _ if *state == State::New => Ok(()),
            Err(_) => Err(format!("{root} holds a run that no sweep began; choose another --out, or move it")),
            Ok(was) if was.trim_end() == now || matches!(state, State::Failed(_)) && !self.has_checkpoint() => Ok(()),
            Ok(was) => Err(format!(
                "the line of {root} changed; delete the folder to start it over, or choose another --out\n  \
                 it was  {}\n  it is   {now}",
                was.trim_end()
            )),
        }
    }

    /// The command that begins the run or goes on with it, as words.
    pub fn command(&self, run: &RunLine, state: &State, options: &Options) -> Vec<String> {
        let root = self.root.display().to_string();
        let mut words = vec![options.program.clone()];
        if self.goes_on(state) {
            words.extend(["--resume".to_string(), root]);
        } else {
            words.extend(run.words.iter().cloned());
            words.extend(["--set".to_string(), format!("run_dir={root}")]);
            words.extend((*state != State::New).then(|| "--force".to_string()));
        }
        words.extend(options.device.iter().flat_map(|device| ["--device".to_string(), device.clone()]));
        let final_json = self.final_json().display().to_string();
        words.extend(
            ["--threads", &options.threads.to_string(), "--quiet", "--final-json", &final_json].map(String::from),
        );
        words
    }

    /// Whether [`Self::command`] resumes.
    pub(super) fn goes_on(&self, state: &State) -> bool {
        *state == State::Interrupted || matches!(state, State::Failed(_)) && self.has_checkpoint()
    }

    /// Makes the folder, and says in it whose it is.
    pub(super) fn begin(&self, run: &RunLine) -> fsio::Result<()> {
        fsio::create_dir_all(&self.root)?;
        fsio::write_atomic(&self.paths().sweep_line(), format!("{}\n", run.text()).as_bytes())?;
        let status = self.root.join(STATUS);
        match std::fs::remove_file(&status) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(fsio::Error::io("delete", &status, e)),
            _ => Ok(()),
        }
    }

    /// Keeps what became of the run.
    pub(super) fn record(&self, state: &State) -> fsio::Result<()> {
        let code = if let State::Failed(code) = state { format!(" {code}") } else { String::new() };
        fsio::write_atomic(&self.root.join(STATUS), format!("{}{code}\n", state.word()).as_bytes())
    }
}
