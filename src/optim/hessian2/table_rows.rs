//! Rows of a table that the batch has touched, chosen at random on the device without a list of them.

use candle_core::{DType, Device, Result, Tensor};

use crate::optim::batched::full;

/// Rows of a batch of tables.
pub(super) struct Chosen {
    /// `[tables·k]`, u32: rows of all tables below each other.
    pub(super) ids: Tensor,
    /// Rows that are there, of each table.
    pub(super) count: Tensor,
}

/// What the choice among rows of tables of one shape needs, made once.
pub(super) struct TableRows {
    /// Triangles for sums within lines and of lines: V numbers are lines of √V.
    within: Tensor,
    lines: Tensor,
    /// The first row of each table `[tables, 1]`, in f64.
    first: Tensor,
}

impl TableRows {
    pub(super) fn new(tables: usize, rows: usize, dtype: DType, device: &Device) -> Result<Self> {
        let width = (rows as f64).sqrt().ceil() as usize;
        let first: Vec<f64> = (0..tables).map(|table| (table * rows) as f64).collect();
        Ok(TableRows {
            within: Tensor::triu2(width, dtype, device)?,
            lines: Tensor::triu2(rows.div_ceil(width), dtype, device)?,
            first: Tensor::from_vec(first, (tables, 1), device)?,
        })
    }

    /// `there` `[tables, V]` is 1 for a row that may be chosen and 0 for the others, `uniform` `[tables, k, 1]` in f64 lies
    /// in [0, 1): row number ⌊u·n⌋ of the n that are there. Without any, the last row of all.
    pub(super) fn choose(&self, there: &Tensor, uniform: &Tensor) -> Result<Chosen> {
        let (tables, rows) = there.dims2()?;
        let k = uniform.dim(1)?;
        let sums = self.running_sums(there)?;
        let count = sums.narrow(1, rows - 1, 1)?.contiguous()?;
        let wanted = uniform.broadcast_mul(&count.unsqueeze(1)?.to_dtype(DType::F64)?)?.floor()?;
        // as many rows are passed as have running sums up to that number
        let shape = (tables, k, rows);
        let wanted = wanted.to_dtype(there.dtype())?.broadcast_as(shape)?;
        let passed = sums.unsqueeze(1)?.broadcast_as(shape)?.le(&wanted)?;
        let ids = passed.to_dtype(there.dtype())?.sum(2)?;
        let ids = ids.minimum(&full((rows - 1) as f64, &ids)?)?;
        let ids = ids.to_dtype(DType::F64)?.broadcast_add(&self.first)?.to_dtype(DType::U32)?.flatten_all()?;
        Ok(Chosen { ids, count: count.squeeze(1)? })
    }

    /// s_a = Σ_{b ≤ a} x_b of each row of `x` `[tables, V]`, by products with triangles: exact for whole numbers, in f32 up
    /// to 2²⁴.
    fn running_sums(&self, x: &Tensor) -> Result<Tensor> {
        let (tables, n) = x.dims2()?;
        let (width, lines) = (self.within.dim(0)?, self.lines.dim(0)?);
        let padded = x.pad_with_zeros(1, 0, lines * width - n)?.reshape((tables * lines, width))?;
        let within = padded.matmul(&self.within)?;
        let totals = within.narrow(1, width - 1, 1)?.contiguous()?.reshape((tables, lines))?;
        let before = (totals.matmul(&self.lines)? - totals)?.reshape((tables * lines, 1))?;
        within.broadcast_add(&before)?.reshape((tables, lines * width))?.narrow(1, 0, n)?.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{stream, Purpose};

    #[test]
    fn the_rows_are_those_that_a_list_would_give() -> Result<()> {
        let (tables, k) = (2, 40);
        let mut rng = stream(8, Purpose::Probe, 0);
        for rows in [1, 2, 7, 64, 1001] {
            let there: Vec<f32> = (0..tables * rows).map(|_| f32::from(u8::from(rng.uniform() < 0.3))).collect();
            let uniform: Vec<f64> = (0..tables * k).map(|_| rng.uniform()).collect();
            let all = Tensor::from_slice(&there, (tables, rows), &Device::Cpu)?;
            let chooser = TableRows::new(tables, rows, DType::F32, &Device::Cpu)?;
            let uniform_tensor = Tensor::from_slice(&uniform, (tables, k, 1), &Device::Cpu)?;
            let Chosen { ids, count } = chooser.choose(&all, &uniform_tensor)?;
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
