//! What a pass of `hvr` over a tensor and the window of its last gradients works on.

use candle_core::Tensor;
use std::ops::Range;

/// Scalars of a pass at most; as in window.cu.
pub(crate) const SCALARS: usize = 8;

/// A parameter of n elements, its gradient and its state, all of one type; on a GPU f32.
pub(crate) struct Windowed {
    pub(crate) weight: Tensor,
    pub(crate) gradient: Tensor,
    pub(crate) m: Option<Tensor>,
    pub(crate) v: Option<Tensor>,
    /// The last gradients `[slots, n]`.
    pub(crate) gamma: Option<Tensor>,
    /// Elements that stay.
    pub(crate) frozen: Range<usize>,
    /// Of each slot, in the direction; empty for none.
    pub(crate) weights: Vec<f64>,
    /// The slot to be written.
    pub(crate) next: usize,
    /// Whether the window is in Adam's space.
    pub(crate) normalized: bool,
    /// The pass's.
    pub(crate) scalars: [f64; SCALARS],
}

impl Windowed {
    /// Gradients that the window has room for.
    pub(crate) fn slots(&self) -> usize {
        self.gamma.as_ref().map_or(0, |gamma| gamma.dims()[0])
    }
}
