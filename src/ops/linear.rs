//! `linear`: y = dropout(φ(x·Wᵀ + b)) over packed rows.
//!
//! | | shape |
//! |---|---|
//! | x | `[N, in]` |
//! | W | `[out, in]` |
//! | b | `[out]`, optional |
//! | y | `[N, out]` |
//!
//! Backward, with m the scaled keep mask: dz = dy ⊙ m ⊙ φ′(z); dx = dz·W; dW = dzᵀ·x; db = Σ rows of dz.
//! Saved: nothing for identity and ReLU (φ′ is read off y: a kept element is positive exactly where z is), z otherwise.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use std::borrow::Cow;
use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use super::cuda::{self, Memory};
use super::dropout::Mask;
use super::gemm::{product, product_then, Mat, Threads};
use super::real::{self, simd, with_real, Real};
use super::rows::{self, Unwritten, BLOCK};
use super::{tape, Dropout};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;

/// The function φ after a linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Identity,
    Relu,
    /// z·Φ(z) with the exact normal distribution function (Hendrycks & Gimpel 2016), not the tanh fit.
    Gelu,
    /// z·σ(z) (Ramachandran et al. 2017), also called SiLU.
    Swish,
    Tanh,
}

/// y = dropout(φ(x·Wᵀ + b)); one node on the tape.
///
/// # Errors
/// Shapes that do not fit, types other than f32 and f64.
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let (n, inner) = x.dims2()?;
    let (outer, weight_inner) = weight.dims2()?;
    if inner != weight_inner || bias.is_some_and(|b| b.dims() != [outer]) {
        candle_core::bail!(
            "linear: input {:?}, weight {:?} and bias {:?} do not fit",
            x.dims(),
            weight.dims(),
            bias.map(Tensor::dims)
        );
    }
    let op = Linear {
        n,
        inner,
        outer,
        activation,
        dropout,
        tracked: tape::tracks(&[x, weight]) || bias.is_some_and(|bias| tape::tracks(&[bias])),
        saved: OnceLock::new(),
        #[cfg(feature = "cuda")]
        saved_on_gpu: OnceLock::new(),
    };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => tape::apply3(&x, &weight, &bias.contiguous()?, op),
        None => tape::apply2(&x, &weight, op),
    }
}

/// dz (dy itself where they are the same) and db.
type InnerGradient<'a, T> = (Cow<'a, [T]>, Option<Vec<T>>);

struct Linear {
    n: usize,
    inner: usize,
    outer: usize,
    activation: Activation,
    dropout: Option<Dropout>,
    /// Whether there may be a backward pass.
    tracked: bool,
    /// z, for activations whose derivative y does not tell.
    saved: OnceLock<Tensor>,
    #[cfg(feature = "cuda")]
    saved_on_gpu: OnceLock<cuda::linear::Saved>,
}

impl Linear {
    fn forward<T: Real>(&self, x: &[T], weight: &[T], bias: Option<&[T]>) -> Result<(CpuStorage, Shape)> {
        let (n, inner, outer) = (self.n, self.inner, self.outer);
        let (activation, mask) = (self.activation, self.dropout.map(Mask::new));
        // z is saved where the derivative needs it: bias first, the rest in a second pass
        let saves = self.tracked && !matches!(activation, Activation::Identity | Activation::Relu);
        let (early, early_mask) = if saves { (Activation::Identity, None) } else { (activation, mask) };
        let mut y = product_then(
            T::one(),
            Mat::new(x, n, inner),
            Mat::new(weight, outer, inner).t(),
            Threads::All,
            |mut block| {
                for i in 0..block.rows {
                    let (first, columns) = ((block.row + i) * outer + block.column, block.column..);
                    let bias = bias.map(|b| &b[columns.clone()]);
                    finish(block.row_mut(i), bias, early, early_mask, first);
                }
            },
        );
        if saves {
            let mut z = Unwritten::new(n * outer);
            let block = BLOCK * outer;
            let jobs = y.chunks_mut(block).zip(z.all().chunks(block)).enumerate().collect();
            rows::run(jobs, n * outer, |(i, (y, z))| {
                z.copy_of(y);
                finish(y, None, activation, mask, i * block);
            });
            // only the first forward fills it, and there is only one
            self.saved.get_or_init(|| real::tensor(z.done(), (n, outer)));
        }
        Ok((T::to_cpu_storage_owned(y), Shape::from((n, outer))))
    }

