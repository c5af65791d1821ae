//! [`super::factors`] for accelerators: blocks of one side are one tensor and are corrected together.
//!
//! A correction whose SᵀY has no good inverse (see [`super::inverse`]; here for conditions up to 10¹²) leaves its H as it
//! was, by a mask, and is counted; the host form begins anew at once. What is failing is found by the probe, every 20
//! updates of a factor: its residuals are **read**, as is one number for the first H, and H = A_λ⁻¹ is made anew, by the same
//! iteration in f64, for those that need it. After a failed correction at the update of a probe, the blocks that follow
//! in its group get other random numbers than in the host form.
//!
//! Launches of an update of a side: 45 and 4 for each of 24 steps of the inverse, about 140; with a probe 15 more, and the
//! read. Counted in the code, not measured. Random numbers are one copy to the device.

use candle_core::{DType, Result, Tensor};

use super::factors::{directions, PROBE};
use super::groups_batched::{Blocks, Identity};
use super::inverse::inverse;
use crate::config::Hessian2Config;
use crate::optim::batched::{each, full, least, select, squares};
use crate::rng::Stream;

/// Conditions of SᵀY up to here: that of A_λ is some thousand, that of a square S has no bound.
const CONDITION: f64 = 1e12;
/// The largest ‖I − SᵀY·P‖²_F of a good inverse.
const GOOD: f64 = 1e-6;

/// Blocks of input factors, as [`super::factors::Factor`]; `[members, n, n]`.
pub(super) struct Factors {
    a: Tensor,
    pub(super) inverse: Tensor,
    /// a₀ `[members, 1, 1]`.
    pub(super) scale: Tensor,
    /// Of the last probe.
    residual: Vec<f64>,
    /// In f64; of n and of the directions.
    identities: (Identity, Identity),
}

impl Blocks for Factors {
    const MATRICES: &'static [(&'static str, bool)] = &[("a", true), ("inverse", true)];
    const SCALARS: &'static [&'static str] = &["residual"];

    fn first(now: Tensor, config: &Hessian2Config) -> Result<Self> {
        let identities = identities(&now, config)?;
        let scale = mean_diagonal(&now, &identities.0)?;
        let residual = vec![0.0; now.dim(0)?];
        let inverse = exact(&now, &scale, &identities.0.eye, config.input_damping)?;
        Ok(Factors { a: now, inverse, scale, residual, identities })
    }

    fn draw(side: usize, updates: f64, config: &Hessian2Config, random: &mut Stream) -> Vec<f64> {
        let probe = if updates % PROBE == 0.0 { side } else { 0 };
        (0..directions(config, side) * side + probe).map(|_| random.normal()).collect()
    }

    fn update(
        &mut self,
        now: &Tensor,
        updates: f64,
        random: Option<&Tensor>,
        config: &Hessian2Config,
    ) -> Result<Option<Tensor>> {
        let Some(random) = random else { candle_core::bail!("hessian2: a correction without directions") };
        self.a = (&self.a + ((now - &self.a)? * config.input_beta.max(1.0 / updates))?)?;
        self.scale = mean_diagonal(&self.a, &self.identities.0)?;
        let (members, n, _) = self.a.dims3()?;
        let floor = (&self.scale * config.input_damping)?;
        let times = |s: &Tensor| -> Result<Tensor> { s.matmul(&self.a)? + s.broadcast_mul(&floor)? };
        let k = directions(config, n);
        let s = random.narrow(1, 0, k * n)?.contiguous()?.reshape((members, k, n))?;
        let (corrected, good) = block_bfgs(&self.inverse, &s, &times(&s)?, &self.identities.1.eye)?;
        self.inverse = select(&good, &corrected, &self.inverse, &corrected)?;
        let failed = good.to_dtype(DType::F64)?.affine(-1.0, 1.0)?;
        if updates % PROBE != 0.0 {
            return Ok(Some(failed));
        }
        let s = random.narrow(1, k * n, n)?.contiguous()?.reshape((members, 1, n))?;
        let back = times(&s)?.matmul(&self.inverse)?;
        let residual = (squares(&(back - &s)?)? / squares(&s)?)?.sqrt()?.to_dtype(DType::F64)?;
        let scale = self.scale.flatten_all()?.to_dtype(DType::F64)?;
        let read = Tensor::stack(&[&failed, &residual, &scale], 1)?.to_vec2::<f64>()?;
        let mut resets = Vec::with_capacity(members);
        for (at, (numbers, kept)) in read.iter().zip(&mut self.residual).enumerate() {
            let (failed, residual, finite) = (numbers[0] > 0.0, numbers[1], numbers[2].is_finite());
            if !finite {
                candle_core::bail!("hessian2: the second moment of an input is not finite");
            }
            if !failed {
                *kept = residual;
            }
            // of nothing but zeros H stays as it is
            let lost = (residual > 0.5 || residual.is_nan()) && numbers[2] > 0.0;
            resets.push(f64::from(u8::from(failed || lost)));
            if lost {
                let one = |x: &Tensor| x.narrow(0, at, 1);
                let anew = exact(&one(&self.a)?, &one(&self.scale)?, &self.identities.0.eye, config.input_damping)?;
                self.inverse.slice_set(&anew, 0, at)?;
            }
        }
        Ok(Some(Tensor::from_vec(resets, members, self.a.device())?))
    }

    fn matrices(&self) -> Vec<&Tensor> {
        vec![&self.a, &self.inverse]
    }

    fn scalars(&self) -> Result<Vec<Vec<f64>>> {
        Ok(vec![self.residual.clone()])
    }

    fn restored(mut matrices: Vec<Tensor>, mut scalars: Vec<Vec<f64>>, config: &Hessian2Config) -> Result<Self> {
        let (Some(inverse), Some(a), Some(residual)) = (matrices.pop(), matrices.pop(), scalars.pop()) else {
            candle_core::bail!("hessian2: a factor without its parts");
        };
        let identities = identities(&a, config)?;
        Ok(Factors { scale: mean_diagonal(&a, &identities.0)?, a, inverse, residual, identities })
    }

    fn residuals(&self) -> Result<Vec<f64>> {
        Ok(self.residual.clone())
    }
}

