//! The differentiable operations that models are made of, over packed `[tokens, d]` activations.
//! Each is one node on the tape (a `tape::Op`) with its own forward and backward, generic over f32 and f64;
//! its file holds formulas, shapes, what is saved for backward, and a check against plain candle operations in f64.
//! Besides them, what optimizers need as fast: products (`gemm`) and orthogonal factors (`qr`).

mod additive;
mod alignment;
mod allocator;
mod attention;
mod attentional;
mod candles;
mod cell;
#[cfg(test)]
pub(crate) mod check;
mod cholesky;
mod columns;
mod cross_entropy;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod dropout;
mod embed;
mod gemm;
mod lanes;
mod linear;
#[cfg(any(feature = "cuda", test))]
mod many;
mod norm;
mod qr;
mod real;
mod recurrent;
mod recurrent_step;
mod roof;
pub(crate) mod rows;
mod step_attention;
mod sum;
mod tape;
mod top_k;
mod unwritten;
mod windowed;

pub use alignment::{strongest_additive, strongest_product, Strongest};
pub use allocator::keep_freed_memory;
pub use attention::{attention_of_rows, cross_attention, default_scale, self_attention};
pub use attentional::{attentional, Attentional, Widths};
pub use cell::Cell;
pub(crate) use cholesky::{dot as dot_f64, Cholesky};
pub use columns::{columns, join};
pub use cross_entropy::{linear_cross_entropy, log_probabilities, token_nll, CrossEntropy, Losses, Targets};
pub use embed::{embed, positions};
pub(crate) use gemm::{matmul, product, Mat, MatMut, Store, Threads};
pub use lanes::Direction;
pub use linear::{joint_linear, linear, Activation};
#[cfg(any(feature = "cuda", test))]
pub(crate) use many::{inverses, qr_q};
pub use norm::{add_dropout, add_dropout_norm, layer_norm};
pub(crate) use qr::qr_q_of;
pub use real::Level;
pub(crate) use real::{dot, values, with_real, Real};
pub use recurrent::{recurrent, Recurrence};
pub use recurrent_step::{attentional_step, recurrent_step};
pub use roof::fma_roof;
pub(crate) use rows::blocks;
pub use step_attention::{attend_memory, History, Step};
pub use tape::{record, untracked, LinearInput, Tape};
pub(crate) use top_k::top;
pub use top_k::top_log_probabilities;
pub(crate) use windowed::{Windowed, SCALARS};

pub use crate::kinds::Precision;
use crate::rng::MaskKey;

/// One dropout mask: element `i` (row-major in the tensor it is applied to) is kept when its bits say so and scaled
/// by 1/(1−p). Masks are recomputed from the key in backward, never stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of elements set to zero, in (0, 1).
    pub p: f64,
    pub key: MaskKey,
}
