//! Residual and normalization, the ends of a sublayer:
//!
//! * post-norm: [`add_dropout_norm`], y = LN(x + dropout(f)), one node;
//! * pre-norm: [`add_dropout`], h = x + dropout(f), and [`layer_norm`], y = LN(h), two nodes, for both results are used.
//!
//! LN(h) = γ ⊙ x̂ + β with x̂ = (h − μ)·r, r = 1/√(σ² + ε), μ and σ² over the row (Ba et al. 2016).
//!
//! Backward, a row at a time: g = dy ⊙ γ; dh = r·(g − mean(g) − x̂·mean(g ⊙ x̂)); dx = dh; df = dh ⊙ m;
//! dγ = Σ dy ⊙ x̂, dβ = Σ dy over rows. Saved: μ and r; h is recomputed.

use candle_core::{bail, Result, Tensor};

use super::dropout::Mask;
use super::real::{self, simd, with_real, Real};
use super::rows::{self, BLOCK};
use super::tape::{self, exactly, Computed, Done, Op};
use super::unwritten::{Blank, Unwritten};
use super::Dropout;

/// LN(x + dropout(f)); x, f `[N, d]`, gamma, beta `[d]`.
///
/// # Errors
/// Shapes that do not fit, types other than f32 and f64.
pub fn add_dropout_norm(
    x: &Tensor,
    f: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    if x.dims() != f.dims() {
        bail!("add_dropout_norm: shapes {:?} and {:?} differ", x.dims(), f.dims());
    }
    tape::apply(Norm::new(x, gamma, beta, eps, dropout)?, &[x, f, gamma, beta])
}

/// LN(x); x `[N, d]`, gamma, beta `[d]`.
///
/// # Errors
/// Shapes that do not fit, types other than f32 and f64.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    tape::apply(Norm::new(x, gamma, beta, eps, None)?, &[x, gamma, beta])
}

/// x + dropout(f), same shapes.
///
/// # Errors
/// Shapes that differ, types other than f32 and f64.
pub fn add_dropout(x: &Tensor, f: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    if x.dims() != f.dims() {
        bail!("add_dropout: shapes {:?} and {:?} differ", x.dims(), f.dims());
    }
    let (_, width) = x.dims2()?;
    tape::apply(AddDropout { width, dropout }, &[x, f])
}

/// Inputs: x, f or not, γ, β.
pub(super) struct Norm {
    pub(super) width: usize,
    pub(super) eps: f64,
    pub(super) dropout: Option<Dropout>,
}

/// The inputs of a [`Norm`].
pub(super) type Parts<'a> = (&'a Tensor, Option<&'a Tensor>, [&'a Tensor; 2]);

impl Norm {
    fn new(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64, dropout: Option<Dropout>) -> Result<Self> {
        let (_, width) = x.dims2()?;
        if gamma.dims() != [width] || beta.dims() != [width] {
            bail!("layer norm: input {:?}, gain {:?}, shift {:?}", x.dims(), gamma.dims(), beta.dims());
        }
        Ok(Norm { width, eps, dropout })
    }

