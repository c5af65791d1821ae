//! Rows of a table that the batch has touched, chosen at random on the device without a list of them.

use candle_core::{DType, Result, Tensor};

/// Rows of a batch of tables.
pub(super) struct Chosen {
    /// `[tables·k]`, u32: rows of all tables below each other.
    pub(super) ids: Tensor,
    /// Rows that are there, of each table.
    pub(super) count: Tensor,
}

/// `there` `[tables, V]` is 1 for a row that may be chosen and 0 for the others, `uniform` `[tables, k, 1]` in f64 lies in
/// [0, 1): row number ⌊u·n⌋ of the n that are there. Without any, the last row of all.
pub(super) fn choose(there: &Tensor, uniform: &Tensor) -> Result<Chosen> {
    let (tables, rows) = there.dims2()?;
    let k = uniform.dim(1)?;
    let sums = running_sums(there)?;
    let count = sums.narrow(1, rows - 1, 1)?.contiguous()?;
    let wanted = uniform.broadcast_mul(&count.unsqueeze(1)?.to_dtype(DType::F64)?)?.floor()?.to_dtype(there.dtype())?;
    // as many rows are passed as have running sums up to that number
    let shape = (tables, k, rows);
    let passed = sums.unsqueeze(1)?.broadcast_as(shape)?.le(&wanted.broadcast_as(shape)?)?;
    let ids = passed.to_dtype(there.dtype())?.sum(2)?.minimum((rows - 1) as f64)?;
    let first: Vec<f64> = (0..tables).map(|table| (table * rows) as f64).collect();
    let first = Tensor::from_vec(first, (tables, 1), there.device())?;
    let ids = ids.to_dtype(DType::F64)?.broadcast_add(&first)?.to_dtype(DType::U32)?.flatten_all()?;
    Ok(Chosen { ids, count: count.squeeze(1)? })
}

/// s_a = Σ_{b ≤ a} x_b of each row of `x` `[tables, V]`, by two products with triangles of √V: exact for whole numbers, in
/// f32 up to 2²⁴.
fn running_sums(x: &Tensor) -> Result<Tensor> {
    let (tables, n) = x.dims2()?;
    let width = (n as f64).sqrt().ceil() as usize;
    let lines = n.div_ceil(width);
    let padded = x.pad_with_zeros(1, 0, lines * width - n)?.reshape((tables * lines, width))?;
    let within = padded.matmul(&Tensor::triu2(width, x.dtype(), x.device())?)?;
    let totals = within.narrow(1, width - 1, 1)?.contiguous()?.reshape((tables, lines))?;
    let up_to = totals.matmul(&Tensor::triu2(lines, x.dtype(), x.device())?)?;
    let before = (up_to - totals)?.reshape((tables * lines, 1))?;
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
            let uniform: Vec<f64> = (0..tables * k).map(|_| rng.uniform()).collect();
            let all = Tensor::from_slice(&there, (tables, rows), &Device::Cpu)?;
            let Chosen { ids, count } = choose(&all, &Tensor::from_slice(&uniform, (tables, k, 1), &Device::Cpu)?)?;
            let (ids, count) = (ids.to_vec1::<u32>()?, count.to_vec1::<f32>()?);
            for table in 0..tables {
                let present: Vec<usize> = (0..rows).filter(|row| there[table * rows + row] == 1.0).collect();
                assert_eq!(count[table], present.len() as f32);
                for (id, u) in ids[table * k..].iter().zip(&uniform[table * k..(table + 1) * k]) {
                    let expected = present.get((u * present.len() as f64) as usize).copied().unwrap_or(rows - 1);
                    assert_eq!(*id as usize, table * rows + expected);
                }
            }
        }
        Ok(())
    }
}
