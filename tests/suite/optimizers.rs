//! The battery that every optimizer passes, one row an optimizer.

use candle_core::{DType, Device, Result, Tensor};
use nmt_train::config::{OptimizerConfig, OptimizerName};
use nmt_train::ops::LinearInput;
use nmt_train::optim::{self, clip, global_norm, Accumulator, Gradients, Optimizer, OptimizerState, StepContext};
use nmt_train::params::{Init, ParamKind, ParamSet};
use nmt_train::rng::{stream, Purpose};
use serde_json::Value;

use super::optimizer_references::*;
use super::toy::Toy;

use super::optimizer_rows::{configs, rows};

/// Parameters `(name, kind, shape)` with given values.
fn params(dtype: DType, specs: &[(&str, ParamKind, &[usize], Vec<f64>)]) -> Result<ParamSet> {
    let mut set = ParamSet::new(1, dtype, &Device::Cpu);
    for (name, kind, shape, values) in specs {
        set.add(name, *kind, shape, Init::Zeros)?;
        set.get(name).unwrap().var.set(&tensor(values, shape, dtype)?)?;
    }
    Ok(set)
}

fn tensor(values: &[f64], shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

fn weights(set: &ParamSet, name: &str) -> Vec<f64> {
    let flat = set.get(name).unwrap().var.flatten_all().unwrap();
    flat.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn build(config: &OptimizerConfig, set: &ParamSet) -> Box<dyn Optimizer> {
    optim::build(config, set.dtype(), set.device())
}

fn at(step: u64, lr: f64) -> StepContext<'static> {
    StepContext::new(lr, step, 1)
}

fn random(step: u64, n: usize) -> Vec<f64> {
    let mut rng = stream(5, Purpose::Probe, step);
    (0..n).map(|_| f64::from(rng.normal() as f32)).collect()
}

/// Four parameters, one of each kind.
fn four(dtype: DType, names: [&str; 4]) -> Result<ParamSet> {
    four_of(dtype, names, false)
}

fn four_of(dtype: DType, names: [&str; 4], square: bool) -> Result<ParamSet> {
    let spec = |name: &str| -> (&'static str, ParamKind, &'static [usize], Vec<f64>) {
        match name {
            "a" if square => ("a", ParamKind::Matrix, &[20, 20], random(1000, 400)),
            "c" if square => ("c", ParamKind::Recurrent, &[4, 4], random(1002, 16)),
            "d" if square => ("d", ParamKind::Table { tied: false }, &[5, 5], random(1003, 25)),
            "a" => ("a", ParamKind::Matrix, &[24, 20], random(1000, 480)),
            "b" => ("b", ParamKind::Vector, &[24], random(1001, 24)),
            "d" => ("d", ParamKind::Table { tied: false }, &[11, 12], random(1003, 132)),
            _ => ("c", ParamKind::Recurrent, &[4, 2], random(1002, 8)),
        }
    };
    params(dtype, &names.map(spec))
}

/// Gradients for [`four`], the same for a name whatever its place.
fn gradients(set: &ParamSet, step: u64) -> Result<Gradients> {
    let mut tensors = Vec::new();
    for param in set {
        let stream = step * 4 + u64::from(param.name.as_bytes()[0]);
        let mut values = random(stream, param.var.elem_count());
        if param.name == "d" {
            // tokens that are not in the batch
            let columns = param.var.dim(1)?;
            let absent = step as usize % 5 * columns;
            values[absent..absent + columns].fill(0.0);
        }
        tensors.push(tensor(&values, param.var.dims(), set.dtype())?);
    }
    Ok(Gradients { tensors })
}

/// What the linear map of `a` was applied to: 32 rows with a mean and uneven widths.
fn input(set: &ParamSet, step: u64) -> Result<Vec<LinearInput>> {
    let Some(param) = set.get("a") else { return Ok(Vec::new()) };
    let width = param.var.dims()[1];
    let values: Vec<f64> =
        random(step + 2000, 32 * width).iter().enumerate().map(|(i, x)| 0.5 + x * (i % width + 1) as f64).collect();
    let biases = set.get("b").iter().map(|b| b.var.as_tensor().clone()).collect();
    let input = tensor(&values, &[32, width], set.dtype())?;
    Ok(vec![LinearInput { weights: vec![param.var.as_tensor().clone()], biases, input }])
}

/// One update with everything that any optimizer wants.
fn update(optimizer: &mut dyn Optimizer, set: &ParamSet, gradients: &Gradients, step: u64, lr: f64) -> Result<()> {
    update_at(optimizer, set, gradients, at(step, lr))
}

/// [`update`] with a context of one's own.
fn update_at(
    optimizer: &mut dyn Optimizer,
    set: &ParamSet,
    gradients: &Gradients,
    context: StepContext<'_>,
) -> Result<()> {
    let step = context.step;
    let inputs = if optimizer.needs_inputs(step) { input(set, step)? } else { Vec::new() };
    optimizer.step(set, gradients, &StepContext { inputs: &inputs, ..context })
}

#[test]
fn every_optimizer_finds_the_minimum_of_a_parabola_and_of_rosenbrock() -> Result<()> {
    type Slope = fn(f64, f64) -> [f64; 2];
    let parabola: Slope = |x, y| [2.0 * (x - 1.0), 6.0 * (y - 1.0)];
    let rosenbrock: Slope = |x, y| [2.0 * (x - 1.0) - 400.0 * x * (y - x * x), 200.0 * (y - x * x)];
    for row in rows() {
        for (slope, (lr, steps)) in [(parabola, row.parabola), (rosenbrock, row.rosenbrock)] {
            if steps == 0 {
                continue;
            }
            let set = params(DType::F64, &[("w", ParamKind::Matrix, &[1, 2], vec![-0.5, 0.8])])?;
            let mut optimizer = build(&OptimizerConfig { weight_decay: 0.0.into(), ..row.config.clone() }, &set);
            for step in 0..steps {
                let at_w = weights(&set, "w");
                let gradient = tensor(&slope(at_w[0], at_w[1]), &[1, 2], DType::F64)?;
                let rate = if step > steps * 3 / 4 { lr * 0.1 } else { lr };
                optimizer.step(&set, &Gradients { tensors: vec![gradient] }, &at(step, rate))?;
            }
            let end = weights(&set, "w");
            let distance = (end[0] - 1.0).hypot(end[1] - 1.0);
            assert!(distance < 1e-2, "{}: {end:?}", optimizer.describe());
        }
    }
    Ok(())
}

#[test]
fn every_optimizer_equals_its_reference_over_100_random_steps() -> Result<()> {
    for mut row in rows() {
        row.config.embedding_weight_decay = 0.03.into();
        for (dtype, tolerance) in [(DType::F32, row.tolerance.0), (DType::F64, row.tolerance.1)] {
            let set = four_of(dtype, ["a", "b", "c", "d"], row.square)?;
            let mut optimizer = build(&row.config, &set);
            let mut expected: Vec<Vec<f64>> = set.iter().map(|p| weights(&set, &p.name)).collect();
            let mut references: Vec<_> = set.iter().map(row.reference).collect();
            for step in 0..100 {
                let gradients = gradients(&set, step)?;
                let inputs = input(&set, step)?;
                let input = inputs[0].input.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
                let input = M::of(32, 20, &input);
                for (i, param) in set.iter().enumerate() {
                    let g = gradients.tensors[i].flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
                    let weight_decay = match param.kind {
                        ParamKind::Matrix | ParamKind::Recurrent => row.config.weight_decay(),
                        ParamKind::Table { .. } => row.config.embedding_weight_decay(),
                        ParamKind::Vector => 0.0,
                    };
                    let dims = param.var.dims();
                    let moment = Moment {
                        name: &param.name,
                        kind: param.kind,
                        rows: dims[0],
                        columns: dims.get(1).copied().unwrap_or(1),
                        step,
                        seed: 1,
                        lr: 1e-3,
                        weight_decay,
                        input: (param.name == "a").then_some(&input),
                    };
                    references[i].step(&moment, &mut expected[i], &g);
                }
                update(optimizer.as_mut(), &set, &gradients, step, 1e-3)?;
            }
            for (param, expected) in set.iter().zip(&expected) {
                let difference = relative(&weights(&set, &param.name), expected);
                assert!(difference < tolerance, "{} {dtype:?} {}: {difference}", optimizer.describe(), param.name);
            }
        }
    }
    Ok(())
}

/// Largest difference against the largest expected value.
fn relative(got: &[f64], expected: &[f64]) -> f64 {
    let size = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    got.iter().zip(expected).fold(0.0, |a: f64, (x, y)| a.max((x - y).abs())) / size
}

/// Values of PyTorch, made by `scripts/torch-golden-optimizers.py`.
#[test]
fn first_order_optimizers_equal_pytorch() -> Result<()> {
    let golden: Value = serde_json::from_str(include_str!("../fixtures/torch-optimizers.json")).unwrap();
    let numbers = |v: &Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let config: OptimizerConfig = serde_json::from_value(case["config"].clone()).unwrap();
        for (dtype, key, tolerance) in [(DType::F32, "f32", 1e-6), (DType::F64, "f64", 1e-14)] {
            let (first, second) = (numbers(&golden["initial"][0]), numbers(&golden["initial"][1]));
            let matrix = ParamKind::Matrix;
            let set = params(dtype, &[("a", matrix, &[3, 4], first), ("b", matrix, &[2, 5], second)])?;
            let mut optimizer = build(&config, &set);
            let mut norms = Vec::new();
            for (step, pair) in golden["gradients"].as_array().unwrap().iter().enumerate() {
                let g = |i: usize, shape: &[usize]| tensor(&numbers(&pair[i]), shape, dtype);
                let gradients = Gradients { tensors: vec![g(0, &[3, 4])?, g(1, &[2, 5])?] };
                let max_norm = case["max_norm"].as_f64();
                if config.name == OptimizerName::ClippedAdam {
                    assert_eq!(config.clip_norm(0.0), max_norm);
                }
                if let Some(max_norm) = max_norm {
                    norms.push(global_norm(&set, &gradients).unwrap());
                    clip(&gradients, norms[step], max_norm)?;
                }
                optimizer.step(&set, &gradients, &at(step as u64, config.lr))?;
            }
            for (name, i) in [("a", 0), ("b", 1)] {
                let difference = relative(&weights(&set, name), &numbers(&case[key]["weights"][i]));
                assert!(difference < tolerance, "{} {key} {name}: {difference}", case["name"]);
            }
            for (norm, expected) in norms.iter().zip(numbers(&case[key]["norms"])) {
                assert!((norm - expected).abs() < tolerance * expected, "{norm} {expected}");
            }
        }
    }
    Ok(())
}

