//! A training run: set up, update, validate, save, stop. Emits [`crate::events::Event`]s and never prints.
//!
//! `session.rs` brings a run up, `run.rs` tells its story, `trainer.rs` holds what computes and writes while it goes on;
//! the other files are its chapters. What is true of a run and what is due stands in [`crate::run`].
//!
//! | file | owns |
//! |---|---|
//! | `averaging` | the mean of the last validations' weights, made and validated when training has ended |
//! | `batch_size` | `train.batch_size = "auto"`: the largest batch that a GPU's memory holds |
//! | `distance` | the embedding distance in a run |
//! | `finished` | a run that came to its end before: told from its checkpoint and metrics.jsonl, without reading any text |
//! | `memory` | what a run needs of memory, roughly, before anything is allocated |
//! | `phases` | `[[phase]]`: puts into force what the number of the update says |
//! | `preflight` | the table shown before the first step: what was read, what will be trained, with what |
//! | `progress` | what the run tells while it goes: the pre-flight table, the live line, rows of metrics, the last screen |
//! | `ranks` | how the ranks of a job come up together |
//! | `rates` | the learning rate of a run that goes on under another config |
//! | `resources` | what a run reads: tokenizers, encoded training pairs, held-out text |
//! | `run` | a run from its first screen to its last |
//! | `saving` | checkpoints of a run: what of the model and the optimizer goes into them, and back |
//! | `segmentation` | training text that is cut into pieces anew in each epoch |
//! | `session` | how a run comes up: fresh, or from a checkpoint |
//! | `shares` | what the ranks of a job make of an update together |
//! | `step` | one update: forward, backward, finite check, clip, optimizer, average |
//! | `stop` | what stops a process of a run from outside: signals, and the end of its time |
//! | `survey` | what the text shows before training |
//! | `tokenizers` | the tokenizers of a run: of files, of a model to begin with, or trained once for a text |
//! | `trainer` | the hands of a run: everything that computes and writes while the ledger is driven on |
//! | `trial` | a step that is tried and thrown away |
//! | `validation` | validation inside a run: scores of the averaged weights, translations, warnings about what they show |
//! | `validator` | scoring held-out text: negative log-likelihood of the encoded pairs |
//! | `warnings` | what seems wrong with a run before its first update |

mod averaging;
mod batch_size;
mod check;
mod distance;
mod finished;
mod memory;
mod phases;
mod preflight;
mod progress;
mod ranks;
mod rates;
mod resources;
mod run;
mod saving;
mod segmentation;
mod session;
mod shares;
mod step;
mod stop;
mod survey;
mod tokenizers;
mod trainer;
mod trial;
mod validation;
mod validator;
mod warnings;

pub use check::{check, Report};
pub use finished::Finished;
pub use resources::Resources;
pub use run::{run, Ended};
pub use session::{Job, Opened, Session};
pub use shares::Sharing;
pub use step::{DistanceUpdate, Stepper, Update};
pub use stop::Signals;
pub use tokenizers::obtain_tokenizers;
pub use validator::{Evaluation, Validator};
