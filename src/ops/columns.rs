//! Cutting and joining activations by columns: candle's `narrow` and `cat` do it at several times the cost in backward.
//!
//! ```text
//! columns: y = x[:, start..start + width]            dx = 0 outside these columns
//! join:    y = dropout([a | b | c])                  [da | db | dc] = dy ⊙ m
//! ```
//! with m the scaled keep mask over the joined row. Nothing is saved for backward.

use super::dropout::Mask;
use super::real::{simd, storage, tensor, values, with_real, Real};
use super::rows::{self, BLOCK};
use super::tape::{self, exactly, Computed, Done, Op};
use super::unwritten::{Blank, Unwritten};
use super::Dropout;
use candle_core::{bail, Result, Tensor};

/// `width` columns of `x [N, d]` from `start`: `[N, width]`.
///
/// # Errors
/// Columns outside `x`.
pub fn columns(x: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    let (_, all) = x.dims2()?;
    if start + width > all {
        bail!("columns: {start}..{} of {:?}", start + width, x.dims());
    }
    tape::apply(Columns { start, width }, &[x])
}

/// Activations side by side, then dropout.
///
/// # Errors
/// No parts; rows that do not match.
pub fn join(parts: &[&Tensor], dropout: Option<Dropout>) -> Result<Tensor> {
    let rows = parts.iter().map(|part| part.dims2().map(|(rows, _)| rows)).collect::<Result<Vec<_>>>()?;
    match (parts, dropout) {
        ([], _) => bail!("join: no parts"),
        _ if rows.windows(2).any(|pair| pair[0] != pair[1]) => bail!("join: parts of {rows:?} rows"),
        ([alone], None) => alone.contiguous(),
        _ => tape::apply(Join { dropout }, parts),
    }
}

/// Columns `start..start + width` of rows of `all` values.
fn cut<T: Real>(x: &[T], all: usize, start: usize, width: usize) -> Vec<T> {
    let mut y = Unwritten::new(x.len() / all * width);
    let jobs = y.all().chunks(BLOCK * width).zip(x.chunks(BLOCK * all)).collect();
    rows::run(jobs, x.len(), |(y, x): (Blank<'_, T>, &[T])| {
        for (y, x) in y.zeros().chunks_exact_mut(width).zip(x.chunks_exact(all)) {
            y.copy_from_slice(&x[start..][..width]);
        }
    });
    y.done()
}

pub(super) struct Columns {
    pub(super) start: usize,
    pub(super) width: usize,
}

impl Columns {
    fn backward_of<T: Real>(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (n, all) = x.dims2()?;
        let mut dx = vec![T::zero(); n * all];
        for (dx, dy) in dx.chunks_exact_mut(all).zip(values::<T>(dy)?.chunks_exact(self.width)) {
            dx[self.start..][..self.width].copy_from_slice(dy);
        }
        Ok(tensor(dx, (n, all)))
    }
}

impl Op for Columns {
    fn name(&self) -> &'static str {
        "columns"
    }

    fn forward(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let [x] = exactly(inputs)?;
        let (n, all) = x.dims2()?;
        let y = with_real!(x, T => Ok(storage(cut::<T>(&values(x)?, all, self.start, self.width))))?;
        Ok((y, (n, self.width).into(), Default::default()))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let [x] = exactly(done.inputs)?;
        with_real!(x, T => Ok(vec![Some(self.backward_of::<T>(x, done.gradient)?)]))
    }
}

pub(super) struct Join {
    pub(super) dropout: Option<Dropout>,
}

impl Join {
    /// The gradient of each part that needs one, by `part(start, width)`.
    pub(super) fn parts(
        inputs: &[Tensor],
        part: impl Fn(usize, usize) -> Result<Tensor>,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        let of = |input: &Tensor| {
            let width = input.dim(1)?;
            start += width;
            input.track_op().then(|| part(start - width, width)).transpose()
        };
        inputs.iter().map(of).collect()
    }