    pub(super) fn parts(inputs: &[Tensor]) -> Result<Parts<'_>> {
        match inputs {
            [x, gain, shift] => Ok((x, None, [gain, shift])),
            [x, f, gain, shift] => Ok((x, Some(f), [gain, shift])),
            _ => bail!("layer norm: {} inputs", inputs.len()),
        }
    }

    /// Gradients in the order of the inputs; that of f is dh where no mask makes it another.
    pub(super) fn in_order(
        (x, f, gain_shift): Parts<'_>,
        dh: Tensor,
        df: Option<Tensor>,
        d_gain_shift: [Tensor; 2],
    ) -> Vec<Option<Tensor>> {
        let mut all = vec![x.track_op().then(|| dh.clone())];
        all.extend(f.map(|f| f.track_op().then(|| df.unwrap_or(dh))));
        all.extend(gain_shift.into_iter().zip(d_gain_shift).map(|(part, d)| part.track_op().then_some(d)));
        all
    }

    fn forward_of<T: Real>(&self, (x, f, [gain, shift]): Parts<'_>) -> Result<Computed> {
        let (x_values, gain, shift) = (real::values::<T>(x)?, real::values::<T>(gain)?, real::values::<T>(shift)?);
        let f = f.map(real::values::<T>).transpose()?;
        let (x_values, gain, shift, f): (&[T], &[T], &[T], _) = (&x_values, &gain, &shift, f.as_deref());
        let (n, block) = (x_values.len() / self.width, BLOCK * self.width);
        let mask = self.dropout.map(Mask::new);
        let eps = T::from_f64(self.eps);
        let (mut y, mut saved) = (Unwritten::new(x_values.len()), Unwritten::new(2 * n));
        let jobs = y.all().chunks(block).zip(saved.all().chunks(2 * BLOCK)).enumerate().collect();
        rows::run(jobs, x_values.len(), |(i, (y, saved)): (usize, (Blank<'_, T>, Blank<'_, T>))| {
            let range = i * block..i * block + y.len();
            let f = f.map(|f| &f[range.clone()]);
            normalize(y.copy_of(&x_values[range]), f, gain, shift, eps, mask, i * block, saved.zeros());
        });
        let saved = real::tensor(saved.done(), (n, 2));
        Ok((real::storage(y.done()), x.shape().clone(), [Some(saved), None, None]))
    }

    fn backward_of<T: Real>(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let (x, f, [gain, shift]) = Norm::parts(done.inputs)?;
        let [saved] = done.saved()?;
        let saved = real::values::<T>(saved)?;
        let block = BLOCK * self.width;
        let mask = self.dropout.map(Mask::new);
        let (x_values, gain_values) = (real::values::<T>(x)?, real::values::<T>(gain)?);
        let (dy, f_values) = (real::values::<T>(done.gradient)?, f.map(real::values::<T>).transpose()?);
        let (saved, x_values, gain_values, dy): (&[T], &[T], &[T], &[T]) = (&saved, &x_values, &gain_values, &dy);
        let f_values = f_values.as_deref();
        let mut dh = Unwritten::new(dy.len());
        let mut df = Unwritten::new(if mask.is_some() && f.is_some() { dy.len() } else { 0 });
        let df_blocks = df.all().chunks(block).map(Some).chain(std::iter::repeat_with(|| None));
        let jobs = dh.all().chunks(block).zip(df_blocks).enumerate().collect();
        let sums = rows::map(jobs, dy.len(), |(i, (dh, df)): (usize, (Blank<'_, T>, Option<Blank<'_, T>>))| {
            let range = i * block..i * block + dh.len();
            let f = f_values.map(|f| &f[range.clone()]);
            let saved = &saved[2 * i * BLOCK..];
            let (dh, df) = (dh.zeros(), df.map(Blank::zeros).unwrap_or_default());
            normalize_backward(&x_values[range.clone()], f, gain_values, saved, mask, i * block, &dy[range], dh, df)
        });
        let (dh, df) = (real::tensor(dh.done(), x.shape()), df.done());
        let df = (!df.is_empty()).then(|| real::tensor(df, x.shape()));
        let sums = rows::sum_in_order(sums);
        let (d_gain, d_shift) = sums.split_at(self.width.min(sums.len()));
        let d_gain_shift = [d_gain, d_shift].map(|sums| real::tensor(sums.to_vec(), self.width));
        Ok(Norm::in_order((x, f, [gain, shift]), dh, df, d_gain_shift))
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn forward(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(Norm::parts(inputs)?))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        with_real!(done.output, T => self.backward_of::<T>(done))
    }
}

/// Inputs: x and f.
pub(super) struct AddDropout {
    width: usize,
    pub(super) dropout: Option<Dropout>,
}

