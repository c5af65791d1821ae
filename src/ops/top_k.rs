//! The most probable next tokens of each row of decoder states: the output projection, its normalization and the
//! choice in one pass over blocks of rows, so that log-probabilities never exist for the whole vocabulary.

use candle_core::{Result, Tensor, WithDType};

use super::cross_entropy::Projection;
use super::prepacked::Prepacked;
use super::real::{self, simd, with_real, Real};
use super::vocabulary::LogSumExp;

/// The `k` most probable ids of each row of `h [N, d]` with their log-probabilities, best first, equal ones by id;
/// fewer where the vocabulary is smaller. `table [V, d]`, also as [`prepacked_table`](super::prepacked_table) gives it, or
/// nothing; `bias [V]`; `masked` is an id that is never predicted. Ids of probability zero, and of a distribution that is
/// not finite, are left out. Off the tape.
///
/// # Errors
/// Shapes that do not fit.
pub fn top_log_probabilities(
    h: &Tensor,
    table: &Tensor,
    prepacked: &[Prepacked],
    bias: Option<&Tensor>,
    masked: Option<u32>,
    k: usize,
) -> Result<Vec<Vec<(u32, f64)>>> {
    let projection = Projection::new(h, table, bias, masked)?;
    let (h, table) = (h.contiguous()?, table.contiguous()?);
    #[cfg(feature = "cuda")]
    if h.device().is_cuda() {
        return projection.top_on_gpu(&h, &table, bias, k);
    }
    with_real!(h, T => {
        let mut found = vec![(Top::<T>::new(k), LogSumExp::<T>::new()); projection.n];
        projection.scan(&real::values::<T>(&h)?, &table, prepacked, bias, &mut found, |(top, total), first, z| {
            top.see(first, z);
            total.see(z);
        })?;
        let best = |(top, total): (Top<T>, LogSumExp<T>)| {
            let total = total.value();
            let finite = total > T::NEG_INFINITY && total < -T::NEG_INFINITY;
            let chosen = if finite { top.best } else { Vec::new() };
            chosen.into_iter().map(|(id, z)| (id, (z - total).to_f64())).collect()
        };
        Ok(found.into_iter().map(best).collect())
    })
}

/// The `k` largest values with their positions, largest first, equal ones in order of position.
pub(crate) fn top<T: Real>(values: &[T], k: usize) -> Vec<(u32, T)> {
    let mut top = Top::new(k);
    top.see(0, values);
    top.best
}

/// The largest of the values that pass by.
#[derive(Clone, Debug)]
struct Top<T> {
    best: Vec<(u32, T)>,
    k: usize,
}

impl<T: Real> Top<T> {
    fn new(k: usize) -> Self {
        Top { best: Vec::new(), k }
    }

    /// Values from position `first` on.
    fn see(&mut self, first: usize, values: &[T]) {
        see(&mut self.best, self.k, first, values);
    }
}

/// Values looked over together.
const BLOCK: usize = 4 * real::LANES;

simd! {
    fn see<T: Real>(best: &mut Vec<(u32, T)>, k: usize, first: usize, values: &[T]) {
        let least = |best: &[(u32, T)]| if best.len() == k { best[k - 1].1 } else { T::NEG_INFINITY };
        let mut floor = least(best);
        for (block, values) in values.chunks(BLOCK).enumerate() {
            // most blocks hold nothing that counts
            if real::max(values) <= floor {
                continue;
            }
            for (i, &value) in values.iter().enumerate() {
                if value > floor {
                    let place = best.partition_point(|&(_, other)| other >= value);
                    best.insert(place, ((first + block * BLOCK + i) as u32, value));
                    best.truncate(k);
                    floor = least(best);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{constant, random};
    use crate::ops::{log_probabilities, prepacked_table};

    #[test]
    fn equal_values_come_in_order_of_position() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 2.0, 3.0], 3), [(1, 3.0), (2, 3.0), (4, 3.0)]);
        assert_eq!(top(&[1.0, 2.0], 5), [(1, 2.0), (0, 1.0)]);
        let rising: Vec<f32> = (0..100).map(|i| i as f32).collect();
        assert_eq!(top(&rising, 2), [(99, 99.0), (98, 98.0)]);
    }

    #[test]
    fn the_choice_is_that_of_sorted_log_probabilities() -> Result<()> {
        let (h, table, bias) =
            (constant(&random(&[300, 4], 1)), constant(&random(&[70, 4], 2)), constant(&random(&[70], 3)));
        let best = top_log_probabilities(&h, &table, &prepacked_table(&table)?, Some(&bias), Some(69), 7)?;
        let all = log_probabilities(&h, &table, &[], Some(&bias), Some(69))?.to_vec2::<f64>()?;
        for (best, all) in best.iter().zip(all) {
            let mut ranked: Vec<usize> = (0..70).collect();
            ranked.sort_by(|&a, &b| all[b].total_cmp(&all[a]));
            assert_eq!(best.iter().map(|b| b.0 as usize).collect::<Vec<_>>(), ranked[..7]);
            assert!(best.iter().all(|&(id, log_p)| (log_p - all[id as usize]).abs() < 1e-12));
        }
        let few = top_log_probabilities(&h, &table, &[], None, Some(0), 99)?;
        assert!(few.iter().all(|row| row.len() == 69 && row.iter().all(|b| b.0 != 0)));
        Ok(())
    }
}
