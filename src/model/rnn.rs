//! The recurrent encoder-decoder with attention, "the 2014 NMT": bidirectional GRU or LSTM encoder; decoder with the
//! additive attention of Bahdanau et al. 2014 inside its first recurrence, or the general attention of Luong et al. 2015
//! (global, without input feeding) after its last one.
//!
//! With y the target embedding, s the top state and c what was read from the source, the state that the output table
//! sees is tanh(W_o·[s; c; y] + b_o), of the width of the embeddings ("deep output").

use candle_core::{Result, Tensor};
use std::sync::Arc;

use super::rnn_step::RnnStep;
use super::transformer::Tables;
use super::{Forward, Memory, Model, Output, Side, StepState, Vocabulary};
use crate::batch::Sequences;
use crate::config::{AttentionKind, ModelConfig};
use crate::ops::{
    attentional, columns, cross_attention, embed, join, linear, recurrent, strongest_additive, strongest_product,
    untracked, Activation, Attentional, Cell, Direction, Recurrence, Strongest, Widths,
};
use crate::params::{Init, ParamKind, ParamSet};

/// The bias on the logits, `[V]`.
pub const RNN_OUTPUT_BIAS: &str = "output.bias";

/// The model; parameters are named `encoder.layers.0.forward.weight_ih`, `decoder.attention.query.weight`, …, tables as
/// in the Transformer.
#[derive(Clone)]
pub(super) struct Rnn {
    params: ParamSet,
    cell: Cell,
    source_table: Tensor,
    target_table: Tensor,
    output: Output,
    /// Directions (along, against) of each layer.
    encoder: Vec<[Layer; 2]>,
    decoder: Decoder,
    dropout: f64,
    embedding_dropout: f64,
    /// Of source and target.
    word_dropout: [f64; 2],
}

/// One recurrence: gates × hidden rows each.
#[derive(Clone)]
pub(super) struct Layer {
    weight_ih: Tensor,
    bias_ih: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
}

/// Handles of the decoder's parameters.
#[derive(Clone)]
pub(super) struct Decoder {
    pub(super) cell: Cell,
    pub(super) widths: Widths,
    attention: Attention,
    pub(super) layers: Vec<Layer>,
    /// `s_0 = tanh(W·h + b)` of each layer, from the encoder's backward state at the first token.
    initial: Vec<(Tensor, Tensor)>,
    readout: (Tensor, Tensor),
    dropout: f64,
}

#[derive(Clone)]
enum Attention {
    Additive {
        query: Tensor,
        key: Tensor,
        energy: Tensor,
        /// From contexts to the gates of the first layer.
        context: Tensor,
    },
    General {
        query: Tensor,
    },
}

/// What runs the recurrences under [`Decoder::run`]: whole packed sentences, or one step of many hypotheses.
pub(super) trait Recurrences {
    /// The first layer with additive attention: states and contexts, side by side.
    fn additive(&mut self, x: &Tensor) -> Result<Tensor>;
    /// States of a layer without attention.
    fn plain(&mut self, layer: usize, x: &Tensor) -> Result<Tensor>;
    /// Softmax-weighted sums of encoder states, the scores being products with the queries.
    fn general(&mut self, queries: &Tensor) -> Result<Tensor>;
}

