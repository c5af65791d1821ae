//! What rules for matrices compute with ([`Mats`]), so that each is written once: on the CPU (`host`) a batch is one matrix,
//! multiplied by `ops::gemm`, and its numbers are `f64`; on an accelerator (`device`) it is all matrices of one shape in one
//! tensor, nothing is read back, and what the CPU decides by looking is a mask.
//!
//! | file | owns |
//! |---|---|
//! | `number` | a number for each matrix of a batch, for formulas |
//! | `host` | batches of one matrix on the CPU |
//! | `device` | batches of many, in tensors; in CUDA builds and in tests |
//! | `numbers` | numbers of many, in tensors |
//! | `blocks` | blocks of weights in batches of tensors and back |
//! | `present` | a choice among the rows of a table that the batch has touched |

#[cfg(any(feature = "cuda", test))]
mod blocks;
#[cfg(any(feature = "cuda", test))]
mod device;
mod host;
mod number;
#[cfg(any(feature = "cuda", test))]
mod numbers;
#[cfg(any(feature = "cuda", test))]
mod present;

use candle_core::{DType, Device, Result, Tensor};
use std::borrow::Cow;
use std::ops::Range;

use crate::optim::plan::{Plan, Shape, Weight};
use crate::params::ParamSet;
use crate::rng::Stream;

#[cfg(any(feature = "cuda", test))]
pub(super) use device::Batch;
pub(super) use host::Matrix;
pub(super) use number::Number;

/// Type and place of a batch.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) dtype: DType,
    pub(super) device: Device,
}

#[cfg(test)]
impl Place {
    /// On the CPU, in f64.
    pub(super) fn cpu() -> Self {
        Place { dtype: DType::F64, device: Device::Cpu }
    }
}

/// What a matrix holds before the first update, and after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Zeros,
    Ones,
    Identity,
}

/// Something to be read as a batch of matrices.
pub(super) trait View: Copy {
    fn rows(&self) -> usize;
    fn columns(&self) -> usize;
    fn t(self) -> Self;
}

/// A batch of equal matrices, `rows × columns` each. Where an argument is a [`Number`], each matrix has its own.
///
/// # Errors
/// Of all functions: shape and memory errors of candle.
pub(super) trait Mats: Clone + Send + Sync {
    type Number: Number;
    type View<'a>: View
    where
        Self: 'a;
    /// Rows that were chosen, of each matrix.
    type Rows;
    /// Columns in an order, of each matrix.
    type Order;
    /// The blocks of a plan's tensors.
    type Held<'a>;
    /// What sums over the blocks of each weight need.
    type Maps: Send + Sync;

    /// Whether a batch is one matrix, so that all decisions can be made by looking.
    const ALONE: bool;

    /// The least number above 0 that is added to keep a root or a quotient finite.
    fn least(place: &Place) -> f64;
    fn start(start: Start, count: usize, shape: [usize; 2], place: &Place) -> Result<Self>;
    /// Values row by row, one matrix after the other.
    fn from_values(values: Vec<f64>, shape: [usize; 2], place: &Place) -> Result<Self>;
    /// One after the other, from a checkpoint.
    fn from_tensors(tensors: Vec<Tensor>, place: &Place) -> Result<Self>;
    /// One of them, for a checkpoint: `[rows, columns]`.
    fn to_tensor(&self, member: usize) -> Result<Tensor>;
    fn of(x: Self::View<'_>) -> Result<Self>;
    fn view(&self) -> Self::View<'_>;

    fn copy(&self) -> Result<Self> {
        Self::of(self.view())
    }

    fn t(&self) -> Self::View<'_> {
        self.view().t()
    }

    fn rows(&self) -> usize {
        self.view().rows()
    }

    fn columns(&self) -> usize {
        self.view().columns()
    }

