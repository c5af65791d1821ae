//! `hessian2` (document 2): rank-two corrections of an approximation of the inverse curvature.
//!
//! | variant | what is corrected | by |
//! |---|---|---|
//! | `white` | inverse square roots of both Kronecker factors | product-form corrections from sketches of the whitened gradient |
//! | `kron` | the inverse of the input's second moment | block BFGS with random directions |

mod bfgs;
mod factors;
mod factors_batched;
mod groups;
mod groups_batched;
mod inputs;
mod inputs_batched;
mod inverse;
mod kron;
mod kron_batched;
mod rows_batched;
mod table_rows;
mod track;
mod track_batched;
mod white;
mod white_batched;
mod white_draws;

use candle_core::{DType, Device};

use super::batched::{BatchRule, Batched};
use super::per_matrix::{PerMatrix, Rule};
use super::Optimizer;
use crate::config::{Hessian2Config, Hessian2Scope, Hessian2Variant};
use crate::ops::Real;
use crate::params::ParamKind;

/// The variant that the config names.
pub(super) fn build(
    config: &Hessian2Config,
    weight_decay: f64,
    lr: f64,
    dtype: DType,
    device: &Device,
) -> Box<dyn Optimizer> {
    match device {
        Device::Cpu => on_cpu(config, weight_decay, lr, dtype),
        _ => batched(config, weight_decay, lr),
    }
}

/// In tensor operations, which work on any device.
pub(super) fn batched(config: &Hessian2Config, weight_decay: f64, lr: f64) -> Box<dyn Optimizer> {
    fn of<R: BatchRule + 'static>(rule: R, c: &Hessian2Config, weight_decay: f64, lr: f64) -> Box<dyn Optimizer> {
        Box::new(Batched::new(rule, (c.beta1, c.beta2, c.eps), weight_decay, lr))
    }
    match config.variant {
        Hessian2Variant::White => of(white_batched::WhiteBatched::new(config), config, weight_decay, lr),
        Hessian2Variant::Kron => of(kron_batched::KronBatched::new(config), config, weight_decay, lr),
    }
}

/// For parameters on the CPU.
pub(super) fn on_cpu(config: &Hessian2Config, weight_decay: f64, lr: f64, dtype: DType) -> Box<dyn Optimizer> {
    match dtype {
        DType::F64 => typed::<f64>(config, weight_decay, lr),
        _ => typed::<f32>(config, weight_decay, lr),
    }
}

fn typed<T: Real>(config: &Hessian2Config, weight_decay: f64, lr: f64) -> Box<dyn Optimizer> {
    match config.variant {
        Hessian2Variant::White => per_matrix::<_, T>(white::White { config: config.clone() }, config, weight_decay, lr),
        Hessian2Variant::Kron => per_matrix::<_, T>(kron::Kron::<T>::new(config.clone()), config, weight_decay, lr),
    }
}

fn per_matrix<R: Rule<T> + 'static, T: Real>(
    rule: R,
    config: &Hessian2Config,
    weight_decay: f64,
    lr: f64,
) -> Box<dyn Optimizer> {
    Box::new(PerMatrix::new(rule, (config.beta1, config.beta2, config.eps), weight_decay, lr))
}

/// Whether the corrections are for parameters of this kind; Adam moves the others.
fn in_scope(config: &Hessian2Config, kind: ParamKind) -> bool {
    match kind {
        ParamKind::Matrix | ParamKind::Recurrent => config.scope != Hessian2Scope::Embeddings,
        ParamKind::Table { .. } => config.scope != Hessian2Scope::Hidden,
        ParamKind::Vector => false,
    }
}