#[test]
fn saving_and_restoring_in_the_middle_changes_no_bit() -> Result<()> {
    let spared = OptimizerConfig {
        name: OptimizerName::Adamw,
        embedding_weight_decay: 0.1.into(),
        embedding_decay_power: 0.5,
        ..OptimizerConfig::default()
    };
    for config in configs().into_iter().chain([spared]) {
        let run = |interrupted: bool| -> Result<Vec<Vec<f64>>> {
            let mut set = four(DType::F32, ["a", "b", "c", "d"])?;
            let mut optimizer = build(&config, &set);
            for step in 0..10 {
                if interrupted && step == 5 {
                    let saved = copy(&optimizer.state()?)?;
                    let other = four(DType::F32, ["d", "c", "a", "b"])?;
                    for param in &set {
                        other.get(&param.name).unwrap().var.set(&param.var)?;
                    }
                    set = other;
                    optimizer = build(&config, &set);
                    optimizer.load_state(&set, saved)?;
                }
                update(optimizer.as_mut(), &set, &gradients(&set, step)?, step, 0.01)?;
            }
            Ok(["a", "b", "c", "d"].map(|name| weights(&set, name)).to_vec())
        };
        assert_eq!(run(false)?, run(true)?, "{:?}", config.name);
    }
    Ok(())
}