impl Rnn {
    /// Adds its parameters to `params`, which is empty: orthogonal recurrences, Glorot matrices, N(0, 1/width) tables, zero biases (an LSTM's forget
    /// gates start at 1).
    ///
    /// # Errors
    /// Memory errors of candle; vocabularies that differ under `tied_embeddings = "all"`.
    pub(super) fn new(config: &ModelConfig, vocabulary: Vocabulary, params: ParamSet) -> Result<Self> {
        let mut builder = Builder { params, cell: config.rnn.cell };
        let (width, hidden) = (config.embedding_size(), config.rnn.hidden_size);
        let tables = Tables::new(&mut builder.params, config, vocabulary)?;
        let mut encoder = Vec::new();
        for l in 0..config.encoder_layers() {
            let input = if l == 0 { width } else { hidden };
            encoder.push([
                builder.layer(&format!("encoder.layers.{l}.forward"), input, hidden / 2)?,
                builder.layer(&format!("encoder.layers.{l}.reverse"), input, hidden / 2)?,
            ]);
        }
        let decoder = builder.decoder(config, width, hidden)?;
        let bias = builder.vector(RNN_OUTPUT_BIAS, vocabulary.target_size)?;
        Ok(Rnn {
            cell: builder.cell,
            params: builder.params,
            source_table: tables.source,
            target_table: tables.target,
            output: Output {
                table: tables.output,
                prepacked: Arc::default(),
                bias: Some(bias),
                pad: vocabulary.target_pad,
            },
            encoder,
            decoder,
            dropout: config.dropout,
            embedding_dropout: config.embedding_dropout(),
            word_dropout: [config.source_word_dropout, config.target_word_dropout],
        })
    }
}

/// Creates parameters in a fixed order.
struct Builder {
    params: ParamSet,
    cell: Cell,
}

impl Builder {
    fn matrix(&mut self, name: &str, outer: usize, inner: usize) -> Result<Tensor> {
        self.params.add(name, ParamKind::Matrix, &[outer, inner], Init::XavierUniform)
    }

    fn vector(&mut self, name: &str, width: usize) -> Result<Tensor> {
        self.params.add(name, ParamKind::Vector, &[width], Init::Zeros)
    }

    fn affine(&mut self, name: &str, outer: usize, inner: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.matrix(&format!("{name}.weight"), outer, inner)?, self.vector(&format!("{name}.bias"), outer)?))
    }

    fn layer(&mut self, name: &str, input: usize, hidden: usize) -> Result<Layer> {
        let rows = self.cell.gates() * hidden;
        let weight_ih = self.matrix(&format!("{name}.weight_ih"), rows, input)?;
        let weight_hh =
            self.params.add(&format!("{name}.weight_hh"), ParamKind::Recurrent, &[rows, hidden], Init::Orthogonal)?;
        let bias_ih = self.vector(&format!("{name}.bias_ih"), rows)?;
        let bias_hh_name = format!("{name}.bias_hh");
        let bias_hh = self.vector(&bias_hh_name, rows)?;
        if let (Cell::Lstm, Some(bias)) = (self.cell, self.params.get(&bias_hh_name)) {
            let forget = |row: usize| if row / hidden == 1 { 1.0f32 } else { 0.0 };
            let values = Tensor::from_iter((0..rows).map(forget), bias.var.device())?;
            bias.var.set(&values.to_dtype(bias.var.dtype())?)?;
        }
        Ok(Layer { weight_ih, bias_ih, weight_hh, bias_hh })
    }

    fn decoder(&mut self, config: &ModelConfig, width: usize, hidden: usize) -> Result<Decoder> {
        let additive = config.rnn.attention == AttentionKind::Bahdanau;
        let query = self.matrix("decoder.attention.query.weight", hidden, hidden)?;
        let attention = if additive {
            Attention::Additive {
                query,
                key: self.matrix("decoder.attention.key.weight", hidden, hidden)?,
                energy: self.params.add(
                    "decoder.attention.energy.weight",
                    ParamKind::Vector,
                    &[hidden],
                    Init::Uniform((hidden as f64).powf(-0.5)),
                )?,
                context: self.matrix("decoder.attention.context.weight", self.cell.gates() * hidden, hidden)?,
            }
        } else {
            Attention::General { query }
        };
        let (mut layers, mut initial) = (Vec::new(), Vec::new());
        for l in 0..config.decoder_layers() {
            let input = match (l, additive) {
                (0, _) => width,
                (_, true) => 2 * hidden,
                (_, false) => hidden,
            };
            layers.push(self.layer(&format!("decoder.layers.{l}"), input, hidden)?);
            initial.push(self.affine(&format!("decoder.layers.{l}.initial"), hidden, hidden / 2)?);
        }
        Ok(Decoder {
            cell: self.cell,
            widths: Widths { hidden, attention: hidden, context: hidden },
            attention,
            layers,
            initial,
            readout: self.affine("decoder.readout", width, 2 * hidden + width)?,
            dropout: config.dropout,
        })
    }
}

