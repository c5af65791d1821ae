//! `hessian2` (document 2): rank-two corrections of an approximation of the inverse curvature.
//!
//! | variant | what is corrected | by |
//! |---|---|---|
//! | `white` | inverse square roots of both Kronecker factors | product-form corrections from sketches of the whitened gradient (`track`) |
//! | `kron` | the inverse of the input's second moment (`inputs`, `factors`) | block BFGS with random directions (`bfgs`) |

mod bfgs;
mod factors;
mod inputs;
mod kron;
mod track;
mod white;

use candle_core::{DType, Device};

use super::per_matrix::{per_matrix, Common};
use super::{Decay, Optimizer};
use crate::config::{Hessian2Config, Hessian2Scope, Hessian2Variant};
use crate::params::ParamKind;

#[cfg(test)]
pub(super) use self::{kron::Kron, white::White};

/// The variant that the config names.
pub(super) fn build(
    config: &Hessian2Config,
    decay: Decay,
    lr: f64,
    dtype: DType,
    device: &Device,
) -> Box<dyn Optimizer> {
    let common = Common { adam: (config.beta1, config.beta2, config.eps), decay, lr };
    match config.variant {
        Hessian2Variant::White => per_matrix!(white::White { config: config.clone() }, common, dtype, device),
        Hessian2Variant::Kron => per_matrix!(kron::Kron::new(config), common, dtype, device),
    }
}

/// Whether the corrections are for parameters of this kind; Adam moves the others.
fn in_scope(config: &Hessian2Config, kind: ParamKind) -> bool {
    match kind {
        ParamKind::Matrix | ParamKind::Recurrent => config.scope != Hessian2Scope::Embeddings,
        ParamKind::Table { .. } => config.scope != Hessian2Scope::Hidden,
        ParamKind::Vector => false,
    }
}
