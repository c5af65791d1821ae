//! Step-by-step decoding with the Transformer: keys and values of past tokens are kept, those of the source are
//! computed once a sentence and shared by its hypotheses. Reordering hypotheses moves links, no tensors.

use candle_core::{Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

use super::transformer::{normalized, Decoder};
use super::{Forward, Memory, StepState};
use crate::ops::{self, History, Step};

pub(super) struct TransformerStep {
    decoder: Arc<Decoder>,
    layers: Vec<Cache>,
    /// For each row, which row of each past step it descends from.
    links: Vec<Vec<u32>>,
    /// For each row, its source sentence in the memory.
    sources: Vec<Range<usize>>,
}

/// Keys and values of one layer.
struct Cache {
    history: History,
    memory: Step,
}

impl TransformerStep {
    pub(super) fn new(decoder: Arc<Decoder>, memory: &Memory) -> Result<Self> {
        let layers = decoder
            .layers
            .iter()
            .map(|layer| {
                let memory = layer.cross.memory(&memory.states)?;
                Ok(Cache { history: History::default(), memory })
            })
            .collect::<Result<_>>()?;
        let sources: Vec<_> = memory.offsets.windows(2).map(|pair| pair[0]..pair[1]).collect();
        Ok(TransformerStep { decoder, layers, links: vec![Vec::new(); sources.len()], sources })
    }
}

impl StepState for TransformerStep {
    fn rows(&self) -> usize {
        self.links.len()
    }

    fn step(&mut self, last: &[u32]) -> Result<Tensor> {
        if last.len() != self.rows() {
            candle_core::bail!("decoding step: {} tokens for {} hypotheses", last.len(), self.rows());
        }
        let forward = Forward::eval();
        let position = self.layers.first().map_or(0, |cache| cache.history.len());
        for (row, links) in self.links.iter_mut().enumerate() {
            links.push(row as u32);
        }
        let (decoder, links, sources) = (&self.decoder, &self.links, &self.sources);
        forward.run(|| {
            let mut y = decoder.embedding.apply(last, &vec![position; last.len()], &forward)?;
            for (layer, cache) in decoder.layers.iter().zip(&mut self.layers) {
                let Cache { history, memory } = cache;
                let own = |y: &Tensor| {
                    history.push(&layer.own.keys_values(y)?)?;
                    layer.own.lookup(y, |q, heads| history.attend(q, links, heads))
                };
                let cross = |y: &Tensor| {
                    let scale = layer.cross.scale();
                    layer.cross.lookup(y, |q, heads| ops::attend_memory(q, memory, sources, heads, scale))
                };
                y = layer.apply(y, own, cross, &forward)?;
            }
            normalized(&decoder.norm, y)
        })
    }

    fn select(&mut self, rows: &[usize]) -> Result<()> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.rows()) {
            candle_core::bail!("decoding: hypothesis {row} of {} was selected", self.rows());
        }
        self.links = rows.iter().map(|&row| self.links[row].clone()).collect();
        self.sources = rows.iter().map(|&row| self.sources[row].clone()).collect();
        Ok(())
    }
}