impl Layer {
    fn project(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight_ih, Some(&self.bias_ih), Activation::Identity, None)
    }

    /// Of the projection of its states.
    pub(super) fn weights(&self) -> [&Tensor; 2] {
        [&self.weight_hh, &self.bias_hh]
    }
}

impl Decoder {
    /// Deep output of every row from the target embeddings `y`.
    pub(super) fn run(&self, y: &Tensor, recurrences: &mut dyn Recurrences, forward: &Forward) -> Result<Tensor> {
        let x = self.layers[0].project(y)?;
        let (first, additive) = match &self.attention {
            Attention::Additive { .. } => (recurrences.additive(&x)?, true),
            Attention::General { .. } => (recurrences.plain(0, &x)?, false),
        };
        // [s], or [s | c], of the highest layer so far
        let mut top = vec![first.clone()];
        for (l, layer) in self.layers.iter().enumerate().skip(1) {
            let below = join(&top.iter().collect::<Vec<_>>(), forward.dropout(self.dropout))?;
            top = vec![recurrences.plain(l, &layer.project(&below)?)?];
            if additive {
                top.push(columns(&first, self.widths.hidden, self.widths.context)?);
            }
        }
        if let Attention::General { query } = &self.attention {
            let queries = linear(&top[0], query, None, Activation::Identity, None)?;
            top.push(recurrences.general(&queries)?);
        }
        top.push(y.clone());
        let joined = join(&top.iter().collect::<Vec<_>>(), None)?;
        let (weight, bias) = &self.readout;
        linear(&joined, weight, Some(bias), Activation::Tanh, forward.dropout(self.dropout))
    }

    /// Initial states `[sentences, hidden]` of each layer.
    pub(super) fn initial(&self, memory: &Memory) -> Result<Vec<Tensor>> {
        let first: Vec<u32> = memory.offsets.iter().rev().skip(1).rev().map(|&token| token as u32).collect();
        let half = self.widths.hidden / 2;
        let backward = columns(&embed(&memory.states, &first, None, 1.0, [None; 2])?, half, half)?;
        self.initial.iter().map(|(w, b)| linear(&backward, w, Some(b), Activation::Tanh, None)).collect()
    }

    /// Keys of additive attention, else the states themselves.
    pub(super) fn keys(&self, memory: &Memory) -> Result<Tensor> {
        match &self.attention {
            Attention::Additive { key, .. } => linear(&memory.states, key, None, Activation::Identity, None),
            Attention::General { .. } => Ok(memory.states.clone()),
        }
    }

    /// Weights of the first recurrence, which attends additively inside.
    pub(super) fn attending(&self) -> Result<[&Tensor; 5]> {
        let [weight_hh, bias_hh] = self.layers[0].weights();
        match &self.attention {
            Attention::Additive { query, energy, context, .. } => Ok([context, weight_hh, query, bias_hh, energy]),
            Attention::General { .. } => {
                candle_core::bail!("attention that is not additive lies outside the recurrence")
            }
        }
    }
}

/// Runs over whole packed target sentences, on the tape.
struct Whole<'a> {
    decoder: &'a Decoder,
    memory: &'a Memory,
    target: &'a Arc<Vec<usize>>,
    initial: Vec<Tensor>,
}

