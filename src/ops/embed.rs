//! `embed`: y = dropout(s·E[id]·w + sinusoids(position)) over packed tokens; E `[V, d]`, y `[N, d]`. With word dropout w is 0
//! for tokens that are dropped and 1/(1−p) for the others (Sennrich et al. 2016), else 1.
//!
//! Sinusoids as in Hugging Face's Marian: with ω_i = 10000^(−2i/d), sin(position·ω_i) in the first half of the row,
//! cos(position·ω_i) in the second. (Vaswani et al. 2017 interleave them; the order is a matter of weights.)
//!
//! Backward: dE[id] += s·w·dy ⊙ m, token by token in their order, into a table that is zero elsewhere, or the sum of the
//! gradients that others gave the table.

use candle_core::{DType, Device, Result, Tensor};

use super::dropout::Mask;
use super::real::{self, simd, with_real, Real};
use super::rows::{self, BLOCK};
use super::sum::in_place;
use super::tape::{self, exactly, Computed, Done, Op};
use super::unwritten::{Blank, Unwritten};
use super::Dropout;

/// dropout(scale·table\[ids\] + sinusoids); `positions`: one a token, `None` = no sinusoids. `dropouts`: of whole rows of the
/// table, its mask indexed by token, and of the values of the sum.
///
/// # Errors
/// An id outside the table, a list of positions of another length, an odd width with positions.
pub fn embed(
    table: &Tensor,
    ids: &[u32],
    positions: Option<&[usize]>,
    scale: f64,
    dropouts: [Option<Dropout>; 2],
) -> Result<Tensor> {
    let (rows, width) = table.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
        candle_core::bail!("embed: token id {id} is outside the table of {rows} rows");
    }
    if let Some(positions) = positions {
        if positions.len() != ids.len() || width % 2 == 1 {
            candle_core::bail!("embed: {} tokens, {} positions, width {width}", ids.len(), positions.len());
        }
    }
    let op = Embed { ids: ids.to_vec(), positions: positions.map(<[usize]>::to_vec), width, scale, dropouts };
    tape::apply(op, &[table])
}

/// The sinusoids of positions 0 to `positions` − 1, `[positions, width]`, f32 on the CPU: for files that store them.
///
/// # Errors
/// An odd width.
pub fn sinusoids(positions: usize, width: usize) -> Result<Tensor> {
    let nothing = Tensor::zeros((1, width), DType::F32, &Device::Cpu)?;
    let all: Vec<usize> = (0..positions).collect();
    embed(&nothing, &vec![0; positions], Some(&all), 1.0, [None; 2])
}

/// The position of each packed token in its sentence, from 0.
pub fn positions(offsets: &[usize]) -> Vec<usize> {
    offsets.windows(2).flat_map(|pair| 0..pair[1] - pair[0]).collect()
}

/// Input: the table.
pub(super) struct Embed {
    pub(super) ids: Vec<u32>,
    pub(super) positions: Option<Vec<usize>>,
    pub(super) width: usize,
    pub(super) scale: f64,
    /// Of words and of values.
    pub(super) dropouts: [Option<Dropout>; 2],
}

impl Embed {
    fn forward_of<T: Real>(&self, table: &Tensor) -> Result<Computed> {
        let table = real::values::<T>(table)?;
        let (n, width) = (self.ids.len(), self.width);
        let sinusoids = self.positions.as_ref().map(|positions| Sinusoids::<T>::new(positions, width));
        let (scale, mask) = (self.scale_of_tokens(), self.dropouts[1].map(Mask::new));
        let mut y = Unwritten::new(n * width);
        let jobs = y.all().chunks(BLOCK * width).zip(self.ids.chunks(BLOCK)).enumerate().collect();
        rows::run(jobs, n * width, |(block, (y, ids)): (usize, (Blank<'_, T>, &[u32]))| {
            for (i, (row, &id)) in y.zeros().chunks_exact_mut(width).zip(ids).enumerate() {
                let token = block * BLOCK + i;
                let shift = match (&sinusoids, &self.positions) {
                    (Some(s), Some(positions)) => s.row(positions[token]),
                    _ => &[],
                };
                fill(row, &table[id as usize * width..][..width], scale(token), shift, mask, token * width);
            }
        });
        Ok((real::storage(y.done()), (n, width).into(), Default::default()))
    }

    fn backward_of<T: Real>(&self, table: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let mut gradient = vec![T::zero(); table.elem_count()];
        self.scatter_all(&mut gradient, &real::values::<T>(dy)?);
        Ok(real::tensor(gradient, table.shape()))
    }

    /// s·w of each token.
    fn scale_of_tokens<T: Real>(&self) -> impl Fn(usize) -> T {
        let (scale, words) = (T::from_f64(self.scale), self.dropouts[0].map(Mask::<T>::new));
        move |token| words.map_or(scale, |mask| scale * mask.factor(token))
    }

    /// Adds the gradients of all tokens to those of the table's rows.
    fn scatter_all<T: Real>(&self, gradient: &mut [T], dy: &[T]) {
        let width = self.width;
        let (scale, mask) = (self.scale_of_tokens(), self.dropouts[1].map(Mask::new));
        for (token, (dy, &id)) in dy.chunks_exact(width).zip(&self.ids).enumerate() {
            scatter(&mut gradient[id as usize * width..][..width], dy, scale(token), mask, token * width);
        }
    }
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn forward(&self, inputs: &[Tensor], _: bool) -> Result<Computed> {
        let [table] = exactly(inputs)?;
        with_real!(table, T => self.forward_of::<T>(table))
    }

    fn backward(&self, done: Done<'_>) -> Result<Vec<Option<Tensor>>> {
        let [table] = exactly(done.inputs)?;
        with_real!(table, T => Ok(vec![Some(self.backward_of::<T>(table, done.gradient)?)]))
    }

    fn gives_its_own(&self) -> bool {
        true
    }

    /// Few rows of a large table: neither zeros for the others nor a sum over all.
    fn backward_onto(&self, gradient: &Tensor, sum: &Tensor) -> Result<bool> {
        with_real!(sum, T => {
            let dy = real::values::<T>(gradient)?;
            in_place(sum, |sum: &mut [T]| self.scatter_all(sum, &dy))?;
            Ok(true)
        })
    }
}

/// Rows of sinusoids from the lowest to the highest position in use.
struct Sinusoids<T> {
    values: Vec<T>,
    first: usize,
    width: usize,
}

impl<T: Real> Sinusoids<T> {
    fn new(positions: &[usize], width: usize) -> Self {
        let first = positions.iter().copied().min().unwrap_or(0);
        let end = positions.iter().map(|p| p + 1).max().unwrap_or(0);
        let frequencies: Vec<f64> = (0..width / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / width as f64)).collect();
        let mut values = Vec::with_capacity((end - first) * width);
        for position in first..end {
            values.extend(frequencies.iter().map(|f| T::from_f64((position as f64 * f).sin())));
            values.extend(frequencies.iter().map(|f| T::from_f64((position as f64 * f).cos())));
        }
        Sinusoids { values, first, width }
    }

