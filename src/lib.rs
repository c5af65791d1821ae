//! nmt-train: trains neural machine translation from a config file and a folder of text.
//!
//! For other programs on candle: [`optim::ForCandle`], every optimizer here behind `candle_nn::Optimizer`, and the fused
//! operations of [`ops`], which go on candle's own tape. The rest is the program.
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

#![warn(missing_docs)]

#[cfg(not(unix))]
compile_error!(
    "nmt-train runs on Linux and macOS; on Windows in WSL: file locks, signals and memory maps are those of Unix"
);

// for other programs: optimizers (`optim::ForCandle`), the fused operations, what both are told by
pub mod config;
pub mod kinds;
pub mod ops;
pub mod optim;
pub mod params;
pub mod rng;

// the program, in parts that its tests and benchmarks reach; no promise to others
#[doc(hidden)]
pub mod batch;
#[doc(hidden)]
pub mod checkpoint;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod data;
#[doc(hidden)]
pub mod decode;
#[doc(hidden)]
pub mod events;
#[doc(hidden)]
pub mod exact;
#[doc(hidden)]
pub mod exit;
#[doc(hidden)]
pub mod fsio;
#[doc(hidden)]
pub mod interop;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod objective;
#[doc(hidden)]
pub mod ranks;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod run;
#[doc(hidden)]
pub mod scores;
#[doc(hidden)]
pub mod sentencepiece;
#[doc(hidden)]
pub mod shell;
#[doc(hidden)]
pub mod sweep;
#[doc(hidden)]
pub mod symptoms;
#[doc(hidden)]
pub mod tokenizer;
#[doc(hidden)]
pub mod train;
#[doc(hidden)]
pub mod units;
#[doc(hidden)]
pub mod world;
