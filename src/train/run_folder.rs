//! The run folder: what lies where, and that it is never overwritten by accident.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exit::InputError;
use crate::fsio;

/// Paths inside a run folder; holds its lock while alive.
pub struct RunFolder {
    root: PathBuf,
    _lock: fsio::Lock,
}

impl RunFolder {
    /// A new folder; `force` removes an old run first.
    ///
    /// # Errors
    /// The folder exists and `force` is not set; it is locked by a live process; it can not be written.
    pub fn create(root: &Path, force: bool) -> Result<Self> {
        let occupied = root.join("config.toml").exists() || root.join("checkpoints").exists();
        if occupied && !force {
            let run = root.display();
            return Err(InputError::new(format!(
                "run folder {run} exists; continue it with `nmt-train --resume {run}`, \
                 start over with --force (deletes it), or choose another with `--set run_dir=...`"
            ))
            .into());
        }
        if occupied {
            // The lock first: --force must not delete the folder of a run that is alive.
            drop(fsio::Lock::acquire(root)?);
            std::fs::remove_dir_all(root).with_context(|| format!("delete {}", root.display()))?;
        }
        std::fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        Self::open(root)
    }

    /// An existing folder, locked.
    ///
    /// # Errors
    /// No such run; locked by a live process.
    pub fn open(root: &Path) -> Result<Self> {
        if !root.is_dir() {
            return Err(InputError::new(format!("no run folder {}", root.display())).into());
        }
        Ok(RunFolder { root: root.to_path_buf(), _lock: fsio::Lock::acquire(root)? })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    pub fn command(&self) -> PathBuf {
        self.root.join("command.txt")
    }

    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    pub fn debug_log(&self) -> PathBuf {
        self.root.join("debug.log")
    }

    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// File of translations made at `name` ("valid-00001000", "test").
    pub fn translations(&self, name: &str) -> PathBuf {
        self.root.join("translations").join(format!("{name}.txt"))
    }
}
