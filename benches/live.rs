//! The program with an allocator that counts: every ten seconds the fewest bytes that were allocated at a moment, on
//! standard output. Resident memory says little of leaks, for freed pages are kept. `scripts/reliability.py memory` runs
//! it; its arguments are those of the program.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::process::ExitCode;
use std::thread::{sleep, spawn};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: cap::Cap<mimalloc::MiMalloc> = cap::Cap::new(mimalloc::MiMalloc, usize::MAX);

fn main() -> ExitCode {
    nmt_train::ops::keep_freed_memory();
    spawn(|| loop {
        let least = (0..5000).map(|_| {
            sleep(Duration::from_millis(2));
            ALLOCATOR.allocated()
        });
        println!("{}", least.min().unwrap_or_default());
    });
    nmt_train::cli::main()
}
