//! What the update of each optimizer costs: all of them on the gradients of the same batch, in turn, in one process.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::json;

use nmt_train::config::{Hessian2Config, Hessian2Variant, OptimizerConfig, OptimizerName};
use nmt_train::model::Forward;
use nmt_train::objective;
use nmt_train::ops;
use nmt_train::optim::{self, Gradients, Optimizer, StepContext};
use nmt_train::params::ParamSet;

use crate::shape::Shape;
use crate::{serve, Args};

/// Updates before the first measured one: soap decomposes at its first, kron looks at its inputs more often in the first 20.
const WARMUP: usize = 20;
/// Where in a run the updates pretend to be: past the beginning, which costs more.
const STEP: u64 = 1000;

/// One optimizer and its times.
struct Candidate {
    name: String,
    optimizer: Box<dyn Optimizer>,
    seconds: Vec<f64>,
    /// Elements of its state.
    state: usize,
}

/// Prints a table: seconds of an update, those over Adam's as a share of forward + backward + Adam, state over Adam's.
pub(crate) fn compare(args: &Args, shape: &Shape) -> Result<()> {
    nmt_train::machine::keep_candle_on_one_thread();
    nmt_train::machine::set_threads(args.threads)?;
    let model = serve::model(shape, &Device::Cpu)?;
    let batch = serve::batch(shape);
    let mut candidates = candidates();
    let mut gradient_seconds = Vec::new();
    let per_round = args.steps.max(20);
    let mut last = None;
    for round in 0..WARMUP + args.rounds * per_round {
        if last.is_none() || round >= WARMUP {
            let start = Instant::now();
            last = Some(rayon_scope(|| gradients(model.as_ref(), &batch, shape))?);
            if round >= WARMUP {
                gradient_seconds.push(start.elapsed().as_secs_f64());
            }
        }
        let Some((gradients, inputs)) = &last else { continue };
        let norm = optim::global_norm(model.params(), gradients)?;
        optim::clip(gradients, norm, 1.0)?;
        let (first, count) = (round % candidates.len(), candidates.len());
        for i in 0..count {
            let candidate = &mut candidates[(first + i) % count];
            // so small that the weights stay where they are
            let mut context = StepContext::new(1e-12, STEP + round as u64, 1);
            context.inputs = inputs;
            let start = Instant::now();
            rayon_scope(|| Ok(candidate.optimizer.step(model.params(), gradients, &context)?))?;
            if round >= WARMUP {
                candidate.seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    for candidate in &mut candidates {
        candidate.state = elements(candidate.optimizer.as_ref())?;
    }
    print(args, model.params(), &candidates, mean(&gradient_seconds))
}

/// On a thread of the pool, as in training.
fn rayon_scope<R: Send>(work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let mut result = None;
    rayon::scope(|_| result = Some(work()));
    result.context("no result")?
}

fn gradients(
    model: &dyn nmt_train::model::Model,
    batch: &nmt_train::batch::Batch,
    shape: &Shape,
) -> Result<(Gradients, Vec<ops::LinearInput>)> {
    let forward = Forward::train(1, 0);
    let (loss, tape) =
        ops::record(|| objective::loss(model, batch, &forward, ops::Criterion::smoothed(0.1), shape.tokens()))?;
    let inputs = tape.linear_inputs();
    Ok((Gradients::collect(model.params(), &mut tape.backward(&loss.loss)?)?, inputs))
}

fn candidates() -> Vec<Candidate> {
    use Hessian2Variant::{Kron, White};

    let plain = |name| OptimizerConfig { name, ..OptimizerConfig::default() };
    let hessian2 = |variant| OptimizerConfig {
        hessian2: Hessian2Config { variant, ..Hessian2Config::default() },
        ..plain(OptimizerName::Hessian2)
    };
    let configs = [
        ("adam", plain(OptimizerName::Adam)),
        ("sgd", plain(OptimizerName::Sgd)),
        ("schedule-free", plain(OptimizerName::ScheduleFree)),
        ("hvr isqrt", plain(OptimizerName::Hvr)),
        ("muon", plain(OptimizerName::Muon)),
        ("soap", plain(OptimizerName::Soap)),
        ("hessian2 white", hessian2(White)),
        ("hessian2 kron", hessian2(Kron)),
    ];
    let candidate = |(name, config): (&str, OptimizerConfig)| Candidate {
        name: name.to_string(),
        optimizer: optim::build(&config, DType::F32, &Device::Cpu),
        seconds: Vec::new(),
        state: 0,
    };
    configs.into_iter().map(candidate).collect()
}

fn elements(optimizer: &dyn Optimizer) -> Result<usize> {
    Ok(optimizer.state()?.tensors.iter().map(|(_, tensor): &(String, Tensor)| tensor.elem_count()).sum())
}

/// The mean: what is done every tenth update belongs to the cost.
fn mean(seconds: &[f64]) -> f64 {
    seconds.iter().sum::<f64>() / seconds.len().max(1) as f64
}

fn print(args: &Args, params: &ParamSet, candidates: &[Candidate], gradient: f64) -> Result<()> {
    let adam = candidates.first().context("adam comes first")?;
    let step = gradient + mean(&adam.seconds);
    println!(
        "{} parameters, {} threads: forward and backward {:.1} ms in the mean",
        params.elements(),
        args.threads,
        1e3 * gradient
    );
    println!(
        "{:16} {:>10} {:>18} {:>10} {:>16}",
        "optimizer", "update ms", "over adam, % step", "state", "state over adam"
    );
    let mut rows = Vec::new();
    for candidate in candidates {
        let own = mean(&candidate.seconds);
        let over = 100.0 * (own - mean(&adam.seconds)) / step;
        let state = candidate.state as f64 / adam.state as f64;
        println!("{:16} {:>10.2} {over:>18.1} {:>10} {state:>16.2}", candidate.name, 1e3 * own, candidate.state);
        rows.push(json!({ "optimizer": candidate.name, "update_seconds": own, "over_adam_percent": over, "state_over_adam": state }));
    }
    println!("{}", json!({ "gradient_seconds": gradient, "threads": args.threads, "rows": rows }));
    Ok(())
}
