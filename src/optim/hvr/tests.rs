//! Whole steps; the parts are tested in their files, all forms against their formulas in `tests/suite`.

use super::super::{Adam, AdamRule};
use super::*;
use crate::ops::{check, Precision};
use crate::params::{Init, ParamKind};
use crate::rng::{stream, Purpose};
use candle_core::{DType, Device};
use std::collections::BTreeMap;

fn params() -> Result<ParamSet> {
    let mut params = ParamSet::new(1, DType::F64, &Device::Cpu);
    params.add("a", ParamKind::Matrix, &[6, 40], Init::Normal(1.0))?;
    params.add("b", ParamKind::Vector, &[6], Init::Normal(1.0))?;
    params.add_with_frozen_row("e", ParamKind::Table { tied: true }, &[5, 4], Init::Normal(1.0), Some(2))?;
    Ok(params)
}

fn gradients(params: &ParamSet, step: u64) -> Result<Gradients> {
    let gradients = normal(params, step)?;
    gradients.clear_frozen_rows(params)?;
    Ok(gradients)
}

fn normal(params: &ParamSet, step: u64) -> Result<Gradients> {
    let mut rng = stream(7, Purpose::Probe, step);
    let mut of = |p: &Param| {
        let values: Vec<f64> = (0..p.var.elem_count()).map(|_| rng.normal()).collect();
        Tensor::from_vec(values, p.var.shape(), &Device::Cpu)
    };
    Ok(Gradients { tensors: params.iter().map(&mut of).collect::<Result<_>>()? })
}

fn values(params: &ParamSet, name: &str) -> Vec<f64> {
    params.get(name).unwrap().var.flatten_all().unwrap().to_vec1().unwrap()
}

fn train(optimizer: &mut dyn Optimizer, steps: u64) -> Result<ParamSet> {
    let params = params()?;
    for step in 0..steps {
        optimizer.step(&params, &gradients(&params, step)?, &StepContext::new(0.01, step, 1))?;
    }
    Ok(params)
}

fn adamw() -> Adam {
    let HvrConfig { beta1, beta2, eps, .. } = HvrConfig::default();
    Adam::new(AdamRule {
        name: "adamw",
        beta1,
        beta2,
        eps,
        decay: Decay { weights: 0.1, tables: 0.0 },
        decoupled: true,
        lr: 0.01,
    })
}

