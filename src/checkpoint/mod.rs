//! Checkpoints: what is in them ([`Snapshot`]), how they lie on the disk ([`Store`]), which ones stay ([`plan`]), and
//! the mean of several ([`average`]).
//!
//! ```text
//! RUN/checkpoints/
//!   latest                       name of the newest folder
//!   best                         name of the folder with the best validation; absent while none was validated; "average"
//!                                where the mean of the last validations' weights was better than all of them
//!   validated/                   with checkpoint.average_last: the weights that the last validations scored
//!   step-00001000/
//!     model.safetensors          weights to use: the moving average when train.ema_decay > 0, else the raw weights
//!     raw.safetensors            weights that training goes on from; only with a moving average
//!     optimizer.safetensors      state of the optimizer
//!     state.json                 everything else that resume needs
//!     manifest.json              format version, step, size and checksum of each file
//! ```
//!
//! A folder appears under its name only when all of it is on the disk, and is used only after its manifest agrees with it.
//!
//! | file | owns |
//! |---|---|
//! | `average` | the mean of several checkpoints' weights |
//! | `bytes` | checkpoints as one piece of memory, for the other ranks of a job |
//! | `format` | the bytes of a checkpoint: safetensors files and the manifest that vouches for them |
//! | `retain` | which checkpoints stay, as a pure function |
//! | `seal` | the checksum of the manifest itself |
//! | `store` | the folder of checkpoints: saving, finding, verifying, deleting |
//! | `validated` | the weights that the last validations scored, kept for their mean |
//! | `weights` | weights in and out of a model, with names and shapes compared before anything changes |

mod average;
mod bytes;
mod format;
mod retain;
mod seal;
mod store;
mod validated;
mod weights;

pub use average::average;
pub use bytes::{from_bytes, to_bytes};
pub use format::{write_tensors, FORMAT_VERSION};
pub use retain::{plan, Existing, Plan};
pub use seal::seal;
pub use store::{Best, Found, Store, Which, FOLDER};
pub use weights::{fill, load_weights, read_weights, save_weights};

use candle_core::Tensor;
use std::path::PathBuf;

use crate::fsio;
use crate::optim::OptimizerState;

/// Everything that a run needs to go on exactly. Tensors may share storage with live weights: saving copies them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Updates done.
    pub step: u64,
    /// Weights to validate, translate and export with.
    pub weights: Vec<(String, Tensor)>,
    /// Weights to train on, when they differ from `weights` (moving average).
    pub raw_weights: Option<Vec<(String, Tensor)>>,
    pub optimizer: OptimizerState,
    /// Counters, schedule, early stopping, lengths of logs.
    pub state: serde_json::Value,
}

/// What can go wrong with checkpoints.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] fsio::Error),
    #[error("{}: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{}: written by a newer nmt-train (format {found}; this one reads up to {}); update the program",
        path.display(), FORMAT_VERSION
    )]
    TooNew { path: PathBuf, found: u64 },
    #[error("no usable checkpoint in {}: {problems}", dir.display())]
    NoneUsable { dir: PathBuf, problems: String },
    #[error("{}: {what}", path.display())]
    Mismatch { path: PathBuf, what: String },
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Result of a checkpoint operation.
pub type Result<T> = std::result::Result<T, Error>;
