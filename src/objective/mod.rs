//! What training minimizes and what validation measures.

mod cross_entropy;

pub use cross_entropy::{evaluate, loss, Loss};