#[test]
fn heavy_damping_is_adamw_and_vectors_are_always() -> Result<()> {
    let expected = train(&mut adamw(), 40)?;
    for form in [HvrForm::Inv, HvrForm::Isqrt] {
        for (lambda_rel, same) in [(1e13, true), (1.0, false)] {
            let config = HvrConfig { form, lambda_rel, ..HvrConfig::default() };
            let got = train(&mut Hvr::new(config, Decay { weights: 0.1, tables: 0.0 }, 0.01), 40)?;
            for name in ["a", "b", "e"] {
                let close = values(&got, name).iter().zip(values(&expected, name)).all(|(x, y)| (x - y).abs() < 1e-10);
                assert_eq!(close, same || name == "b", "{form:?} {lambda_rel} {name}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_gram_matrix_stays_that_of_the_window() -> Result<()> {
    for form in [HvrForm::Isqrt, HvrForm::Literal] {
        let config = HvrConfig { form, window: 5, ..HvrConfig::default() };
        let mut hvr = Hvr::new(config, Decay::default(), 0.01);
        train(&mut hvr, 23)?;
        let state: BTreeMap<String, Tensor> = hvr.state()?.tensors.into_iter().collect();
        for name in ["a", "e"] {
            let gamma = &state[&format!("{name}.gamma")];
            let expected = gamma.matmul(&gamma.t()?)?;
            let difference = (&state[&format!("{name}.gram")] - &expected)?.abs()?.max_all()?.to_scalar::<f64>()?;
            assert!(difference < 1e-12 * expected.max_all()?.to_scalar::<f64>()?, "{difference}");
        }
        assert_eq!(state.contains_key("b.gamma"), form == HvrForm::Literal, "the literal form leaves nothing to Adam");
        assert_eq!(state["a.gamma"].dims(), [5, 240]);
    }
    Ok(())
}

#[test]
fn health_tells_windows_failures_and_the_mean_squares_of_the_documents_program() -> Result<()> {
    let names = |hvr: &Hvr| hvr.health().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let mut hvr = Hvr::new(HvrConfig::default(), Decay::default(), 0.01);
    assert!(hvr.health().is_empty());
    train(&mut hvr, 20)?;
    let expected = ["window", "effective_rank", "lambda_rel", "cholesky_failures", "cleared_windows", "psd_shifts"];
    assert_eq!(names(&hvr), expected);
    let health = hvr.health();
    assert_eq!(health[0].1, 16.0);
    assert!((2.0..=15.0).contains(&health[1].1), "{health:?}");
    assert!((health[2].1 - 10.0).abs() < 1e-9);
    assert_eq!(health[3].1 + health[4].1 + health[5].1, 0.0);

    let literal = |form| HvrConfig { form, ..HvrConfig::default() };
    let mut hvr = Hvr::new(literal(HvrForm::Literal), Decay::default(), 0.01);
    train(&mut hvr, 3)?;
    assert_eq!(names(&hvr), ["window", "effective_rank"]);

    let mut hvr = Hvr::new(literal(HvrForm::Code), Decay::default(), 0.01);
    let params = train(&mut hvr, 3)?;
    assert_eq!(names(&hvr), ["mean_square.a", "mean_square.b", "mean_square.e"]);
    let last = gradients(&params, 2)?.tensors[1].sqr()?.mean_all()?.to_scalar::<f64>()?;
    assert!((hvr.health()[1].1 - last).abs() < 1e-12);
    Ok(())
}

#[test]
fn a_window_that_can_not_be_solved_is_forgotten_and_the_step_is_adams() -> Result<()> {
    let config = HvrConfig { window: 4, ..HvrConfig::default() };
    let mut hvr = Hvr::new(config.clone(), Decay { weights: 0.1, tables: 0.0 }, 0.01);
    let params = train(&mut hvr, 6)?;
    let mut state = hvr.state()?;
    let gram = state.tensors.iter_mut().find(|(name, _)| name == "a.gram").unwrap();
    gram.1 = (&gram.1 * f64::NAN)?;
    hvr.load_state(&params, state)?;
    let before = values(&params, "a");
    hvr.step(&params, &gradients(&params, 6)?, &StepContext::new(0.01, 6, 1))?;
    assert!(values(&params, "a").iter().zip(&before).all(|(x, y)| x.is_finite() && x != y));
    let health: BTreeMap<String, f64> = hvr.health().into_iter().collect();
    assert_eq!(health["cleared_windows"], 1.0);
    for step in 7..12 {
        hvr.step(&params, &gradients(&params, step)?, &StepContext::new(0.01, step, 1))?;
    }
    let state: BTreeMap<String, Tensor> = hvr.state()?.tensors.into_iter().collect();
    let difference = (state["a.gamma"].matmul(&state["a.gamma"].t()?)? - &state["a.gram"])?;
    assert!(difference.abs()?.max_all()?.to_scalar::<f64>()? < 1e-9, "the new window is whole");
    assert_eq!(hvr.health().iter().find(|(name, _)| name == "cleared_windows").unwrap().1, 1.0);
    Ok(())
}

#[test]
fn state_of_another_window_is_refused_by_name() -> Result<()> {
    let mut hvr = Hvr::new(HvrConfig { window: 4, ..HvrConfig::default() }, Decay::default(), 0.01);
    let params = train(&mut hvr, 2)?;
    let message = Hvr::new(HvrConfig::default(), Decay::default(), 0.01)
        .load_state(&params, hvr.state()?)
        .unwrap_err()
        .to_string();
    assert!(message.contains("a.gamma is F64 [4, 240], expected F64 [16, 240]"), "{message}");
    let diag = HvrConfig { form: HvrForm::Diag, ..HvrConfig::default() };
    let message = Hvr::new(HvrConfig::default(), Decay::default(), 0.01)
        .load_state(&params, {
            let mut hvr = Hvr::new(diag, Decay::default(), 0.01);
            train(&mut hvr, 2)?;
            hvr.state()?
        })
        .unwrap_err()
        .to_string();
    assert!(message.contains("has no a.m;"), "{message}");
    Ok(())
}

#[test]
fn a_direction_of_the_diagonal_stays_bounded_when_gradients_come_and_go() -> Result<()> {
    // elements that see one gradient in 40 updates, as rare words do, of every size
    let mut params = ParamSet::new(1, DType::F32, &Device::Cpu);
    params.add("e", ParamKind::Table { tied: false }, &[40, 2], Init::Zeros)?;
    let mut hvr = Hvr::new(HvrConfig { form: HvrForm::Diag, ..HvrConfig::default() }, Decay::default(), 1.0);
    let read = || params.get("e").unwrap().var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for step in 0..200u64 {
        let mut g = vec![1e-7f32; 80];
        g[2 * (step % 40) as usize] = 10f32.powi(-((step % 7) as i32));
        g[1 + 2 * (step % 40) as usize] = 0.0;
        let before = read();
        let gradient = Tensor::from_vec(g, (40, 2), &Device::Cpu)?;
        hvr.step(&params, &Gradients { tensors: vec![gradient] }, &StepContext::new(1.0, step, 1))?;
        let most = read().iter().zip(&before).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(most < 1.5, "{step}: {most}");
    }
    Ok(())
}

/// All forms, over tensors of several chunks, with a frozen row, decay and a window that goes round: the GPU beside the CPU,
/// from a state of the CPU on.
#[test]
#[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
fn a_gpu_does_what_the_cpu_does() -> Result<()> {
    let gpu = check::gpu(Precision::F32);
    let params = |device: &Device| -> Result<ParamSet> {
        let mut params = ParamSet::new(1, DType::F32, device);
        params.add("a", ParamKind::Matrix, &[75, 140], Init::Normal(1.0))?;
        params.add("b", ParamKind::Vector, &[70], Init::Normal(1.0))?;
        params.add_with_frozen_row("e", ParamKind::Table { tied: true }, &[50, 33], Init::Normal(1.0), Some(49))?;
        Ok(params)
    };
    let step = |hvr: &mut Hvr, params: &ParamSet, step: u64| {
        let mut gradients = normal(params, step)?;
        for gradient in &mut gradients.tensors {
            *gradient = gradient.to_dtype(DType::F32)?.to_device(params.device())?;
        }
        gradients.clear_frozen_rows(params)?;
        hvr.step(params, &gradients, &StepContext::new(0.01, step, 1))
    };
    let read = |params: &ParamSet| -> Result<Vec<f32>> {
        let all = params.iter().map(|p| p.var.to_device(&Device::Cpu)?.flatten_all()?.to_vec1());
        Ok(all.collect::<Result<Vec<Vec<f32>>>>()?.concat())
    };
    let forms = [HvrForm::Inv, HvrForm::Isqrt, HvrForm::Literal, HvrForm::Diag, HvrForm::DiagLiteral, HvrForm::Code];
    let all = forms.map(|form| (form, HvrTruncation::None));
    for (form, truncation) in all.into_iter().chain([(HvrForm::Diag, HvrTruncation::Entries)]) {
        let config = HvrConfig { form, truncation, window: 6, threshold: 0.1, ..HvrConfig::default() };
        let new = || Hvr::new(config.clone(), Decay { weights: 0.1, tables: 0.0 }, 0.01);
        let (on_cpu, on_gpu) = (params(&Device::Cpu)?, params(&gpu)?);
        let (mut cpu, mut other) = (new(), new());
        for at in 0..4 {
            step(&mut cpu, &on_cpu, at)?;
        }
        let mut state = cpu.state()?;
        for (_, tensor) in &mut state.tensors {
            *tensor = tensor.copy()?;
        }
        other.load_state(&on_gpu, state)?;
        for (to, from) in on_gpu.iter().zip(&on_cpu) {
            to.var.set(&from.var.to_device(&gpu)?)?;
        }
        for at in 4..20 {
            step(&mut cpu, &on_cpu, at)?;
            step(&mut other, &on_gpu, at)?;
        }
        let (got, expected) = (read(&on_gpu)?, read(&on_cpu)?);
        // the literal form's weights grow
        let size = expected.iter().fold(1.0, |size: f32, x| size.max(x.abs()));
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size;
        assert!(worst < 2e-5, "{form:?} {truncation:?}: {worst:e} of {size}");
        let (a, b) = (other.health(), cpu.health());
        assert!(a.iter().zip(&b).all(|(a, b)| (a.1 - b.1).abs() <= 1e-4 * b.1.abs()), "{form:?}: {a:?} {b:?}");
        let (a, b) = (other.state()?, cpu.state()?);
        for ((name, a), (_, b)) in a.tensors.iter().zip(&b.tensors) {
            let size = b.to_dtype(DType::F64)?.abs()?.max_all()?.to_scalar::<f64>()?.max(1e-3);
            let difference = (a.to_device(&Device::Cpu)? - b)?.to_dtype(DType::F64)?.abs()?.max_all()?;
            // scores begin with −∞
            let difference = difference.to_scalar::<f64>()?;
            assert!(name.ends_with(".scores") || difference < 1e-4 * size, "{form:?} {name}: {difference:e}");
        }
    }
    Ok(())
}
