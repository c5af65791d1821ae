//! Optimizers, schedules, clipping, averaging. An optimizer turns gradients into an update of the parameters and
//! nothing else; everything around it works with all of them.
//!
//! | file | owns |
//! |---|---|
//! | `adam` `sgd` `schedule_free` | methods that work element by element, over `inplace` (one pass over weight, state, gradient) and `kept` (state by name) |
//! | `muon` `soap` `hessian2/` | methods that work matrix by matrix: a `rule`, what it keeps (`slots`) and its formulas |
//! | `algebra/` | what these formulas compute with, on the CPU and on a device |
//! | `per_matrix` | what all of them share: `plan` of blocks and batches, Adam for the rest, trust clip, decay, write, `health`, checkpoints |
//! | `hvr/` | document 1, all its forms |
//! | `saved` | a checkpoint on its way into an optimizer |
//! | `share` | the work of an update shared by several processes |
//! | `spared` | decay of tables by how often a row is seen, around any of them |
//! | `for_candle` | any of them in any candle program |
//! | `decompose` | eigenvectors |
//! | `gradients` `clip` `schedule` `average` | what is around an optimizer: from the tape, their norm, the rate, the moving average |

mod adam;
mod algebra;
mod average;
mod clip;
mod decompose;
mod for_candle;
mod gradients;
mod health;
mod hessian2;
mod hvr;
mod inplace;
mod kept;
mod muon;
mod per_matrix;
mod plan;
mod rule;
mod saved;
mod schedule;
mod schedule_free;
mod sgd;
mod share;
mod slots;
mod soap;
mod spared;

pub use adam::{Adam, AdamRule};
pub use average::Ema;
pub use clip::{clip, global_norm};
pub use for_candle::ForCandle;
pub use gradients::Accumulator;
pub use hvr::Hvr;
pub use rule::probe_stream;
pub use schedule::{NoEnd, Schedule};
pub use schedule_free::ScheduleFree;
pub use sgd::Sgd;
pub use share::Share;

use candle_core::{DType, Device, Result, Tensor};

use crate::config::{OptimizerConfig, OptimizerName};
use crate::ops::LinearInput;
use crate::params::{ParamKind, ParamSet};

/// The optimizer that a config names, for parameters of this number type on this device.
pub fn build(config: &OptimizerConfig, dtype: DType, device: &Device) -> Box<dyn Optimizer> {
    let (lr, tables, power) = (config.lr, config.embedding_weight_decay(), config.embedding_decay_power);
    if tables > 0.0 && power > 0.0 {
        let inner = build(&OptimizerConfig { embedding_weight_decay: 0.0.into(), ..config.clone() }, dtype, device);
        return Box::new(spared::Spared::new(inner, tables, power));
    }
    let decay = Decay { weights: config.weight_decay(), tables };
    let adam = |name, (beta1, beta2, eps), decoupled| -> Box<dyn Optimizer> {
        Box::new(Adam::new(AdamRule { name, beta1, beta2, eps, decay, decoupled, lr }))
    };
    let (a, w, c) = (&config.adam, &config.adamw, &config.clipped_adam);
    match config.name {
        OptimizerName::Adam => adam("adam", (a.beta1, a.beta2, a.eps), false),
        OptimizerName::Adamw => adam("adamw", (w.beta1, w.beta2, w.eps), true),
        OptimizerName::ClippedAdam => adam("clipped-adam", (c.beta1, c.beta2, c.eps), false),
        OptimizerName::Hessian2 => hessian2::build(&config.hessian2, decay, lr, dtype, device),
        OptimizerName::Muon => muon::build(&config.muon, decay, lr, dtype, device),
        OptimizerName::Hvr => Box::new(Hvr::new(config.hvr.clone(), decay, lr)),
        OptimizerName::ScheduleFree => Box::new(ScheduleFree::new(config.schedule_free.clone(), decay, lr)),
        OptimizerName::Sgd => Box::new(Sgd::new(config.sgd.clone(), decay, lr)),
        OptimizerName::Soap => soap::build(&config.soap, decay, lr, dtype, device),
    }
}

/// Weight decay: of weights of linear maps and recurrences, and of tables. Biases and gains have none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decay {
    /// `optimizer.weight_decay`.
    pub weights: f64,
    /// `optimizer.embedding_weight_decay`.
    pub tables: f64,
}

impl Decay {
    /// That of a parameter of this kind.
    fn of(self, kind: ParamKind) -> f64 {
        match kind {
            ParamKind::Matrix | ParamKind::Recurrent => self.weights,
            ParamKind::Table { .. } => self.tables,
            ParamKind::Vector => 0.0,
        }
    }

    /// The end of [`Optimizer::describe`].
    fn told(self) -> String {
        let told = |what: &str, decay: f64| if decay > 0.0 { format!(", {what} {decay}") } else { String::new() };
        told("weight decay", self.weights) + &told("decay of tables", self.tables)
    }
}

