//! An optimizer that computes on the host, for parameters that lie on another device: weights, gradients and the inputs of
//! linear maps are copied to the host, the update is made there as for a model on the CPU, bit for bit, and the weights are
//! copied back.
//!
//! Every update waits for the device and moves three times the parameters between the two: for optimizers of comparisons
//! whose arithmetic (eigenvectors, windows of gradients, measured pairs) has no form of its own on an accelerator. Frozen
//! rows, decay and the rate are the inner optimizer's. Its state lies on the host, so checkpoints are the same.

use candle_core::{DType, Device, Result, Tensor};

use super::{Gradients, Optimizer, OptimizerState, StepContext};
use crate::ops::LinearInput;
use crate::params::{Init, Param, ParamSet};

/// See the module.
pub(super) struct OnHost {
    inner: Box<dyn Optimizer>,
    /// The parameters on the host, from the first update on.
    mirror: Option<ParamSet>,
}

impl OnHost {
    pub(super) fn new(inner: Box<dyn Optimizer>) -> Self {
        OnHost { inner, mirror: None }
    }

    /// `inner` for parameters on `device`.
    pub(super) fn unless_cpu(inner: Box<dyn Optimizer>, device: &Device) -> Box<dyn Optimizer> {
        match device {
            Device::Cpu => inner,
            _ => Box::new(OnHost::new(inner)),
        }
    }

    /// Takes the mirror out, with the present weights in it.
    fn filled(&mut self, params: &ParamSet) -> Result<ParamSet> {
        let fits = |mirror: &ParamSet| {
            mirror.len() == params.len() && mirror.iter().zip(params).all(|(own, param)| own.name == param.name)
        };
        let mirror = match self.mirror.take().filter(fits) {
            Some(mirror) => mirror,
            None => mirrored(params)?,
        };
        for (own, param) in mirror.iter().zip(params) {
            own.var.set(&to_host(&param.var.as_detached_tensor())?)?;
        }
        Ok(mirror)
    }
}

/// Variables of the same names, kinds and shapes on the host.
fn mirrored(params: &ParamSet) -> Result<ParamSet> {
    let mut mirror = ParamSet::new(0, params.dtype(), &Device::Cpu);
    for Param { name, kind, var, frozen_row } in params {
        mirror.add_with_frozen_row(name, *kind, var.dims(), Init::Zeros, *frozen_row)?;
    }
    Ok(mirror)
}

fn to_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.contiguous()
}

fn gradients_to_host(gradients: &Gradients) -> Result<Gradients> {
    Ok(Gradients { tensors: gradients.tensors.iter().map(to_host).collect::<Result<_>>()? })
}

fn write_back(mirror: &ParamSet, params: &ParamSet) -> Result<()> {
    for (own, param) in mirror.iter().zip(params) {
        param.var.set(&own.var.as_detached_tensor().to_device(param.var.device())?)?;
    }
    Ok(())
}

/// The same inputs on the host, of the mirror's weights; what several maps share stays one tensor.
fn inputs_to_host(inputs: &[LinearInput], params: &ParamSet, mirror: &ParamSet) -> Result<Vec<LinearInput>> {
    let own = |tensor: &Tensor| {
        let pair = params.iter().zip(mirror).find(|(param, _)| param.var.id() == tensor.id());
        pair.map_or_else(|| tensor.clone(), |(_, own)| own.var.as_tensor().clone())
    };
    let mut moved: Vec<(&Tensor, Tensor)> = Vec::new();
    let mut all = Vec::with_capacity(inputs.len());
    for LinearInput { weights, biases, input } in inputs {
        let there = moved.iter().find(|(from, _)| from.id() == input.id()).map(|(_, to)| to.clone());
        let there = match there {
            Some(there) => there,
            None => {
                // activations may be of half the precision; statistics are of the parameters' type
                let narrow = matches!(input.dtype(), DType::BF16 | DType::F16);
                let there = to_host(&input.detach())?;
                let there = if narrow { there.to_dtype(params.dtype())? } else { there };
                moved.push((input, there.clone()));
                there
            }
        };
        all.push(LinearInput {
            weights: weights.iter().map(own).collect(),
            biases: biases.iter().map(own).collect(),
            input: there,
        });
    }
    Ok(all)
}

impl Optimizer for OnHost {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn describe(&self) -> String {
        format!("{}, computed on the host", self.inner.describe())
    }

    fn needs_inputs(&self, step: u64) -> bool {
        self.inner.needs_inputs(step)
    }

    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()> {
        let mirror = self.filled(params)?;
        let inputs = inputs_to_host(context.inputs, params, &mirror)?;
        // at the moved weights, which the device must have first
        let again = context.again.map(|again| {
            let (mirror, params) = (&mirror, params);
            move || {
                write_back(mirror, params)?;
                gradients_to_host(&again()?)
            }
        });
        let again = again.as_ref().map(|again| again as &(dyn Fn() -> Result<Gradients> + Sync));
        let result = self.inner.step(
            &mirror,
            &gradients_to_host(gradients)?,
            &StepContext { inputs: &inputs, again, ..*context },
        );
        write_back(&mirror, params)?;
        self.mirror = Some(mirror);
        result
    }

    fn reset(&mut self) {
        self.inner.reset();
    }

    fn health(&self) -> Vec<(String, f64)> {
        self.inner.health()
    }

