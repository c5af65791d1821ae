//! All integration tests in one binary: one link instead of many.

mod checkpoint;
mod optimizers;
mod run_lock;