    /// dz, and db when asked for.
    fn inner_gradient<'a, T: Real>(&self, y: &[T], dy: &'a [T], bias: bool) -> Result<InnerGradient<'a, T>> {
        let (outer, block) = (self.outer, BLOCK * self.outer);
        let mask = self.dropout.map(Mask::new);
        if self.activation == Activation::Identity && mask.is_none() {
            let db = bias.then(|| {
                let jobs = dy.chunks(block).collect();
                rows::sum_in_order(rows::map(jobs, dy.len(), |dy| column_sums(dy, outer)))
            });
            return Ok((Cow::Borrowed(dy), db));
        }
        let saved;
        let z = match (self.activation, self.saved.get()) {
            (Activation::Identity | Activation::Relu, _) => y,
            (_, Some(z)) => {
                saved = real::values::<T>(z)?;
                &saved
            }
            (_, None) => candle_core::bail!("linear: backward without a forward pass"),
        };
        let mut dz = Unwritten::new(dy.len());
        let jobs = dz.all().chunks(block).zip(dy.chunks(block).zip(z.chunks(block))).enumerate().collect();
        let sums = rows::map(jobs, dy.len(), |(i, (dz, (dy, z)))| {
            let mut sums = vec![T::zero(); if bias { outer } else { 0 }];
            let rows = dz.copy_of(dy).chunks_exact_mut(outer).zip(z.chunks_exact(outer));
            for (row, (dz, z)) in rows.enumerate() {
                differentiate(dz, z, self.activation, mask, i * block + row * outer, &mut sums);
            }
            sums
        });
        Ok((Cow::Owned(dz.done()), bias.then(|| rows::sum_in_order(sums))))
    }

    /// Gradients of x, weight and bias.
    fn gradients(&self, [x, weight]: [&Tensor; 2], bias: bool, [y, dy]: [&Tensor; 2]) -> Result<[Option<Tensor>; 3]> {
        #[cfg(feature = "cuda")]
        if y.device().is_cuda() {
            return self.on_gpu().backward([x, weight], bias, [y, dy], self.saved_on_gpu.get());
        }
        with_real!(y, T => self.backward::<T>(x, weight, bias, y, dy))
    }

    fn backward<T: Real>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: bool,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (n, inner, outer) = (self.n, self.inner, self.outer);
        let dy = dy.contiguous()?;
        let (dy, y) = (real::values::<T>(&dy)?, real::values::<T>(y)?);
        let (dz, db) = self.inner_gradient(&y, &dy, bias)?;
        let dz = Mat::new(&dz, n, outer);
        let product =
            |a: Mat<'_, T>, b: Mat<'_, T>| real::tensor(product(T::one(), a, b, Threads::All), (a.rows(), b.columns()));
        let (x_values, w_values) = (real::values::<T>(x)?, real::values::<T>(weight)?);
        let dx = x.track_op().then(|| product(dz, Mat::new(&w_values, outer, inner)));
        let dw = weight.track_op().then(|| product(dz.t(), Mat::new(&x_values, n, inner)));
        Ok([dx, dw, db.map(|db| real::tensor(db, outer))])
    }
}

#[cfg(feature = "cuda")]
impl Linear {
    fn on_gpu(&self) -> cuda::linear::Shape {
        let Linear { n, inner, outer, activation, dropout, .. } = *self;
        cuda::linear::Shape { n, inner, outer, activation, dropout }
    }

