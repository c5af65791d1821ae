//! What training minimizes and what validation measures.

mod cross_entropy;
mod embedding_distance;
mod lexicon;

pub use cross_entropy::{loss, pair_nlls, Loss};
pub use embedding_distance::{table_health, DistanceContext, DistanceStats, EmbeddingDistance, TableHealth};
pub use lexicon::{word_pairs, Limits as PairLimits, WordPair};
