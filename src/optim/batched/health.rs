//! Sums for the metrics on the device: added up there, read only when they are asked for.

use candle_core::{DType, Device, Result, Tensor};

/// Names in metrics and checkpoints, as those of `per_matrix`.
pub(super) const FIELDS: [&str; 4] = ["update_rms", "trust_clips", "resets", "residual"];

/// The four numbers, in f64.
#[derive(Default)]
pub(super) struct Health(Option<Tensor>);

/// Of one update; a number for each parameter.
pub(super) struct Outcome {
    /// Of the update after the trust clip.
    pub(super) rms: Tensor,
    /// 1 where it was clipped.
    pub(super) clipped: Tensor,
    /// 1 where the state was reset.
    pub(super) reset: Tensor,
    /// A measured residual, and 1 where it counts.
    pub(super) residual: Option<(Tensor, Tensor)>,
}

impl Health {
    /// Of one update.
    pub(super) fn note(&mut self, outcome: &Outcome) -> Result<()> {
        let wide = |x: &Tensor| x.to_dtype(DType::F64);
        let old = match &self.0 {
            Some(old) => old.clone(),
            None => Tensor::zeros(FIELDS.len(), DType::F64, outcome.rms.device())?,
        };
        let kept = |i: usize| old.get(i);
        let residual = match &outcome.residual {
            None => kept(3)?,
            Some((residual, counts)) => {
                let (sum, count) = (wide(&(residual * counts)?)?.sum_all()?, wide(counts)?.sum_all()?);
                // as vectors of one: candle's choice on CUDA fails with numbers of no dimension
                let (mean, count) = ((sum / &count)?.unsqueeze(0)?, count.unsqueeze(0)?);
                count.ne(&count.zeros_like()?)?.where_cond(&mean, &kept(3)?.unsqueeze(0)?)?.squeeze(0)?
            }
        };
        let numbers = [
            wide(&outcome.rms)?.mean_all()?,
            (kept(1)? + wide(&outcome.clipped)?.sum_all()?)?,
            (kept(2)? + wide(&outcome.reset)?.sum_all()?)?,
            residual,
        ];
        self.0 = Some(Tensor::stack(&numbers, 0)?);
        Ok(())
    }

    /// Reads them: waits for the device.
    pub(super) fn read(&self) -> Result<[f64; FIELDS.len()]> {
        let mut values = [0.0; FIELDS.len()];
        if let Some(tensor) = &self.0 {
            values.copy_from_slice(&tensor.to_vec1()?);
        }
        Ok(values)
    }

    /// From a checkpoint.
    pub(super) fn load(values: &[f64; FIELDS.len()], device: &Device) -> Result<Self> {
        Ok(Health(Some(Tensor::new(values, device)?)))
    }
}
