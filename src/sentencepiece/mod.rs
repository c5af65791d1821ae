//! SentencePiece (Kudo & Richardson 2018): its models, text into their pieces and back, the same as the library (0.2.3)
//! gives, to the last tie. BLEU takes words from it, tokenizers ids.
//!
//! | file | owns |
//! |---|---|
//! | `bpe` | merges of neighbours |
//! | `decode` | text of pieces |
//! | `model` | a model that was read and checked, and pieces of a line |
//! | `normalize` | what becomes of a line before it is cut |
//! | `proto` | what a `.model` file holds |
//! | `trie` | byte strings found at the beginning of a text |
//! | `unigram` | the most probable pieces |

mod bpe;
mod decode;
mod model;
mod normalize;
mod proto;
mod trie;
mod unigram;

pub use model::{Damage, SentencePiece};
pub use proto::{Kind, ModelType, Piece, Proto, Rules};

/// The mark that stands for a space in pieces, U+2581.
pub const SPACE: &str = "▁";
