//! `soap` in tensors beside itself on the CPU: equal while no state is reset, sound after.

use super::*;
use crate::config::SoapConfig;

fn forms(soap: SoapConfig, dtype: DType) -> impl Fn() -> [Box<dyn Optimizer>; 2] {
    let name = OptimizerName::Soap;
    super::forms(
        OptimizerConfig { name, weight_decay: 0.1.into(), lr: 0.02, soap, ..OptimizerConfig::default() },
        dtype,
    )
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

/// Both from the state after the first update on the CPU: eigenvectors of factors without full rank are not unique.
fn begun(make: impl Fn() -> [Box<dyn Optimizer>; 2], dtype: DType, first: u64) -> Result<[Run; 2]> {
    let [host, batched] = make();
    assert_eq!(host.describe(), batched.describe());
    let (mut host, mut batched) = (Run::new(host, dtype)?, Run::new(batched, dtype)?);
    host.step(first)?;
    batched.step(first)?;
    batched.agrees(&host, first, 0.0)?;
    let mut state = host.optimizer.state()?;
    for (_, tensor) in &mut state.tensors {
        *tensor = tensor.copy()?;
    }
    batched.optimizer.load_state(&batched.params, state)?;
    Ok([host, batched])
}

fn equal(soap: SoapConfig, dtype: DType, tolerance: f64) -> Result<[Run; 2]> {
    let [mut host, mut batched] = begun(forms(soap, dtype), dtype, 0)?;
    for step in finite_steps().skip(1) {
        host.step(step)?;
        batched.step(step)?;
        batched.agrees(&host, step, tolerance)?;
    }
    Ok([host, batched])
}

/// The first update: factors and bases of each weight in a batch are those of its own gradient.
#[test]
fn bases_begin_with_eigenvectors() -> Result<()> {
    let [_, batched] = forms(often(), DType::F64)();
    let mut batched = Run::new(batched, DType::F64)?;
    batched.step(0)?;
    let state = batched.optimizer.state()?;
    let tensor = |name: &str| state.tensors.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor.clone()).unwrap();
    for weight in ["small", "even", "target", "other", "turned"] {
        for side in ["left", "right"] {
            let (factor, basis) = (tensor(&format!("{weight}.{side}")), tensor(&format!("{weight}.{side}_basis")));
            let n = factor.dim(0)?;
            if n == 0 {
                continue;
            }
            let turned = list(&basis.t()?.matmul(&factor)?.matmul(&basis)?)?;
            let values: Vec<f64> = (0..n).map(|i| turned[i * n + i]).collect();
            let largest = values[0];
            assert!(
                largest > 0.0 && values.windows(2).all(|pair| pair[0] >= pair[1] - 1e-9 * largest),
                "{weight} {side}"
            );
            assert!((0..n * n).all(|at| at / n == at % n || turned[at].abs() < 1e-9 * largest), "{weight} {side}");
        }
    }
    Ok(())
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
    let [mut host, mut batched] = begun(forms(often(), DType::F64), DType::F64, 97)?;
    let weights = |run: &Run, name: &str| list(&run.params.get(name).unwrap().var);
    for step in 98..140 {
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
            let basis = tensor(&format!("{side}_basis"));
            let n = basis.dim(0)?;
            if n == 0 {
                continue;
            }
            let eye = Tensor::eye(n, DType::F64, &Device::Cpu)?;
            let gram = basis.t()?.matmul(&basis)?;
            agree((name, "orthonormal"), &list(&gram)?, &list(&eye)?, 1e-9);
            assert!(list(&basis)? != list(&eye)?, "{name} {side}");
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
