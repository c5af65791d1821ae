//! `linear_cross_entropy`: the output projection and its loss in one node, in blocks of rows, so that the `[N, V]`
//! logits never exist as a whole. h `[N, d]`, table E `[V, d]`, bias `[V]` or none.
//!
//! Logits are z = E·h + b; `token` has what a token costs by them, smoothed and with R-Drop. The result is s·Σ of the costs.
//!
//! The gradient dz is formed in place in the forward pass while the block is in the cache: dh = dz·E, dE += dzᵀ·h,
//! db += Σ dz. `backward` only multiplies them by the incoming scalar.

use candle_core::{Result, Tensor, WithDType};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

#[cfg(feature = "cuda")]
use super::cuda;
use super::gemm::{matmul_packed, Arithmetic, Block, Mat, MatMut, Packed, Store, Threads};
use super::prepacked::Prepacked;
use super::real::{self, with_real, Real};
use super::rows;
use super::tape::{self, Computed, Done, Op};
use super::vocabulary::LogSumExp;
pub use token::Criterion;

/// Rows whose logits exist at the same time.
pub(super) const ROWS: usize = 256;

/// What the output projection shall predict.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// One a row of states, or for two of them ([`Criterion::passes`]).
    pub labels: &'a [u32],
    /// An id that is never predicted (its logit counts as −∞): `<pad>`.
    pub masked: Option<u32>,
}

/// The result of [`linear_cross_entropy`].
#[derive(Debug)]
pub struct CrossEntropy {
    /// Scalar, on the tape: s·Σ of what the tokens cost.
    pub loss: Tensor,
    /// Their parts, detached.
    pub losses: Losses,
}

/// The losses of the tokens. On a GPU they may still be in the making: reading them waits.
#[derive(Clone, Debug)]
pub struct Losses(pub(super) Rows);

#[derive(Clone, Debug)]
pub(super) enum Rows {
    Host(Vec<token::Losses>),
    /// The sums in f64, and the unsmoothed loss of each token in f32.
    #[cfg(feature = "cuda")]
    Gpu {
        sums: Tensor,
        nll: Tensor,
    },
}

impl Losses {
    /// Σ ℓ, smoothed, Σ −log p(label), unsmoothed, each a mean where there are two passes, and Σ ½(KL + KL) between these.
    ///
    /// # Errors
    /// Those of the computation on a GPU that led here.
    pub fn sums(&self) -> Result<[f64; 3]> {
        match &self.0 {
            Rows::Host(rows) => {
                let sum = |of: fn(&token::Losses) -> f64| rows.iter().map(of).sum::<f64>();
                Ok([sum(|row| row.loss), sum(|row| row.nll), sum(|row| row.r_drop_kl)])
            }
            #[cfg(feature = "cuda")]
            Rows::Gpu { sums, .. } => match sums.to_vec1::<f64>()?.as_slice() {
                &[loss, nll, r_drop_kl] => Ok([loss, nll, r_drop_kl]),
                other => candle_core::bail!("cross entropy: {} sums", other.len()),
            },
        }
    }

    /// −log p(label) of each token, unsmoothed.
    ///
    /// # Errors
    /// As [`Losses::sums`].
    pub fn nll(&self) -> Result<Vec<f64>> {
        match &self.0 {
            Rows::Host(rows) => Ok(rows.iter().map(|row| row.nll).collect()),
            #[cfg(feature = "cuda")]
            Rows::Gpu { nll, .. } => Ok(nll.to_vec1::<f32>()?.into_iter().map(f64::from).collect()),
        }
    }
}

/// Cross-entropy of `table`·h + `bias` against the labels by `criterion`, summed and times `scale`.
///
/// # Errors
/// Shapes that do not fit, a label outside the table or equal to the masked id.
pub fn linear_cross_entropy(
    h: &Tensor,
    table: &Tensor,
    bias: Option<&Tensor>,
    targets: Targets<'_>,
    criterion: Criterion,
    scale: f64,
) -> Result<CrossEntropy> {
    let projection = Projection::new(h, table, bias, targets.masked)?;
    projection.check_labels(targets.labels, criterion.passes())?;
    let side = Arc::new(OnceLock::new());
    let op =
        LinearCrossEntropy { projection, labels: targets.labels.to_vec(), criterion, scale, side: Arc::clone(&side) };
    let loss = tape::apply(op, &[&[h, table], bias.as_slice()].concat())?;
    match side.get() {
        Some(rows) => Ok(CrossEntropy { loss, losses: Losses(rows.clone()) }),
        None => candle_core::bail!("cross entropy: no losses after the forward pass"),
    }
}