/// Corrects all of `h` with the directions `s` = Sᵀ and `y` = Yᵀ `[members, k, n]`, see [`super::bfgs`]; 0 for those that
/// are of no use.
fn block_bfgs(h: &Tensor, s: &Tensor, y: &Tensor, eye: &Tensor) -> Result<(Tensor, Tensor)> {
    let sy = s.matmul(&y.t()?)?.to_dtype(DType::F64)?;
    // symmetric but for rounding
    let sy = ((&sy + sy.t()?)? * 0.5)?;
    let inverse = inverse(&sy, eye, CONDITION)?;
    let good = is_inverse(&sy, &inverse, eye)?;
    let hy = y.matmul(h)?;
    let v = inverse.to_dtype(h.dtype())?.matmul(s)?;
    let x = ((s + hy.matmul(&y.t()?)?.matmul(&v)?)? * 0.5)?;
    let p = v.t()?.matmul(&(x - hy)?)?;
    // symmetric to the bit, and so H stays
    let change = (&p + p.t()?)?;
    Ok(((h + change)?, good))
}

/// 1 where that is the inverse of `s`, as u8.
fn is_inverse(s: &Tensor, inverse: &Tensor, eye: &Tensor) -> Result<Tensor> {
    let rest = squares(&s.matmul(inverse)?.broadcast_sub(eye)?)?;
    rest.le(&full(GOOD, &rest)?)
}

/// (A + λ·a₀·I)⁻¹ of each; of nothing but zeros, the identity. Reads whether they are good.
fn exact(a: &Tensor, scale: &Tensor, eye: &Tensor, damping: f64) -> Result<Tensor> {
    let scale = scale.to_dtype(DType::F64)?;
    let floor = scale.gt(&scale.zeros_like()?)?.where_cond(&(&scale * damping)?, &scale.ones_like()?)?;
    let damped = (a.to_dtype(DType::F64)? + eye.broadcast_mul(&floor)?)?;
    let n = a.dim(1)? as f64;
    // no eigenvalue is below λ·a₀, and ‖A_λ‖_F is not above its trace n·(1 + λ)·a₀; twice that for rounding
    let inverse = inverse(&damped, eye, 2.0 * n * (1.0 + damping) / damping)?;
    let good = is_inverse(&damped, &inverse, eye)?.to_vec1::<u8>()?;
    if good.contains(&0) {
        candle_core::bail!("hessian2: the second moment of an input is not positive definite");
    }
    ((&inverse + inverse.t()?)? * 0.5)?.to_dtype(a.dtype())
}

/// a₀ `[members, 1, 1]`.
fn mean_diagonal(a: &Tensor, identity: &Identity) -> Result<Tensor> {
    each(&(identity.diagonal(a)?.sum(1)? / a.dim(1)? as f64)?)
}

fn identities(a: &Tensor, config: &Hessian2Config) -> Result<(Identity, Identity)> {
    let (n, device) = (a.dim(1)?, a.device());
    let of = |n| Identity::new(n, DType::F64, device);
    Ok((of(n)?, of(directions(config, n))?))
}

