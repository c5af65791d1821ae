//! Step-by-step decoding of the recurrent model: one row a hypothesis, its states cached, the source shared.

use candle_core::{Result, Tensor};
use std::ops::Range;

use super::rnn::{Decoder, Recurrences};
use super::{Forward, Memory, StepState};
use crate::ops::{attend_memory, attentional_step, columns, embed, join, recurrent_step, Step};

/// Cached states of hypotheses. Nothing of it is on the tape.
pub(super) struct RnnStep {
    decoder: Decoder,
    target_table: Tensor,
    cache: Cache,
}

struct Cache {
    decoder: Decoder,
    /// Keys (of additive attention; else the states again) and states of the encoder.
    memory: Step,
    /// For each row, its source sentence in the memory.
    sources: Vec<Range<usize>>,
    /// State of each layer, `[rows, h or 2h]`.
    states: Vec<Tensor>,
}

impl RnnStep {
    pub(super) fn new(decoder: Decoder, target_table: Tensor, memory: &Memory) -> Result<Self> {
        let (cell, hidden) = (decoder.cell, decoder.widths.hidden);
        let extend = |state: Tensor| {
            let cells = cell.state_width(hidden) - hidden;
            if cells == 0 {
                return Ok(state);
            }
            let zeros = Tensor::zeros((state.dim(0)?, cells), state.dtype(), state.device())?;
            join(&[&state, &zeros], None)
        };
        let states = decoder.initial(memory)?.into_iter().map(extend).collect::<Result<_>>()?;
        let sources = memory.offsets.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let memory = (decoder.keys(memory)?, memory.states.clone());
        let cache = Cache { decoder: decoder.clone(), memory, sources, states };
        Ok(RnnStep { decoder, target_table, cache })
    }
}

impl Cache {
    /// Keeps a layer's new state; returns its hidden part.
    fn keep(&mut self, layer: usize, state: Tensor) -> Result<Tensor> {
        let hidden = columns(&state, 0, self.decoder.widths.hidden)?;
        self.states[layer] = state;
        Ok(hidden)
    }
}

impl Recurrences for Cache {
    fn additive(&mut self, x: &Tensor) -> Result<Tensor> {
        let (weights, state) = (self.decoder.attending()?, &self.states[0]);
        let (state, context) = attentional_step(self.decoder.cell, x, &self.memory, &self.sources, weights, state)?;
        join(&[&self.keep(0, state)?, &context], None)
    }

    fn plain(&mut self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let state = recurrent_step(self.decoder.cell, x, self.decoder.layers[layer].weights(), &self.states[layer])?;
        self.keep(layer, state)
    }

    fn general(&mut self, queries: &Tensor) -> Result<Tensor> {
        attend_memory(queries, &self.memory, &self.sources, 1, 1.0)
    }
}

impl StepState for RnnStep {
    fn rows(&self) -> usize {
        self.cache.sources.len()
    }

    fn step(&mut self, last: &[u32]) -> Result<Tensor> {
        if last.len() != self.rows() {
            candle_core::bail!("decoding step: {} tokens for {} hypotheses", last.len(), self.rows());
        }
        let forward = Forward::eval();
        forward.run(|| {
            let y = embed(&self.target_table, last, None, 1.0, [None; 2])?;
            self.decoder.run(&y, &mut self.cache, &forward)
        })
    }

    fn select(&mut self, rows: &[usize]) -> Result<()> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.rows()) {
            candle_core::bail!("decoding: hypothesis {row} of {} was selected", self.rows());
        }
        let ids: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        for state in &mut self.cache.states {
            *state = embed(state, &ids, None, 1.0, [None; 2])?;
        }
        self.cache.sources = rows.iter().map(|&row| self.cache.sources[row].clone()).collect();
        Ok(())
    }
}
