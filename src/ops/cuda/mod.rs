//! The operations on an NVIDIA GPU: kernels in `*.cu` beside the code that launches them, products by cuBLAS.
//!
//! | | number type |
//! |---|---|
//! | parameters, their gradients, optimizer state | f32 |
//! | activations and their gradients | f32, or bf16 with [`Precision::Bf16`] |
//! | sums, softmax, means and deviations, recurrent gates saved for backward, logits | f32 |
//!
//! Weights are rounded to the activations' type where a product reads them. There are no atomics and the order of every
//! sum is fixed, so the same work gives the same bits on the same GPU. Everything runs on one stream, so memory that is
//! freed can be taken by the next operation at once, and candle's event tracking is off.

mod attention;
mod attentional;
mod cholesky;
mod columns;
mod cross_entropy;
mod decode;
mod device;
mod embed;
mod launch;
mod linear;
mod memory;
mod nccl;
mod norm;
mod optimizer;
mod product;
mod qr;
mod recurrent;
pub(super) mod recurrent_step;
mod uploads;
mod window;

pub(crate) use device::{describe, open, peak_memory_bytes, precision_of};
pub(crate) use embed::add_rows;
pub(crate) use nccl::{Nccl, NcclLibrary};
pub(crate) use optimizer::{scale, squares, Updates};
pub(crate) use window::{apply as apply_windows, extents as window_extents, observe as observe_windows};

pub(super) use cholesky::inverses;
pub(super) use columns::{add, add_in_place, device_of};
pub(super) use decode::{history, memory as attend_memory};
pub(super) use qr::qr_q;