/// What M and M·H are multiplied by, `[members, 1, 1]` each, for ω of each member: see [`super::factors`].
pub(super) fn shares(scale: &Tensor, omega: &Tensor) -> Result<(Tensor, Tensor)> {
    let scale = scale.maximum(&full(least(scale), scale)?)?;
    let omega = each(omega)?;
    Ok(((omega.affine(-1.0, 1.0)? / scale)?, omega))
}

#[cfg(test)]
mod tests {
    use super::super::factors::Factor;
    use super::super::groups::Block;
    use super::*;
    use crate::optim::matrix::{product, Matrix};
    use crate::rng::{stream, Purpose};
    use candle_core::Device;

    fn tensor(matrices: &[Matrix<f64>]) -> Result<Tensor> {
        let n = matrices[0].rows;
        let all: Vec<f64> = matrices.iter().flat_map(|m| m.data.clone()).collect();
        Tensor::from_vec(all, (matrices.len(), n, n), &Device::Cpu)
    }

    /// A sound one, one that has failed, one of nothing but zeros.
    fn moments(n: usize, update: u64) -> Vec<Matrix<f64>> {
        let mut rng = stream(3, Purpose::Probe, update);
        let one = |scale: f64| {
            let x: Matrix<f64> =
                Matrix::from_f64(2 * n, n, &(0..2 * n * n).map(|_| scale * rng.normal()).collect::<Vec<_>>());
            product(x.t(), x.view())
        };
        [1.0, 3.0, 0.0].map(one).to_vec()
    }

    #[test]
    fn factors_are_those_of_the_host_and_a_failed_one_begins_anew() -> Result<()> {
        let (n, members) = (12, 3);
        let config = Hessian2Config { rank: 6, ..Hessian2Config::default() };
        let mut all = Factors::first(tensor(&moments(n, 0))?, &config)?;
        let mut alone: Vec<Factor<f64>> =
            moments(n, 0).into_iter().map(|now| Block::first(now, &config)).collect::<Result<_>>()?;
        let mut resets = vec![[0.0; 2]; members];
        for update in 1..25u64 {
            if update == 18 {
                alone[1].inverse.scale(50.0);
                let wrong = (all.inverse.get(1)? * 50.0)?;
                all.inverse.slice_set(&wrong.unsqueeze(0)?, 0, 1)?;
            }
            let streams = |member: usize| stream(5, Purpose::Probe, 100 * update + member as u64);
            let updates = update as f64 + 1.0;
            let random: Vec<f64> =
                (0..members).flat_map(|m| Factors::draw(n, updates, &config, &mut streams(m))).collect();
            let random = Tensor::from_vec(random, ((),), &Device::Cpu)?.reshape((members, ()))?;
            let counted = all.update(&tensor(&moments(n, update))?, updates, Some(&random), &config)?;
            let counted = counted.map_or(Ok(Vec::new()), |counted| counted.to_vec1::<f64>())?;
            for (m, own) in alone.iter_mut().enumerate() {
                let reset = own.update(&moments(n, update)[m], &config, &mut streams(m))?;
                resets[m][0] += f64::from(u8::from(reset));
                resets[m][1] += counted[m];
                let got = all.inverse.get(m)?.flatten_all()?.to_vec1::<f64>()?;
                let size = own.inverse.data.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
                for (a, b) in got.iter().zip(&own.inverse.data) {
                    assert!((a - b).abs() < 1e-9 * size, "{update} {m}: {a} {b}");
                }
                assert!((all.residual[m] - own.residual).abs() < 1e-9, "{update} {m}");
            }
        }
        assert_eq!(resets, [[0.0; 2], [1.0; 2], [24.0; 2]]);
        Ok(())
    }

    #[test]
    fn a_second_moment_that_is_not_finite_is_an_error() -> Result<()> {
        let config = Hessian2Config::default();
        let mut bad = moments(9, 0);
        bad[1].data[10] = f64::NAN;
        assert!(Factors::first(tensor(&bad)?, &config).is_err());
        let mut all = Factors::first(tensor(&moments(9, 0))?, &config)?;
        let draw = |updates: f64| -> Result<Tensor> {
            let one = |m: u64| Factors::draw(9, updates, &config, &mut stream(1, Purpose::Probe, m));
            Tensor::from_vec((0..3).flat_map(one).collect::<Vec<_>>(), ((),), &Device::Cpu)?.reshape((3, ()))
        };
        let before = all.inverse.to_vec3::<f64>()?;
        all.update(&tensor(&bad)?, 19.0, Some(&draw(19.0)?), &config)?;
        assert_eq!(all.inverse.to_vec3::<f64>()?[1], before[1], "it stays until the probe");
        assert!(all.update(&tensor(&bad)?, 20.0, Some(&draw(20.0)?), &config).is_err());
        Ok(())
    }
}
