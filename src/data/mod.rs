//! Owns parallel text: reading and checking it, the encoded cache on disk, and the order of batches.
//!
//! Text → [`Pairs`] (streaming, checked) → [`prepare`] (filtered, encoded once, memory-mapped [`Dataset`]) → [`Epoch`]
//! (batches as a pure function of seed, epoch and index). Validation text stays text: [`held_out`].
//!
//! | file | owns |
//! |---|---|
//! | `batches` | the order of training: which pairs make up batch `i` of an epoch, a pure function of (seed, epoch, i) |
//! | `cache` | encoded pairs in memory-mapped files: a corpus costs address space, not memory |
//! | `error` | what can be wrong with parallel text, each message naming the place and the cure |
//! | `fields` | a line of a `.tsv` or `.jsonl` file as the two sides of a pair |
//! | `filter` | which pairs are too empty, long, short or uneven to train on |
//! | `fingerprint` | names of a text by its content: of the cache file, and of the text in checkpoints |
//! | `foreign` | what a file is that is not UTF-8 text, known from its first line |
//! | `format` | the cache file: header, tokens, offsets, line numbers, a description; written in one pass and checksummed |
//! | `hub` | files named `hf://…`: from the local cache of the Hugging Face Hub, else downloaded into it |
//! | `joined` | line breaks inside the fields of a file |
//! | `lines` | the one reader of text: lines of a file, a pipe or stdin, plain or gzip |
//! | `look` | what the first lines of `.tsv` files say about their columns: the wrong ones train without an error |
//! | `moved` | text that is not where a run was started with it, and how to name it anew |
//! | `prepare` | from text to a [`Dataset`]: finds the cache by content |
//! | `source` | parallel text as a stream of sentence pairs, whatever the files' format |
//! | `unzip` | bytes of a text, gzip or not: the magic number decides, whatever the name says |

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

pub use batches::{batches_by_length, Batching, Draw, Epoch, Place, SOURCE_SHARE};
pub use cache::{Dataset, Lengths, Span, Tokens};
pub use error::Error;
pub use filter::{Dropped, Reason};
pub use fingerprint::Contents;
pub use hub::{resolve, Hub, HubError};
pub use joined::Joined;
pub use lines::{count_lines, read_lines, Lines};
pub use look::{look, Remark};
pub use moved::all_there;
pub use prepare::{prepare, Encode, Prepare, Spell};
pub use source::{further_references, held_out, text_lines, HeldOut, Pair, Pairs, TextLines};

/// One of the two languages of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}
