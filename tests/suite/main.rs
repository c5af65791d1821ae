//! All integration tests in one binary: one link instead of many.

mod rnn;
mod decoding;
mod transformer;
mod checkpoint;
mod optimizers;
mod run_lock;
mod data;
mod data_hub;
mod config_errors;
mod configs;
mod layers;
mod metrics;
mod quickstart_data;
mod tokenizer;
