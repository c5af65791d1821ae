//! Operations on candle's own tape, for gradient checks: a node of candle's has three inputs at most, so those that need a
//! gradient travel to it end to end as one.

use candle_core::{bail, CpuStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};
use std::sync::{Mutex, PoisonError};

use super::tape::{backward, Computed, Done, Op, Saved};

/// A node on candle's tape.
struct OnCandles {
    op: Box<dyn Op>,
    inputs: Vec<Tensor>,
    saved: Saved,
    /// What was computed already, for candle to take.
    result: Mutex<Option<(CpuStorage, Shape)>>,
}

/// Puts what `op` computed on candle's tape.
pub(super) fn keep(op: Box<dyn Op>, inputs: Vec<Tensor>, (storage, shape, saved): Computed) -> Result<Tensor> {
    let Storage::Cpu(storage) = storage else { bail!("{}: on a GPU gradients need a recording", op.name()) };
    let tracked =
        inputs.iter().filter(|input| input.track_op()).map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&tracked, 0)?.apply_op1(OnCandles { op, inputs, saved, result: Mutex::new(Some((storage, shape))) })
}

impl CustomOp1 for OnCandles {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Ok(result),
            None => bail!("{}: candle ran it twice", self.op.name()),
        }
    }

    fn bwd(&self, _: &Tensor, output: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let done = Done { inputs: &self.inputs, output, saved: &self.saved, gradient };
        let gradients = backward(&*self.op, done)?;
        let tracked = self.inputs.iter().zip(gradients).filter(|(input, _)| input.track_op());
        let flat = tracked.map(|(input, gradient)| gradient.map_or_else(|| input.zeros_like(), Ok)?.flatten_all());
        Tensor::cat(&flat.collect::<Result<Vec<_>>>()?, 0).map(Some)
    }
}