impl Recurrences for Whole<'_> {
    fn additive(&mut self, x: &Tensor) -> Result<Tensor> {
        let keys = self.decoder.keys(self.memory)?;
        let recurrence = Attentional {
            cell: self.decoder.cell,
            widths: self.decoder.widths,
            source: Arc::clone(&self.memory.offsets),
            target: Arc::clone(self.target),
        };
        attentional(x, [&keys, &self.memory.states, &self.initial[0]], self.decoder.attending()?, recurrence)
    }

    fn plain(&mut self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let recurrence =
            Recurrence { cell: self.decoder.cell, direction: Direction::Forward, offsets: Arc::clone(self.target) };
        recurrent(x, self.decoder.layers[layer].weights(), Some(&self.initial[layer]), recurrence)
    }

    fn general(&mut self, queries: &Tensor) -> Result<Tensor> {
        let states = &self.memory.states;
        let keys_values = join(&[states, states], None)?;
        cross_attention(queries, &keys_values, [self.target, &self.memory.offsets], 1, 1.0, None)
    }
}

/// As [`Whole`], off the tape, and remembers where attention looked.
struct Aligning<'a> {
    whole: Whole<'a>,
    found: Vec<Strongest>,
}

impl Aligning<'_> {
    /// The state before each target position `[N, h]`, of the states after each.
    fn before(&self, states: &Tensor) -> Result<Tensor> {
        let (initial, target) = (&self.whole.initial[0], self.whole.target);
        let sentences = target.len().saturating_sub(1);
        let row =
            |i: usize| (target[i]..target[i + 1]).map(move |j| if j == target[i] { i } else { sentences + j - 1 });
        let rows: Vec<u32> = (0..sentences).flat_map(row).map(|row| row as u32).collect();
        let all = Tensor::cat(&[initial.detach(), states.detach()], 0)?;
        all.index_select(&Tensor::new(rows, all.device())?, 0)
    }
}

impl Recurrences for Aligning<'_> {
    fn additive(&mut self, x: &Tensor) -> Result<Tensor> {
        let Whole { decoder, memory, target, .. } = self.whole;
        let result = self.whole.additive(x)?;
        if let Attention::Additive { query, energy, .. } = &decoder.attention {
            let before = self.before(&columns(&result, 0, decoder.widths.hidden)?)?;
            let queries = linear(&before, query, None, Activation::Identity, None)?;
            self.found = strongest_additive(&queries, &decoder.keys(memory)?, energy, [target, &memory.offsets])?;
        }
        Ok(result)
    }

    fn plain(&mut self, layer: usize, x: &Tensor) -> Result<Tensor> {
        self.whole.plain(layer, x)
    }

    fn general(&mut self, queries: &Tensor) -> Result<Tensor> {
        let Whole { memory, target, .. } = self.whole;
        self.found = strongest_product(queries, &memory.states, [target, &memory.offsets], 1, 1.0)?;
        self.whole.general(queries)
    }
}

impl Model for Rnn {
    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn output(&self) -> Output {
        self.output.clone()
    }

    fn encode(&self, source: &Sequences, forward: &Forward) -> Result<Memory> {
        let states = forward.run(|| self.encoded(source, forward))?;
        Ok(Memory { states, offsets: Arc::clone(&source.offsets) })
    }

    fn decode(&self, memory: &Memory, input: &Sequences, forward: &Forward) -> Result<Tensor> {
        forward.run(|| {
            let y = self.embed(Side::Target, &input.ids, forward)?;
            let initial = self.decoder.initial(memory)?;
            let mut whole = Whole { decoder: &self.decoder, memory, target: &input.offsets, initial };
            self.decoder.run(&y, &mut whole, forward)
        })
    }

    fn alignment(&self, memory: &Memory, input: &Sequences) -> Result<Vec<Strongest>> {
        let forward = Forward::eval();
        forward.run(|| {
            let y = embed(&self.target_table, &input.ids, None, 1.0, [None; 2])?;
            let initial = self.decoder.initial(memory)?;
            let whole = Whole { decoder: &self.decoder, memory, target: &input.offsets, initial };
            let mut aligning = Aligning { whole, found: Vec::new() };
            self.decoder.run(&y, &mut aligning, &forward)?;
            Ok(aligning.found)
        })
    }

