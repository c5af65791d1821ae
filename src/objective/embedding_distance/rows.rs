//! Rows of a table: taken out of its values, added to its gradient in place.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor};

use crate::ops::{values, Real};

/// Rows `ids` of a contiguous `[V, d]` tensor, end to end, on the host; of a table on a GPU only these are copied.
pub(super) fn gather<T: Real>(table: &Tensor, ids: &[u32]) -> Result<Vec<T>> {
    if !table.device().is_cpu() {
        let ids = Tensor::from_slice(ids, ids.len(), table.device())?;
        return table.detach().index_select(&ids, 0)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1();
    }
    let width = table.dim(1)?;
    let all = values::<T>(table)?;
    let mut rows = Vec::with_capacity(ids.len() * width);
    for &id in ids {
        rows.extend_from_slice(&all[id as usize * width..][..width]);
    }
    Ok(rows)
}

/// Adds `factor` × `rows` to the rows `ids` of a gradient, in place and in order; ids may repeat. The frozen row is left
/// alone.
pub(super) fn add_rows<T: Real>(
    gradient: &Tensor,
    ids: &[u32],
    rows: &[T],
    factor: f64,
    frozen_row: Option<usize>,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if gradient.device().is_cuda() {
        let width = gradient.dim(1)?;
        let kept = ids.iter().zip(rows.chunks(width)).filter(|(&id, _)| Some(id as usize) != frozen_row);
        let (ids, rows): (Vec<u32>, Vec<&[T]>) = kept.unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let rows: Vec<f32> = rows.concat().iter().map(|x| x.to_f64() as f32).collect();
        return crate::ops::cuda::add_rows(gradient, &ids, rows, factor);
    }
    gradient.inplace_op1(&AddRows { ids, rows, factor: T::from_f64(factor), frozen_row })
}

struct AddRows<'a, T> {
    ids: &'a [u32],
    rows: &'a [T],
    factor: T,
    frozen_row: Option<usize>,
}

impl<T: Real> InplaceOp1 for AddRows<'_, T> {
    fn name(&self) -> &'static str {
        "embedding-distance"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some(all), Some((start, end))) = (T::slice_mut(storage), layout.contiguous_offsets()) else {
            candle_core::bail!("the gradient of an embedding table must be contiguous and of the table's number type")
        };
        let all = &mut all[start..end];
        let width = self.rows.len() / self.ids.len().max(1);
        for (&id, row) in self.ids.iter().zip(self.rows.chunks(width.max(1))) {
            if Some(id as usize) != self.frozen_row {
                let place = &mut all[id as usize * width..][..width];
                place.iter_mut().zip(row).for_each(|(sum, &x)| *sum += self.factor * x);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{check, Precision};
    use candle_core::DType;

    fn are_taken_and_added(device: &Device) -> Result<()> {
        let ids = [3u32, 1, 3, 4];
        let table = Tensor::arange(0f32, 10.0, device)?.reshape((5, 2))?;
        let rows = gather::<f32>(&table, &ids)?;
        assert_eq!(rows, [6.0, 7.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0]);
        let gradient = Tensor::ones((5, 2), DType::F32, device)?;
        add_rows(&gradient, &ids, &rows, 0.5, Some(4))?;
        let expected = [[1.0, 1.0], [2.0, 2.5], [1.0, 1.0], [7.0, 8.0], [1.0, 1.0]];
        assert_eq!(gradient.to_vec2::<f32>()?, expected);
        add_rows(&gradient, &[4], &[1.0f32, 1.0], 0.5, Some(4))?;
        assert_eq!(gradient.to_vec2::<f32>()?, expected);
        Ok(())
    }

    #[test]
    fn rows_are_taken_and_added_by_id_but_for_the_frozen_one() -> Result<()> {
        are_taken_and_added(&Device::Cpu)
    }

    #[test]
    #[cfg_attr(not(feature = "cuda"), ignore = "needs a GPU")]
    fn rows_are_taken_and_added_on_a_gpu() -> Result<()> {
        are_taken_and_added(&check::gpu(Precision::Bf16))
    }
}
