//! Optimizers, schedules, clipping, averaging. An optimizer turns gradients into an update of the parameters and
//! nothing else; everything around it works with all of them.

use candle_core::{Result, Tensor};

use crate::params::ParamSet;

/// Gradients in the order of a [`ParamSet`]; detached from the tape.
pub struct Gradients {
    pub tensors: Vec<Tensor>,
}

/// What an update may use besides gradients.
#[derive(Clone, Copy, Debug)]
pub struct StepContext {
    /// Learning rate of this update, schedule included.
    pub lr: f64,
    /// Updates done before this one.
    pub step: u64,
    pub seed: u64,
}

/// An optimizer. State is named tensors and scalars, saved and restored exactly.
pub trait Optimizer: Send {
    /// Its name in config and reports.
    fn name(&self) -> &'static str;

    /// One line for the pre-flight table: "adam, lr 0.001, betas (0.9, 0.98), eps 1e-9".
    fn describe(&self) -> String;

    /// One update of all parameters in place.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn step(&mut self, params: &ParamSet, gradients: &Gradients, context: &StepContext) -> Result<()>;

    /// Forgets momentum after a roll-back.
    fn reset(&mut self);

    /// Numbers for the metrics, names without prefix.
    fn health(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Everything needed to continue exactly: tensors `PARAMETER.STATE` and scalars.
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
    pub tensors: Vec<(String, Tensor)>,
    /// Counters; exact as f64 up to 2⁵³.
    pub scalars: Vec<(String, f64)>,
}
