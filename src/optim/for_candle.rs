//! Any optimizer of this crate in any candle program, by candle_nn's trait.
//!
//! ```no_run
//! use candle_core::{DType, Device, Tensor, Var};
//! use candle_nn::Optimizer as _;
//! use nmt_train::config::{OptimizerConfig, OptimizerName};
//! use nmt_train::optim::ForCandle;
//!
//! # fn main() -> candle_core::Result<()> {
//! let weight = Var::zeros((3, 2), DType::F32, &Device::Cpu)?;
//! let config = OptimizerConfig { name: OptimizerName::Hessian2, lr: 3e-3, ..OptimizerConfig::default() };
//! let mut optimizer = ForCandle::new(vec![weight.clone()], config)?;
//! let loss = weight.as_tensor().sqr()?.sum_all()?;
//! optimizer.backward_step(&loss)?;
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{bail, DType, Device, Result, Tensor, Var};

use super::{build, Gradients, Optimizer, OptimizerState, StepContext};
use crate::config::{validate, Config, OptimizerConfig};
use crate::params::{Param, ParamKind, ParamSet};

/// Before the names of counters in a state, of which the number of updates is one.
const COUNTER: &str = "counter:";
const UPDATES: &str = "updates of all";

/// An optimizer and the variables that it moves. Clipping, schedules and averages are the caller's; what is random
/// (`hessian2`'s sketches) is drawn from the seed.
pub struct ForCandle {
    inner: Box<dyn Optimizer>,
    params: ParamSet,
    context: StepContext<'static>,
}

impl ForCandle {
    /// With a name for each variable, under which its state is saved, and what it is: decay, and the methods that work matrix
    /// by matrix, ask for that.
    ///
    /// # Errors
    /// Settings out of range; a method that needs more than gradients (`hessian2`'s variant `kron`); two variables of one name,
    /// of several types or on several devices; a matrix or table without two dimensions.
    pub fn with_kinds(
        vars: impl IntoIterator<Item = (String, ParamKind, Var)>,
        config: OptimizerConfig,
        seed: u64,
    ) -> Result<Self> {
        let whole = Config { optimizer: config, ..Config::default() };
        let wrong = validate(&whole).into_iter().find(|finding| finding.keys[0].starts_with("optimizer."));
        if let Some(finding) = wrong {
            bail!("{} {}", finding.subject, finding.text);
        }
        let config = whole.optimizer;
        let params =
            ParamSet::of(vars.into_iter().map(|(name, kind, var)| Param { name, kind, var, frozen_row: None }))?;
        for Param { name, kind, var, .. } in &params {
            if *kind != ParamKind::Vector && var.rank() != 2 {
                bail!("{name} is {kind:?} and has shape {:?}: two dimensions are needed", var.dims());
            }
        }
        let inner = build(&config, params.dtype(), params.device());
        // a method that ever needs them needs them at first
        if inner.needs_inputs(0) {
            bail!("{} needs what linear maps were applied to, which candle's tape does not keep", inner.describe());
        }
        let context =
            StepContext { embedding_lr_scale: config.embedding_lr_scale(), ..StepContext::new(config.lr, 0, seed) };
        Ok(ForCandle { inner, params, context })
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.context.step
    }

    /// For methods that evaluate other weights than they train (`schedule-free`): exchanges the two; a second call puts the
    /// trained ones back. Others do nothing.
    ///
    /// # Errors
    /// Memory errors of candle.
    pub fn swap_averages(&mut self) -> Result<()> {
        self.inner.swap_averages(&self.params)
    }

