//! Sums for the metrics of optimizers of matrices; saved, so that a resumed run goes on with them. On a device they are added
//! up there and read only when they are asked for.

use candle_core::{Device, Result};

use super::algebra::Number;
use super::OptimizerState;

/// Names in metrics and checkpoints.
const FIELDS: [&str; 4] = ["update_rms", "trust_clips", "resets", "residual"];

/// What became of some weights in one update; a number for each of them.
pub(super) struct Outcome<N> {
    /// Of the update after the trust clip.
    pub(super) rms: N,
    /// 1 where it was clipped.
    pub(super) clipped: N,
    /// 1 where the state was reset.
    pub(super) reset: N,
    /// A measured residual.
    pub(super) residual: Option<N>,
    pub(super) weights: usize,
}

impl<N: Number> Outcome<N> {
    /// Of one weight, for other processes: five numbers to the bit.
    pub(super) fn packed(&self) -> Result<[f64; 5]> {
        let first = |number: &N| Ok::<f64, candle_core::Error>(number.values()?.first().copied().unwrap_or_default());
        let residual = self.residual.as_ref().map_or(Ok(f64::NEG_INFINITY), first)?;
        Ok([first(&self.rms)?, first(&self.clipped)?, first(&self.reset)?, residual, self.weights as f64])
    }

    /// The inverse of [`Outcome::packed`].
    pub(super) fn unpacked([rms, clipped, reset, residual, weights]: [f64; 5], device: &Device) -> Result<Self> {
        let number = |value: f64| N::from_values(&[value], device);
        let residual = if residual == f64::NEG_INFINITY { None } else { Some(number(residual)?) };
        let (rms, clipped, reset) = (number(rms)?, number(clipped)?, number(reset)?);
        Ok(Outcome { rms, clipped, reset, residual, weights: weights as usize })
    }
}

/// The four numbers in the order of [`FIELDS`]; none before the first update.
pub(super) struct Health<N>(Option<[N; 4]>);

impl<N> Default for Health<N> {
    fn default() -> Self {
        Health(None)
    }
}

impl<N: Number> Health<N> {
    /// Of one update of all weights.
    pub(super) fn note(&mut self, outcomes: &[Outcome<N>]) -> Result<()> {
        let Some((first, others)) = outcomes.split_first() else { return Ok(()) };
        let sum =
            |of: fn(&Outcome<N>) -> &N| others.iter().fold(of(first).sum(), |sum, outcome| sum + of(outcome).sum());
        let count: usize = outcomes.iter().map(|outcome| outcome.weights).sum();
        let rms = sum(|outcome| &outcome.rms) / count as f64;
        let (clips, resets) = (sum(|outcome| &outcome.clipped), sum(|outcome| &outcome.reset));
        let measured: Vec<(&N, usize)> =
            outcomes.iter().filter_map(|outcome| Some((outcome.residual.as_ref()?, outcome.weights))).collect();
        let residual = measured.split_first().map(|((first, count), others)| {
            let sum = others.iter().fold(first.sum(), |sum, (residual, _)| sum + residual.sum());
            sum / others.iter().fold(*count, |sum, (_, count)| sum + count) as f64
        });
        let none = || rms.clone() * 0.0;
        let [_, old_clips, old_resets, old_residual] = match self.0.take() {
            Some(old) => old,
            // not a product with 0, which NaN would survive
            None => [(); 4].map(|()| none().is_finite() * 0.0),
        };
        self.0 = Some([rms.clone(), old_clips + clips, old_resets + resets, residual.unwrap_or(old_residual)]);
        Ok(())
    }

    /// Reads them: waits for the device.
    pub(super) fn values(&self) -> Result<Vec<(&'static str, f64)>> {
        let value = |(i, name): (usize, &'static str)| {
            let value = match &self.0 {
                Some(numbers) => numbers[i].values()?.into_iter().next().unwrap_or_default(),
                None => 0.0,
            };
            Ok((name, value))
        };
        FIELDS.into_iter().enumerate().map(value).collect()
    }

    /// From a checkpoint.
    pub(super) fn load(state: &OptimizerState, device: &Device) -> Result<Self> {
        let mut numbers = Vec::with_capacity(FIELDS.len());
        for name in FIELDS {
            numbers.push(N::from_values(&[state.scalar(name)?], device)?);
        }
        Ok(Health(numbers.try_into().ok()))
    }
}
