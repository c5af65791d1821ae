//! A training run: set up, update, validate, save, stop. Emits [`crate::events::Event`]s and never prints.
//!
//! `session.rs` brings a run up, `run.rs` tells its story, `trainer.rs` holds what computes and writes while it goes on;
//! the other files are its chapters. What is true of a run and what is due stands in [`crate::run`].

mod batch_size;
mod check;
mod distance;
mod finished;
mod memory;
mod phases;
mod preflight;
mod progress;
mod rates;
mod resources;
mod run;
mod saving;
mod session;
mod step;
mod stop;
mod survey;
mod trainer;
mod trial;
mod validation;
mod validator;
mod warnings;

pub use check::{check, Report};
pub use finished::Finished;
pub use resources::{obtain_tokenizers, Resources};
pub use run::{run, Ended};
pub use session::{Job, Opened, Session};
pub use step::{DistanceUpdate, Stepper, Update};
pub use stop::Signals;
pub use validator::{Evaluation, Validator};