    /// All that is needed to go on exactly, by name: tensors `VARIABLE.STATE`, and `counter:…` as f64. They share memory with the
    /// live state: save or copy them (`candle_core::safetensors::save`) before the next step.
    ///
    /// # Errors
    /// Memory errors of candle.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let OptimizerState { tensors, scalars } = self.inner.state()?;
        let updates = (UPDATES.to_string(), self.context.step as f64);
        let scalars = scalars.into_iter().chain([updates]);
        let scalar = |(name, value): (String, f64)| Ok((format!("{COUNTER}{name}"), Tensor::new(value, &Device::Cpu)?));
        tensors.into_iter().map(Ok).chain(scalars.map(scalar)).collect()
    }

    /// The inverse of [`ForCandle::state`], of an optimizer with the same variables and settings. What failed leaves the state
    /// unspecified.
    ///
    /// # Errors
    /// A missing or misshapen tensor, by name.
    pub fn load_state(&mut self, state: HashMap<String, Tensor>) -> Result<()> {
        let mut found = OptimizerState::default();
        for (name, tensor) in state.into_iter().collect::<BTreeMap<_, _>>() {
            match name.strip_prefix(COUNTER) {
                Some(name) => found.scalars.push((name.to_string(), tensor.to_dtype(DType::F64)?.to_scalar::<f64>()?)),
                None => found.tensors.push((name, tensor)),
            }
        }
        let updates = found.scalar(UPDATES)?;
        self.inner.load_state(&self.params, found)?;
        self.context.step = updates as u64;
        Ok(())
    }
}

impl candle_nn::Optimizer for ForCandle {
    type Config = OptimizerConfig;