fn copy(state: &OptimizerState) -> Result<OptimizerState> {
    let tensors = state.tensors.iter().map(|(name, t)| Ok((name.clone(), t.copy()?))).collect::<Result<_>>()?;
    Ok(OptimizerState { tensors, scalars: state.scalars.clone() })
}

#[test]
fn state_of_another_optimizer_is_refused_by_name() -> Result<()> {
    let set = four(DType::F32, ["a", "b", "c", "d"])?;
    let mut sgd = build(&rows()[4].config, &set);
    sgd.step(&set, &gradients(&set, 0)?, &at(0, 0.1))?;
    let message = build(&rows()[0].config, &set).load_state(&set, sgd.state()?).unwrap_err().to_string();
    assert!(message.contains("has no t;"), "{message}");
    let mut adam = build(&rows()[0].config, &set);
    adam.step(&set, &gradients(&set, 0)?, &at(0, 0.1))?;
    let mut state = adam.state()?;
    state.tensors.retain(|(name, _)| name != "b.v");
    let message = build(&rows()[0].config, &set).load_state(&set, state).unwrap_err().to_string();
    assert!(message.contains("no b.v"), "{message}");
    Ok(())
}

#[test]
fn a_reset_forgets_everything() -> Result<()> {
    for config in configs() {
        let (used, fresh) = (four(DType::F32, ["a", "b", "c", "d"])?, four(DType::F32, ["a", "b", "c", "d"])?);
        let (mut reset, mut new) = (build(&config, &used), build(&config, &used));
        update(reset.as_mut(), &used, &gradients(&used, 0)?, 0, 0.01)?;
        reset.reset();
        for (a, b) in used.iter().zip(&fresh) {
            a.var.set(&b.var)?;
        }
        update(reset.as_mut(), &used, &gradients(&used, 1)?, 1, 0.01)?;
        update(new.as_mut(), &fresh, &gradients(&fresh, 1)?, 1, 0.01)?;
        assert_eq!(weights(&used, "a"), weights(&fresh, "a"), "{}", new.describe());
    }
    Ok(())
}

