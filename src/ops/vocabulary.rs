//! The output projection without its result: logits of some ids at a time, for all rows of states, looked at while they are
//! in the cache.

use candle_core::{Result, Tensor};

use super::cross_entropy::{finish_logits, Projection, ROWS};
use super::gemm::{matmul_packed, Arithmetic, Mat, MatMut, Packed, Store, Threads};
use super::prepacked::Prepacked;
use super::real::{self, simd, Real};
use super::rows;

/// Ids whose logits exist at a time: with [`ROWS`] rows they take 1 MiB.
const IDS: usize = 1024;

/// The output table `[V, d]` for [`Projection::scan`], some ids a part; empty on a GPU.
///
/// # Errors
/// As [`Prepacked::new`].
pub fn prepacked_table(table: &Tensor) -> Result<Vec<Prepacked>> {
    let ids = table.dim(0)?;
    let part = |first| Prepacked::new(&[&table.narrow(0, first, IDS.min(ids - first))?], &[]);
    (0..ids).step_by(IDS).filter_map(|first| part(first).transpose()).collect()
}

impl Projection {
    /// `see(state, first, z)` for each row of `h` with its state: logits of ids from `first` on, the first ids first; −∞ for
    /// the masked one. `prepacked`: the table as [`prepacked_table`] gives it, or nothing.
    pub(super) fn scan<T: Real, S: Send>(
        &self,
        h: &[T],
        table: &Tensor,
        prepacked: &[Prepacked],
        bias: Option<&Tensor>,
        states: &mut [S],
        see: impl Fn(&mut S, usize, &[T]) + Sync + Send,
    ) -> Result<()> {
        let (table, bias) = (real::values::<T>(table)?, bias.map(real::values::<T>).transpose()?);
        let Projection { n, width, vocabulary, masked } = *self;
        let mut z = vec![T::zero(); ROWS.min(n) * IDS.min(vocabulary)];
        for (i, first) in (0..vocabulary).step_by(IDS).enumerate() {
            let ids = IDS.min(vocabulary - first);
            let made;
            let packed = match prepacked.get(i) {
                Some(part) => part.packed()?,
                None => {
                    let part = Mat::new(&table[first * width..][..ids * width], ids, width);
                    made = Packed::of(Arithmetic::in_force(), part.t(), Threads::All);
                    &made
                }
            };
            let bias = bias.as_ref().map(|bias| &bias[first..][..ids]);
            let masked = masked.and_then(|id| id.checked_sub(first)).filter(|&id| id < ids);
            for (h, states) in h.chunks(ROWS * width).zip(states.chunks_mut(ROWS)) {
                let z = &mut z[..states.len() * ids];
                let h = Mat::new(h, states.len(), width);
                matmul_packed(MatMut::new(z, h.rows(), ids), Store::Set, h, packed, Threads::All, |block| {
                    finish_logits(block, bias, masked);
                });
                let elements = z.len();
                let jobs = states.iter_mut().zip(z.chunks_exact(ids)).collect();
                rows::run(jobs, elements, |(state, z): (&mut S, &[T])| see(state, first, z));
            }
        }
        Ok(())
    }
}

/// log Σ exp of what passes by: the largest so far, and Σ exp of the differences to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSumExp<T> {
    top: T,
    sum: T,
}

impl<T: Real> LogSumExp<T> {
    /// Of nothing.
    pub(super) fn new() -> Self {
        LogSumExp { top: T::NEG_INFINITY, sum: T::zero() }
    }

    pub(super) fn see(&mut self, z: &[T]) {
        let top = largest(z);
        if top > self.top {
            self.sum *= (self.top - top).exp();
            self.top = top;
        }
        // −∞ alone so far: any finite number gives zeros, their difference would be NaN
        if self.top > T::NEG_INFINITY {
            self.sum += exp_sum(z, self.top);
        }
    }

    /// Not finite where one of the values was not, but for −∞.
    pub(super) fn value(&self) -> T {
        self.top + self.sum.ln()
    }
}

simd! {
    fn largest<T: Real>(z: &[T]) -> T {
        real::max(z)
    }
}

simd! {
    /// Σ exp(z − top).
    fn exp_sum<T: Real>(z: &[T], top: T) -> T {
        let mut lanes = [T::zero(); real::LANES];
        let (blocks, rest) = z.as_chunks::<{ real::LANES }>();
        let mut last = [T::NEG_INFINITY; real::LANES];
        last[..rest.len()].copy_from_slice(rest);
        for block in blocks.iter().chain(std::iter::once(&last)) {
            for i in 0..real::LANES {
                lanes[i] += (block[i] - top).exp();
            }
        }
        real::sum(&lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{constant, random};

    #[test]
    fn parts_of_the_vocabulary_are_all_of_it_in_order() -> Result<()> {
        let (n, ids) = (ROWS + 3, 2 * IDS + 5);
        let (h, table, bias) =
            (constant(&random(&[n, 4], 1)), constant(&random(&[ids, 4], 2)), constant(&random(&[ids], 3)));
        let right = h.matmul(&table.t()?)?.broadcast_add(&bias)?.to_vec2::<f64>()?;
        let projection = Projection::new(&h, &table, Some(&bias), Some(IDS as u32 + 7))?;
        let states = real::values::<f64>(&h)?;
        for prepacked in [Vec::new(), prepacked_table(&table)?] {
            assert!([0, 3].contains(&prepacked.len()));
            let mut seen = vec![(Vec::new(), LogSumExp::new()); n];
            let see = |(all, total): &mut (Vec<f64>, LogSumExp<f64>), first: usize, z: &[f64]| {
                assert_eq!(first, all.len());
                all.extend_from_slice(z);
                total.see(z);
            };
            projection.scan(&states, &table, &prepacked, Some(&bias), &mut seen, see)?;
            for ((all, total), right) in seen.iter().zip(&right) {
                assert_eq!(all[IDS + 7], f64::NEG_INFINITY);
                assert!(all.iter().zip(right).enumerate().all(|(i, (a, b))| i == IDS + 7 || (a - b).abs() < 1e-12));
                let sum: f64 = all.iter().map(|z| z.exp()).sum();
                assert!((total.value() - sum.ln()).abs() < 1e-12);
            }
        }
        Ok(())
    }

    #[test]
    fn a_sum_of_what_is_not_finite_is_not_finite() {
        let total = |parts: &[&[f32]]| {
            let mut total = LogSumExp::new();
            parts.iter().for_each(|part| total.see(part));
            total.value()
        };
        let none = f32::NEG_INFINITY;
        assert_eq!(total(&[&[none, none], &[0.0, none], &[none]]), 0.0);
        assert_eq!(total(&[&[none]]), none);
        for wrong in [f32::NAN, f32::INFINITY] {
            assert!([&[&[wrong, 1.0][..], &[2.0]][..], &[&[1.0], &[2.0, wrong]]].iter().all(|z| !total(z).is_finite()));
        }
    }
}
