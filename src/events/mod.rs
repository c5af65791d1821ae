//! What happens in a run, as values. `train` emits events and never prints; sinks print, write and plot.
//!
//! | file | owns |
//! |---|---|
//! | `console` | the run as a person watches it, on stderr |
//! | `debug_log` | `debug.log`: every event with its time, one a line, to attach to a bug report |
//! | `jsonl` | `metrics.jsonl`: one JSON object a line |
//! | `lines` | the text of the console: what each event looks like, as strings |
//! | `sinks` | one event to many sinks; a sink that fails is switched off and never stops the run |
//! | `tensorboard` | TensorBoard event files |

pub mod console;
pub mod debug_log;
pub mod jsonl;
mod lines;
pub mod sinks;
pub mod tensorboard;

use std::path::PathBuf;

use crate::ranks::ByRank;
use crate::scores::{Metric, Scores};
use crate::symptoms::Symptoms;

/// Receives every event of a run, in order.
pub trait Sink: Send {
    /// Handles one event. An error ends up as a warning on the other sinks; it never stops training.
    ///
    /// # Errors
    /// When the sink can not write.
    fn emit(&mut self, event: &Event) -> std::io::Result<()>;
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Before the first step: the pre-flight table.
    Start(Start),
    /// After every update: for the live line only.
    Progress(Progress),
    /// Every `train.log_freq` updates: averages since the last one.
    Train(TrainPoint),
    /// Long work between updates: "validating", 0.3.
    Phase { name: &'static str, done: f64 },
    /// After a validation.
    Valid(ValidPoint),
    /// After training: the mean of the last validations' weights was validated.
    Average(AveragePoint),
    /// A checkpoint is on disk.
    Checkpoint { step: u64, path: PathBuf, seconds_save: f64 },
    /// The run went back to the checkpoint of this update; what was told of later ones does not hold.
    Returned { step: u64 },
    /// Something the user should know, once, with advice.
    Warning { step: u64, message: String },
    /// A lasting line without alarm.
    Note(String),
    /// The last screen.
    End(End),
}

/// The pre-flight table.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// `(section, rows of (label, value))`, as printed.
    pub table: Vec<(String, Vec<(String, String)>)>,
    /// Facts for metrics.jsonl.
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// The update this process starts from (0, or the checkpoint's).
    pub step: u64,
}

/// State of the live line.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub step: u64,
    pub max_updates: u64,
    pub epoch: u64,
    /// Smoothed training loss a token.
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    /// Target tokens a second over the last few seconds, of all ranks.
    pub tokens_per_second: f64,
    /// Processes that train; 0 or 1: this one.
    pub ranks: usize,
    /// Seconds to the end, validation included; `None` when no limit is set.
    pub eta: Option<f64>,
}

/// A row `event = "train"` of metrics.jsonl.
#[derive(Clone, Debug, Default)]
pub struct TrainPoint {
    pub step: u64,
    pub epoch: u64,
    /// Target tokens so far.
    pub tokens: u64,
    /// Training seconds so far, over all processes of the run; validation and saving not counted.
    pub seconds: f64,
    /// Training loss (with label smoothing) a target token, mean since the last point.
    pub loss: f64,
    /// The same without label smoothing.
    pub nll: f64,
    /// Mean of both divergences between the passes of R-Drop a target token, while it is on.
    pub r_drop_kl: Option<f64>,
    pub lr: f64,
    /// Mean norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Share of updates whose gradient was clipped.
    pub clipped: f64,
    pub skipped_updates: u64,
    pub tokens_per_second: f64,
    pub source_tokens_per_second: f64,
    /// Share of the time since the last point that rank 0 spent in exchanges, waiting included; of several ranks.
    pub communication: Option<f64>,
    pub peak_memory_bytes: u64,
    /// Health of the optimizer; names without the `optimizer.` prefix.
    pub optimizer: Vec<(String, f64)>,
    /// The embedding distance, while it is in force; names without the `embedding.` prefix.
    pub embedding: Vec<(String, f64)>,
}

/// A row `event = "valid"` of metrics.jsonl.
#[derive(Clone, Debug, Default)]
pub struct ValidPoint {
    pub step: u64,
    pub epoch: u64,
    pub tokens: u64,
    pub seconds: f64,
    /// Seconds of this validation.
    pub seconds_valid: f64,
    pub scores: Scores,
    /// Whether early_stopping_metric is the best so far.
    pub is_best: bool,
    /// Change of early_stopping_metric against the best before, signed so that positive is better.
    pub improvement: Option<f64>,
    pub early_stopping_metric: Option<Metric>,
    pub hypotheses: Hypotheses,
    /// The NLL by frequency of the token in the training text.
    pub by_rank: ByRank,
    pub samples: Vec<Sample>,
}

/// What translations look like, and what references look like themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hypotheses {
    pub symptoms: Symptoms,
    pub of_references: Symptoms,
}

/// A row `event = "average"` of metrics.jsonl: the mean of the weights that the last validations scored, as a model of its
/// own (`checkpoint.average_last`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AveragePoint {
    /// The update at which training ended.
    pub step: u64,
    /// The updates whose weights it is of.
    pub steps: Vec<u64>,
    /// Seconds of its validation.
    pub seconds_valid: f64,
    pub scores: Scores,
    /// Whether it is better than the best checkpoint that there is, and so what the test text and every command use.
    pub is_best: bool,
    /// Change of early_stopping_metric against that checkpoint, signed so that positive is better.
    pub improvement: Option<f64>,
    pub early_stopping_metric: Option<Metric>,
    pub hypotheses: Hypotheses,
}

/// One validation sentence, shown.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub source: String,
    pub reference: String,
    pub hypothesis: String,
}

/// The last screen, and `--final-json`.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub run: PathBuf,
    pub step: u64,
    pub stop_reason: String,
    pub best_step: Option<u64>,
    /// Of the validation at `best_step`.
    pub best: Scores,
    /// Of the last validation.
    pub latest: Scores,
    /// The mean of the last validations' weights, where one was made.
    pub average: Option<Box<AveragePoint>>,
    /// Of the test set, each with sacreBLEU's signature.
    pub test: Vec<(Metric, f64, String)>,
    pub seconds: f64,
    pub seconds_valid: f64,
    pub seconds_save: f64,
    pub tokens: u64,
    pub tokens_per_second: f64,
    pub peak_memory_bytes: u64,
    /// Set when the run can be continued.
    pub resume_command: Option<String>,
    /// Commands worth typing next.
    pub next_commands: Vec<String>,
    /// Files worth opening.
    pub files: Vec<(String, PathBuf)>,
}
