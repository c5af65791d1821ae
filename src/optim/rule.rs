//! What an optimizer for matrices writes down ([`MatrixRule`]): what it keeps, and how a gradient becomes a direction. The
//! rest is `per_matrix`'s. The shortest one to copy is `muon`.

use candle_core::Result;
use rayon::prelude::*;

use super::algebra::{Mats, Number, Place, Start};
use super::saved::Saved;
use super::slots::Slots;
use super::{OptimizerState, StepContext};
use crate::params::{Param, ParamSet};
use crate::rng::{self, Purpose, Stream};

/// How the gradients of a batch of matrices become their directions.
pub(super) trait MatrixRule<M: Mats>: Send + Sync {
    /// Of the optimizer, in config and reports.
    fn name(&self) -> &'static str;

    /// Its settings, for the pre-flight table.
    fn describe(&self) -> String;

    /// Whether it is meant for this parameter, whose shape is `[rows, columns]`; Adam moves the others.
    fn takes(&self, param: &Param) -> bool;

    /// Matrices that it keeps for a block of this shape.
    fn slots(&self, shape: [usize; 2], table: bool) -> Vec<Slot>;

    /// Names of numbers that it keeps for each block, 0 at the start. The first one is 0 as long as nothing was learned.
    fn numbers(&self) -> &'static [&'static str] {
        &[]
    }

    /// The direction to go against, without learning rate and decay.
    fn direction(&self, state: &mut Slots<M>, g: M::View<'_>, now: &mut Now<'_, M>) -> Result<Direction<M>>;

    /// Weights (not tables) with a longer side are split into blocks with state of their own.
    fn longest(&self) -> Option<usize> {
        None
    }

    /// Whether it looks at [`Now::size`].
    fn wants_size(&self) -> bool {
        false
    }

    /// τ of the trust clip.
    fn trust(&self) -> Option<f64> {
        None
    }

    /// See [`super::Optimizer::needs_inputs`].
    fn needs_inputs(&self, step: u64) -> bool {
        let _ = step;
        false
    }

    /// Called at the beginning of an update: statistics that several weights share. [`MatrixRule::takes`] may answer
    /// otherwise after it.
    fn observe(&mut self, params: &ParamSet, context: &StepContext<'_>) -> Result<()> {
        let _ = (params, context);
        Ok(())
    }

    /// Forgets what several weights share.
    fn clear_shared(&mut self) {}

    /// What several weights share.
    fn save_shared(&self, state: &mut OptimizerState) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// The inverse of [`MatrixRule::save_shared`].
    fn load_shared(&mut self, place: &Place, saved: &mut Saved) -> Result<()> {
        let _ = (place, saved);
        Ok(())
    }

    /// More numbers for the metrics.
    fn health(&self) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }
}

/// A matrix that a rule keeps.
pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) shape: [usize; 2],
    pub(super) start: Start,
    /// As large as the block: saved as one tensor of the whole weight.
    pub(super) of_weight: bool,
}

impl Slot {
    /// As large as the block, from zeros.
    pub(super) fn weight(name: &'static str, shape: [usize; 2]) -> Self {
        Slot { name, shape, start: Start::Zeros, of_weight: true }
    }

    pub(super) fn new(name: &'static str, shape: [usize; 2], start: Start) -> Self {
        Slot { name, shape, start, of_weight: false }
    }
}

/// What a rule answers.
pub(super) struct Direction<M: Mats> {
    pub(super) update: M,
    /// 1 where there was nothing to measure with yet: no update, and nothing is reset.
    pub(super) idle: Option<M::Number>,
    /// 1 where the state has failed: no update, and it starts anew. So it does where the update is not finite.
    pub(super) failed: Option<M::Number>,
    /// How far the tracked curvature is from the truth on a fresh probe, when it was asked.
    pub(super) residual: Option<M::Number>,
}

impl<M: Mats> Direction<M> {
    pub(super) fn plain(update: M) -> Self {
        Direction { update, idle: None, failed: None, residual: None }
    }
}

/// Where in the run an update of a batch stands.
pub(super) struct Now<'a, M: Mats> {
    /// Updates done by the run before this one.
    pub(super) step: u64,
    pub(super) seed: u64,
    /// Root mean square of the whole weight's gradient, for each block; see [`MatrixRule::wants_size`].
    pub(super) size: M::Number,
    /// Name of the weight, and number among its blocks.
    pub(super) members: &'a [(&'a str, usize)],
    pub(super) place: &'a Place,
    streams: Vec<Stream>,
}

impl<'a, M: Mats> Now<'a, M> {
    pub(super) fn new(
        context: &StepContext<'_>,
        size: M::Number,
        members: &'a [(&'a str, usize)],
        place: &'a Place,
    ) -> Self {
        Now { step: context.step, seed: context.seed, size, members, place, streams: Vec::new() }
    }

    /// `value` for each matrix.
    pub(super) fn number(&self, value: f64) -> Result<M::Number> {
        Number::filled(value, self.members.len(), &self.place.device)
    }

    /// Random numbers of this update, a stream for each matrix.
    pub(super) fn streams(&mut self) -> &mut [Stream] {
        if self.streams.is_empty() {
            let stream = |&(name, block): &(&str, usize)| match block {
                0 => probe_stream(self.seed, self.step, name),
                _ => probe_stream(self.seed, self.step, &format!("{name}.{block}")),
            };
            self.streams = self.members.iter().map(stream).collect();
        }
        &mut self.streams
    }

    /// Of each matrix in turn.
    fn draw<T: Send>(&mut self, count: usize, one: impl Fn(&mut Stream) -> T + Sync) -> Vec<Vec<T>> {
        let draw = |stream: &mut Stream| (0..count).map(|_| one(stream)).collect();
        match self.streams() {
            [stream] => vec![draw(stream)],
            streams => streams.par_iter_mut().map(draw).collect(),
        }
    }

    /// `k × n` normal numbers.
    pub(super) fn normals(&mut self, k: usize, n: usize) -> Result<M> {
        let drawn = self.draw(k * n, Stream::normal).concat();
        M::from_values(drawn, [k, n], self.place)
    }

    /// `k × n` times `size` or `−size`, with equal chances (Rademacher).
    pub(super) fn signs(&mut self, k: usize, n: usize, size: f64) -> Result<M> {
        let drawn = self.draw(k * n, |stream| if stream.bits() & 1 == 0 { size } else { -size }).concat();
        M::from_values(drawn, [k, n], self.place)
    }

    /// `k` of `n` rows, with replacement.
    pub(super) fn choice(&mut self, k: usize, n: usize) -> Result<M::Rows> {
        let drawn = self.draw(k, |stream| stream.below(n));
        M::choice(drawn, n, self.place)
    }
}

/// The stream of sketches and probes for a parameter (or an input group) at an update; it does not depend on the order
/// of parameters.
pub fn probe_stream(seed: u64, step: u64, name: &str) -> rng::Stream {
    let name = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) & 0xff_ffff;
    rng::stream(seed, Purpose::Probe, (name << 24) ^ step)
}
