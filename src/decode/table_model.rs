//! A model for tests whose next-token distribution is a table lookup by source and last token.

use candle_core::{DType, Device, Result, Tensor};
use std::sync::Arc;

use crate::batch::Sequences;
use crate::model::{Forward, Memory, Model, Output, StepState};
use crate::params::ParamSet;
use crate::rng::{stream, Purpose};

/// Kinds of sources; a source's kind is the sum of its ids modulo this.
const KINDS: usize = 5;

/// Random logits for each (kind of source, last token); states are one-hot, so products are exact and independent of
/// the batch.
#[derive(Clone)]
pub(super) struct TableModel {
    params: ParamSet,
    /// `[KINDS · V][V]`.
    logits: Vec<Vec<f32>>,
    vocabulary: usize,
}

impl TableModel {
    /// `<pad>` is the last of `vocabulary` tokens.
    pub(super) fn new(seed: u64, vocabulary: usize) -> Self {
        let mut rng = stream(seed, Purpose::Probe, 0);
        let mut row = || (0..vocabulary).map(|_| (2.0 * rng.normal()) as f32).collect();
        let logits = (0..KINDS * vocabulary).map(|_| row()).collect();
        TableModel { params: ParamSet::new(0, DType::F32, &Device::Cpu), logits, vocabulary }
    }

    /// Makes a token nearly impossible.
    pub(super) fn without(mut self, token: u32) -> Self {
        self.logits.iter_mut().for_each(|row| row[token as usize] = -1e4);
        self
    }

    pub(super) fn pad(&self) -> u32 {
        self.vocabulary as u32 - 1
    }

    /// log P(next token | source, last token) in f64, −∞ for `<pad>`.
    pub(super) fn log_probabilities(&self, source: &[u32], last: u32) -> Vec<f64> {
        let row = &self.logits[state(kind(source), last, self.vocabulary)];
        let row: Vec<f64> = row[..row.len() - 1].iter().map(|&x| f64::from(x)).collect();
        let normalizer = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        row.iter().map(|x| x - normalizer).chain([f64::NEG_INFINITY]).collect()
    }
}

fn kind(source: &[u32]) -> usize {
    source.iter().sum::<u32>() as usize % KINDS
}

fn state(kind: usize, last: u32, vocabulary: usize) -> usize {
    kind * vocabulary + last as usize
}

/// One-hot rows.
fn states(of: impl Iterator<Item = (usize, u32)>, vocabulary: usize) -> Result<Tensor> {
    let width = KINDS * vocabulary;
    let mut values = Vec::new();
    for (kind, last) in of {
        let start = values.len();
        values.resize(start + width, 0f32);
        values[start + state(kind, last, vocabulary)] = 1.0;
    }
    let rows = values.len() / width;
    Tensor::from_vec(values, (rows, width), &Device::Cpu)
}

/// The kind of each sentence of a memory whose states are the ids.
fn kinds(memory: &Memory) -> Result<Vec<usize>> {
    let ids: Vec<u32> = memory.states.flatten_all()?.to_vec1::<f32>()?.into_iter().map(|id| id as u32).collect();
    Ok(memory.offsets.windows(2).map(|border| kind(&ids[border[0]..border[1]])).collect())
}

impl Model for TableModel {
    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn output(&self) -> Output {
        let width = self.logits.len();
        let table: Vec<f32> = (0..self.vocabulary * width).map(|i| self.logits[i % width][i / width]).collect();
        let table = Tensor::from_vec(table, (self.vocabulary, width), &Device::Cpu).unwrap();
        Output { table, prepacked: Arc::default(), bias: None, pad: self.pad() }
    }

    fn encode(&self, source: &Sequences, _: &Forward) -> Result<Memory> {
        let ids: Vec<f32> = source.ids.iter().map(|&id| id as f32).collect();
        let states = Tensor::from_vec(ids, (source.tokens(), 1), &Device::Cpu)?;
        Ok(Memory { states, offsets: Arc::clone(&source.offsets) })
    }

    fn decode(&self, memory: &Memory, input: &Sequences, _: &Forward) -> Result<Tensor> {
        let kinds = kinds(memory)?;
        let rows = (0..input.len()).flat_map(|i| input.get(i).iter().map(move |&last| (i, last)));
        states(rows.map(|(i, last)| (kinds[i], last)), self.vocabulary)
    }

    fn prepacked(self: Box<Self>) -> Result<Box<dyn Model>> {
        Ok(self)
    }

    fn share(&self) -> Box<dyn Model> {
        Box::new(self.clone())
    }

    fn begin(&self, memory: &Memory) -> Result<Box<dyn StepState>> {
        Ok(Box::new(TableState { kinds: kinds(memory)?, vocabulary: self.vocabulary }))
    }
}

struct TableState {
    kinds: Vec<usize>,
    vocabulary: usize,
}

impl StepState for TableState {
    fn rows(&self) -> usize {
        self.kinds.len()
    }

    fn step(&mut self, last: &[u32]) -> Result<Tensor> {
        assert_eq!(last.len(), self.kinds.len());
        states(self.kinds.iter().copied().zip(last.iter().copied()), self.vocabulary)
    }

    fn select(&mut self, rows: &[usize]) -> Result<()> {
        self.kinds = rows.iter().map(|&row| self.kinds[row]).collect();
        Ok(())
    }
}
