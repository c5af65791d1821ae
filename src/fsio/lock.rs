//! One process a run folder: the file `lock` names who, the system's file lock says whether that still holds.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// Who holds a run folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    pub host: String,
    /// Seconds since 1970.
    pub started: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// Holds a run folder until dropped; the system releases it when the process dies, however that happens.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    file: File,
}

impl RunLock {
    /// Takes the lock of `dir`. The lock of a dead process is taken over.
    ///
    /// # Errors
    /// [`Error::Locked`] naming pid and host when a live process holds it; [`Error::MaybeLocked`] when the file system
    /// has no locks and the holder named in the file may be alive; or the file can not be written.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let io = |e| Error::io("lock", &path, e);
        loop {
            let mut options = OpenOptions::new();
            let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
            let locked = file.try_lock();
            let before = read_holder(&mut file).map_err(io)?;
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked { path: dir.to_path_buf(), holder: before.unwrap_or_default() });
                }
                Err(TryLockError::Error(_)) => match before {
                    Some(holder) if holder.may_live() => return Err(Error::MaybeLocked { path, holder }),
                    _ => {}
                },
            }
            // Whoever held it may have deleted the file between our open and our lock.
            if !is_at(&file, &path) {
                continue;
            }
            write_holder(&mut file, &Holder::this_process()).map_err(io)?;
            return Ok(RunLock { path, file });
        }
    }

    /// Whether the folder is still the one that was locked.
    ///
    /// # Errors
    /// [`Error::Gone`]: it was deleted or moved, and perhaps replaced by another.
    pub fn check(&self) -> Result<()> {
        match is_at(&self.file, &self.path) {
            true => Ok(()),
            false => Err(Error::Gone { path: self.path.parent().unwrap_or(&self.path).to_path_buf() }),
        }
    }

    /// Who holds the lock of `dir` now, as far as can be read; `None` also where there is no lock.
    pub fn holder(dir: &Path) -> Option<Holder> {
        let mut file = File::open(dir.join("lock")).ok()?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => Some(read_holder(&mut file).ok().flatten().unwrap_or_default()),
            Err(TryLockError::Error(_)) => read_holder(&mut file).ok().flatten().filter(Holder::may_live),
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        if self.check().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether an open file is what lies at a path now.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: fs::Metadata| (found.dev(), found.ino());
    file.metadata().map(id).is_ok_and(|own| fs::metadata(path).map(id).is_ok_and(|there| own == there))
}

/// `None` when the file says nothing that can be read: its process is writing it, or died before it did.
fn read_holder(file: &mut File) -> io::Result<Option<Holder>> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text).ok())
}

fn write_holder(file: &mut File, holder: &Holder) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(serde_json::to_string(holder)?.as_bytes())
}

impl Default for Holder {
    /// Somebody, not known who.
    fn default() -> Self {
        Holder { pid: 0, host: "this machine".to_string(), started: 0 }
    }
}

impl Holder {
    fn this_process() -> Self {
        Holder {
            pid: std::process::id(),
            host: host(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        }
    }

    /// False only when it ran on this host and is gone.
    fn may_live(&self) -> bool {
        if self.host != host() {
            return true;
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{read_to_string, write_atomic};
    use super::*;

    #[test]
    fn a_live_holder_is_named_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RunLock::acquire(dir.path()).unwrap();
        let message = RunLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("process {} on {}", std::process::id(), host())), "{message}");
        assert_eq!(RunLock::holder(dir.path()).map(|holder| holder.pid), Some(std::process::id()));
        drop(lock);
        assert_eq!(RunLock::holder(dir.path()), None);
        assert!(!dir.path().join("lock").exists());

        let dead = Holder { pid: 999_999_999, host: host(), started: 5 };
        write_atomic(&dir.path().join("lock"), serde_json::to_string(&dead).unwrap().as_bytes()).unwrap();
        assert_eq!(RunLock::holder(dir.path()), None);
        let _lock = RunLock::acquire(dir.path()).unwrap();
        assert!(read_to_string(&dir.path().join("lock")).unwrap().contains(&std::process::id().to_string()));
    }

    #[test]
    fn a_folder_that_was_deleted_or_replaced_is_no_longer_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        let lock = RunLock::acquire(&run).unwrap();
        lock.check().unwrap();
        fs::remove_dir_all(&run).unwrap();
        assert!(lock.check().unwrap_err().to_string().contains("was deleted or moved"));
        fs::create_dir(&run).unwrap();
        let other = RunLock::acquire(&run).unwrap();
        assert!(lock.check().is_err());
        drop(lock);
        other.check().unwrap();
    }

    #[test]
    fn liveness_is_known_for_this_host_only() {
        let holder = |pid, host: &str| Holder { pid, host: host.to_string(), started: 0 };
        assert!(holder(std::process::id(), &host()).may_live());
        assert!(!holder(999_999_999, &host()).may_live());
        assert!(holder(999_999_999, "elsewhere").may_live());
    }
}