/// −log p(label) of each row; no gradients, nothing on the tape. `prepacked`: the table as
/// [`prepacked_table`](super::prepacked_table) gives it, or nothing.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn token_nll(
    h: &Tensor,
    table: &Tensor,
    prepacked: &[Prepacked],
    bias: Option<&Tensor>,
    targets: Targets<'_>,
) -> Result<Vec<f64>> {
    let projection = Projection::new(h, table, bias, targets.masked)?;
    projection.check_labels(targets.labels, 1)?;
    let (h, table) = (h.contiguous()?, table.contiguous()?);
    #[cfg(feature = "cuda")]
    if h.device().is_cuda() {
        let (device, factors) = (cuda::device_of(&h)?, (Criterion::default(), 1.0));
        let found = projection.losses_on_gpu(device, [&h, &table], bias, targets.labels, factors, [false; 3])?;
        return Losses(found.rows).nll();
    }
    with_real!(h, T => {
        let mut found: Vec<_> =
            targets.labels.iter().map(|&label| (label as usize, T::from_f64(0.0), LogSumExp::<T>::new())).collect();
        projection.scan(&real::values::<T>(&h)?, &table, prepacked, bias, &mut found, |(label, of_label, total), first, z| {
            if let Some(&z) = label.checked_sub(first).and_then(|label| z.get(label)) {
                *of_label = z;
            }
            total.see(z);
        })?;
        Ok(found.into_iter().map(|(_, of_label, total)| total.value().to_f64() - of_label.to_f64()).collect())
    })
}

/// log p of every id for each row of states: `[rows, V]`, off the tape; −∞ for the masked id. `prepacked` as for
/// [`token_nll`].
///
/// # Errors
/// Shapes that do not fit.
pub fn log_probabilities(
    h: &Tensor,
    table: &Tensor,
    prepacked: &[Prepacked],
    bias: Option<&Tensor>,
    masked: Option<u32>,
) -> Result<Tensor> {
    let projection = Projection::new(h, table, bias, masked)?;
    let (h, table) = (h.contiguous()?, table.contiguous()?);
    #[cfg(feature = "cuda")]
    if h.device().is_cuda() {
        return projection.log_softmax_on_gpu(&h, &table, bias);
    }
    with_real!(h, T => {
        let mut all = vec![T::from_f64(0.0); projection.n * projection.vocabulary];
        let mut rows: Vec<_> = all.chunks_mut(projection.vocabulary).map(|row| (row, LogSumExp::<T>::new())).collect();
        projection.scan(&real::values::<T>(&h)?, &table, prepacked, bias, &mut rows, |(row, total), first, z| {
            row[first..][..z.len()].copy_from_slice(z);
            total.see(z);
        })?;
        let elements = projection.n * projection.vocabulary;
        rows::run(rows, elements, |(row, total)| {
            let total = total.value();
            row.iter_mut().for_each(|z| *z -= total);
        });
        Ok(real::tensor(all, (projection.n, projection.vocabulary)))
    })
}

/// The shapes of states, table and bias, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projection {
    pub(super) n: usize,
    pub(super) width: usize,
    pub(super) vocabulary: usize,
    pub(super) masked: Option<usize>,
}

impl Projection {
    pub(super) fn new(h: &Tensor, table: &Tensor, bias: Option<&Tensor>, masked: Option<u32>) -> Result<Self> {
        let ((n, width), (vocabulary, table_width)) = (h.dims2()?, table.dims2()?);
        let masked = masked.map(|id| id as usize);
        if width != table_width
            || bias.is_some_and(|b| b.dims() != [vocabulary])
            || masked.is_some_and(|id| id >= vocabulary)
        {
            candle_core::bail!(
                "cross entropy: states {:?}, table {:?}, bias {:?}, masked id {masked:?} do not fit",
                h.dims(),
                table.dims(),
                bias.map(Tensor::dims)
            );
        }
        Ok(Projection { n, width, vocabulary, masked })
    }

