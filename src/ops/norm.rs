//! Residual and normalization, the ends of a sublayer:
//!
//! * post-norm: [`add_dropout_norm`], y = LN(x + dropout(f)), one node;
//! * pre-norm: [`add_dropout`], h = x + dropout(f), and [`layer_norm`], y = LN(h), two nodes, for both results are used.
//!
//! LN(h) = γ ⊙ x̂ + β with x̂ = (h − μ)·r, r = 1/√(σ² + ε), μ and σ² over the row (Ba et al. 2016).
//!
//! Backward, a row at a time: g = dy ⊙ γ; dh = r·(g − mean(g) − x̂·mean(g ⊙ x̂)); dx = dh; df = dh ⊙ m;
//! dγ = Σ dy ⊙ x̂, dβ = Σ dy over rows. Saved: μ and r; h is recomputed. γ and β travel as one `[2·d]` tensor, because
//! an operation takes three tensors at most.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use super::cuda::{self, Memory};
use super::dropout::Mask;
use super::real::{self, simd, with_real, Real};
use super::rows::{self, Blank, Unwritten, BLOCK};
use super::{tape, Dropout};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

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
    let op = Norm::new(x, gamma, beta, eps, dropout)?;
    if x.dims() != f.dims() {
        candle_core::bail!("add_dropout_norm: shapes {:?} and {:?} differ", x.dims(), f.dims());
    }
    tape::apply3(&x.contiguous()?, &f.contiguous()?, &tape::flatten(&[gamma, beta])?, op)
}

/// LN(x); x `[N, d]`, gamma, beta `[d]`.
///
/// # Errors
/// Shapes that do not fit, types other than f32 and f64.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    let op = Norm::new(x, gamma, beta, eps, None)?;
    tape::apply2(&x.contiguous()?, &tape::flatten(&[gamma, beta])?, op)
}

/// x + dropout(f), same shapes.
///
/// # Errors
/// Shapes that differ, types other than f32 and f64.
pub fn add_dropout(x: &Tensor, f: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    if x.dims() != f.dims() {
        candle_core::bail!("add_dropout: shapes {:?} and {:?} differ", x.dims(), f.dims());
    }
    let (_, width) = x.dims2()?;
    tape::apply2(&x.contiguous()?, &f.contiguous()?, AddDropout { width, dropout })
}

struct Norm {
    width: usize,
    eps: f64,
    dropout: Option<Dropout>,
    /// μ and r of each row: `[N, 2]`.
    saved: OnceLock<Tensor>,
}

impl Norm {
    fn new(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64, dropout: Option<Dropout>) -> Result<Self> {
        let (_, width) = x.dims2()?;
        if gamma.dims() != [width] || beta.dims() != [width] {
            candle_core::bail!("layer norm: input {:?}, gain {:?}, shift {:?}", x.dims(), gamma.dims(), beta.dims());
        }
        Ok(Norm { width, eps, dropout, saved: OnceLock::new() })
    }

    fn forward<T: Real>(&self, x: &[T], f: Option<&[T]>, gain_shift: &[T]) -> Result<(CpuStorage, Shape)> {
        let (n, block) = (x.len() / self.width, BLOCK * self.width);
        let mask = self.dropout.map(Mask::new);
        let eps = T::from_f64(self.eps);
        let (mut y, mut saved) = (Unwritten::new(x.len()), Unwritten::new(2 * n));
        let jobs = y.all().chunks(block).zip(saved.all().chunks(2 * BLOCK)).enumerate().collect();
        rows::run(jobs, x.len(), |(i, (y, saved))| {
            let range = i * block..i * block + y.len();
            let f = f.map(|f| &f[range.clone()]);
            normalize(y.copy_of(&x[range]), f, gain_shift, eps, mask, i * block, saved.zeros());
        });
        // only the first forward fills it, and there is only one
        self.saved.get_or_init(|| real::tensor(saved.done(), (n, 2)));
        Ok((T::to_cpu_storage_owned(y.done()), Shape::from((n, self.width))))
    }

    fn saved(&self) -> Result<&Tensor> {
        match self.saved.get() {
            Some(saved) => Ok(saved),
            None => candle_core::bail!("layer norm: backward without a forward pass"),
        }
    }

    /// dx, df, d(γ, β).
    fn gradients(&self, x: &Tensor, f: Option<&Tensor>, gb: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return self.on_gpu().backward(x, f, gb, self.saved()?, dy);
        }
        with_real!(x, T => self.backward::<T>(x, f, gb, dy))
    }

    fn backward<T: Real>(
        &self,
        x: &Tensor,
        f: Option<&Tensor>,
        gb: &Tensor,
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let saved = real::values::<T>(self.saved()?)?;
        let saved: &[T] = &saved;
        let block = BLOCK * self.width;
        let mask = self.dropout.map(Mask::new);
        let dy = dy.contiguous()?;
        let (x_values, gb_values, dy) = (real::values::<T>(x)?, real::values::<T>(gb)?, real::values::<T>(&dy)?);
        let f_guard = f.map(real::values::<T>).transpose()?;
        let f_values = f_guard.as_deref();
        let (x_values, gb_values, dy): (&[T], &[T], &[T]) = (&x_values, &gb_values, &dy);
        let mut dh = Unwritten::new(dy.len());
        let mut df = Unwritten::new(if mask.is_some() && f.is_some() { dy.len() } else { 0 });
        let df_blocks = df.all().chunks(block).map(Some).chain(std::iter::repeat_with(|| None));
        let jobs = dh.all().chunks(block).zip(df_blocks).enumerate().collect();
        let sums = rows::map(jobs, dy.len(), |(i, (dh, df))| {
            let range = i * block..i * block + dh.len();
            let f = f_values.map(|f| &f[range.clone()]);
            let saved = &saved[2 * i * BLOCK..];
            let (dh, df) = (dh.zeros(), df.map(Blank::zeros).unwrap_or_default());
            normalize_backward(&x_values[range.clone()], f, gb_values, saved, mask, i * block, &dy[range], dh, df)
        });
        let shape = x.dims2()?;
        let (dh, df) = (real::tensor(dh.done(), shape), df.done());
        let df = match f {
            Some(f) if f.track_op() && mask.is_some() => Some(real::tensor(df, shape)),
            Some(f) if f.track_op() => Some(dh.clone()),
            _ => None,
        };
        let dgb = gb.track_op().then(|| real::tensor(rows::sum_in_order(sums), 2 * self.width));
        Ok([x.track_op().then_some(dh), df, dgb])
    }
}

