//! The lock of a run folder between processes.

use nmt_train::fsio::{Error, RunLock};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
#[ignore = "run by the test below"]
fn child_holds_the_lock() {
    let Some(dir) = std::env::var_os("NMT_TRAIN_TEST_DIR") else { return };
    let _lock = RunLock::acquire(Path::new(&dir)).unwrap();
    writeln!(std::io::stdout(), "\nheld").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn a_live_process_keeps_the_folder_and_a_killed_one_loses_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "run_lock::child_holds_the_lock", "--ignored", "--nocapture"])
        .env("NMT_TRAIN_TEST_DIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "held"), "the child never got the lock");

    let error = RunLock::acquire(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Locked { holder, .. } if holder.pid == child.id()), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {}", child.id())), "{error}");

    child.kill().unwrap();
    child.wait().unwrap();
    drop(RunLock::acquire(dir.path()).unwrap());
    assert!(!dir.path().join("lock").exists());
}
