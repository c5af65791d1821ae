//! nmt-train: trains neural machine translation from a config file and a folder of text.
//!
//! Layers; a file may use only lower ones, and `tests/suite/layers.rs` checks it:
//!
//! | layer | modules |
//! |---|---|
//! | 7 | `cli` (and `main`; in a CUDA build `launcher` and `main_cuda`) |
//! | 6 | `train` `report` `sweep` |
//! | 5 | `interop` |
//! | 4 | `run` |
//! | 3 | `objective` `decode` `checkpoint` |
//! | 2 | `world` `machine` `data` `tokenizer` `model` `optim` `metrics` (siblings do not see each other), the sinks of `events` |
//! | 1 | `ops` `config` `params` `batch` `events` `sentencepiece` |
//! | 0 | `kinds` `scores` `symptoms` `ranks` `rng` `fsio` `units` `exit` `exact` `shell` |

#[cfg(not(unix))]
compile_error!(
    "nmt-train runs on Linux and macOS; on Windows in WSL: file locks, signals and memory maps are those of Unix"
);

pub mod batch;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod decode;
pub mod events;
pub mod exact;
pub mod exit;
pub mod fsio;
pub mod interop;
pub mod kinds;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod params;
pub mod ranks;
pub mod report;
pub mod rng;
pub mod run;
pub mod scores;
pub mod sentencepiece;
pub mod shell;
pub mod sweep;
pub mod symptoms;
pub mod tokenizer;
pub mod train;
pub mod units;
pub mod world;
