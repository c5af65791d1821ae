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
//! Saved: nothing for identity and ReLU (φ′ is read off y: a kept element is positive exactly where z is), z otherwise; and W
//! where it was put together of several.

use candle_core::{Result, Tensor};
use std::borrow::Cow;

use super::dropout::Mask;
use super::gemm::{product_of, Arithmetic, Mat, Threads};
use super::real::{self, simd, with_real, Real};
use super::rows::{self, BLOCK};
use super::tape::{self, Computed, Done, Op};
use super::unwritten::Unwritten;
use super::Dropout;
pub use crate::kinds::Activation;

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
    joint_linear(x, &[weight], bias.as_slice(), activation, dropout)
}

/// Several maps of one input in one product, results side by side; each has a bias, or none has.
///
/// # Errors
/// As [`linear`].
pub fn joint_linear(
    x: &Tensor,
    weights: &[&Tensor],
    biases: &[&Tensor],
    activation: Activation,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let (n, inner) = x.dims2()?;
    let outer = weights.iter().map(|weight| weight.dims2().map(|(outer, _)| outer)).sum::<Result<usize>>()?;
    let fits = |(weight, bias): (&&Tensor, &&Tensor)| bias.dims() == &weight.dims()[..1];
    if weights.is_empty()
        || weights.iter().any(|weight| weight.dims()[1] != inner)
        || !(biases.is_empty() || biases.len() == weights.len() && weights.iter().zip(biases).all(fits))
    {
        let dims = |tensors: &[&Tensor]| tensors.iter().map(|x| x.dims().to_vec()).collect::<Vec<_>>();
        candle_core::bail!(
            "linear: input {:?}, weights {:?} and biases {:?} do not fit",
            x.dims(),
            dims(weights),
            dims(biases)
        );
    }
    let op = Linear { n, inner, outer, maps: weights.len(), activation, dropout };
    tape::apply(op, &[&[x], weights, biases].concat())
}

/// dz (dy itself where they are the same) and db.
type InnerGradient<'a, T> = (Cow<'a, [T]>, Option<Vec<T>>);

/// Inputs: x, the weights, the biases.
pub(super) struct Linear {
    pub(super) n: usize,
    pub(super) inner: usize,
    /// Of all maps.
    pub(super) outer: usize,
    pub(super) maps: usize,
    pub(super) activation: Activation,
    pub(super) dropout: Option<Dropout>,
}

/// The values of these tensors end to end.
pub(super) fn joined<'a, T: Real>(parts: impl Iterator<Item = &'a Tensor> + Clone) -> Result<Vec<T>> {
    let mut joined = Vec::with_capacity(parts.clone().map(Tensor::elem_count).sum());
    for part in parts {
        joined.extend_from_slice(&real::values::<T>(part)?);
    }
    Ok(joined)
}

impl Linear {
    /// Whether φ′ needs z, which y does not tell.
    pub(super) fn needs_z(&self) -> bool {
        !matches!(self.activation, Activation::Identity | Activation::Relu)
    }

    /// One gradient of all weights, or of all biases, as those of the maps.
    pub(super) fn split(&self, gradient: Option<Tensor>, maps: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        let Some(gradient) = gradient else { return Ok(vec![None; maps.len()]) };
        let mut start = 0;
        let part = |map: &Tensor| {
            let part = gradient.narrow(0, start, map.dims()[0]);
            start += map.dims()[0];
            part.map(Some)
        };
        maps.iter().map(part).collect()
    }

    /// y, and z if it is wanted.
    fn values<T: Real>(&self, x: &[T], weight: &[T], bias: Option<&[T]>, wants_z: bool) -> (Vec<T>, Option<Vec<T>>) {
        let (n, inner, outer) = (self.n, self.inner, self.outer);
        let (activation, mask) = (self.activation, self.dropout.map(Mask::new));
        // for z, bias first, the rest in a second pass
        let (early, early_mask) = if wants_z { (Activation::Identity, None) } else { (activation, mask) };
        let (x, weight) = (Mat::new(x, n, inner), Mat::new(weight, outer, inner));
        let arithmetic = Arithmetic::in_force();
        let mut y = product_of(arithmetic, T::one(), x, weight.t(), Threads::All, |mut block| {
            for i in 0..block.rows {
                let (first, columns) = ((block.row + i) * outer + block.column, block.column..);
                let bias = bias.map(|b| &b[columns.clone()]);
                finish(block.row_mut(i), bias, early, early_mask, first);
            }
        });
        let z = wants_z.then(|| {
            let mut z = Unwritten::new(n * outer);
            let block = BLOCK * outer;
            let jobs = y.chunks_mut(block).zip(z.all().chunks(block)).enumerate().collect();
            rows::run(jobs, n * outer, |(i, (y, z))| {
                z.copy_of(y);
                finish(y, None, activation, mask, i * block);
            });
            z.done()
        });
        (y, z)
    }

