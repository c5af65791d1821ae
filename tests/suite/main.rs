//! All integration tests in one binary: one link instead of many.

mod data;
mod data_hub;
mod config_errors;
mod configs;
mod rnn;
mod checkpoint;
mod optimizers;
mod layers;
mod metrics;
mod decoding;
mod transformer;
mod run_lock;
mod quickstart_data;
mod tokenizer;