    /// `by·self`.
    fn times(&self, by: f64) -> Result<Self>;
    /// `a·b`.
    fn product(a: Self::View<'_>, b: Self::View<'_>) -> Result<Self>;
    /// `self += alpha·a·b`.
    fn add_product(&mut self, alpha: f64, a: Self::View<'_>, b: Self::View<'_>) -> Result<()>;
    /// [`Mats::add_product`] where the sum is symmetric, and symmetric to the bit: half the work, and no rounding lets the two
    /// halves drift apart.
    fn add_symmetric(&mut self, alpha: f64, a: Self::View<'_>, b: Self::View<'_>) -> Result<()>;
    /// `a·aᵀ`.
    fn gram(a: Self::View<'_>) -> Result<Self>;
    /// `self += alpha·x`.
    fn add(&mut self, alpha: &Self::Number, x: Self::View<'_>) -> Result<()>;
    fn scale(&mut self, by: &Self::Number) -> Result<()>;
    /// `self ← self + share·(target − self)`.
    fn toward(&mut self, target: Self::View<'_>, share: &Self::Number) -> Result<()>;
    /// `self ← self + share·(target − self)`; returns `size·(self + ahead·(target − self))`, in one pass.
    fn toward_and_ahead(
        &mut self,
        target: Self::View<'_>,
        share: &Self::Number,
        ahead: &Self::Number,
        size: &Self::Number,
    ) -> Result<Self>;
    /// `self ← (1 − share)·self + share·x²`, element by element.
    fn toward_squares(&mut self, x: Self::View<'_>, share: &Self::Number) -> Result<()>;
    /// `self ← size·self / (√v + eps)`, element by element.
    fn over_root(&mut self, v: &Self, eps: f64, size: &Self::Number) -> Result<()>;
    /// Rows of `self`, then rows of `below`.
    fn above(self, below: &Self) -> Result<Self>;
    fn columns_of(x: Self::View<'_>, range: Range<usize>) -> Result<Self>;
    /// The inverse of [`Mats::columns_of`].
    fn set_columns(&mut self, range: Range<usize>, part: &Self) -> Result<()>;

    /// The one of each batch that is named.
    fn gather<'a>(parts: &[(&'a Self, usize)], place: &Place) -> Result<Cow<'a, Self>>;
    /// XᵀX/N of these rows (all, without a choice) of `x` and each of these ranges of columns, each a batch of one.
    fn moments(x: &Tensor, rows: Option<&[usize]>, ranges: &[Range<usize>], place: &Place) -> Result<Vec<Self>>;

    /// Σx².
    fn squares(x: Self::View<'_>) -> Result<Self::Number>;
    fn mean_diagonal(&self) -> Result<Self::Number>;

    /// 1 where all elements are finite (and their squares' sum is).
    fn is_finite(&self) -> Result<Self::Number> {
        Ok(Self::squares(self.view())?.is_finite())
    }

    // a column with a number for each row

    /// `self_i += share·(mean of a_ij·b_ij over j − self_i)`.
    fn toward_row_means(&mut self, a: Self::View<'_>, b: Self::View<'_>, share: &Self::Number) -> Result<()>;
    /// Sum and largest of a column.
    fn sum_and_largest(&self) -> Result<(Self::Number, Self::Number)>;
    /// `self ← max(self, floor)`.
    fn raise(&mut self, floor: &Self::Number) -> Result<()>;
    /// Σ p_ij² / self_i.
    fn squares_over(&self, p: Self::View<'_>) -> Result<Self::Number>;
    /// `size·(self + floor)^power`.
    fn powers(&self, floor: &Self::Number, power: f64, size: &Self::Number) -> Result<Self>;
    /// Each row of `self` times the number that `by` has for it.
    fn scale_rows(&mut self, by: &Self) -> Result<()>;

    // choices

    /// `draws`: of each matrix in turn, `below` = its rows.
    fn choice(draws: Vec<Vec<usize>>, below: usize, place: &Place) -> Result<Self::Rows>;
    /// `k` of the rows that are not zero, and how many these are; of none, any.
    fn choice_of_present(x: Self::View<'_>, k: usize, streams: &mut [Stream]) -> Result<(Self::Rows, Self::Number)>;
    fn rows_at(x: Self::View<'_>, rows: &Self::Rows) -> Result<Self>;
    /// Where the mask is 1 put back to its start.
    fn restart(&mut self, mask: &Self::Number, start: Start) -> Result<()>;

    /// Where the mask is 1 those of `by`.
    fn replace(&mut self, mask: &Self::Number, by: Self) -> Result<()>;

    // of square matrices

    /// `(shift·I + scale·(self + selfᵀ)/2)⁻¹` in f64; NaN where that is not positive definite.
    fn inverse(&self, scale: &Self::Number, shift: &Self::Number) -> Result<Self>;
    /// Eigenvectors as columns, largest eigenvalue first, computed on the CPU.
    fn eigenvectors(&self) -> Result<Self>;
    /// Q of Q·R with a non-negative diagonal of R.
    fn orthogonal(&self) -> Result<Self>;
    /// The order of falling Σᵢ aᵢⱼ·bᵢⱼ.
    fn falling(a: &Self, b: &Self) -> Result<Self::Order>;
    fn permute_columns(&mut self, order: &Self::Order) -> Result<()>;
    fn permute_rows(&mut self, order: &Self::Order) -> Result<()>;

    // weights

    fn maps(weights: &[Weight], batches: &[Shape], place: &Place) -> Result<Self::Maps>;
    /// The blocks of tensors in the order of the plan's weights.
    fn hold<'a>(plan: &Plan<Self>, tensors: &[&'a Tensor]) -> Result<Self::Held<'a>>;
    fn held<'h>(held: &'h Self::Held<'_>, batch: usize) -> Self::View<'h>;
    /// Of a weight whose blocks are in these batches `[rows, columns]`.
    fn whole(plan: &Plan<Self>, batches: &[&Self], weight: usize) -> Result<Tensor>;
    /// Sums over the blocks of each weight; what is not finite stays with its own.
    fn per_weight(plan: &Plan<Self>, blocks: &[Self::Number]) -> Result<Self::Number>;
    /// A number of each weight for each of its blocks, batch by batch.
    fn per_block(plan: &Plan<Self>, weights: &Self::Number) -> Result<Vec<Self::Number>>;
    fn clear_row(&mut self, member: usize, row: usize) -> Result<()>;
    /// `W ← W − shrink·W − rate·U` but for frozen rows; `steps` are rate and shrink of each batch. Rate 0: no update,
    /// whatever U holds.
    fn write(
        plan: &Plan<Self>,
        params: &ParamSet,
        updates: &[Self],
        steps: &[(Self::Number, Self::Number)],
    ) -> Result<()>;
}
