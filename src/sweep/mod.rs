//! Many runs from one file: `nmt-train sweep`. Every run is a process of its own, so that what ends one ends no other.
//!
//! | file | owns |
//! |---|---|
//! | `words` | a line as words: quotes, comments, and what braces expand to |
//! | `lines` | a sweep file as runs, each with its name and its arguments |
//! | `folder` | what became of a run so far, its command, its files |
//! | `drive` | starting, watching and counting the runs |
//! | `signals` | what asks a sweep to stop |

mod drive;
mod folder;
mod lines;
mod signals;
mod words;

pub use drive::{drive, Tally};
pub use folder::{Folder, State};
pub use lines::{parse, RunLine};

use std::path::PathBuf;

use crate::config::{self, Problems, Source};

/// How the runs of a file are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the runs' folders.
    pub out: PathBuf,
    /// Runs at once.
    pub jobs: usize,
    /// Threads of each run.
    pub threads: usize,
    /// Device of each run, instead of what its config says.
    pub device: Option<String>,
    /// Whether failed runs are tried again.
    pub retry: bool,
    /// The program that trains.
    pub program: String,
}

/// Finds everything that can be wrong before anything starts: folders that belong to other lines, configs with mistakes.
/// `file` is the name of the sweep file in messages.
///
/// # Errors
/// All problems found.
pub fn check(file: &str, runs: &[RunLine], options: &Options) -> Result<(), Problems> {
    let mut problems = Problems::default();
    for run in runs {
        let folder = Folder::of(run, options);
        let state = folder.state();
        if let Err(text) = folder.belongs_to(run, &state) {
            lines::add(&mut problems, file, run.line, text);
        }
        // what goes on has the config in its folder
        if state.is_due(options.retry) && state != State::Interrupted {
            // how many threads the config asks for does not matter: the sweep says it
            let sets = [&run.sets[..], &["threads=0".to_string()]].concat();
            let wrong = config::load(&Source::Path(run.config.clone().into()), &sets).err();
            wrong.iter().flat_map(|e| &e.0).for_each(|e| lines::add(&mut problems, file, run.line, e.to_string()));
        }
    }
    problems.or(())
}
