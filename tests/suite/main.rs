//! All integration tests in one binary: one link instead of many.

mod checkpoint;
mod cli;
mod config_errors;
mod configs;
mod cuda;
mod data;
mod data_hub;
mod decoding;
mod errors;
mod grouping;
mod layers;
mod metrics;
mod optimizer_references;
mod optimizers;
mod phases;
mod quickstart_data;
mod reading;
mod report;
mod resume;
mod rnn;
mod run_lock;
mod signals;
mod sweep;
mod tokenizer;
mod toy;
mod transformer;
