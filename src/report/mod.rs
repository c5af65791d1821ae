//! `nmt-train report`: what finished runs say about each other.
//!
//! Runs are sorted into *tasks* (same data, vocabulary, model, batch: only these are compared), *methods* (optimizer and
//! variant), *settings* (a method with its tuned numbers at one horizon) and seeds. What is compared is the score at the
//! end of a run's own schedule, never a value read halfway; see `configs/sweeps/protocol.md`.
//!
//! | file | owns |
//! |---|---|
//! | `batches` | the same comparison at several sizes of the batch |
//! | `chart` | a line chart as SVG: axes, ticks, lines |
//! | `charts` | which charts a task gets |
//! | `csv` | the report as CSV: one row a run, one column a fact |
//! | `find` | the run folders that the user means |
//! | `html` | the report as one self-contained page |
//! | `json` | the report as JSON: everything the page shows, for programs |
//! | `keys` | what a difference between two configs means for their comparison |
//! | `method` | runs of a task sorted into methods and settings |
//! | `notes` | what a reader must know before trusting a number: each fault of a comparison in a sentence |
//! | `numbers` | medians, spreads, interpolation, resampling |
//! | `plane` | a plane to draw on: where a value lies, and which values get a tick |
//! | `relative` | how much sooner a method is where the baseline ends |
//! | `run` | one run, read from its folder |
//! | `task` | runs sorted into tasks |
//! | `text` | the report as text for a terminal |

mod batches;
mod chart;
mod charts;
mod csv;
mod find;
mod html;
mod json;
mod keys;
mod method;
mod notes;
mod numbers;
mod plane;
mod relative;
mod run;
mod task;
mod text;

pub use batches::{Family, Size};
pub use csv::csv;
pub use find::find;
pub use html::html;
pub use json::json;
pub use method::{Method, Setting};
pub use relative::{Ratio, Reach, Relative};
pub use run::{Horizon, Run, RunState};
pub use task::Task;
pub use text::text;

use std::path::PathBuf;

use crate::scores::Metric;

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What runs are judged by.
    pub score: Metric,
    /// Names of optimizers or methods; the best of them at its longest horizon is what others are compared with.
    pub baseline: Vec<String>,
    /// The score to be reached, instead of the baseline's final one.
    pub target: Option<f64>,
}

/// Everything a page or a table shows.
#[derive(Clone, Debug)]
pub struct Report {
    pub score: Metric,
    pub tasks: Vec<Task>,
    /// Tasks that differ in the batch alone.
    pub families: Vec<Family>,
    /// Folders that could not be read, each with the reason.
    pub left_out: Vec<String>,
}

impl Report {
    fn new(score: Metric, tasks: Vec<Task>, left_out: Vec<String>) -> Self {
        Report { score, families: batches::families(&tasks), tasks, left_out }
    }

    /// Reads the runs and compares them.
    ///
    /// # Errors
    /// None of the folders holds a readable run; the baseline that was asked for is in none of them.
    pub fn of(folders: &[PathBuf], options: &Options) -> Result<Self, crate::exit::InputError> {
        let mut left_out = Vec::new();
        let mut runs = Vec::new();
        for folder in folders {
            match Run::read(folder) {
                Ok(run) => runs.push(run),
                Err(reason) => left_out.push(format!("{}: {reason}", folder.display())),
            }
        }
        if runs.is_empty() {
            return Err(crate::exit::InputError(left_out.join("\n")));
        }
        let tasks = task::sort(runs, options)?;
        Ok(Report::new(options.score, tasks, left_out))
    }
}
