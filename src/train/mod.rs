//! A training run: set up, update, validate, save, stop. Emits [`crate::events::Event`]s and never prints.

mod evaluate;
mod guard;
mod machine;
mod preflight;
mod run;
mod run_folder;
mod setup;
mod state;
mod step;
mod stop;
mod test_set;

pub use evaluate::{Scores, Validator};
pub use machine::{device, peak_memory_bytes, set_threads};
pub use run::{run, Outcome};
pub use run_folder::RunFolder;
pub use setup::{Resources, TokenizersOnDisk};
pub use state::TrainState;
pub use stop::{Signals, StopReason};
