//! A run: what is true of it, what is due, what lies in its folder. Knows nothing of how a model is trained.
//!
//! | file | what it owns |
//! |---|---|
//! | `ledger` | what the run has done and knows, and the transitions that change it |
//! | `judge` | what validations say: best, patience, plateau |
//! | `tables` | what is remembered of the embedding tables |
//! | `phase` | which phase a ledger is of |
//! | `due` | what is due next, why a run ends |
//! | `drive` | the loop that does what is due |
//! | `record` | everything that is written while the run lives |
//! | `folder` | the name of every file of a run, the lock |
//! | `rows` | metrics.jsonl, read |
//! | `trained` | a run opened for use |

mod drive;
mod due;
mod folder;
mod judge;
mod ledger;
mod phase;
mod record;
pub mod rows;
mod tables;
#[cfg(test)]
mod tests;
mod trained;

pub use drive::{drive, Updated, Validation, Work};
pub use due::{Due, Rules, StopReason};
pub use folder::{Paths, RunFolder};
pub use judge::{Judged, Plateau, Scored, Unit};
pub use ledger::{Entries, Failed, Ledger, Sums, Taken, UpdateStats};
pub use phase::Trained;
pub use record::{Record, Tensors};
pub use tables::DistanceState;
pub use trained::{vocabulary, Checkpoint, Usable, Weights};
