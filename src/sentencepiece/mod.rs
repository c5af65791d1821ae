//! SentencePiece (Kudo & Richardson 2018): its models, text into their pieces and back, the same as the library (0.2.3)
//! gives, to the last tie. BLEU takes words from it, tokenizers ids.
//!
//! | file | owns |
//! |---|---|
//! | `bpe` | pieces of BPE models |
//! | `decode` | text of pieces |
//! | `lattice` | draws one of all ways to cut a text |
//! | `merging` | merges of neighbours, each left out at random where that is wanted |
//! | `model` | a model that was read and checked, and pieces of a line |
//! | `normalize` | what becomes of a line before it is cut |
//! | `proto` | what a `.model` file holds |
//! | `sampling` | pieces drawn at random |
//! | `trie` | byte strings found at the beginning of a text |
//! | `unigram` | the most probable pieces |

mod bpe;
mod decode;
mod lattice;
mod merging;
mod model;
mod normalize;
mod proto;
mod sampling;
mod trie;
mod unigram;

pub use lattice::Lattice;
pub use merging::{Join, Merging, Part};
pub use model::{Cut, Damage, SentencePiece};
pub use proto::{Kind, ModelType, Piece, Proto, Rules};
pub use sampling::{is_space, Border, Sampling, Scratch};
pub use trie::Trie;

/// The mark that stands for a space in pieces, U+2581.
pub const SPACE: &str = "▁";
