//! The run folder: what lies where, and that it is never overwritten by accident.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::config::Config;
use crate::exit::InputError;
use crate::fsio::{self, RunLock};

/// Paths inside a run folder; holds its lock while alive.
pub struct RunFolder {
    root: PathBuf,
    _lock: RunLock,
}

/// All that a run has in its folder; what of it was there before, `--force` deletes, and nothing else.
const OWN: [&str; 11] = [
    "config.toml",
    "command.txt",
    "metrics.jsonl",
    "debug.log",
    "tokenizer.json",
    "tokenizer.target.json",
    "average.safetensors",
    "checkpoints",
    "tensorboard",
    "translations",
    "report.html",
];

impl RunFolder {
    /// A new folder; `force` deletes an old run first.
    ///
    /// # Errors
    /// The folder holds a run and `force` is not set; it is locked by a live process; it can not be written.
    pub fn create(root: &Path, force: bool) -> Result<Self> {
        fsio::create_dir_all(root)?;
        // The lock first: --force must not delete the folder of a run that is alive.
        let folder = Self::open(root)?;
        if config_path(root).exists() || folder.checkpoints().exists() {
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
        for path in OWN.map(|name| self.root.join(name)).iter().filter(|path| path.exists()) {
            let deleted = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
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
        Ok(RunFolder { root: root.to_path_buf(), _lock: RunLock::acquire(root)? })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes the resolved config and appends the command line.
    ///
    /// # Errors
    /// When the folder can not be written.
    pub(super) fn record(&self, config: &Config, command: &str) -> Result<()> {
        fsio::write_atomic(&config_path(&self.root), config.to_toml()?.as_bytes())?;
        let path = self.root.join("command.txt");
        let mut commands = if path.exists() { fsio::read_to_string(&path)? } else { String::new() };
        commands.push_str(command);
        commands.push('\n');
        Ok(fsio::write_atomic(&path, commands.as_bytes())?)
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    pub(super) fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// File of the translations made at `name` ("valid-00001000", "test").
    pub(super) fn translations(&self, name: &str) -> PathBuf {
        self.root.join("translations").join(format!("{name}.txt"))
    }
}

/// `config.toml` of a run.
pub fn config_path(run: &Path) -> PathBuf {
    run.join("config.toml")
}