impl AddDropout {
    fn forward_of<T: Real>(&self, [x, f]: &[Tensor; 2]) -> Result<Computed> {
        let (x_values, f) = (real::values::<T>(x)?, real::values::<T>(f)?);
        let (mask, block) = (self.dropout.map(Mask::new), BLOCK * self.width);
        let mut h = Unwritten::new(x_values.len());
        let jobs = h.all().chunks(block).zip(x_values.chunks(block).zip(f.chunks(block))).enumerate().collect();
        rows::run(jobs, x_values.len(), |(i, (h, (x, f)))| {
            residual(Blank::copy_of(h, x), f, mask, i * block);
        });
        Ok((real::storage(h.done()), x.shape().clone(), Default::default()))
    }

    fn dropped<T: Real>(&self, dh: &Tensor, dropout: Dropout) -> Result<Tensor> {
        let (values, block) = (real::values::<T>(dh)?, BLOCK * self.width);
        let mut df = Unwritten::new(values.len());
        let jobs = df.all().chunks(block).zip(values.chunks(block)).enumerate().collect();
        rows::run(jobs, values.len(), |(i, (df, dh)): (usize, (Blank<'_, T>, &[T]))| {
            multiply(df.copy_of(dh), Mask::new(dropout), i * block);
        });
        Ok(real::tensor(df.done(), dh.shape()))
    }

    /// `dropped` is what a mask makes of dh.
    pub(super) fn gradients(
        &self,
        done: Done<'_>,
        dropped: impl FnOnce(Dropout) -> Result<Tensor>,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, f] = exactly(done.inputs)?;
        let dh = done.gradient;
        let df = match (f.track_op(), self.dropout) {
            (false, _) => None,
            (true, None) => Some(dh.clone()),
            (true, Some(dropout)) => Some(dropped(dropout)?),
        };
        Ok(vec![x.track_op().then(|| dh.clone()), df])
    }
}

impl Op for AddDropout {
    fn name(&self) -> &'static str {
        "add_dropout"
    }

    fn forward(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(exactly(inputs)?))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        self.gradients(done, |dropout| with_real!(done.gradient, T => self.dropped::<T>(done.gradient, dropout)))
    }
}

simd! {
    /// h += f ⊙ m.
    fn residual<T: Real>(h: &mut [T], f: &[T], mask: Option<Mask<T>>, first: usize) {
        match mask {
            None => h.iter_mut().zip(f).for_each(|(h, &f)| *h += f),
            Some(m) => h.iter_mut().zip(f).enumerate().for_each(|(i, (h, &f))| *h += f * m.factor(first + i)),
        }
    }
}

simd! {
    /// x ⊙= m.
    fn multiply<T: Real>(x: &mut [T], mask: Mask<T>, first: usize) {
        x.iter_mut().enumerate().for_each(|(i, x)| *x *= mask.factor(first + i));
    }
}

simd! {
    /// x becomes y, a row after the other; `saved` gets mean and 1/deviation of each.
    fn normalize<T: Real>(
        y: &mut [T],
        f: Option<&[T]>,
        gain: &[T],
        shift: &[T],
        eps: T,
        mask: Option<Mask<T>>,
        first: usize,
        saved: &mut [T],
    ) {
        let width = gain.len();
        let count = T::from_f64(width as f64);
        if let Some(f) = f {
            match mask {
                None => y.iter_mut().zip(f).for_each(|(h, &f)| *h += f),
                Some(m) => y.iter_mut().zip(f).enumerate().for_each(|(i, (h, &f))| *h += f * m.factor(first + i)),
            }
        }
        for (row, saved) in y.chunks_exact_mut(width).zip(saved.chunks_exact_mut(2)) {
            let mean = real::sum(row) / count;
            row.iter_mut().for_each(|h| *h -= mean);
            let r = T::one() / (real::dot(row, row) / count + eps).sqrt();
            row.iter_mut().zip(gain).zip(shift).for_each(|((h, &g), &b)| *h = *h * r * g + b);
            saved.copy_from_slice(&[mean, r]);
        }
    }
}