#[test]
fn the_order_of_parameters_does_not_matter() -> Result<()> {
    for config in configs() {
        let run = |names: [&str; 4]| -> Result<Vec<Vec<f64>>> {
            let set = four(DType::F32, names)?;
            let mut optimizer = build(&config, &set);
            for step in 0..5 {
                update(optimizer.as_mut(), &set, &gradients(&set, step)?, step, 0.01)?;
            }
            Ok(["a", "b", "c", "d"].map(|name| weights(&set, name)).to_vec())
        };
        assert_eq!(run(["a", "b", "c", "d"])?, run(["d", "c", "b", "a"])?);
    }
    Ok(())
}

#[test]
fn four_micro_batches_equal_one_batch() -> Result<()> {
    let data = tensor(&random(7, 32), &[8, 4], DType::F64)?;
    for config in configs() {
        let run = |parts: usize| -> Result<Vec<f64>> {
            let set = params(DType::F64, &[("w", ParamKind::Matrix, &[4, 3], random(8, 12))])?;
            let w = set.get("w").unwrap().var.as_tensor().clone();
            let mut optimizer = build(&config, &set);
            for step in 0..5 {
                let mut sum = Accumulator::default();
                for part in data.chunk(parts, 0)? {
                    let loss = part.matmul(&w)?.tanh()?.sum_all()?;
                    sum.add(Gradients::collect(&set, &mut loss.backward()?).unwrap())?;
                }
                let gradients = sum.take(1.0 / 8.0)?.unwrap();
                optimizer.step(&set, &gradients, &at(step, 0.01))?;
            }
            Ok(weights(&set, "w"))
        };
        let difference = relative(&run(4)?, &run(1)?);
        assert!(difference < 1e-12, "{difference}");
    }
    Ok(())
}

#[test]
fn a_zero_gradient_moves_nothing_but_decay() -> Result<()> {
    for config in configs() {
        for (weight_decay, embedding_weight_decay) in [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1)] {
            let set = four(DType::F32, ["a", "b", "c", "d"])?;
            let before = ["a", "b", "d"].map(|name| weights(&set, name));
            let zero = Gradients { tensors: set.iter().map(|p| p.var.zeros_like()).collect::<Result<_>>()? };
            let decays = (weight_decay.into(), f64::into(embedding_weight_decay));
            let config = OptimizerConfig { weight_decay: decays.0, embedding_weight_decay: decays.1, ..config.clone() };
            let mut optimizer = build(&config, &set);
            for step in 0..3 {
                optimizer.step(&set, &zero, &at(step, 0.01))?;
            }
            assert_eq!(weights(&set, "a") == before[0], weight_decay == 0.0, "{}", optimizer.describe());
            assert_eq!(weights(&set, "b"), before[1]);
            assert_eq!(weights(&set, "d") == before[2], embedding_weight_decay == 0.0, "{}", optimizer.describe());
        }
    }
    Ok(())
}

