//! Becomes nmt-train-cuda, the program of a CUDA build; where that cannot run, nmt-train-cpu (a CPU build under this
//! name), or a sentence. candle links CUDA's libraries when a program is loaded, so a program that uses it cannot look for
//! them first; this one uses neither candle nor the library of this crate.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

pub(crate) fn main() -> ExitCode {
    let here = std::env::current_exe().unwrap_or_default();
    let reason = match why_not(&here.with_file_name("nmt-train-cuda")) {
        None => become_program(&here.with_file_name("nmt-train-cuda")),
        Some(reason) => reason,
    };
    let on_cpu = here.with_file_name("nmt-train-cpu");
    if on_cpu.exists() {
        become_program(&on_cpu);
    }
    // a closed stderr must not turn this into a panic
    let _ = writeln!(
        std::io::stderr(),
        "nmt-train: this build is for NVIDIA GPUs and does not run here ({reason}); install NVIDIA's driver and CUDA's \
         libraries, or use a build without `--features cuda` (also beside this one, as {})",
        on_cpu.display()
    );
    // that of wrong input
    ExitCode::from(3)
}

/// Runs the program in place of this one; returns only with what stands in the way.
fn become_program(program: &Path) -> String {
    Command::new(program).args(std::env::args_os().skip(1)).exec().to_string()
}

/// What keeps the program from starting: the loader's message, when it misses a library.
fn why_not(program: &Path) -> Option<String> {
    match Command::new(program).arg("--version").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr);
            let missing = message.trim().rsplit_once("libraries: ").map_or(message.trim(), |(_, missing)| missing);
            Some(missing.to_string())
        }
        Err(error) => Some(format!("{}: {error}", program.display())),
    }
}
