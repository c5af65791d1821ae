//! The differentiable operations that models are made of, over packed `[tokens, d]` activations.
//! Each is one node on the tape (a `tape::Op`) with its own forward and backward, generic over f32 and f64;
//! its file holds formulas, shapes, what is saved for backward, and a check against plain candle operations in f64.
//! Besides them, what optimizers need as fast: products (`gemm`) and orthogonal factors (`qr`).
//!
//! | file | owns |
//! |---|---|
//! | `additive` | additive attention of one query over its sentence |
//! | `alignment` | where attention looks most |
//! | `allocator` | keeps memory that one step frees for the next one |
//! | `attention` | softmax attention of packed sentences, whole and in blocks |
//! | `attentional` | the decoder recurrence of Bahdanau, Cho & Bengio as one node |
//! | `candles` | operations on candle's own tape, for gradient checks |
//! | `cell` | the arithmetic of one step of the gated cells |
//! | `cholesky` | small dense systems in f64 by Cholesky factors |
//! | `columns` | cutting and joining activations by columns |
//! | `cross_entropy` | the output projection and its loss in one node |
//! | `cuda/` | the operations on an NVIDIA GPU |
//! | `dropout` | dropout masks inside operations |
//! | `embed` | embeddings with positions |
//! | `gemm/` | matrix products on slices |
//! | `lanes` | how recurrences visit packed sentences |
//! | `library` | libraries that are looked for when the program runs |
//! | `linear` | y = dropout(φ(x·Wᵀ + b)) |
//! | `many` | orthogonal factors and inverses of many small matrices |
//! | `mpi` | the functions of an MPI library, found at run time |
//! | `nccl` | tensors from GPU to GPU |
//! | `norm` | residual and normalization, the ends of a sublayer |
//! | `precision` | in which precision products on the CPU take their operands, and with which instructions |
//! | `prepacked` | weights laid out for products once, of models that are only used |
//! | `qr` | the orthogonal factor of a square matrix |
//! | `real` | the floats that operations are generic over, and their fast elementary functions |
//! | `recurrent` | a whole GRU or LSTM layer over packed sentences as one node |
//! | `recurrent_step` | single steps of `recurrent` and `attentional` for decoding |
//! | `roof` | the floating-point roof of one core, for benchmarks |
//! | `rows` | parallel loops over blocks of rows |
//! | `step_attention` | attention of one query a row, for step-by-step decoding |
//! | `sum` | sums of gradients that meet at one tensor |
//! | `tape` | the trait of all operations, and the tape of a training step |
//! | `top_k` | the most probable next tokens of each row of decoder states |
//! | `unwritten` | memory of results between its allocation and their computation |
//! | `vocabulary` | logits of some ids at a time |
//! | `windowed` | what a pass of `hvr` over a tensor and the window of its last gradients works on |

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
mod library;
mod linear;
#[cfg(any(feature = "cuda", test))]
mod many;
pub mod mpi;
pub(crate) mod nccl;
mod norm;
mod precision;
mod prepacked;
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
mod vocabulary;
mod windowed;

pub use alignment::{strongest_additive, strongest_product, Strongest};
pub use allocator::keep_freed_memory;
pub use attention::{attention_of_rows, cross_attention, default_scale, self_attention};
pub use attentional::{attentional, Attentional, Widths};
pub use cell::Cell;
pub(crate) use cholesky::{dot as dot_f64, Cholesky};
pub use columns::{columns, join};
pub use cross_entropy::{linear_cross_entropy, log_probabilities, token_nll, Criterion, CrossEntropy, Losses, Targets};
pub use embed::{embed, positions, sinusoids};
pub(crate) use gemm::{matmul, product, Mat, MatMut, Store, Threads};
pub use lanes::Direction;
pub use linear::{joint_linear, linear, Activation};
#[cfg(any(feature = "cuda", test))]
pub(crate) use many::{inverses, qr_q};
pub use norm::{add_dropout, add_dropout_norm, layer_norm};
#[cfg(test)]
pub(crate) use precision::Choice;
pub use precision::{bf16_units, cpu_precision, set_cpu_precision, units_for, units_in_force, Units};
pub use prepacked::Prepacked;
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
pub use vocabulary::prepacked_table;
pub(crate) use windowed::{Windowed, SCALARS};

pub use crate::kinds::Precision;
use crate::rng::MaskKey;

/// One dropout mask: element `i` (row-major in the tensor it is applied to) is kept when its bits say so and scaled
/// by 1/(1−p). Masks are recomputed from the key in backward, never stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of elements set to zero, in (0, 1).
    pub p: f64,
    /// From which the mask is drawn.
    pub key: MaskKey,
}