    fn state(&self) -> Result<OptimizerState> {
        self.inner.state()
    }

    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()> {
        let mirror = self.filled(params)?;
        let loaded = self.inner.load_state(&mirror, state);
        self.mirror = Some(mirror);
        loaded
    }
}

#[cfg(test)]
mod tests {
    use super::super::build;
    use super::*;
    use crate::config::{Hessian2Config, Hessian2Variant, HvrConfig, HvrForm, OptimizerConfig, OptimizerName};
    use crate::params::ParamKind;
    use crate::rng::{stream, Purpose};

    fn params() -> Result<ParamSet> {
        let mut set = ParamSet::new(1, DType::F32, &Device::Cpu);
        set.add("w", ParamKind::Matrix, &[6, 8], Init::Normal(0.3))?;
        set.add("b", ParamKind::Vector, &[6], Init::Normal(0.3))?;
        set.add_with_frozen_row("e", ParamKind::Table { tied: false }, &[7, 4], Init::Normal(0.3), Some(6))?;
        Ok(set)
    }

    fn random(seed: u64, shape: &[usize]) -> Result<Tensor> {
        let mut rng = stream(seed, Purpose::Sample, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn gradients(set: &ParamSet, seed: u64) -> Result<Gradients> {
        let one = |(i, param): (usize, &Param)| random(seed * 8 + i as u64, param.var.dims());
        let gradients = Gradients { tensors: set.iter().enumerate().map(one).collect::<Result<_>>()? };
        gradients.clear_frozen_rows(set)?;
        Ok(gradients)
    }

    fn update(set: &ParamSet, optimizer: &mut dyn Optimizer, step: u64, dtype: DType) -> Result<()> {
        let [w, b] = ["w", "b"].map(|name| set.get(name).map(|param| param.var.as_tensor().clone()));
        let input = random(step + 900, &[9, 8])?.to_dtype(DType::BF16)?.to_dtype(dtype)?;
        let weights = w.into_iter().collect();
        let input = LinearInput { weights, biases: b.into_iter().collect(), input };
        let inputs = if optimizer.needs_inputs(step) { vec![input] } else { Vec::new() };
        // it depends on where the weights are
        let again = || {
            let shifted = |(g, param): (Tensor, &Param)| g + param.var.as_detached_tensor();
            let tensors = gradients(set, step + 500)?.tensors.into_iter().zip(set).map(shifted);
            Ok(Gradients { tensors: tensors.collect::<Result<_>>()? })
        };
        let context = StepContext { inputs: &inputs, again: Some(&again), ..StepContext::new(0.01, step, 3) };
        optimizer.step(set, &gradients(set, step)?, &context)
    }

    fn values(set: &ParamSet) -> Result<Vec<f32>> {
        let all = set.iter().map(|param| param.var.flatten_all()?.to_vec1()).collect::<Result<Vec<Vec<f32>>>>()?;
        Ok(all.concat())
    }

    fn configs() -> Vec<OptimizerConfig> {
        use Hessian2Variant::{Kbfgs, Kron, Lm, Rot};
        let of = |name| OptimizerConfig { name, weight_decay: 0.1, ..OptimizerConfig::default() };
        let mut all = vec![of(OptimizerName::Hvr), of(OptimizerName::Hvr)];
        all[1].hvr = HvrConfig { form: HvrForm::Diag, ..HvrConfig::default() };
        for variant in [Kron, Rot, Kbfgs, Lm] {
            let hessian2 = Hessian2Config { variant, secant_freq: 2, ..Hessian2Config::default() };
            all.push(OptimizerConfig { hessian2, ..of(OptimizerName::Hessian2) });
        }
        all
    }

    #[test]
    fn it_moves_weights_elsewhere_as_on_the_cpu_bit_for_bit_and_goes_on_from_its_state() -> Result<()> {
        for config in configs() {
            let new = || build(&config, DType::F32, &Device::Cpu);
            let (own, mirrored, resumed) = (params()?, params()?, params()?);
            let (mut plain, mut on_host) = (new(), OnHost::new(new()));
            assert_eq!(on_host.describe(), format!("{}, computed on the host", plain.describe()));
            for step in 0..12 {
                update(&own, plain.as_mut(), step, DType::F32)?;
                // activations in half the precision are those values in full
                update(&mirrored, &mut on_host, step, DType::BF16)?;
                assert_eq!(values(&own)?, values(&mirrored)?, "{} {step}", plain.describe());
            }
            assert!(values(&own)?.iter().all(|x| x.is_finite()) && values(&own)? != values(&params()?)?);
            assert_eq!(own.get("e").map(|e| e.var.get(6)?.to_vec1::<f32>()).transpose()?, Some(vec![0.0; 4]));
            let mut again = OnHost::new(new());
            for (param, from) in resumed.iter().zip(&mirrored) {
                param.var.set(&from.var.as_detached_tensor())?;
            }
            let mut state = on_host.state()?;
            for (_, tensor) in &mut state.tensors {
                *tensor = tensor.copy()?;
            }
            again.load_state(&resumed, state)?;
            for step in 12..16 {
                update(&own, plain.as_mut(), step, DType::F32)?;
                update(&resumed, &mut again, step, DType::F32)?;
                assert_eq!(values(&own)?, values(&resumed)?, "{} {step}", plain.describe());
            }
        }
        Ok(())
    }
}