    fn check_labels(&self, labels: &[u32], passes: usize) -> Result<()> {
        if passes * labels.len() != self.n {
            candle_core::bail!("cross entropy: {} labels for {} states of {passes} passes", labels.len(), self.n);
        }
        let wrong = |label: &&u32| **label as usize >= self.vocabulary || Some(**label as usize) == self.masked;
        match labels.iter().find(wrong) {
            Some(label) => candle_core::bail!(
                "cross entropy: label {label} can not be predicted (vocabulary of {}, masked id {:?})",
                self.vocabulary,
                self.masked
            ),
            None => Ok(()),
        }
    }

    /// Eᵀ for [`Projection::logits`].
    pub(super) fn pack<T: Real>(&self, table: &[T]) -> Packed<T> {
        Packed::of(Arithmetic::in_force(), Mat::new(table, self.vocabulary, self.width).t(), Threads::All)
    }

    /// Memory for the logits of a block of rows.
    pub(super) fn block<T: Real>(&self) -> Vec<T> {
        vec![T::zero(); ROWS.min(self.n) * self.vocabulary]
    }

    /// h·Eᵀ + b for some rows of states, −∞ for the masked id.
    pub(super) fn logits<T: Real>(&self, h: &[T], table: &Packed<T>, bias: Option<&[T]>, z: &mut [T]) {
        let n = h.len() / self.width;
        let z = MatMut::new(z, n, self.vocabulary);
        matmul_packed(z, Store::Set, Mat::new(h, n, self.width), table, Threads::All, |block| {
            finish_logits(block, bias, self.masked);
        });
    }
}

/// Adds the bias and masks an id in a block of logits.
pub(super) fn finish_logits<T: Real>(mut block: Block<'_, T>, bias: Option<&[T]>, masked: Option<usize>) {
    let masked = masked.and_then(|id| id.checked_sub(block.column)).filter(|&column| column < block.columns);
    let bias = bias.map(|b| &b[block.column..][..block.columns]);
    for i in 0..block.rows {
        let row = block.row_mut(i);
        if let Some(bias) = bias {
            row.iter_mut().zip(bias).for_each(|(z, &b)| *z += b);
        }
        if let Some(column) = masked {
            row[column] = T::NEG_INFINITY;
        }
    }
}

/// Inputs: states, table, and a bias or none.
pub(super) struct LinearCrossEntropy {
    pub(super) projection: Projection,
    pub(super) labels: Vec<u32>,
    pub(super) criterion: Criterion,
    pub(super) scale: f64,
    /// Filled by the forward pass.
    pub(super) side: Arc<OnceLock<Rows>>,
}

impl LinearCrossEntropy {
    /// Which of states, table and bias need a gradient.
    pub(super) fn wants(inputs: &[Tensor], tracked: bool) -> [bool; 3] {
        std::array::from_fn(|i| tracked && inputs.get(i).is_some_and(Tensor::track_op))
    }