    /// Variables of two dimensions are taken for weights `[out, in]` of linear maps, all others for vectors (their optimizer is
    /// Adam where a method works matrix by matrix); named by their position. [`ForCandle::with_kinds`] says more.
    fn new(vars: Vec<Var>, config: OptimizerConfig) -> Result<Self> {
        let kind = |var: &Var| if var.rank() == 2 { ParamKind::Matrix } else { ParamKind::Vector };
        let vars = vars.into_iter().filter(|var| var.dtype().is_float()).enumerate();
        ForCandle::with_kinds(vars.map(|(i, var)| (format!("{i}"), kind(&var), var)), config, 0)
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        let gradient = |param: &Param| match grads.get(&param.var) {
            Some(gradient) => gradient.detach().contiguous(),
            None => bail!("no gradient reaches {}: an optimizer is given what the loss depends on", param.name),
        };
        let gradients = Gradients { tensors: self.params.iter().map(gradient).collect::<Result<_>>()? };
        self.inner.step(&self.params, &gradients, &self.context)?;
        self.context.step += 1;
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.context.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.context.lr = lr;
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::Optimizer as _;

    use super::*;
    use crate::config::OptimizerName;

    const METHODS: [OptimizerName; 9] = [
        OptimizerName::Adam,
        OptimizerName::Adamw,
        OptimizerName::ClippedAdam,
        OptimizerName::Hessian2,
        OptimizerName::Hvr,
        OptimizerName::Muon,
        OptimizerName::ScheduleFree,
        OptimizerName::Sgd,
        OptimizerName::Soap,
    ];

    fn settings(name: OptimizerName) -> OptimizerConfig {
        OptimizerConfig { name, lr: 0.01, weight_decay: 0.1.into(), ..OptimizerConfig::default() }
    }

    /// A linear map and a bias, and the loss of fitting y = 3·x₁ − 2·x₂ + 1 at four points.
    fn task() -> Result<(Vec<Var>, impl Fn() -> Result<Tensor>)> {
        let x = Tensor::new(&[[1f32, 0.5], [0.0, 1.0], [-1.0, 0.3], [0.2, -0.7]], &Device::Cpu)?;
        let y = Tensor::new(&[[3f32], [-1.0], [-2.6], [3.0]], &Device::Cpu)?;
        let weight = Var::from_tensor(&Tensor::new(&[[0.1f32, -0.1]], &Device::Cpu)?)?;
        let bias = Var::zeros(1, DType::F32, &Device::Cpu)?;
        let vars = vec![weight.clone(), bias.clone()];
        let loss = move || x.matmul(&weight.t()?)?.broadcast_add(&bias)?.sub(&y)?.sqr()?.mean_all();
        Ok((vars, loss))
    }

    fn values(vars: &[Var]) -> Result<Vec<f32>> {
        vars.iter().map(|var| var.flatten_all()?.to_vec1::<f32>()).collect::<Result<Vec<_>>>().map(|all| all.concat())
    }

    #[test]
    fn every_method_learns_and_goes_on_from_its_state_bit_for_bit() -> Result<()> {
        for name in METHODS {
            let (vars, loss) = task()?;
            let mut optimizer = ForCandle::new(vars.clone(), settings(name))?;
            let first = loss()?.to_scalar::<f32>()?;
            for _ in 0..20 {
                optimizer.backward_step(&loss()?)?;
            }
            assert!(loss()?.to_scalar::<f32>()? < first, "{name:?}");
            let state: HashMap<String, Tensor> = optimizer
                .state()?
                .into_iter()
                .map(|(name, tensor)| Ok((name, tensor.copy()?)))
                .collect::<Result<_>>()?;
            let (others, other_loss) = task()?;
            for (other, var) in others.iter().zip(&vars) {
                other.set(&var.as_tensor().copy()?)?;
            }
            let mut again = ForCandle::new(others.clone(), settings(name))?;
            again.load_state(state)?;
            assert_eq!(again.updates(), 20);
            for _ in 0..5 {
                optimizer.backward_step(&loss()?)?;
                again.backward_step(&other_loss()?)?;
            }
            assert_eq!(values(&vars)?, values(&others)?, "{name:?}");
        }
        Ok(())
    }

    #[test]
    fn adamw_is_candles() -> Result<()> {
        let (vars, loss) = task()?;
        let (others, other_loss) = task()?;
        let mut config = OptimizerConfig { weight_decay: 0.0.into(), ..settings(OptimizerName::Adamw) };
        (config.adamw.beta2, config.adamw.eps) = (0.999, 1e-8);
        let mut ours = ForCandle::new(vars.clone(), config)?;
        let params = candle_nn::ParamsAdamW { lr: 0.01, weight_decay: 0.0, ..candle_nn::ParamsAdamW::default() };
        let mut candles = candle_nn::AdamW::new(others.clone(), params)?;
        for _ in 0..30 {
            ours.backward_step(&loss()?)?;
            candles.backward_step(&other_loss()?)?;
        }
        for (ours, candles) in values(&vars)?.iter().zip(values(&others)?) {
            assert!((ours - candles).abs() < 1e-5, "{ours} and {candles}");
        }
        ours.set_learning_rate(0.5);
        assert_eq!(ours.learning_rate(), 0.5);
        Ok(())
    }

    #[test]
    fn what_can_not_be_is_told() -> Result<()> {
        let told = |made: Result<ForCandle>| made.err().map(|e| e.to_string()).unwrap_or_default();
        let new = |config| -> Result<String> { Ok(told(ForCandle::new(task()?.0, config))) };
        let mut config = settings(OptimizerName::Hessian2);
        config.hessian2.beta1 = 1.5;
        assert!(new(config.clone())?.contains("optimizer.hessian2.beta1"), "{}", new(config)?);
        let mut config = settings(OptimizerName::Hessian2);
        config.hessian2.variant = crate::config::Hessian2Variant::Kron;
        assert!(new(config.clone())?.contains("linear maps"), "{}", new(config)?);
        let var = |shape: &[usize]| Var::zeros(shape, DType::F32, &Device::Cpu);
        let with = |vars| told(ForCandle::with_kinds(vars, settings(OptimizerName::Muon), 0));
        let twice = [("w", ParamKind::Vector, var(&[2])?), ("w", ParamKind::Vector, var(&[2])?)];
        assert!(
            with(twice.map(|(name, kind, var)| (name.to_string(), kind, var)).to_vec()).contains("w is defined twice")
        );
        assert!(with(vec![("conv".to_string(), ParamKind::Matrix, var(&[2, 2, 3])?)]).contains("two dimensions"));
        let (vars, loss) = task()?;
        let mut more = ForCandle::new([vars, vec![var(&[3])?]].concat(), settings(OptimizerName::Adam))?;
        let unused = more.backward_step(&loss()?).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(unused.contains("no gradient reaches 2"), "{unused}");
        Ok(())
    }
}