    fn forward_on_gpu(
        &self,
        x: (&CudaStorage, &Layout),
        w: (&CudaStorage, &Layout),
        b: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let bias = b.map(|(b, layout)| Memory::of(b, layout)).transpose()?;
        let (x_memory, w) = (Memory::of(x.0, x.1)?, Memory::of(w.0, w.1)?);
        let (y, saved) = self.on_gpu().forward(&x.0.device, x_memory, w, bias)?;
        self.saved_on_gpu.get_or_init(|| saved);
        Ok((y, Shape::from((self.n, self.outer))))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "linear";
        with_real!(x, T => self.forward::<T>(
            real::slice(x, x_layout, name)?,
            real::slice(w, w_layout, name)?,
            Some(real::slice(b, b_layout, name)?),
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        w: &CudaStorage,
        w_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu((x, x_layout), (w, w_layout), Some((b, b_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = self.gradients([x, weight], bias.track_op(), [y, dy])?;
        Ok((dx, dw, db))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "linear";
        with_real!(x, T => self.forward::<T>(
            real::slice(x, x_layout, name)?,
            real::slice(w, w_layout, name)?,
            None,
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        w: &CudaStorage,
        w_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward_on_gpu((x, x_layout), (w, w_layout), None)
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = self.gradients([x, weight], false, [y, dy])?;
        Ok((dx, dw))
    }
}

simd! {
    /// Bias, activation and dropout in place, the bias for one row only; `first` is the index of the first element.
    fn finish<T: Real>(
        y: &mut [T],
        bias: Option<&[T]>,
        activation: Activation,
        mask: Option<Mask<T>>,
        first: usize,
    ) {
        if let Some(bias) = bias {
            y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
        }
        match activation {
            Activation::Identity => {}
            // written so that NaN stays NaN
            Activation::Relu => y.iter_mut().for_each(|y| *y = if *y < T::zero() { T::zero() } else { *y }),
            Activation::Gelu => y.iter_mut().for_each(|y| *y *= normal_cdf(*y)),
            Activation::Swish => y.iter_mut().for_each(|y| *y *= y.sigmoid()),
            Activation::Tanh => y.iter_mut().for_each(|y| *y = y.tanh()),
        }
        if let Some(mask) = mask {
            y.iter_mut().enumerate().for_each(|(i, y)| *y *= mask.factor(first + i));
        }
    }
}

simd! {
    /// dy becomes dz = dy ⊙ m ⊙ φ′, in one row, added to `sums`; `z` is y itself for ReLU.
    fn differentiate<T: Real>(
        dz: &mut [T],
        z: &[T],
        activation: Activation,
        mask: Option<Mask<T>>,
        first: usize,
        sums: &mut [T],
    ) {
        if let Some(mask) = mask {
            dz.iter_mut().enumerate().for_each(|(i, dz)| *dz *= mask.factor(first + i));
        }
        let pairs = dz.iter_mut().zip(z);
        let one = T::one();
        match activation {
            Activation::Identity => {}
            Activation::Relu => pairs.for_each(|(dz, &y)| *dz = if y > T::zero() { *dz } else { T::zero() }),
            Activation::Gelu => pairs.for_each(|(dz, &z)| {
                let density = (z * z * T::from_f64(-0.5)).exp() * T::from_f64(0.398_942_280_401_432_7);
                *dz *= normal_cdf(z) + z * density;
            }),
            Activation::Swish => pairs.for_each(|(dz, &z)| {
                let s = z.sigmoid();
                *dz *= s * (one + z * (one - s));
            }),
            Activation::Tanh => pairs.for_each(|(dz, &z)| {
                let t = z.tanh();
                *dz *= one - t * t;
            }),
        }
        sums.iter_mut().zip(dz).for_each(|(sum, &mut dz)| *sum += dz);
    }
}

/// Φ(z).
#[inline(always)]
fn normal_cdf<T: Real>(z: T) -> T {
    T::from_f64(0.5) * (T::one() + (z * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

simd! {
    /// Σ over rows, top to bottom.
    pub(super) fn column_sums<T: Real>(x: &[T], width: usize) -> Vec<T> {
        let mut sums = vec![T::zero(); width];
        for row in x.chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(s, &x)| *s += x);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agree, constant, dropout_of, random};
    use crate::ops::dropout::reference::mask_tensor;
    use proptest::prelude::*;

    fn plain(v: &[Tensor], activation: Activation, dropout: Option<Dropout>) -> Result<Tensor> {
        let mut z = v[0].matmul(&v[1].t()?)?;
        if let Some(bias) = v.get(2) {
            z = z.broadcast_add(bias)?;
        }
        let y = match activation {
            Activation::Identity => z,
            Activation::Relu => z.relu()?,
            // not gelu_erf: its backward rounds 1/√(2π) to six digits
            Activation::Gelu => ((&z / std::f64::consts::SQRT_2)?.erf()? + 1.0)?.mul(&(&z * 0.5)?)?,
            Activation::Swish => (&z * (z.neg()?.exp()? + 1.0)?.recip()?)?,
            Activation::Tanh => z.tanh()?,
        };
        &y * mask_tensor(dropout, y.dims(), y.dtype())?
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_plain_operations(
            n in 1usize..150, inner in 1usize..20, outer in 1usize..40, activation in 0usize..5, bias: bool,
            drop: bool, seed in 0u64..1000,
        ) {
            use Activation::{Gelu, Identity, Relu, Swish, Tanh};
            let activation = [Identity, Relu, Gelu, Swish, Tanh][activation];
            let dropout = dropout_of(drop, seed);
            let mut inputs = vec![random(&[n, inner], seed), random(&[outer, inner], seed + 1)];
            if bias {
                inputs.push(random(&[outer], seed + 2));
            }
            agree(
                &inputs,
                1..3,
                |v| linear(&v[0], &v[1], v.get(2), activation, dropout),
                |v| plain(v, activation, dropout),
            );
        }
    }

    #[test]
    fn a_constant_input_gets_no_gradient_and_a_second_backward_gives_the_same() -> Result<()> {
        let x = constant(&random(&[5, 3], 1));
        let w = candle_core::Var::from_tensor(&constant(&random(&[4, 3], 2)))?;
        let y = linear(&x, &w, None, Activation::Gelu, None)?.sum_all()?;
        let (first, second) = (y.backward()?, y.backward()?);
        assert!(first.get(&x).is_none());
        let list = |g: &candle_core::backprop::GradStore| g.get(&w).map(|g| g.to_vec2::<f64>()).transpose();
        assert_eq!(list(&first)?, list(&second)?);
        assert!(list(&first)?.is_some());
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() -> Result<()> {
        let (x, w) = (constant(&random(&[5, 3], 1)), constant(&random(&[4, 2], 2)));
        let message = linear(&x, &w, None, Activation::Relu, None).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("[5, 3]") && message.contains("[4, 2]"), "{message}");
        Ok(())
    }
}
