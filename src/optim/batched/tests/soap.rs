//! `soap` on batches beside the form for the CPU: equal while no state is reset, sound after.

use super::*;
use crate::config::SoapConfig;
use crate::optim::batched::Soap;

fn forms(soap: SoapConfig, dtype: DType) -> impl Fn() -> [Box<dyn Optimizer>; 2] {
    let config =
        OptimizerConfig { name: OptimizerName::Soap, weight_decay: 0.1, lr: 0.02, soap, ..OptimizerConfig::default() };
    move || {
        let adam = (config.soap.beta1, config.soap.beta2, config.soap.eps);
        let batched = Batched::new(Soap::new(&config.soap), adam, 0.1, 0.02);
        [build(&config, dtype, &Device::Cpu), Box::new(batched)]
    }
}

/// Sides of 20 and more have no basis. Factors have full rank when they are first turned: of others, the columns of S·Q
/// that should be zeros are rounding, and so is the basis there.
fn often() -> SoapConfig {
    SoapConfig { precondition_frequency: 5, max_precondition_dim: 16, ..SoapConfig::default() }
}

/// Updates whose gradients are finite, some of them zeros from the first on.
fn finite_steps() -> impl Iterator<Item = u64> {
    (0..9).chain(24..60)
}

fn equal(soap: SoapConfig, dtype: DType, tolerance: f64) -> Result<[Run; 2]> {
    let [host, batched] = forms(soap, dtype)();
    assert_eq!(host.describe(), batched.describe());
    let (mut host, mut batched) = (Run::new(host, dtype)?, Run::new(batched, dtype)?);
    for step in finite_steps() {
        host.step(step)?;
        batched.step(step)?;
        batched.agrees(&host, step, tolerance)?;
    }
    Ok([host, batched])
}

#[test]
fn without_a_reset_it_is_that_of_the_cpu() -> Result<()> {
    let runs = equal(often(), DType::F64, 1e-9)?;
    crossing(forms(often(), DType::F64), runs, 1e-9)?;
    equal(SoapConfig { precondition_frequency: 1, max_precondition_dim: 8, ..often() }, DType::F64, 1e-9)?;
    let all_sides = SoapConfig { precondition_frequency: 10, max_precondition_dim: 99, ..often() };
    equal(SoapConfig { beta1: 0.0, beta2: 0.99, ..all_sides }, DType::F64, 1e-9)?;
    equal(SoapConfig { max_precondition_dim: 1, ..often() }, DType::F64, 1e-9)?;
    Ok(())
}

#[test]
fn in_f32_it_is_that_of_the_cpu() -> Result<()> {
    equal(often(), DType::F32, 1e-5)?;
    Ok(())
}

/// A weight whose state was reset goes on soundly; the others as if nothing had been.
#[test]
fn a_reset_is_of_one_parameter() -> Result<()> {
    const RESET: [&str; 3] = ["uneven", "source", "late"];
    let [host, batched] = forms(often(), DType::F64)();
    let (mut host, mut batched) = (Run::new(host, DType::F64)?, Run::new(batched, DType::F64)?);
    let weights = |run: &Run, name: &str| list(&run.params.get(name).unwrap().var);
    for step in 97..140 {
        let before = RESET.map(|name| weights(&batched, name).unwrap());
        host.step(step)?;
        batched.step(step)?;
        for (a, b) in batched.params.iter().zip(&host.params) {
            if step < 109 || !RESET.contains(&a.name.as_str()) {
                agree((&a.name, &format!("at {step}")), &list(&a.var)?, &list(&b.var)?, 1e-9);
            }
        }
        for (name, before) in RESET.iter().zip(before) {
            let after = weights(&batched, name)?;
            assert!(after.iter().all(|x| x.is_finite()), "{name} at {step}");
            assert!(step < 130 || after != before, "{name} stands still at {step}");
        }
    }
    let resets = |run: &Run| run.optimizer.health().into_iter().find(|(name, _)| name == "resets");
    assert_eq!(resets(&host), resets(&batched));
    assert!(resets(&host).is_some_and(|(_, count)| count == 3.0));

    let (state, expected) = (batched.optimizer.state()?, host.optimizer.state()?);
    for name in RESET {
        for scalar in ["k", "begun"] {
            let name = format!("{name}.{scalar}");
            assert_eq!(state.scalar(&name)?, expected.scalar(&name)?, "{name}");
        }
        let tensor = |part: &str| {
            let name = format!("{name}.{part}");
            state.tensors.iter().find(|(n, _)| *n == name).map(|(_, tensor)| tensor.clone()).unwrap()
        };
        for side in ["left", "right"] {
            let (factor, basis) = (tensor(side), tensor(&format!("{side}_basis")));
            let n = basis.dim(0)?;
            if n == 0 {
                continue;
            }
            let eye = Tensor::eye(n, DType::F64, &Device::Cpu)?;
            let gram = basis.t()?.matmul(&basis)?;
            agree((name, "orthonormal"), &list(&gram)?, &list(&eye)?, 1e-9);
            assert!(list(&basis)? != list(&eye)?, "{name} {side}");
            // columns are of different sizes, so their eigenvectors are soon found
            let turned = list(&basis.t()?.matmul(&factor)?.matmul(&basis)?)?;
            let beside = |x: &[f64]| (0..n * n).filter(|k| k / n != k % n).map(|k| x[k] * x[k]).sum::<f64>();
            assert!(side == "left" || beside(&turned) < 0.5 * beside(&list(&factor)?), "{name}");
        }
    }

    // and goes on from what it saved
    let [_, mut again] = forms(often(), DType::F64)();
    let params = params(DType::F64)?;
    for (param, from) in params.iter().zip(&batched.params) {
        param.var.set(&from.var.as_detached_tensor())?;
    }
    again.load_state(&params, state)?;
    let mut again = Run { params, ..Run::new(again, DType::F64)? };
    for step in 140..150 {
        batched.step(step)?;
        again.step(step)?;
        again.agrees(&batched, step, 0.0)?;
    }
    Ok(())
}

/// A state that the host form saved between a reset and the next gradient.
#[test]
fn a_state_without_a_basis_is_taken() -> Result<()> {
    let [host, batched] = forms(often(), DType::F64)();
    let mut host = Run::new(host, DType::F64)?;
    for step in 105..110 {
        host.step(step)?;
    }
    let mut batched = Run::new(batched, DType::F64)?;
    for (param, from) in batched.params.iter().zip(&host.params) {
        param.var.set(&from.var.as_detached_tensor())?;
    }
    batched.optimizer.load_state(&batched.params, host.optimizer.state()?)?;
    for step in 110..120 {
        if step == 111 {
            continue;
        }
        let before = list(&batched.params.get("uneven").unwrap().var)?;
        host.step(step)?;
        batched.step(step)?;
        for (a, b) in batched.params.iter().zip(&host.params).filter(|(a, _)| a.name != "uneven") {
            agree((&a.name, &format!("at {step}")), &list(&a.var)?, &list(&b.var)?, 1e-9);
        }
        let after = list(&batched.params.get("uneven").unwrap().var)?;
        assert!(after.iter().all(|x| x.is_finite()) && after != before, "at {step}");
    }
    Ok(())
}
