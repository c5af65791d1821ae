//! Rows of tables that the batch has touched, chosen at random on the device without a list of them: with p_a = 1 for a row
//! with a gradient and its running sums s_a, the row that is chosen as number ⌊u·n⌋ of the n present ones is the number of
//! rows with s_a ≤ ⌊u·n⌋. So the draws are those that a list would give.

use candle_core::{DType, Result, Tensor};

use super::numbers::{full, Numbers};
use crate::rng::Stream;

/// `k` rows of each table of `x` `[tables, V, d]` that are not zero, of all tables below each other, u32; without any, the
/// last row. And how many are not zero.
pub(super) fn choose(x: &Tensor, k: usize, streams: &mut [Stream]) -> Result<(Tensor, Numbers)> {
    let (tables, rows, _) = x.dims3()?;
    let uniform: Vec<f64> = streams.iter_mut().flat_map(|stream| (0..k).map(|_| stream.uniform())).collect();
    let uniform = Tensor::from_vec(uniform, (tables, k, 1), x.device())?;
    let sums = x.abs()?.sum(2)?;
    let there = sums.ne(&sums.zeros_like()?)?.to_dtype(x.dtype())?;
    let sums = running_sums(&there)?;
    let count = sums.narrow(1, rows - 1, 1)?.contiguous()?;
    let wanted = uniform.broadcast_mul(&count.unsqueeze(1)?.to_dtype(DType::F64)?)?.floor()?;
    // as many rows are passed as have running sums up to that number
    let shape = (tables, k, rows);
    let wanted = wanted.to_dtype(x.dtype())?.broadcast_as(shape)?;
    let passed = sums.unsqueeze(1)?.broadcast_as(shape)?.le(&wanted)?;
    let ids = passed.to_dtype(x.dtype())?.sum(2)?;
    let ids = ids.minimum(&full((rows - 1) as f64, &ids)?)?.to_dtype(DType::F64)?;
    let first: Vec<f64> = (0..tables).map(|table| (table * rows) as f64).collect();
    let ids = ids.broadcast_add(&Tensor::from_vec(first, (tables, 1), x.device())?)?;
    Ok((ids.to_dtype(DType::U32)?.flatten_all()?, Numbers::new(count.squeeze(1))))
}

/// s_a = Σ_{b ≤ a} x_b of each row of `x` `[tables, V]`, by products with triangles of √V: exact for whole numbers, in f32
/// up to 2²⁴.
fn running_sums(x: &Tensor) -> Result<Tensor> {
    let (tables, n) = x.dims2()?;
    let width = (n as f64).sqrt().ceil() as usize;
    let lines = n.div_ceil(width);
    let padded = x.pad_with_zeros(1, 0, lines * width - n)?.reshape((tables * lines, width))?;
    let within = padded.matmul(&Tensor::triu2(width, x.dtype(), x.device())?)?;
    let totals = within.narrow(1, width - 1, 1)?.contiguous()?.reshape((tables, lines))?;
    let before = totals.matmul(&Tensor::triu2(lines, x.dtype(), x.device())?)?;
    let before = (before - totals)?.reshape((tables * lines, 1))?;
    within.broadcast_add(&before)?.reshape((tables, lines * width))?.narrow(1, 0, n)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose};
    use candle_core::Device;

    #[test]
    fn the_rows_are_those_that_a_list_would_give() -> Result<()> {
        let (tables, k) = (2, 40);
        let mut rng = stream(8, Purpose::Probe, 0);
        for rows in [1, 2, 7, 64, 1001] {
            let there: Vec<f32> = (0..tables * rows).map(|_| f32::from(u8::from(rng.uniform() < 0.3))).collect();
            let x = Tensor::from_slice(&there, (tables, rows, 1), &Device::Cpu)?;
            let streams = || [0, 1].map(|table| stream(9, Purpose::Probe, table));
            let (ids, count) = choose(&x, k, &mut streams())?;
            let (ids, count) = (ids.to_vec1::<u32>()?, super::super::Number::values(&count)?);
            for (table, mut stream) in streams().into_iter().enumerate() {
                let present: Vec<usize> = (0..rows).filter(|row| there[table * rows + row] == 1.0).collect();
                assert_eq!(count[table], present.len() as f64);
                for id in &ids[table * k..(table + 1) * k] {
                    let expected = match present.len() {
                        0 => rows - 1,
                        n => present[stream.below(n)],
                    };
                    assert_eq!(*id as usize, table * rows + expected);
                }
            }
        }
        Ok(())
    }
}
