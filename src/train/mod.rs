//! A training run: set up, update, validate, save, stop. Emits [`crate::events::Event`]s and never prints.
//!
//! `run.rs` tells the story; `session.rs` holds what lives while it goes on; the other files are its chapters.

mod batch_size;
mod check;
mod distance;
mod evaluate;
mod finished;
mod guard;
mod machine;
mod memory;
mod phases;
mod preflight;
mod progress;
mod resources;
mod run;
mod run_folder;
mod saving;
mod session;
mod state;
mod step;
mod stop;
mod survey;
mod validation;
mod warnings;

pub use check::{check, Report};
pub use evaluate::{Scores, Validator};
pub use finished::Finished;
pub use machine::{device, device_for_use, keep_candle_on_one_thread, peak_memory_bytes, set_threads};
pub use resources::{obtain_tokenizers, vocabulary, Resources};
pub use run::{run, Outcome};
pub use run_folder::{config_path, RunFolder};
pub use session::{FileSinks, Job, OpenFiles, Opened, Session};
pub use state::TrainState;
pub use step::{DistanceUpdate, Stepper, Update, UpdateStats};
pub use stop::{Signals, StopReason};