/// `optimizer.embedding_decay_power`: every optimizer moves the table as it would without decay, less a share of each row that
/// is the smaller the more seldom the row is seen; what is saved in the middle goes on to the bit.
#[test]
fn decay_of_tables_spares_rows_that_are_seldom_seen() -> Result<()> {
    let (power, decay, lr) = (0.5, 0.2, 0.01);
    for config in configs().into_iter().filter(|config| config.name != OptimizerName::ScheduleFree) {
        let spared =
            OptimizerConfig { embedding_weight_decay: decay.into(), embedding_decay_power: power, ..config.clone() };
        let set = four(DType::F64, ["a", "b", "c", "d"])?;
        let gradients = gradients(&set, 0)?;
        let before = weights(&set, "d");
        update(build(&spared, &set).as_mut(), &set, &gradients, 0, lr)?;
        let after = weights(&set, "d");
        let squares = gradients.tensors[3].sqr()?.mean(1)?.to_vec1::<f64>()?;
        let mean = squares.iter().sum::<f64>() / squares.len() as f64;
        let shares: Vec<f64> = squares.iter().map(|r| (r / mean).powf(power).min(1.0)).collect();
        assert!(shares.contains(&0.0) && shares.contains(&1.0) && shares.iter().any(|s| *s > 0.1 && *s < 0.9));

        // the same update, without decay, of a table that is shorter already
        let set = four(DType::F64, ["a", "b", "c", "d"])?;
        let shorter: Vec<f64> =
            before.iter().enumerate().map(|(at, w)| w * (1.0 - lr * decay * shares[at / 12])).collect();
        set.get("d").unwrap().var.set(&tensor(&shorter, &[11, 12], DType::F64)?)?;
        let config = OptimizerConfig { embedding_weight_decay: 0.0.into(), ..config };
        update(build(&config, &set).as_mut(), &set, &gradients, 0, lr)?;
        assert!(relative(&after, &weights(&set, "d")) < 1e-12, "{:?}", spared.name);
    }
    Ok(())
}

/// `optimizer.embedding_lr_scale`: the table moves as it would with that rate, the others as they would without.
#[test]
fn the_rate_of_tables_has_a_factor_of_its_own() -> Result<()> {
    for config in configs() {
        let moved = |lr: f64, embedding_lr_scale: f64| -> Result<[Vec<f64>; 4]> {
            let set = four(DType::F64, ["a", "b", "c", "d"])?;
            let mut optimizer = build(&config, &set);
            // soap only looks at the first gradient
            for step in 0..2 {
                let context = StepContext { embedding_lr_scale, ..at(step, lr) };
                update_at(&mut *optimizer, &set, &gradients(&set, step)?, context)?;
            }
            Ok(["a", "b", "c", "d"].map(|name| weights(&set, name)))
        };
        let (scaled, plain, twice) = (moved(0.01, 2.0)?, moved(0.01, 1.0)?, moved(0.02, 1.0)?);
        let name = build(&config, &four(DType::F64, ["a", "b", "c", "d"])?).describe();
        assert_eq!(scaled[..3], plain[..3], "{name}");
        assert_eq!(scaled[3], twice[3], "{name}");
        assert_ne!(scaled[3], plain[3], "{name}");
    }
    Ok(())
}

