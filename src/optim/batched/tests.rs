//! The batched forms beside the forms for the CPU: same seeds, same gradients, the same weights but for rounding.

use candle_core::{DType, Device, Result, Tensor};

use super::super::{build, hessian2, Gradients, Optimizer, OptimizerState, StepContext};
use super::{Batched, Muon};
use crate::config::{Hessian2Config, Hessian2Scope, MuonConfig, MuonScale, OptimizerConfig, OptimizerName};
use crate::params::{Init, ParamKind, ParamSet};
use crate::rng::{stream, Purpose};

mod soap;

const TABLE: ParamKind = ParamKind::Table { tied: false };

/// Weights of several shapes: one that is split evenly by blocks of 8, one unevenly, some alike, with and without a frozen
/// row; tables alike and alone.
const SPECS: [(&str, ParamKind, &[usize], Option<usize>); 11] = [
    ("even", ParamKind::Matrix, &[24, 16], None),
    ("bias", ParamKind::Vector, &[24], None),
    ("uneven", ParamKind::Matrix, &[11, 20], Some(7)),
    ("small", ParamKind::Matrix, &[8, 8], Some(2)),
    ("turned", ParamKind::Recurrent, &[16, 24], None),
    ("source", TABLE, &[13, 6], Some(12)),
    ("target", TABLE, &[13, 6], None),
    ("other", TABLE, &[21, 8], Some(0)),
    ("wide", ParamKind::Matrix, &[3, 30], None),
    ("late", ParamKind::Matrix, &[8, 8], None),
    ("late_table", TABLE, &[9, 5], None),
];

fn params(dtype: DType) -> Result<ParamSet> {
    let mut set = ParamSet::new(4, dtype, &Device::Cpu);
    for (name, kind, shape, frozen) in SPECS {
        set.add_with_frozen_row(name, kind, shape, Init::Normal(0.3), frozen)?;
    }
    Ok(set)
}

/// Of uneven size; tables with rows that are absent; at some steps nothing, or something that is no number.
fn gradients(set: &ParamSet, step: u64) -> Result<Gradients> {
    let mut tensors = Vec::new();
    for (index, param) in set.iter().enumerate() {
        let mut rng = stream(6, Purpose::Sample, step * 64 + index as u64);
        let dims = param.var.dims();
        let width = dims[dims.len() - 1];
        let mut values: Vec<f64> =
            (0..param.var.elem_count()).map(|i| rng.normal() * (1.0 + (i % width) as f64)).collect();
        if param.kind == TABLE {
            for row in values.chunks_mut(width) {
                if rng.uniform() < 0.5 {
                    row.fill(0.0);
                }
            }
        }
        match (param.name.as_str(), step % 100) {
            ("late" | "late_table", 0..5) | ("target" | "wide", 14) => values.fill(0.0),
            ("uneven", 9) => values[33] = f64::NAN,
            ("source", 11) => values[13] = f64::INFINITY,
            ("even", 17) => values.iter_mut().for_each(|x| *x *= 1e3),
            ("late", 20) => values.fill(f64::NAN),
            ("late", 21..24) => values.fill(0.0),
            _ => (),
        }
        tensors.push(Tensor::from_vec(values, dims, &Device::Cpu)?.to_dtype(set.dtype())?);
    }
    let gradients = Gradients { tensors };
    gradients.clear_frozen_rows(set)?;
    Ok(gradients)
}

fn list(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

fn agree(names: (&str, &str), a: &[f64], b: &[f64], tolerance: f64) {
    let size = b.iter().fold(1e-3, |a: f64, b| a.max(b.abs()));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        // Adam has no mask for what is no number
        assert!(
            (a - b).abs() <= tolerance * size || (a.is_nan() && b.is_nan()),
            "{}: {a} and {b} {}",
            names.0,
            names.1
        );
    }
}

/// One form with its own weights.
struct Run {
    params: ParamSet,
    optimizer: Box<dyn Optimizer>,
}

impl Run {
    fn new(optimizer: Box<dyn Optimizer>, dtype: DType) -> Result<Self> {
        Ok(Run { params: params(dtype)?, optimizer })
    }