/// What is wrong with gradients.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The loss does not depend on it.
    #[error("no gradient reaches the parameter {parameter}: the tape is cut (a bug of the model)")]
    Missing {
        /// Its name.
        parameter: String,
    },
    /// NaN or infinity.
    #[error("the gradient of {parameter} holds NaN or infinity")]
    NonFinite {
        /// Its name.
        parameter: String,
    },
    /// What candle says.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Gradients in the order of a [`ParamSet`]; detached from the tape.
pub struct Gradients {
    /// One for each parameter, of its shape.
    pub tensors: Vec<Tensor>,
}

/// What an update may use besides gradients.
#[derive(Clone, Copy)]
pub struct StepContext<'a> {
    /// Learning rate of this update, schedule included; [`StepContext::rate`] is what a parameter moves with.
    pub lr: f64,
    /// `optimizer.embedding_lr_scale`.
    pub embedding_lr_scale: f64,
    /// Updates done before this one.
    pub step: u64,
    /// Of what is drawn at random.
    pub seed: u64,
    /// What the linear maps were applied to in the last micro-batch; empty unless [`Optimizer::needs_inputs`].
    pub inputs: &'a [LinearInput],
    /// Processes that share the work; `None`: this one does all of it.
    pub share: Option<&'a dyn Share>,
}

impl StepContext<'_> {
    /// One rate for all, without the inputs of linear maps.
    pub fn new(lr: f64, step: u64, seed: u64) -> Self {
        StepContext { lr, embedding_lr_scale: 1.0, step, seed, inputs: &[], share: None }
    }

    /// Learning rate of a parameter of this kind.
    pub fn rate(&self, kind: ParamKind) -> f64 {
        match kind {
            ParamKind::Table { .. } => self.lr * self.embedding_lr_scale,
            _ => self.lr,
        }
    }
}

/// An optimizer. State is named tensors and scalars, saved and restored exactly.
pub trait Optimizer: Send {
    /// Its name in config and reports.
    fn name(&self) -> &'static str;

    /// One line for the pre-flight table: "adam, lr 0.001, betas (0.9, 0.98), eps 1e-9".
    fn describe(&self) -> String;

    /// Whether the update after `step` updates wants [`StepContext::inputs`].
    fn needs_inputs(&self, step: u64) -> bool {
        let _ = step;
        false
    }

    /// One update of all parameters in place.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext<'_>) -> Result<()>;

    /// Forgets momentum after a roll-back. Averages that are in the parameters stay there as the new start.
    fn reset(&mut self);

    /// For optimizers that train other weights than they want validated and tested: exchanges the two, in place; a
    /// second call puts the trained ones back bit for bit. Others do nothing.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn swap_averages(&mut self, params: &ParamSet) -> Result<()> {
        let _ = params;
        Ok(())
    }

    /// What [`Optimizer::swap_averages`] would put into the parameters, under their names, in new memory: the model to
    /// be saved. `None` where the trained weights are the model.
    ///
    /// # Errors
    /// Memory errors of candle; when the averages are in the parameters.
    fn averages(&self, params: &ParamSet) -> Result<Option<Vec<(String, Tensor)>>> {
        let _ = params;
        Ok(None)
    }

    /// Whether updates have parts that processes can share ([`StepContext::share`]).
    fn can_share(&self) -> bool {
        false
    }

    /// Brings together what processes that share the work have each learned, so that [`Optimizer::state`] has all of it.
    ///
    /// # Errors
    /// When one of them does not come.
    fn collect(&mut self, share: &dyn Share) -> Result<()> {
        let _ = share;
        Ok(())
    }

    /// Numbers for the metrics, names without prefix.
    fn health(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Everything needed to continue exactly: tensors `PARAMETER.STATE` and scalars. The tensors share storage with the
    /// live state: save or copy them before the next step.
    ///
    /// # Errors
    /// Memory errors of candle.
    fn state(&self) -> Result<OptimizerState>;

    /// The inverse of [`Optimizer::state`].
    ///
    /// # Errors
    /// A missing or misshapen tensor, named.
    fn load_state(&mut self, params: &ParamSet, state: OptimizerState) -> Result<()>;
}

/// Saved state of an optimizer.
#[derive(Clone, Debug, Default)]
pub struct OptimizerState {
    /// By name.
    pub tensors: Vec<(String, Tensor)>,
    /// Counters; exact as f64 up to 2⁵³.
    pub scalars: Vec<(String, f64)>,
}

impl OptimizerState {
    /// Of scalars alone.
    fn of<const N: usize>(scalars: [(&str, f64); N]) -> Self {
        let scalars = scalars.map(|(name, value)| (name.to_string(), value)).to_vec();
        OptimizerState { tensors: Vec::new(), scalars }
    }

    /// Adds the tensor `OWNER.STATE`.
    fn add(&mut self, owner: &str, state: &str, tensor: Tensor) {
        self.tensors.push((format!("{owner}.{state}"), tensor));
    }

    /// A scalar by name.
    ///
    /// # Errors
    /// When it is missing; names it.
    pub fn scalar(&self, name: &str) -> Result<f64> {
        match self.scalars.iter().find(|(n, _)| n == name) {
            Some((_, value)) => Ok(*value),
            None => candle_core::bail!("the saved optimizer state has no {name}; was it saved by another optimizer?"),
        }
    }
}