#[cfg(feature = "cuda")]
impl Norm {
    fn on_gpu(&self) -> cuda::Rows {
        cuda::Rows { width: self.width, eps: self.eps, dropout: self.dropout }
    }

    fn forward_on_gpu(
        &self,
        x: (&CudaStorage, &Layout),
        f: Option<(&CudaStorage, &Layout)>,
        gb: (&CudaStorage, &Layout),
    ) -> Result<(CudaStorage, Shape)> {
        let f = f.map(|(f, layout)| Memory::of(f, layout)).transpose()?;
        let (x_memory, gb) = (Memory::of(x.0, x.1)?, Memory::of(gb.0, gb.1)?);
        let (y, saved) = self.on_gpu().forward(&x.0.device, x_memory, f, gb)?;
        self.saved.get_or_init(|| saved);
        Ok((y, x.1.shape().clone()))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "add_dropout_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        f: &CpuStorage,
        f_layout: &Layout,
        gb: &CpuStorage,
        gb_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "add_dropout_norm";
        with_real!(x, T => self.forward::<T>(
            real::slice(x, x_layout, name)?,
            Some(real::slice(f, f_layout, name)?),
            real::slice(gb, gb_layout, name)?,
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        f: &CudaStorage,
        f_layout: &Layout,
        gb: &CudaStorage,
        gb_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu((x, x_layout), Some((f, f_layout)), (gb, gb_layout))
    }

    fn bwd(
        &self,
        x: &Tensor,
        f: &Tensor,
        gb: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, df, dgb] = self.gradients(x, Some(f), gb, dy)?;
        Ok((dx, df, dgb))
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gb: &CpuStorage,
        gb_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "layer_norm";
        with_real!(x, T => self.forward::<T>(
            real::slice(x, x_layout, name)?,
            None,
            real::slice(gb, gb_layout, name)?,
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        gb: &CudaStorage,
        gb_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu((x, x_layout), None, (gb, gb_layout))
    }

    fn bwd(&self, x: &Tensor, gb: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, _, dgb] = self.gradients(x, None, gb, dy)?;
        Ok((dx, dgb))
    }
}

struct AddDropout {
    width: usize,
    dropout: Option<Dropout>,
}

impl CustomOp2 for AddDropout {
    fn name(&self) -> &'static str {
        "add_dropout"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        f: &CpuStorage,
        f_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "add_dropout";
        with_real!(x, T => {
            let (x, f) = (real::slice::<T>(x, x_layout, name)?, real::slice::<T>(f, f_layout, name)?);
            let (mask, block) = (self.dropout.map(Mask::new), BLOCK * self.width);
            let mut h = Unwritten::new(x.len());
            let jobs = h.all().chunks(block).zip(x.chunks(block).zip(f.chunks(block))).enumerate().collect();
            rows::run(jobs, x.len(), |(i, (h, (x, f)))| {
                residual(h.copy_of(x), f, mask, i * block);
            });
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(h.done()), x_layout.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        f: &CudaStorage,
        f_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let memory = (Memory::of(x, x_layout)?, Memory::of(f, f_layout)?);
        Ok((cuda::add_dropped(&x.device, memory.0, memory.1, self.dropout)?, x_layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, f: &Tensor, _h: &Tensor, dh: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = x.track_op().then(|| dh.clone());
        let df = match (f.track_op(), self.dropout) {
            (false, _) => None,
            (true, None) => Some(dh.clone()),
            #[cfg(feature = "cuda")]
            (true, Some(dropout)) if dh.device().is_cuda() => Some(cuda::drop_out(&dh.contiguous()?, dropout)?),
            (true, Some(dropout)) => Some(with_real!(dh, T => {
                let mask = Mask::<T>::new(dropout);
                let mut df = real::values::<T>(&dh.contiguous()?)?.to_vec();
                let (n, block) = (df.len(), BLOCK * self.width);
                let jobs = df.chunks_mut(block).enumerate().collect();
                rows::run(jobs, n, |(i, df)| multiply(df, mask, i * block));
                Ok(real::tensor(df, dh.dims2()?))
            })?),
        };
        Ok((dx, df))
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
        gain_shift: &[T],
        eps: T,
        mask: Option<Mask<T>>,
        first: usize,
        saved: &mut [T],
    ) {
        let (gain, shift) = gain_shift.split_at(gain_shift.len() / 2);
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
        gain_shift: &[T],
        saved: &[T],
        mask: Option<Mask<T>>,
        first: usize,
        dy: &[T],
        dh: &mut [T],
        df: &mut [T],
    ) -> Vec<T> {
        let width = gain_shift.len() / 2;
        let gain = &gain_shift[..width];
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