    fn forward_of<T: Real>(&self, inputs: &[Tensor]) -> Result<Computed> {
        let n = inputs[0].dim(0)?;
        let parts = inputs.iter().map(values::<T>).collect::<Result<Vec<_>>>()?;
        let parts: Vec<(&[T], usize)> = parts.iter().zip(inputs).map(|(x, input)| (&**x, input.dims()[1])).collect();
        let all: usize = parts.iter().map(|(_, width)| width).sum();
        let mask = self.dropout.map(Mask::new);
        let mut y = Unwritten::new(n * all);
        let jobs = y.all().chunks(BLOCK * all).enumerate().collect();
        rows::run(jobs, n * all, |(block, y): (usize, Blank<'_, T>)| {
            for (i, y) in y.zeros().chunks_exact_mut(all).enumerate() {
                let (row, mut start) = (block * BLOCK + i, 0);
                for &(part, width) in &parts {
                    y[start..][..width].copy_from_slice(&part[row * width..][..width]);
                    start += width;
                }
                if let Some(mask) = mask {
                    drop_out(y, mask, row * all);
                }
            }
        });
        Ok((storage(y.done()), (n, all).into(), Default::default()))
    }

    fn backward_of<T: Real>(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let (n, all) = done.gradient.dims2()?;
        let dy = values::<T>(done.gradient)?;
        let masked = self.dropout.map(|dropout| {
            let mut masked = Unwritten::new(dy.len());
            let jobs = masked.all().chunks(BLOCK * all).zip(dy.chunks(BLOCK * all.max(1))).enumerate().collect();
            rows::run(jobs, dy.len(), |(block, (masked, dy)): (usize, (Blank<'_, T>, &[T]))| {
                drop_out(masked.copy_of(dy), Mask::new(dropout), block * BLOCK * all);
            });
            masked.done()
        });
        let dy = masked.as_deref().unwrap_or(&dy);
        Join::parts(done.inputs, |start, width| Ok(tensor(cut(dy, all, start, width), (n, width))))
    }
}

impl Op for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn forward(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(inputs))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        with_real!(done.gradient, T => self.backward_of::<T>(done))
    }
}

simd! {
/// `first`: index of the first element.
fn drop_out<T: Real>(x: &mut [T], mask: Mask<T>, first: usize) {
    x.iter_mut().enumerate().for_each(|(i, x)| *x *= mask.factor(first + i));
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agree, constant, dropout_of, random};
    use crate::ops::dropout::reference::mask_tensor;

    #[test]
    fn columns_agree_with_narrow() {
        for (n, all, start, width) in [(1, 1, 0, 1), (4, 7, 2, 3), (3, 5, 0, 5), (2, 40, 39, 1)] {
            agree(&[random(&[n, all], 1)], 0..0, |x| columns(&x[0], start, width), |x| x[0].narrow(1, start, width));
        }
        assert!(columns(&constant(&random(&[2, 3], 1)), 2, 2).is_err());
    }

    #[test]
    fn join_agrees_with_cat_and_a_mask() {
        for (widths, drop) in [(&[3][..], true), (&[3], false), (&[1, 4], true), (&[2, 2], false), (&[5, 1, 3], true)] {
            let dropout = dropout_of(drop, 5);
            let inputs: Vec<_> = widths.iter().zip(0..).map(|(&w, i)| random(&[6, w], i)).collect();
            let plain = |x: &[Tensor]| {
                let y = Tensor::cat(x, 1)?;
                &y * mask_tensor(dropout, y.dims(), y.dtype())?
            };
            agree(&inputs, 0..0, |x| join(&x.iter().collect::<Vec<_>>(), dropout), plain);
        }
        let (a, b) = (constant(&random(&[2, 3], 1)), constant(&random(&[3, 3], 1)));
        assert!(join(&[&a, &b], None).is_err());
    }
}