#[test]
fn the_frozen_row_does_not_move_even_under_decay() -> Result<()> {
    for config in configs() {
        let mut set = ParamSet::new(1, DType::F32, &Device::Cpu);
        set.add_with_frozen_row("e", ParamKind::Matrix, &[4, 3], Init::Zeros, Some(2))?;
        let var = &set.get("e").unwrap().var;
        var.set(&tensor(&random(1, 12), &[4, 3], DType::F32)?)?;
        let before = weights(&set, "e");
        let mut optimizer = build(&config, &set);
        for step in 0..3 {
            let gradients = Gradients { tensors: vec![tensor(&random(step, 12), &[4, 3], DType::F32)?] };
            gradients.clear_frozen_rows(&set)?;
            assert_eq!(gradients.tensors[0].get(2)?.to_vec1::<f32>()?, [0.0; 3]);
            optimizer.step(&set, &gradients, &at(step, 0.1))?;
        }
        let after = weights(&set, "e");
        for i in 0..12 {
            assert_eq!(before[i] == after[i], (6..9).contains(&i), "{} {i}", optimizer.describe());
        }
    }
    Ok(())
}

#[test]
fn missing_and_non_finite_gradients_name_the_parameter() -> Result<()> {
    let set = four(DType::F32, ["a", "b", "c", "d"])?;
    let loss = set.get("a").unwrap().var.sum_all()?;
    let message = Gradients::collect(&set, &mut loss.backward()?).err().unwrap().to_string();
    assert!(message.contains("parameter b"), "{message}");
    for bad in [f32::NAN, f32::INFINITY] {
        let gradients = gradients(&set, 0)?;
        gradients.tensors[1].slice_set(&Tensor::new(&[bad], &Device::Cpu)?, 0, 3)?;
        let message = global_norm(&set, &gradients).unwrap_err().to_string();
        assert_eq!(message, "the gradient of b holds NaN or infinity");
    }
    Ok(())
}

#[test]
fn adamw_agrees_with_candle_nn() -> Result<()> {
    use candle_nn::Optimizer as _;
    let set = four(DType::F64, ["a", "b", "c", "d"])?;
    let w = &set.get("a").unwrap().var;
    let theirs = candle_core::Var::from_tensor(&w.as_detached_tensor())?;
    let settings = candle_nn::ParamsAdamW { lr: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-9, weight_decay: 0.1 };
    let mut their_optimizer = candle_nn::AdamW::new(vec![theirs.clone()], settings)?;
    let mut ours = build(&rows()[1].config, &set);
    for step in 0..50 {
        let gradients = gradients(&set, step)?;
        let mut store = theirs.sum_all()?.backward()?;
        store.insert(&theirs, gradients.tensors[0].clone());
        their_optimizer.step(&store)?;
        ours.step(&set, &gradients, &at(step, 0.01))?;
    }
    let difference = relative(&weights(&set, "a"), &theirs.flatten_all()?.to_vec1()?);
    assert!(difference < 1e-12, "{difference}");
    Ok(())
}

/// Each at a rate that suits it; the loss of a model that has learnt nothing is 4.
#[test]
fn every_optimizer_learns_a_toy_translation() {
    let variant = |name: &str| format!("--set optimizer.name=hessian2 --set optimizer.hessian2.variant={name}");
    let named = |name: &str| format!("--set optimizer.name={name}");
    let mut losses = Vec::new();
    for (settings, lr) in [
        (named("adam"), 0.02),
        (named("adamw"), 0.02),
        (named("clipped-adam"), 0.02),
        (named("sgd --set optimizer.sgd.momentum=0.9"), 0.3),
        (named("schedule-free --set schedule.kind=constant"), 0.05),
        (named("hvr"), 0.02),
        (named("hvr --set optimizer.hvr.form=diag"), 0.02),
        (named("muon"), 0.02),
        (named("soap"), 0.02),
        (variant("white"), 0.02),
        (variant("white --set optimizer.hessian2.rank=2"), 0.02),
        (variant("white --set optimizer.hessian2.scope=hidden"), 0.02),
        (variant("white --set optimizer.hessian2.scope=embeddings"), 0.02),
        (variant("kron"), 0.02),
    ] {
        let toy = Toy::new();
        let lr = format!("--set optimizer.lr={lr}");
        let done = toy.run(&format!("-q --config toy.toml {settings} {lr} --final-json -")).exits(0);
        let end: Value = serde_json::from_str(&done.out).unwrap();
        losses.push((end["best_nll"].as_f64().unwrap(), settings));
    }
    assert!(losses.iter().all(|(nll, _)| *nll < 2.5), "{losses:#?}");
}
