//! Owns parallel text: reading and checking it, the encoded cache on disk, and the order of batches.
//!
//! Text → [`Pairs`] (streaming, checked) → [`prepare`] (filtered, encoded once, memory-mapped [`Dataset`]) → [`Epoch`]
//! (batches as a pure function of seed, epoch and index). Validation text stays text: [`held_out`].

mod batches;
mod cache;
mod error;
mod fields;
mod filter;
mod fingerprint;
mod foreign;
mod format;
mod hub;
mod joined;
mod lines;
mod look;
mod moved;
mod prepare;
mod source;
mod unzip;

pub use batches::{batches_by_length, Batching, Epoch, SOURCE_SHARE};
pub use cache::{Dataset, Lengths, Span, Tokens};
pub use error::Error;
pub use filter::{Dropped, Reason};
pub use hub::{resolve, Hub, HubError};
pub use joined::Joined;
pub use lines::{read_lines, Lines};
pub use look::{look, Remark};
pub use moved::all_there;
pub use prepare::{prepare, Encode, Prepare};
pub use source::{held_out, text_lines, HeldOut, Pair, Pairs, TextLines};

/// One of the two languages of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}