simd! {
    /// Fills dh, and df where a mask makes it differ; returns (dγ, dβ) of these rows.
    fn normalize_backward<T: Real>(
        x: &[T],
        f: Option<&[T]>,
        gain: &[T],
        saved: &[T],
        mask: Option<Mask<T>>,
        first: usize,
        dy: &[T],
        dh: &mut [T],
        df: &mut [T],
    ) -> Vec<T> {
        let width = gain.len();
        let count = T::from_f64(width as f64);
        let mut sums = vec![T::zero(); 2 * width];
        let (d_gain, d_shift) = sums.split_at_mut(width);
        let mut normal = vec![T::zero(); width];
        for (i, (dy, dh)) in dy.chunks_exact(width).zip(dh.chunks_exact_mut(width)).enumerate() {
            let (start, mean, r) = (i * width, saved[2 * i], saved[2 * i + 1]);
            normal.copy_from_slice(&x[start..start + width]);
            if let Some(f) = f {
                let pairs = normal.iter_mut().zip(&f[start..start + width]);
                match mask {
                    None => pairs.for_each(|(h, &f)| *h += f),
                    Some(m) => pairs.enumerate().for_each(|(j, (h, &f))| *h += f * m.factor(first + start + j)),
                }
            }
            for j in 0..width {
                normal[j] = (normal[j] - mean) * r;
                dh[j] = dy[j] * gain[j];
                d_gain[j] += dy[j] * normal[j];
                d_shift[j] += dy[j];
            }
            let (mean_g, mean_gx) = (real::sum(dh) / count, real::dot(dh, &normal) / count);
            for j in 0..width {
                dh[j] = r * (dh[j] - mean_g - normal[j] * mean_gx);
            }
            if let (Some(m), false) = (mask, df.is_empty()) {
                let df = &mut df[start..start + width];
                df.iter_mut().zip(dh).enumerate().for_each(|(j, (df, &mut dh))| *df = dh * m.factor(first + start + j));
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agree, agree_with_differences, dropout_of, random};
    use crate::ops::dropout::reference::mask_tensor;
    use candle_core::D;
    use proptest::prelude::*;

    fn plain_norm(h: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
        let centered = h.broadcast_sub(&h.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        centered.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(gamma)?.broadcast_add(beta)
    }

    fn plain_add(x: &Tensor, f: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
        x + (f * mask_tensor(dropout, f.dims(), f.dtype())?)?
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn all_three_agree_with_plain_operations(n in 1usize..150, d in 2usize..70, drop: bool, seed in 0u64..1000) {
            let dropout = dropout_of(drop, seed);
            let (x, f) = (random(&[n, d], seed), random(&[n, d], seed + 1));
            let (gamma, beta) = (random(&[d], seed + 2), random(&[d], seed + 3));
            let (eps, all) = (1e-2, [x.clone(), f.clone(), gamma.clone(), beta.clone()]);
            agree(
                &all,
                2..4,
                |v| add_dropout_norm(&v[0], &v[1], &v[2], &v[3], eps, dropout),
                |v| plain_norm(&plain_add(&v[0], &v[1], dropout)?, &v[2], &v[3], eps),
            );
            agree(
                &[x.clone(), gamma, beta],
                1..3,
                |v| layer_norm(&v[0], &v[1], &v[2], eps),
                |v| plain_norm(&v[0], &v[1], &v[2], eps),
            );
            agree(&[x, f], 0..0, |v| add_dropout(&v[0], &v[1], dropout), |v| plain_add(&v[0], &v[1], dropout));
        }
    }

    #[test]
    fn agrees_with_differences() {
        let all = [random(&[3, 5], 1), random(&[3, 5], 2), random(&[5], 3), random(&[5], 4)];
        agree_with_differences(&all, |v| add_dropout_norm(&v[0], &v[1], &v[2], &v[3], 1e-5, dropout_of(true, 5)));
    }
}
