//! Faults on demand, for tests of crash safety: the environment variable `NMT_TRAIN_FAULT`, read once.
//!
//! - `save:bytes=N`: the disk is full after N bytes of folders (checkpoints) written by this process.
//! - `save:kill` or `save:kill=K`: the process kills itself (SIGKILL) in the middle of its first or K-th folder.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Full { after_bytes: u64 },
    Kill { in_folder: u64 },
}

/// Folders begun so far; faults strike inside folders only.
static FOLDERS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Tells the counter of `save:kill=K` that a folder begins.
pub(super) fn folder_begins() {
    FOLDERS.fetch_add(1, Ordering::Relaxed);
}

/// A file whose writes fail when the fault says so.
pub(super) struct Guarded(pub(super) File);

impl Write for Guarded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let folders = FOLDERS.load(Ordering::Relaxed);
        match active().filter(|_| folders > 0) {
            Some(Fault::Full { after_bytes })
                if BYTES.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64 > after_bytes =>
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Some(Fault::Kill { in_folder }) if folders == in_folder => {
                self.0.write_all(&bytes[..bytes.len() / 2])?;
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            _ => {}
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn active() -> Option<Fault> {
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
    *FAULT.get_or_init(|| std::env::var("NMT_TRAIN_FAULT").ok().and_then(|text| parse(&text)))
}

fn parse(text: &str) -> Option<Fault> {
    match text.strip_prefix("save:")?.split_once('=') {
        Some(("bytes", n)) => Some(Fault::Full { after_bytes: n.parse().ok()? }),
        Some(("kill", k)) => Some(Fault::Kill { in_folder: k.parse().ok()? }),
        None if text == "save:kill" => Some(Fault::Kill { in_folder: 1 }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_text() {
        assert_eq!(parse("save:bytes=10"), Some(Fault::Full { after_bytes: 10 }));
        assert_eq!(parse("save:kill"), Some(Fault::Kill { in_folder: 1 }));
        assert_eq!(parse("save:kill=3"), Some(Fault::Kill { in_folder: 3 }));
        assert_eq!(parse("save:fire"), None);
    }
}
