//! One training step (forward, backward, clip, Adam) beside PyTorch's, on the same shapes, in the same minutes.
//!
//! ```text
//! cargo bench --bench step                                              ours alone, the reference step
//! cargo bench --bench step -- --python PYTHON --compile                 beside torch eager and torch.compile
//! cargo bench --bench step -- --python PYTHON --preset gru              reference | gru | base
//! cargo bench --bench step -- --python PYTHON --len 128 --batch 16      any size of a preset can be changed
//! cargo bench --features cuda --bench step -- --python PYTHON --compile --preset base --batch 400 \\
//!     --device cuda --precision bf16                                    on a GPU, 25 600 target tokens
//! cargo bench --bench step -- --other OLD_EXECUTABLE                    beside another build of this benchmark
//! cargo bench --bench step -- --optimizers --batch 256                  what each optimizer's update costs
//! benches/sweep.sh --python PYTHON                                      length 16…256, vocabulary 4k…64k
//! ```
//!
//! Each candidate is a process of its own that has warmed up and then waits. In each of `--rounds` rounds the floating-
//! point roof is measured, then every candidate does `--steps` steps, in an order that rotates: what else the machine
//! does hits all alike. A round is repeated when other processes took over 5 % of the cores in a part of it, as far as
//! `--patience` allows. Printed are medians over rounds of the round's median step; ratios are taken within a round, with their
//! smallest and largest value. Peak memory is the process's high-water mark; "over base" is without what the process
//! held before it made its model (for PyTorch: after `import torch`).
//!
//! GFLOP counts the matrix products of the Transformer (three per weight and token; attention's own products, norms,
//! softmax and Adam are not counted): 92.8 GFLOP for the reference step. The last line is JSON.
//!
//! PYTHON is an interpreter with torch and numpy. The peer is `benches/peers/torch_step.py`; the driver checks that both
//! sides have the same number of parameters.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the result of a benchmark")]

mod driver;
mod machine;
mod optimizers;
mod serve;
mod shape;
mod table;

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;

/// As in src/main.rs: what is measured is the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A training step beside PyTorch's; see the head of benches/step/main.rs.
#[derive(Parser, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    shape: shape::ShapeArgs,
    /// Computing threads of every candidate.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Steps a candidate and round.
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// cpu, cuda or cuda:N, for every candidate.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// f32, tf32 or bf16 (PyTorch: autocast), for every candidate.
    #[arg(long, default_value = "f32", value_parser = ["f32", "tf32", "bf16"])]
    precision: String,
    /// Seconds to wait in all for a quiet machine, and to repeat disturbed rounds.
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// Interpreter with torch: adds PyTorch eager.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Adds torch.compile.
    #[arg(long, requires = "python")]
    compile: bool,
    /// Another build of this benchmark, as a further candidate; may be given again.
    #[arg(long)]
    other: Vec<PathBuf>,
    /// Instead of whole steps: the update of every optimizer on the same gradients, over Adam's, as a share of a step.
    #[arg(long)]
    optimizers: bool,
    /// Be the server of our engine: the protocol is that of benches/peers/torch_step.py.
    #[arg(long)]
    serve: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    nmt_train::ops::keep_freed_memory();
    let args = Args::parse();
    let shape = args.shape.shape();
    match () {
        () if args.serve => serve::serve(&args, &shape),
        () if args.optimizers => optimizers::compare(&args, &shape),
        () => driver::drive(&args, &shape),
    }
}
