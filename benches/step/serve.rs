//! The server of our own engine: the update of `train::Stepper` on a batch of random tokens.

use std::io::BufRead;
use std::time::Instant;

use anyhow::{bail, Result};
use candle_core::{DType, Device};
use serde_json::json;

use nmt_train::batch::{Batch, Sequences};
use nmt_train::config::{ModelConfig, ModelKind, OptimizerConfig, RnnConfig};
use nmt_train::model::{self, Model, Vocabulary};
use nmt_train::optim::{self, StepContext};
use nmt_train::rng::{stream, Purpose};
use nmt_train::train::{Stepper, Update};

use crate::shape::{Kind, Shape};
use crate::Args;

/// Steps before the first measured one, as in the peer.
const WARMUP: usize = 3;

/// The model of this shape on this device, with random weights.
pub(crate) fn model(shape: &Shape, device: &Device) -> candle_core::Result<Box<dyn Model>> {
    let (size, pad) = (shape.vocab, shape.vocab as u32 - 1);
    let vocabulary = Vocabulary { source_size: size, target_size: size, source_pad: pad, target_pad: pad };
    model::build(&config(shape), vocabulary, 1, DType::F32, device)
}

/// A value by the name that it has in a config.
fn of_config<T: serde::de::DeserializeOwned>(name: &str) -> Result<T> {
    Ok(serde_json::from_value(json!(name))?)
}

/// Answers each line `N` on stdin with the times of N steps, until `quit` or the end.
pub(crate) fn serve(args: &Args, shape: &Shape) -> Result<()> {
    nmt_train::machine::keep_candle_on_one_thread();
    nmt_train::machine::set_threads(args.threads)?;
    let base = nmt_train::machine::peak_memory_bytes();
    let model = model(shape, &nmt_train::machine::device(of_config(&args.device)?, of_config(&args.precision)?)?)?;
    let mut optimizer = optim::build(&OptimizerConfig::default(), DType::F32, model.params().device());
    let batch = [Some(batch(shape))];
    let world = nmt_train::world::World::alone();
    let mut sharing = nmt_train::train::Sharing::default();
    let mut done = 0;
    let mut steps = |count: usize| -> Result<(Vec<f64>, f64)> {
        let (mut seconds, mut loss) = (Vec::new(), 0.0);
        for _ in 0..count {
            let start = Instant::now();
            let mut stepper = Stepper {
                model: model.as_ref(),
                params: model.params(),
                optimizer: optimizer.as_mut(),
                ema: None,
                criterion: nmt_train::ops::Criterion::smoothed(0.1),
                clip_norm: Some(1.0),
                distance: None,
                world: &world,
                sharing: &mut sharing,
            };
            match stepper.update(&batch, done, &StepContext::new(3e-4, done, 1))? {
                Update::Done(stats) => loss = stats.loss / stats.tokens as f64,
                Update::NonFinite { parameter } => bail!("the gradient of {parameter} is not finite"),
            }
            done += 1;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok((seconds, loss))
    };
    steps(WARMUP)?;
    println!(
        "{}",
        json!({
            "ready": true,
            "version": format!("nmt-train {}", env!("CARGO_PKG_VERSION")),
            "parameters": model.params().elements(),
            "base_rss_mib": mib(base),
            "threads": rayon::current_num_threads(),
        })
    );
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim() == "quit" {
            break;
        }
        let (seconds, loss) = steps(line.trim().parse()?)?;
        println!(
            "{}",
            json!({"seconds": seconds, "loss": loss, "peak_rss_mib": mib(nmt_train::machine::peak_memory_bytes())})
        );
    }
    Ok(())
}

fn config(shape: &Shape) -> ModelConfig {
    let &Shape { d, heads, ff, layers, .. } = shape;
    let rnn = RnnConfig { hidden_size: d, embedding_size: d, ..RnnConfig::default() };
    let kind = match shape.kind {
        Kind::Transformer => ModelKind::Transformer,
        Kind::Gru => ModelKind::Rnn,
    };
    ModelConfig { kind, layers, d_model: d, d_ff: ff, heads, rnn, ..ModelConfig::default() }
}

/// Sentences of equal length, random tokens, `<pad>` among none of them.
pub(crate) fn batch(shape: &Shape) -> Batch {
    let mut rng = stream(1, Purpose::Text, 0);
    let mut side = || {
        let sentences: Vec<Vec<u32>> =
            (0..shape.batch).map(|_| (0..shape.len).map(|_| rng.below(shape.vocab - 1) as u32).collect()).collect();
        Sequences::pack(sentences.iter().map(Vec::as_slice))
    };
    Batch { source: side(), target: side(), pairs: (0..shape.batch as u64).collect() }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