    fn step(&mut self, step: u64) -> Result<()> {
        let context = StepContext { embedding_lr_scale: 3.0, ..StepContext::new(0.02, step, 5) };
        let gradients = gradients(&self.params, step)?;
        self.optimizer.step(&self.params, &gradients, &context)
    }

    fn agrees(&self, other: &Run, step: u64, tolerance: f64) -> Result<()> {
        let at = format!("at {step}");
        for (a, b) in self.params.iter().zip(&other.params) {
            agree((&a.name, &at), &list(&a.var)?, &list(&b.var)?, tolerance);
        }
        let (own, others) = (self.optimizer.health(), other.optimizer.health());
        assert_eq!(own.len(), others.len());
        for ((name, a), (other, b)) in own.iter().zip(&others) {
            assert_eq!(name, other);
            assert!((a - b).abs() <= 10.0 * tolerance * b.abs() || (a.is_nan() && b.is_nan()), "{name} {at}: {a} {b}");
        }
        Ok(())
    }
}

/// The same updates by both, from 97 on: the residual is looked at again, and the first failures come soon.
fn compare(make: impl Fn() -> [Box<dyn Optimizer>; 2], dtype: DType, tolerance: f64) -> Result<()> {
    let [host, batched] = make();
    assert_eq!(host.describe(), batched.describe());
    let (mut host, mut batched) = (Run::new(host, dtype)?, Run::new(batched, dtype)?);
    for step in 97..140 {
        host.step(step)?;
        batched.step(step)?;
        batched.agrees(&host, step, tolerance)?;
    }
    let health = |name: &str| batched.optimizer.health().iter().find(|(n, _)| n == name).map_or(0.0, |(_, x)| *x);
    assert!(health("resets") > 0.0, "something failed on the way");
    if dtype == DType::F64 {
        crossing(make, [host, batched], tolerance)?;
    }
    Ok(())
}

/// Each goes on from the state of the other.
fn crossing(make: impl Fn() -> [Box<dyn Optimizer>; 2], runs: [Run; 2], tolerance: f64) -> Result<()> {
    let states: Vec<OptimizerState> = runs.iter().map(|run| run.optimizer.state()).collect::<Result<_>>()?;
    let described = |state: &OptimizerState| {
        let tensors = state.tensors.iter().map(|(name, t)| format!("{name} {:?} {:?}", t.dims(), t.dtype()));
        let mut names: Vec<String> = tensors.chain(state.scalars.iter().map(|(name, _)| name.clone())).collect();
        names.sort();
        names
    };
    assert_eq!(described(&states[0]), described(&states[1]));
    let [host, batched] = make();
    let [from_batched, from_host] = [(host, &states[1]), (batched, &states[0])].map(|(mut optimizer, state)| {
        let params = params(DType::F64)?;
        for (param, from) in params.iter().zip(&runs[0].params) {
            param.var.set(&from.var.as_detached_tensor())?;
        }
        let mut copied = state.clone();
        for (_, tensor) in &mut copied.tensors {
            *tensor = tensor.copy()?;
        }
        optimizer.load_state(&params, copied)?;
        Ok::<Run, candle_core::Error>(Run { params, optimizer })
    });
    let (mut from_batched, mut from_host) = (from_batched?, from_host?);
    let [mut host, _] = runs;
    for step in 140..150 {
        host.step(step)?;
        from_batched.step(step)?;
        from_host.step(step)?;
        from_batched.agrees(&host, step, tolerance)?;
        from_host.agrees(&host, step, tolerance)?;
    }
    Ok(())
}

fn white(config: Hessian2Config, decay: f64) -> impl Fn() -> [Box<dyn Optimizer>; 2] {
    move || [hessian2::on_cpu(&config, decay, 0.02, DType::F64), hessian2::batched(&config, decay, 0.02)]
}

fn small_blocks() -> Hessian2Config {
    Hessian2Config { block_size: 8, trust: 0.6, ..Hessian2Config::default() }
}

#[test]
fn white_is_that_of_the_cpu() -> Result<()> {
    compare(white(small_blocks(), 0.1), DType::F64, 1e-9)
}