    fn row(&self, position: usize) -> &[T] {
        &self.values[(position - self.first) * self.width..][..self.width]
    }
}

simd! {
    fn fill<T: Real>(y: &mut [T], row: &[T], scale: T, shift: &[T], mask: Option<Mask<T>>, first: usize) {
        y.iter_mut().zip(row).for_each(|(y, &e)| *y = e * scale);
        y.iter_mut().zip(shift).for_each(|(y, &s)| *y += s);
        if let Some(m) = mask {
            y.iter_mut().enumerate().for_each(|(i, y)| *y *= m.factor(first + i));
        }
    }
}

simd! {
    fn scatter<T: Real>(row: &mut [T], dy: &[T], scale: T, mask: Option<Mask<T>>, first: usize) {
        match mask {
            None => row.iter_mut().zip(dy).for_each(|(e, &dy)| *e += dy * scale),
            Some(m) => {
                row.iter_mut().zip(dy).enumerate().for_each(|(i, (e, &dy))| *e += dy * scale * m.factor(first + i));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{agree, constant, dropout_of, random, random_offsets};
    use crate::ops::dropout::reference::mask_tensor;
    use crate::rng::{stream, Purpose};
    use candle_core::Device;
    use proptest::prelude::*;

    fn plain_sinusoid(position: usize, column: usize, width: usize) -> f64 {
        let half = width / 2;
        let angle = position as f64 / 10_000f64.powf(2.0 * (column % half) as f64 / width as f64);
        if column < half {
            angle.sin()
        } else {
            angle.cos()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn agrees_with_plain_operations(
            sentences in 1usize..12, half in 1usize..20, rows in 1usize..30, with_positions: bool, drop: bool,
            drop_words: bool, seed in 0u64..1000,
        ) {
            let offsets = random_offsets(sentences, 20, seed);
            let (n, width) = (offsets[sentences], 2 * half);
            let mut rng = stream(seed, Purpose::Probe, 5);
            let ids: Vec<u32> = (0..n).map(|_| rng.below(rows) as u32).collect();
            let positions = positions(&offsets);
            let dropouts = [dropout_of(drop_words, seed + 1), dropout_of(drop, seed)];
            agree(
                &[random(&[rows, width], seed)],
                0..1,
                |v| embed(&v[0], &ids, with_positions.then_some(&positions[..]), 1.7, dropouts),
                |v| {
                    let index = Tensor::from_vec(ids.clone(), n, &Device::Cpu)?;
                    let words = mask_tensor(dropouts[0], &[n, 1], v[0].dtype())?;
                    let mut y = (v[0].index_select(&index, 0)?.broadcast_mul(&words)? * 1.7)?;
                    if with_positions {
                        let values = (0..n * width)
                            .map(|i| plain_sinusoid(positions[i / width], i % width, width))
                            .collect::<Vec<f64>>();
                        y = (y + Tensor::from_vec(values, (n, width), &Device::Cpu)?)?;
                    }
                    &y * mask_tensor(dropouts[1], &[n, width], y.dtype())?
                },
            );
        }
    }

    #[test]
    fn positions_begin_anew_in_each_sentence() {
        assert_eq!(positions(&[0, 3, 3, 5]), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn an_id_outside_the_table_is_named() {
        let message = embed(&constant(&random(&[3, 2], 1)), &[0, 3], None, 1.0, [None; 2]).err().map(|e| e.to_string());
        assert!(message.is_some_and(|m| m.contains("token id 3")));
    }
}