    fn prepacked(self: Box<Self>) -> Result<Box<dyn Model>> {
        let model = *self;
        if !model.params.device().is_cpu() || model.params.is_empty() {
            return Ok(Box::new(model));
        }
        let params = model.params.subset(|_| false);
        Ok(Box::new(Rnn { params, output: model.output.prepacked()?, ..model }))
    }

    fn share(&self) -> Box<dyn Model> {
        Box::new(self.clone())
    }

    fn begin(&self, memory: &Memory) -> Result<Box<dyn StepState>> {
        Ok(Box::new(untracked(|| RnnStep::new(self.decoder.clone(), self.target_table.clone(), memory))?))
    }
}

impl Rnn {
    /// Embeddings of tokens `[tokens, width]`.
    fn embed(&self, side: Side, ids: &[u32], forward: &Forward) -> Result<Tensor> {
        let table = if side == Side::Source { &self.source_table } else { &self.target_table };
        let words = forward.word_dropout(side, self.word_dropout[side as usize]);
        embed(table, ids, None, 1.0, [words, forward.dropout(self.embedding_dropout)])
    }

    /// Encoder states `[source tokens, hidden]`.
    fn encoded(&self, source: &Sequences, forward: &Forward) -> Result<Tensor> {
        let mut x = self.embed(Side::Source, &source.ids, forward)?;
        for (l, [along, against]) in self.encoder.iter().enumerate() {
            let run = |layer: &Layer, direction| {
                let recurrence = Recurrence { cell: self.cell, direction, offsets: Arc::clone(&source.offsets) };
                recurrent(&layer.project(&x)?, layer.weights(), None, recurrence)
            };
            let (along, against) = (run(along, Direction::Forward)?, run(against, Direction::Reverse)?);
            let last = l + 1 == self.encoder.len();
            x = join(&[&along, &against], if last { None } else { forward.dropout(self.dropout) })?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn alignment_is_what_the_recurrence_read() -> Result<()> {
        for cell in [Cell::Gru, Cell::Lstm] {
            let mut config = ModelConfig { layers: 1, ..Default::default() };
            config.rnn.cell = cell;
            (config.rnn.hidden_size, config.rnn.embedding_size) = (8, 6);
            let vocabulary = Vocabulary { source_size: 10, target_size: 10, source_pad: 9, target_pad: 9 };
            let rnn = Rnn::new(&config, vocabulary, ParamSet::new(1, DType::F64, &Device::Cpu))?;
            // two source tokens each, so that the weight of one gives that of the other
            let memory = rnn.encode(&Sequences::pack([&[1, 2][..], &[3, 4][..]]), &Forward::eval())?;
            let input = Sequences::pack([&[9, 1, 2][..], &[9, 5][..]]);
            let initial = rnn.decoder.initial(&memory)?;
            let whole = Whole { decoder: &rnn.decoder, memory: &memory, target: &input.offsets, initial };
            let mut aligning = Aligning { whole, found: Vec::new() };
            let y = embed(&rnn.target_table, &input.ids, None, 1.0, [None; 2])?;
            let read = columns(&aligning.additive(&rnn.decoder.layers[0].project(&y)?)?, 8, 8)?.to_vec2::<f64>()?;
            let states = memory.states.to_vec2::<f64>()?;
            for (j, (read, found)) in read.iter().zip(&aligning.found).enumerate() {
                assert_eq!(found.row / 2, usize::from(j >= 3));
                for (k, read) in read.iter().enumerate() {
                    let mean = found.weight * states[found.row][k] + (1.0 - found.weight) * states[found.row ^ 1][k];
                    assert!((read - mean).abs() < 1e-12, "{cell:?}, position {j}: {read} {mean}");
                }
            }
            assert_eq!(rnn.alignment(&memory, &input)?, aligning.found);
        }
        Ok(())
    }
}
