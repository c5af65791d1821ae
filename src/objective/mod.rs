//! What training minimizes and what validation measures.
//!
//! | file | owns |
//! |---|---|
//! | `cross_entropy` | cross-entropy of a model's predictions, with label smoothing for training, without for measurement |
//! | `embedding_distance/` | the embedding-distance objective, gradients in closed form |
//! | `lexicon/` | pairs of words that translate each other, found in the training text |

mod cross_entropy;
mod embedding_distance;
mod lexicon;

pub use cross_entropy::{loss, pair_nlls, token_nlls, Loss};
pub use embedding_distance::{table_health, DistanceContext, DistanceStats, EmbeddingDistance, TableHealth};
pub use lexicon::{word_pairs, Limits as PairLimits, WordPair};