#[test]
fn large_steps_are_clipped_and_counted_alike() -> Result<()> {
    let [host, batched] = white(Hessian2Config { trust: 0.3, ..small_blocks() }, 0.1)();
    let (mut host, mut batched) = (Run::new(host, DType::F64)?, Run::new(batched, DType::F64)?);
    for step in 30..40 {
        host.step(step)?;
        batched.step(step)?;
        batched.agrees(&host, step, 1e-9)?;
    }
    assert!(host.optimizer.health().iter().any(|(name, x)| name == "trust_clips" && *x > 10.0));
    Ok(())
}

#[test]
fn white_of_a_fixed_rank_is_that_of_the_cpu() -> Result<()> {
    let config = Hessian2Config { rank: 6, nesterov: false, beta1: 0.8, curvature_beta: 0.1, ..small_blocks() };
    compare(white(config, 0.0), DType::F64, 1e-9)
}

#[test]
fn white_without_momentum_and_without_tables_is_that_of_the_cpu() -> Result<()> {
    let config = Hessian2Config { beta1: 0.0, scope: Hessian2Scope::Hidden, sketch_divisor: 1, ..small_blocks() };
    compare(white(config.clone(), 0.1), DType::F64, 1e-9)?;
    compare(white(Hessian2Config { scope: Hessian2Scope::Embeddings, ..config }, 0.1), DType::F64, 1e-9)
}

#[test]
fn white_in_f32_is_that_of_the_cpu() -> Result<()> {
    let config = small_blocks();
    let make = || [hessian2::on_cpu(&config, 0.1, 0.02, DType::F32), hessian2::batched(&config, 0.1, 0.02)];
    compare(make, DType::F32, 2e-3)
}

#[test]
fn muon_is_that_of_the_cpu() -> Result<()> {
    for (nesterov, scale) in [(true, MuonScale::MatchRmsAdamw), (false, MuonScale::Original)] {
        let muon = MuonConfig { nesterov, scale, ..MuonConfig::default() };
        let config = OptimizerConfig {
            name: OptimizerName::Muon,
            weight_decay: 0.1,
            lr: 0.02,
            muon: muon.clone(),
            ..OptimizerConfig::default()
        };
        let adam = (muon.beta1, muon.beta2, muon.eps);
        let make = || -> [Box<dyn Optimizer>; 2] {
            let batched = Batched::new(Muon::new(&muon), adam, 0.1, 0.02);
            [build(&config, DType::F64, &Device::Cpu), Box::new(batched)]
        };
        compare(make, DType::F64, 1e-9)?;
    }
    Ok(())
}

/// What was forgotten is as new.
#[test]
fn a_reset_forgets_everything() -> Result<()> {
    let [_, optimizer] = white(small_blocks(), 0.1)();
    let mut first = Run::new(optimizer, DType::F64)?;
    first.step(0)?;
    first.optimizer.reset();
    first.params = params(DType::F64)?;
    let [_, fresh] = white(small_blocks(), 0.1)();
    let mut fresh = Run::new(fresh, DType::F64)?;
    for step in 1..4 {
        first.step(step)?;
        fresh.step(step)?;
    }
    first.agrees(&fresh, 4, 0.0)
}

/// A model without a weight in scope is Adam's alone.
#[test]
fn without_a_matrix_there_is_only_adam() -> Result<()> {
    let config = Hessian2Config { scope: Hessian2Scope::Embeddings, ..small_blocks() };
    let mut weights: Vec<Vec<f64>> = Vec::new();
    for mut optimizer in white(config, 0.1)() {
        let set = params(DType::F64)?.subset(|param| param.kind != TABLE && param.name != "late");
        for step in 0..2 {
            optimizer.step(&set, &gradients(&set, step)?, &StepContext::new(0.01, step, 1))?;
            let state = optimizer.state()?;
            optimizer.load_state(&set, state)?;
        }
        weights.push(set.iter().map(|param| list(&param.var)).collect::<Result<Vec<_>>>()?.concat());
    }
    assert_eq!(weights[0], weights[1]);
    Ok(())
}
