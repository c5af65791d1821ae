//! Rows of a table: taken out of its values, added to its gradient in place.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor};

use crate::ops::{values, Real};

/// Rows `ids` of a contiguous `[V, d]` tensor, end to end; the host copies a table that is on a GPU.
pub(super) fn gather<T: Real>(table: &Tensor, ids: &[u32]) -> Result<Vec<T>> {
    let (width, table) = (table.dim(1)?, table.to_device(&Device::Cpu)?);
    let all = values::<T>(&table)?;
    let mut rows = Vec::with_capacity(ids.len() * width);
    for &id in ids {
        rows.extend_from_slice(&all[id as usize * width..][..width]);
    }
    Ok(rows)
}

/// Adds `factor` × `rows` to the rows `ids` of a gradient, in place and in order; ids may repeat. The frozen row is left
/// alone. On the host, also for a gradient on a GPU.
pub(super) fn add_rows<T: Real>(
    gradient: &Tensor,
    ids: &[u32],
    rows: &[T],
    factor: f64,
    frozen_row: Option<usize>,
) -> Result<()> {
    let op = AddRows { ids, rows, factor: T::from_f64(factor), frozen_row };
    if gradient.device().is_cpu() {
        return gradient.inplace_op1(&op);
    }
    let host = gradient.to_device(&Device::Cpu)?;
    host.inplace_op1(&op)?;
    gradient.slice_set(&host.to_device(gradient.device())?, 0, 0)
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
