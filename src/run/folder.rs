//! The run folder: the name of every file in it, and that it is never overwritten by accident.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::checkpoint;
use crate::config::Config;
use crate::exit::InputError;
use crate::fsio::{self, RunLock};
use crate::tokenizer;

const CONFIG: &str = "config.toml";
const COMMANDS: &str = "command.txt";
const METRICS: &str = "metrics.jsonl";
const DEBUG_LOG: &str = "debug.log";
const AVERAGE: &str = "average.safetensors";
const TENSORBOARD: &str = "tensorboard";
const TRANSLATIONS: &str = "translations";
const REPORT: &str = "report.html";
const SWEEP_LINE: &str = "sweep.line";

/// All that a run has in its folder besides its tokenizer; what of it was there before, `--force` deletes, and nothing else.
const OWN: [&str; 9] =
    [CONFIG, COMMANDS, METRICS, DEBUG_LOG, AVERAGE, checkpoint::FOLDER, TENSORBOARD, TRANSLATIONS, REPORT];

/// Where things are in the folder of a run.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Touches nothing.
    pub fn of(root: &Path) -> Self {
        Paths { root: root.to_path_buf() }
    }

    /// Of a folder that holds a run.
    ///
    /// # Errors
    /// A folder without a config.toml, or none at all.
    pub fn existing(root: &Path) -> Result<Self, InputError> {
        let paths = Paths::of(root);
        let shown = root.display();
        if paths.config().exists() {
            Ok(paths)
        } else if root.is_dir() {
            Err(InputError(format!("{shown} is not a run folder: it has no {CONFIG}")))
        } else {
            Err(InputError(format!("there is no run folder {shown}")))
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved config.
    pub fn config(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    /// The commands that trained the run, one a line.
    pub fn commands(&self) -> PathBuf {
        self.root.join(COMMANDS)
    }

    /// One JSON object a line.
    pub fn metrics(&self) -> PathBuf {
        self.root.join(METRICS)
    }

    pub fn debug_log(&self) -> PathBuf {
        self.root.join(DEBUG_LOG)
    }

    /// Weights that `nmt-train average` writes.
    pub fn average(&self) -> PathBuf {
        self.root.join(AVERAGE)
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.root.join(checkpoint::FOLDER)
    }

    /// Folder of the event files of TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join(TENSORBOARD)
    }

    /// File of the translations made at `name` ("valid-00001000", "test").
    pub fn translations(&self, name: &str) -> PathBuf {
        self.root.join(TRANSLATIONS).join(format!("{name}.txt"))
    }

    /// Arguments that a sweep gave the run; also there when the run failed before it began.
    pub fn sweep_line(&self) -> PathBuf {
        self.root.join(SWEEP_LINE)
    }

    /// The page of `nmt-train report`, in this folder or in one of several runs.
    pub fn report(&self) -> PathBuf {
        self.root.join(REPORT)
    }
}

/// [`Paths`] of a run that is written to; holds its lock while alive.
pub struct RunFolder {
    paths: Paths,
    /// `None` where the leader of this run's ranks has it.
    lock: Option<RunLock>,
}

impl RunFolder {
    /// A new folder; `force` deletes an old run first.
    ///
    /// # Errors
    /// The folder holds a run and `force` is not set; it is locked by a live process; it can not be written.
    pub fn create(root: &Path, force: bool) -> Result<Self> {
        fsio::create_dir_all(root)?;
        // The lock first: --force must not delete the folder of a run that is alive.
        let folder = Self::open(root)?;
        if folder.paths.config().exists() || folder.paths.checkpoints().exists() {
            if !force {
                let run = root.display();
                return Err(InputError::new(format!(
                    "run folder {run} exists: continue it with `nmt-train --resume {run}`, delete it and start over \
                     with --force, or choose another with `--set run_dir=FOLDER`"
                ))
                .into());
            }
            folder.clear()?;
        }
        Ok(folder)
    }

    fn clear(&self) -> Result<()> {
        let all = OWN.into_iter().chain(tokenizer::FILES).map(|name| self.root().join(name));
        for path in all.filter(|path| path.exists()) {
            let deleted = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            deleted.with_context(|| format!("delete {}", path.display()))?;
        }
        Ok(())
    }

    /// An existing folder, locked.
    ///
    /// # Errors
    /// No such run; locked by a live process.
    pub fn open(root: &Path) -> Result<Self> {
        if !root.is_dir() {
            return Err(InputError::new(format!("there is no run folder {}", root.display())).into());
        }
        Ok(RunFolder { paths: Paths::of(root), lock: Some(RunLock::acquire(root)?) })
    }

    /// Of a rank that leaves writing to its leader, who has opened it.
    pub fn follow(root: &Path) -> Self {
        RunFolder { paths: Paths::of(root), lock: None }
    }

    /// Whether the folder is still there, before something is written that would make it anew.
    ///
    /// # Errors
    /// It was deleted or moved.
    pub fn check(&self) -> fsio::Result<()> {
        self.lock.iter().try_for_each(RunLock::check)
    }

    /// Writes the resolved config and appends the command line.
    ///
    /// # Errors
    /// When the folder can not be written.
    pub fn record(&self, config: &Config, command: &str) -> Result<()> {
        fsio::write_atomic(&self.paths.config(), config.to_toml()?.as_bytes())?;
        let path = self.commands();
        let mut commands = if path.exists() { fsio::read_to_string(&path)? } else { String::new() };
        commands.push_str(command);
        commands.push('\n');
        Ok(fsio::write_atomic(&path, commands.as_bytes())?)
    }
}

impl std::ops::Deref for RunFolder {
    type Target = Paths;

    fn deref(&self) -> &Paths {
        &self.paths
    }
}