    /// dz, and db when asked for; `z` is y for activations that do not need it.
    fn inner_gradient<'a, T: Real>(&self, z: &[T], dy: &'a [T], bias: bool) -> InnerGradient<'a, T> {
        let (outer, block) = (self.outer, BLOCK * self.outer);
        let mask = self.dropout.map(Mask::new);
        if self.activation == Activation::Identity && mask.is_none() {
            let db = bias.then(|| {
                let jobs = dy.chunks(block).collect();
                rows::sum_in_order(rows::map(jobs, dy.len(), |dy| column_sums(dy, outer)))
            });
            return (Cow::Borrowed(dy), db);
        }
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
        (Cow::Owned(dz.done()), bias.then(|| rows::sum_in_order(sums)))
    }

    fn forward_of<T: Real>(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        let (weights, biases) = inputs[1..].split_at(self.maps);
        let bias = if biases.is_empty() { None } else { Some(joined::<T>(biases.iter())?) };
        let joint = if self.maps > 1 { Some(joined::<T>(weights.iter())?) } else { None };
        let (x, single) = (real::values::<T>(&inputs[0])?, real::values::<T>(&weights[0])?);
        let weight = joint.as_deref().unwrap_or(&single);
        let (y, z) = self.values(&x, weight, bias.as_deref(), tracked && self.needs_z());
        let saved = [
            z.map(|z| real::tensor(z, (self.n, self.outer))),
            joint.filter(|_| tracked).map(|joint| real::tensor(joint, (self.outer, self.inner))),
            None,
        ];
        Ok((real::storage(y), (self.n, self.outer).into(), saved))
    }

    fn backward_of<T: Real>(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let (n, inner, outer) = (self.n, self.inner, self.outer);
        let Done { inputs, output, saved: [z, joint, _], gradient } = done;
        let (weights, biases) = inputs[1..].split_at(self.maps);
        let wants = |parts: &[Tensor]| parts.iter().any(Tensor::track_op);
        let (dy, z) = (real::values::<T>(gradient)?, real::values::<T>(z.as_ref().unwrap_or(output))?);
        let (dz, db) = self.inner_gradient(&z, &dy, wants(biases));
        let dz = Mat::new(&dz, n, outer);
        let product = |a: Mat<'_, T>, b: Mat<'_, T>| {
            let c = product_of(Arithmetic::in_force(), T::one(), a, b, Threads::All, |_| ());
            real::tensor(c, (a.rows(), b.columns()))
        };
        let (x, w) = (real::values::<T>(&inputs[0])?, real::values::<T>(joint.as_ref().unwrap_or(&weights[0]))?);
        let dx = inputs[0].track_op().then(|| product(dz, Mat::new(&w, outer, inner)));
        let dw = wants(weights).then(|| product(dz.t(), Mat::new(&x, n, inner)));
        let (dw, db) = (self.split(dw, weights)?, self.split(db.map(|db| real::tensor(db, outer)), biases)?);
        Ok([vec![dx], dw, db].concat())
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, inputs: &[Tensor], tracked: bool) -> Result<Computed> {
        with_real!(inputs[0], T => self.forward_of::<T>(inputs, tracked))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        with_real!(done.output, T => self.backward_of::<T>(done))
    }

    /// Not where weights of several maps share one gradient.
    fn gives_its_own(&self) -> bool {
        self.maps == 1
    }
}

simd! {
    /// Bias, activation and dropout in place, the bias for one row only; `first` is the index of the first element.
    pub(super) fn finish<T: Real>(
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
    fn maps_together_are_those_apart() {
        let shapes: [&[usize]; 5] = [&[9, 3], &[4, 3], &[2, 3], &[4], &[2]];
        let inputs = shapes.map(|shape| random(shape, 1));
        let apart = |v: &[Tensor]| {
            let map = |i: usize| plain(&[v[0].clone(), v[i].clone(), v[i + 2].clone()], Activation::Tanh, None);
            Tensor::cat(&[map(1)?, map(2)?], 1)
        };
        let together = |v: &[Tensor]| joint_linear(&v[0], &[&v[1], &v[2]], &[&v[3], &v[4]], Activation::Tanh, None);
        agree(&inputs, 1..5, together, apart);
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() -> Result<()> {
        let (x, w) = (constant(&random(&[5, 3], 1)), constant(&random(&[4, 2], 2)));
        let message = linear(&x, &w, None, Activation::Relu, None).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("[5, 3]") && message.contains("[4, 2]"), "{message}");
        Ok(())
    }
}
