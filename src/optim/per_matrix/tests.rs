//! Every rule in tensors, as on a device, beside itself on the CPU: same seeds, same gradients, the same weights but for
//! rounding.

use candle_core::{DType, Device, Result, Tensor};

use super::{Common, PerMatrix};
use crate::config::{
    Hessian2Config, Hessian2Scope, Hessian2Variant, MuonConfig, MuonScale, OptimizerConfig, OptimizerName,
};
use crate::ops::LinearInput;
use crate::optim::algebra::Batch;
use crate::optim::hessian2::{Kron, White};
use crate::optim::muon::Muon;
use crate::optim::soap::Soap;
use crate::optim::{build, Decay, Gradients, Optimizer, OptimizerState, StepContext};
use crate::params::{Init, ParamKind, ParamSet};
use crate::rng::{stream, Purpose};

mod soap;

const TABLE: ParamKind = ParamKind::Table { tied: false };

/// Weights of several shapes: one that is split evenly by blocks of 8, one unevenly, some alike, with and without a frozen
/// row; tables alike and alone.
const SPECS: [(&str, ParamKind, &[usize], Option<usize>); 13] = [
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
    ("small_bias", ParamKind::Vector, &[8], None),
    ("late_bias", ParamKind::Vector, &[8], None),
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

/// What weights and tables were applied to: some share a tensor, and some are seen late or not at all. Of the source
/// table, which is as large as the target's, nothing is seen.
fn inputs(set: &ParamSet, step: u64, partial: bool, dtype: DType) -> Result<Vec<LinearInput>> {
    let all: [(&[&str], usize, usize); 6] = [
        (&["even"], 16, 60),
        (&["small", "late", "other"], 8, 30),
        (&["uneven"], 20, 50),
        (&["wide"], 30, 64),
        (&["target"], 6, 45),
        (&["turned"], 24, 70),
    ];
    let mut found = Vec::new();
    for (index, (names, width, rows)) in all.into_iter().enumerate() {
        let seen = match names[0] {
            "target" => step >= 105,
            "turned" => step >= 110,
            "even" => !partial || step != 124,
            "wide" => !partial || step % 10 != 8,
            _ => true,
        };
        if !seen {
            continue;
        }
        let mut rng = stream(7, Purpose::Sample, step * 64 + index as u64);
        let mut values: Vec<f64> = (0..rows * width).map(|i| rng.normal() * (1.0 + 0.3 * (i % width) as f64)).collect();
        // columns that go together
        values.chunks_mut(width).for_each(|row| row[1] += 2.0 * row[0] - row[width - 1]);
        let input = Tensor::from_vec(values, (rows, width), &Device::Cpu)?.to_dtype(dtype)?;
        let var = |name: &&str| set.get(name).map(|param| param.var.as_tensor().clone());
        // two in one product, the third in another with the same tensor
        for names in names.chunks(2) {
            let weights = names.iter().filter_map(var).collect();
            let biases: &[&str] = match names[0] {
                "even" => &["bias"],
                "small" if step < 112 => &["small_bias"],
                "small" => &["small_bias", "late_bias"],
                _ => &[],
            };
            let biases = biases.iter().filter_map(var).collect();
            found.push(LinearInput { weights, biases, input: input.clone() });
        }
    }
    Ok(found)
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
    /// At some updates not all inputs are seen.
    partial: bool,
    /// Activations come in half the precision, and not only with its values.
    half: bool,
}

/// Weights whose state fails at some update from the 109th on. What is measured now and then goes by the age of a batch on
/// a device, by that of the weight on the CPU: `kron` and `soap` begin such a weight again in another way.
const RESET: [&str; 3] = ["uneven", "source", "late"];

impl Run {
    fn new(optimizer: Box<dyn Optimizer>, dtype: DType) -> Result<Self> {
        Ok(Run { params: params(dtype)?, optimizer, partial: false, half: false })
    }

    fn step(&mut self, step: u64) -> Result<()> {
        let mut inputs = if self.optimizer.needs_inputs(step) {
            let dtype = if self.params.dtype() == DType::F64 { DType::F64 } else { DType::BF16 };
            inputs(&self.params, step, self.partial, dtype)?
        } else {
            Vec::new()
        };
        if !self.half {
            // what is shared stays one tensor
            let mut last: Option<(Tensor, Tensor)> = None;
            for LinearInput { input, .. } in &mut inputs {
                let there = last.take().filter(|(from, _)| from.id() == input.id()).map(|(_, to)| to);
                let full = there.map_or_else(|| input.to_dtype(self.params.dtype()), Ok)?;
                last = Some((std::mem::replace(input, full.clone()), full));
            }
        }
        let context = StepContext { embedding_lr_scale: 3.0, ..StepContext::new(0.02, step, 5) };
        let context = StepContext { inputs: &inputs, ..context };
        self.optimizer.step(&self.params, &gradients(&self.params, step)?, &context)
    }

    fn agrees(&self, other: &Run, step: u64, tolerance: f64) -> Result<()> {
        let at = format!("at {step}");
        let kron = self.optimizer.describe().contains("kron");
        let apart = |name: &str| kron && step >= 109 && RESET.contains(&name);
        for (a, b) in self.params.iter().zip(&other.params) {
            if apart(&a.name) {
                assert!(list(&a.var)?.iter().all(|x| x.is_finite()), "{} {at}", a.name);
                continue;
            }
            agree((&a.name, &at), &list(&a.var)?, &list(&b.var)?, tolerance);
        }
        let (own, others) = (self.optimizer.health(), other.optimizer.health());
        assert_eq!(own.len(), others.len());
        for ((name, a), (other, b)) in own.iter().zip(&others) {
            assert_eq!(name, other);
            // probes go by the age of a batch as well
            let input = name.starts_with("input");
            if (input && self.partial) || (!input && apart(RESET[0])) {
                continue;
            }
            let most = 10.0 * tolerance * b.abs().max(0.1);
            assert!((a - b).abs() <= most || (a.is_nan() && b.is_nan()), "{name} {at}: {a} {b}");
        }
        Ok(())
    }
}

/// The same updates by both, from 97 on: the residual is looked at again, and the first failures come soon.
fn compare(make: impl Fn() -> [Box<dyn Optimizer>; 2], dtype: DType, tolerance: f64) -> Result<()> {
    compare_some(make, dtype, tolerance, false)
}

fn compare_some(make: impl Fn() -> [Box<dyn Optimizer>; 2], dtype: DType, tolerance: f64, partial: bool) -> Result<()> {
    let [host, batched] = make();
    assert_eq!(host.describe(), batched.describe());
    let (mut host, mut batched) = (Run::new(host, dtype)?, Run::new(batched, dtype)?);
    (host.partial, batched.partial, batched.half) = (partial, partial, dtype != DType::F64);
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
        Ok::<Run, candle_core::Error>(Run { params, optimizer, partial: runs[0].partial, half: false })
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

/// On the CPU and in tensors.
fn forms(config: OptimizerConfig, dtype: DType) -> impl Fn() -> [Box<dyn Optimizer>; 2] {
    move || {
        let of = |adam| Common {
            adam,
            decay: Decay { weights: config.weight_decay(), tables: config.embedding_weight_decay() },
            lr: config.lr,
        };
        let (muon, soap, h) = (config.muon.clone(), config.soap.clone(), config.hessian2.clone());
        let hessian2 = of((h.beta1, h.beta2, h.eps));
        let batched: Box<dyn Optimizer> = match (config.name, h.variant) {
            (OptimizerName::Muon, _) => {
                let common = of((muon.beta1, muon.beta2, muon.eps));
                Box::new(PerMatrix::<_, Batch>::new(Muon { config: muon }, common))
            }
            (OptimizerName::Soap, _) => {
                let common = of((soap.beta1, soap.beta2, soap.eps));
                Box::new(PerMatrix::<_, Batch>::new(Soap { config: soap }, common))
            }
            (_, Hessian2Variant::White) => Box::new(PerMatrix::<_, Batch>::new(White { config: h }, hessian2)),
            (_, Hessian2Variant::Kron) => Box::new(PerMatrix::<_, Batch>::new(Kron::new(&h), hessian2)),
        };
        [build(&config, dtype, &Device::Cpu), batched]
    }
}

fn hessian2(hessian2: Hessian2Config, weight_decay: f64, dtype: DType) -> impl Fn() -> [Box<dyn Optimizer>; 2] {
    let config = OptimizerConfig {
        name: OptimizerName::Hessian2,
        weight_decay: weight_decay.into(),
        lr: 0.02,
        hessian2,
        ..Default::default()
    };
    forms(config, dtype)
}

fn white(config: Hessian2Config, decay: f64) -> impl Fn() -> [Box<dyn Optimizer>; 2] {
    hessian2(config, decay, DType::F64)
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
    compare(hessian2(small_blocks(), 0.1, DType::F32), DType::F32, 2e-3)
}

/// From the second update on, which is the first with inputs; blocks of 8 columns and all rows; samples of long inputs.
fn of_inputs(variant: Hessian2Variant) -> Hessian2Config {
    Hessian2Config { variant, statistics_rows: 48, ..small_blocks() }
}

#[test]
fn kron_is_that_of_the_cpu() -> Result<()> {
    compare(white(of_inputs(Hessian2Variant::Kron), 0.1), DType::F64, 1e-9)
}

#[test]
fn kron_with_parts_of_the_inputs_is_that_of_the_cpu() -> Result<()> {
    let config = Hessian2Config { statistics_freq: 1, truncation: 0.05, rank: 6, ..of_inputs(Hessian2Variant::Kron) };
    compare_some(white(config, 0.0), DType::F64, 1e-9, true)
}

#[test]
fn kron_in_f32_is_that_of_the_cpu() -> Result<()> {
    compare(hessian2(of_inputs(Hessian2Variant::Kron), 0.1, DType::F32), DType::F32, 2e-3)
}

#[test]
fn muon_is_that_of_the_cpu() -> Result<()> {
    for (nesterov, scale) in [(true, MuonScale::MatchRmsAdamw), (false, MuonScale::Original)] {
        let muon = MuonConfig { nesterov, scale, ..MuonConfig::default() };
        let config = OptimizerConfig {
            name: OptimizerName::Muon,
            weight_decay: 0.1.into(),
            lr: 0.02,
            muon,
            ..OptimizerConfig::default()
        };
        compare(forms(config, DType::F64), DType::F64, 1e-9)?;
    }
    Ok(())
}

/// What was forgotten is as new.
#[test]
fn a_reset_forgets_everything() -> Result<()> {
    use Hessian2Variant::{Kron, White};
    for variant in [White, Kron] {
        let [_, optimizer] = white(of_inputs(variant), 0.1)();
        let mut first = Run::new(optimizer, DType::F64)?;
        first.step(0)?;
        first.optimizer.reset();
        first.params = params(DType::F64)?;
        let [_, fresh] = white(of_inputs(variant), 0.1)();
        let mut fresh = Run::new(fresh, DType::F64)?;
        for step in 1..6 {
            first.step(step)?;
            fresh.step(step)?;
        }
        first.agrees(&fresh, 6, 0.0)?;
    }
    Ok(())
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
