//! Owns parallel text: reading and checking it, the encoded cache on disk, and the order of batches.
//!
//! Text → [`Pairs`] (streaming, checked) → [`prepare`] (filtered, encoded once, memory-mapped [`Dataset`]) → [`Epoch`]
//! (batches as a pure function of seed, epoch and index). Validation text stays text: [`raw_pairs`].

mod batches;
mod cache;
mod error;
mod filter;
mod format;
mod hub;
mod lines;
mod prepare;
mod source;
mod unzip;

pub use batches::{batches_by_length, Batching, Epoch, Lengths, Span, SOURCE_SHARE};
pub use cache::{Dataset, Tokens};
pub use error::Error;
pub use filter::{Dropped, Reason};
pub use hub::{resolve, Hub, HubError};
pub use lines::{read_lines, Lines};
pub use prepare::{prepare, Encode, Prepare};
pub use source::{raw_pairs, text_lines, Pair, Pairs, TextLines};

/// One of the two languages of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}
