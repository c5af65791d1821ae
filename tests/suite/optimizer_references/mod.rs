//! Textbook forms of optimizers in f64, written without a look at the implementation; see `optimizers.rs`.

pub(crate) mod hvr;
pub(crate) mod schedule_free;