    /// The rows of each block: of the same tokens in every pass.
    fn blocks(&self) -> impl Iterator<Item = Vec<Range<usize>>> + '_ {
        let (tokens, passes) = (self.labels.len(), self.criterion.passes());
        let block = ROWS / passes;
        (0..tokens).step_by(block).map(move |start| {
            let end = (start + block).min(tokens);
            (0..passes).map(|pass| pass * tokens + start..pass * tokens + end).collect()
        })
    }

    fn forward_of<T: Real>(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        let (h, table) = (real::values::<T>(&inputs[0])?, real::values::<T>(&inputs[1])?);
        let bias = inputs.get(2).map(real::values::<T>).transpose()?;
        let (h, table, bias): (&[T], &[T], Option<&[T]>) = (&h, &table, bias.as_deref());
        let Projection { n, width, vocabulary, masked } = self.projection;
        let half_alpha = 0.5 * self.criterion.r_drop_alpha;
        let rule = token::Rule {
            masked,
            smoothing: T::from_f64(self.criterion.label_smoothing),
            half_alpha: T::from_f64(half_alpha),
            scale: T::from_f64(self.scale),
        };
        let [wants_h, wants_table, wants_bias] = LinearCrossEntropy::wants(inputs, tracked);
        let zeros = |wanted: bool, len: usize| vec![T::zero(); if wanted { len } else { 0 }];
        let mut dh = zeros(wants_h, n * width);
        let mut d_table = zeros(wants_table, vocabulary * width);
        let mut d_bias = zeros(wants_bias, vocabulary);
        let packed = self.projection.pack(table);
        let pack = |b: Mat<'_, T>| -> Packed<T> { Packed::of(Arithmetic::in_force(), b, Threads::All) };
        let packed_for_dh = wants_h.then(|| pack(Mat::new(table, vocabulary, width)));
        let mut z = self.projection.block();
        let mut part = Vec::with_capacity(ROWS.min(n) * width);
        let mut d_part = zeros(wants_h, ROWS.min(n) * width);
        let mut results = Vec::with_capacity(self.labels.len());
        for ranges in self.blocks() {
            part.clear();
            ranges.iter().for_each(|range| part.extend_from_slice(&h[range.start * width..range.end * width]));
            let (labels, rows) = (&self.labels[ranges[0].clone()], part.len() / width.max(1));
            let z = &mut z[..rows * vocabulary];
            self.projection.logits(&part, &packed, bias, z);
            let elements = z.len();
            let (first, second) = z.split_at_mut(labels.len() * vocabulary);
            let mut second = second.chunks_mut(vocabulary);
            let jobs = first.chunks_mut(vocabulary).zip(labels).map(|(p, &label)| (p, second.next(), label as usize));
            results.extend(rows::map(jobs.collect(), elements, |(p, q, label)| match q {
                None => token::gradient(p, label, rule),
                Some(q) => token::gradients(p, q, label, rule),
            }));
            let dz = Mat::new(z, rows, vocabulary);
            if let Some(table) = &packed_for_dh {
                let d_part = &mut d_part[..part.len()];
                matmul_packed(MatMut::new(d_part, rows, width), Store::Set, dz, table, Threads::All, |_| ());
                for (range, d_part) in ranges.iter().zip(d_part.chunks(labels.len() * width)) {
                    dh[range.start * width..range.end * width].copy_from_slice(d_part);
                }
            }
            if wants_table {
                let d_table = MatMut::new(&mut d_table, vocabulary, width);
                matmul_packed(d_table, Store::Add, dz.t(), &pack(Mat::new(&part, rows, width)), Threads::All, |_| ());
            }
            if wants_bias {
                for row in z.chunks_exact(vocabulary) {
                    d_bias.iter_mut().zip(row).for_each(|(b, &dz)| *b += dz);
                }
            }
        }
        let loss = self.scale * results.iter().map(|token| token.loss + half_alpha * token.r_drop_kl).sum::<f64>();
        let saved = [
            wants_h.then(|| real::tensor(dh, (n, width))),
            wants_table.then(|| real::tensor(d_table, (vocabulary, width))),
            wants_bias.then(|| real::tensor(d_bias, vocabulary)),
        ];
        self.side.get_or_init(|| Rows::Host(results));
        Ok((real::storage(vec![T::from_f64(loss)]), ().into(), saved))
    }

    /// What was saved, times the incoming scalar.
    pub(super) fn scaled(
        done: Done<'_>,
        times: impl Fn(&Tensor, f64) -> Result<Tensor>,
    ) -> Result<Vec<Option<Tensor>>> {
        let factor = done.gradient.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        let scaled = |gradient: &Option<Tensor>| match gradient {
            Some(gradient) if factor == 1.0 => Ok(Some(gradient.clone())),
            Some(gradient) => times(gradient, factor).map(Some),
            None => Ok(None),
        };
        done.saved.iter().take(done.inputs.len()).map(scaled).collect()
    }
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn forward(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(inputs, tracked))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        LinearCrossEntropy::scaled(done, |gradient, factor| gradient * factor)
    }

    fn gives_its_own(&self) -> bool {
        true
    }
}

mod token;

#[cfg(test)]
mod tests;
