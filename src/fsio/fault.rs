//! Faults on demand, for tests of crash safety: the environment variable `NMT_TRAIN_FAULT`, read once.
//!
//! - `save:bytes=N`: the disk is full after N bytes of folders (checkpoints) written by this process.
//! - `save:kill` or `save:kill=K`: the process kills itself (SIGKILL) in the middle of its first or K-th folder.
//! - `append:bytes=N`: the disk is full after N bytes of append-only files ([`super::AppendLog`]).
//! - `gradient:nan=A-B`: gradients are not finite in updates that begin with micro-batch A to B of the run.
//! - `rank:panic=R@M`, `rank:hang=R@M`: rank R of an MPI job panics, or does nothing any more, in the update that begins with
//!   micro-batch M or later.
//! - `score:nan=STEP`, `score:inf=STEP`: the validation of this update finds such a loss.
//!
//! Several are separated by commas.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Full { after_bytes: u64 },
    Kill { in_folder: u64 },
    Appended { after_bytes: u64 },
    Gradient { first: u64, last: u64 },
    Score { step: u64, infinite: bool },
    Rank { rank: usize, micro_batch: u64, hangs: bool },
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
        for fault in active().iter().filter(|_| folders > 0) {
            match *fault {
                Fault::Full { after_bytes }
                    if BYTES.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64 > after_bytes =>
                {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                Fault::Kill { in_folder } if folders == in_folder => {
                    self.0.write_all(&bytes[..bytes.len() / 2])?;
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                }
                _ => {}
            }
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether so many more bytes of append-only files can be written.
pub(super) fn append(bytes: usize) -> io::Result<()> {
    static BYTES: AtomicU64 = AtomicU64::new(0);
    let all = BYTES.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
    let full = |fault: &Fault| matches!(fault, Fault::Appended { after_bytes } if all > *after_bytes);
    if active().iter().any(full) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Whether the gradients of the update that begins with this micro-batch are to be taken for not finite.
pub fn gradient(micro_batch: u64) -> bool {
    let strikes =
        |fault: &Fault| matches!(fault, Fault::Gradient { first, last } if (*first..=*last).contains(&micro_batch));
    active().iter().any(strikes)
}

/// Strikes a rank in an update, if a fault says so.
pub fn rank(own: usize, now: u64) {
    for fault in active() {
        match fault {
            Fault::Rank { rank, micro_batch, hangs } if *rank == own && *micro_batch <= now => match hangs {
                true => std::thread::sleep(std::time::Duration::from_secs(3600)),
                false => panic!("a fault for tests"),
            },
            _ => (),
        }
    }
}

/// What the validation of this update is to find as its loss, if a fault says so.
pub fn score(at: u64) -> Option<f64> {
    active().iter().find_map(|fault| match fault {
        Fault::Score { step, infinite } if *step == at => Some(if *infinite { f64::INFINITY } else { f64::NAN }),
        _ => None,
    })
}

fn active() -> &'static [Fault] {
    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
    FAULTS.get_or_init(|| {
        std::env::var("NMT_TRAIN_FAULT").map_or(Vec::new(), |text| text.split(',').filter_map(parse).collect())
    })
}

fn parse(text: &str) -> Option<Fault> {
    let (what, number) = text.split_once('=').unwrap_or((text, "1"));
    match what {
        "save:bytes" => Some(Fault::Full { after_bytes: number.parse().ok()? }),
        "save:kill" => Some(Fault::Kill { in_folder: number.parse().ok()? }),
        "append:bytes" => Some(Fault::Appended { after_bytes: number.parse().ok()? }),
        "gradient:nan" => {
            let (first, last) = number.split_once('-')?;
            Some(Fault::Gradient { first: first.parse().ok()?, last: last.parse().ok()? })
        }
        "rank:panic" | "rank:hang" => {
            let (rank, micro_batch) = number.split_once('@')?;
            let (rank, micro_batch) = (rank.parse().ok()?, micro_batch.parse().ok()?);
            Some(Fault::Rank { rank, micro_batch, hangs: what == "rank:hang" })
        }
        "score:nan" => Some(Fault::Score { step: number.parse().ok()?, infinite: false }),
        "score:inf" => Some(Fault::Score { step: number.parse().ok()?, infinite: true }),
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
        assert_eq!(parse("append:bytes=7"), Some(Fault::Appended { after_bytes: 7 }));
        assert_eq!(parse("gradient:nan=7-9"), Some(Fault::Gradient { first: 7, last: 9 }));
        assert_eq!(parse("score:inf=20"), Some(Fault::Score { step: 20, infinite: true }));
        assert_eq!(parse("rank:hang=1@20"), Some(Fault::Rank { rank: 1, micro_batch: 20, hangs: true }));
        assert_eq!(parse("rank:panic=1"), None);
        assert_eq!(parse("save:fire"), None);
    }
}
