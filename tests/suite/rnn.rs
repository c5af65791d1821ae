//! The recurrent model: every parameter learns, the mathematics is that of the papers, steps equal whole sequences.

use candle_core::{DType, Device, Result, Tensor, D};
use nmt_train::batch::Sequences;
use nmt_train::config::{AttentionKind, ModelConfig, ModelKind, RnnConfig, TiedEmbeddings};
use nmt_train::kinds::Cell;
use nmt_train::model::{build, Forward, Model, Vocabulary};
use nmt_train::ops::{linear_cross_entropy, Criterion, Targets};
use nmt_train::params::ParamKind;

const VOCABULARY: Vocabulary = Vocabulary { source_size: 13, target_size: 13, source_pad: 12, target_pad: 12 };
const KINDS: [(Cell, AttentionKind); 4] = [
    (Cell::Gru, AttentionKind::Bahdanau),
    (Cell::Gru, AttentionKind::Luong),
    (Cell::Lstm, AttentionKind::Bahdanau),
    (Cell::Lstm, AttentionKind::Luong),
];

fn config(cell: Cell, attention: AttentionKind, layers: usize) -> ModelConfig {
    ModelConfig {
        kind: ModelKind::Rnn,
        layers,
        tied_embeddings: TiedEmbeddings::None,
        dropout: 0.0,
        rnn: RnnConfig { cell, attention, hidden_size: 6, embedding_size: 5 },
        ..ModelConfig::default()
    }
}

fn model(config: &ModelConfig, dtype: DType) -> Result<Box<dyn Model>> {
    build(config, VOCABULARY, 3, dtype, &Device::Cpu)
}

fn sources() -> Sequences {
    Sequences::pack([&[3, 1, 4, 1, 5, 2][..], &[2], &[9, 2, 6, 2]])
}

fn targets() -> Sequences {
    Sequences::pack([&[5, 3, 2][..], &[8, 9, 7, 2], &[2]])
}

fn loss(model: &dyn Model, forward: &Forward) -> Result<Tensor> {
    let (source, target) = (sources(), targets());
    let states = model.decode(&model.encode(&source, forward)?, &target.shifted_right(12), forward)?;
    let output = model.output();
    let targets = Targets { labels: &target.ids, masked: Some(output.pad) };
    Ok(linear_cross_entropy(&states, &output.table, output.bias.as_ref(), targets, Criterion::smoothed(0.0), 1.0)?.loss)
}

fn largest(t: &Tensor) -> Result<f64> {
    t.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar()
}

#[test]
fn every_parameter_has_a_gradient() -> Result<()> {
    for (cell, attention) in KINDS {
        for layers in [1, 2] {
            for tied in [TiedEmbeddings::None, TiedEmbeddings::Decoder, TiedEmbeddings::All] {
                let model = model(
                    &ModelConfig { tied_embeddings: tied, dropout: 0.1, ..config(cell, attention, layers) },
                    DType::F64,
                )?;
                let grads = loss(&*model, &Forward::train(1, 1))?.backward()?;
                for param in model.params() {
                    let size = grads.get(&param.var).map(largest).transpose()?.unwrap_or(0.0);
                    assert!(size > 0.0, "{}: {cell:?} {attention:?} {layers} {tied:?}", param.name);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn parameters_have_stable_names_kinds_and_a_zero_padding_row() -> Result<()> {
    let model = model(&config(Cell::Lstm, AttentionKind::Bahdanau, 1), DType::F32)?;
    let names: Vec<&str> = model.params().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "model.encoder.embed_tokens.weight",
            "model.decoder.embed_tokens.weight",
            "lm_head.weight",
            "encoder.layers.0.forward.weight_ih",
            "encoder.layers.0.forward.weight_hh",
            "encoder.layers.0.forward.bias_ih",
            "encoder.layers.0.forward.bias_hh",
            "encoder.layers.0.reverse.weight_ih",
            "encoder.layers.0.reverse.weight_hh",
            "encoder.layers.0.reverse.bias_ih",
            "encoder.layers.0.reverse.bias_hh",
            "decoder.attention.query.weight",
            "decoder.attention.key.weight",
            "decoder.attention.energy.weight",
            "decoder.attention.context.weight",
            "decoder.layers.0.weight_ih",
            "decoder.layers.0.weight_hh",
            "decoder.layers.0.bias_ih",
            "decoder.layers.0.bias_hh",
            "decoder.layers.0.initial.weight",
            "decoder.layers.0.initial.bias",
            "decoder.readout.weight",
            "decoder.readout.bias",
            "output.bias",
        ]
    );
    for param in model.params() {
        assert_eq!(param.kind == ParamKind::Recurrent, param.name.ends_with("weight_hh"), "{}", param.name);
        if matches!(param.kind, ParamKind::Table { .. }) {
            assert_eq!(largest(&param.var.get(12)?)?, 0.0);
            assert_eq!(param.frozen_row, Some(12));
        }
    }
    let forget = model.params().get("decoder.layers.0.bias_hh").map(|p| p.var.to_vec1::<f32>());
    assert_eq!(forget.transpose()?.unwrap_or_default()[5..13], [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    Ok(())
}

#[test]
fn one_table_for_two_vocabularies_is_refused() {
    let tied = ModelConfig { tied_embeddings: TiedEmbeddings::All, ..config(Cell::Gru, AttentionKind::Luong, 1) };
    let vocabulary = Vocabulary { source_size: 14, source_pad: 13, ..VOCABULARY };
    let message = build(&tied, vocabulary, 1, DType::F32, &Device::Cpu).err().map(|e| e.to_string());
    assert!(message.unwrap_or_default().contains("needs one vocabulary"));
}

#[test]
fn a_sentence_does_not_see_its_batch_mates() -> Result<()> {
    for (cell, attention) in KINDS {
        let model = model(&config(cell, attention, 2), DType::F64)?;
        let states = |source: &Sequences, target: &Sequences| {
            let forward = Forward::eval();
            model.decode(&model.encode(source, &forward)?, &target.shifted_right(12), &forward)
        };
        let (source, target) = (sources(), targets());
        let together = states(&source, &target)?;
        for i in 0..source.len() {
            let alone = states(&Sequences::pack([source.get(i)]), &Sequences::pack([target.get(i)]))?;
            let difference = (alone - together.narrow(0, target.offsets[i], target.get(i).len())?)?;
            assert!(largest(&difference)? < 1e-12);
        }
    }
    Ok(())
}

#[test]
fn dropout_depends_on_seed_and_micro_batch_only() -> Result<()> {
    let with = ModelConfig { dropout: 0.3, ..config(Cell::Gru, AttentionKind::Bahdanau, 2) };
    let model = model(&with, DType::F64)?;
    let value = |forward: Forward| loss(&*model, &forward)?.to_scalar::<f64>();
    assert_eq!(value(Forward::train(1, 5))?, value(Forward::train(1, 5))?);
    assert_ne!(value(Forward::train(1, 5))?, value(Forward::train(1, 6))?);
    assert_ne!(value(Forward::train(1, 5))?, value(Forward::eval())?);
    assert_eq!(value(Forward::eval())?, value(Forward::eval())?);
    Ok(())
}

#[test]
fn steps_equal_the_whole_sequence_also_after_rows_move() -> Result<()> {
    for (cell, attention) in KINDS {
        for (layers, dtype, tolerance) in [(1, DType::F64, 1e-12), (2, DType::F64, 1e-12), (2, DType::F32, 1e-5)] {
            let model = model(&config(cell, attention, layers), dtype)?;
            let forward = Forward::eval();
            let memory = model.encode(&sources(), &forward)?;
            // the histories that the rows have after the moves below, and what each step must give
            let whole = |sentence: usize, history: &[u32]| {
                let source = Sequences::pack([sources().get(sentence)]);
                let states = model.decode(&model.encode(&source, &forward)?, &Sequences::pack([history]), &forward)?;
                states.narrow(0, history.len() - 1, 1)
            };
            let mut rows: Vec<(usize, Vec<u32>)> = (0..3).map(|s| (s, vec![])).collect();
            let mut step = model.begin(&memory)?;
            let moves: [(&[u32], &[usize]); 4] =
                [(&[12, 12, 12], &[2, 0, 0, 1]), (&[3, 4, 5, 6], &[3, 1]), (&[7, 8], &[1, 1, 0]), (&[1, 9, 2], &[0])];
            for (last, select) in moves {
                let states = step.step(last)?;
                assert_eq!((states.dims(), step.rows()), (&[rows.len(), 5][..], rows.len()));
                for (i, (sentence, history)) in rows.iter_mut().enumerate() {
                    history.push(last[i]);
                    let difference = largest(&(states.narrow(0, i, 1)? - whole(*sentence, history)?)?)?;
                    assert!(difference < tolerance, "{cell:?} {attention:?} {layers} {dtype:?} {difference}");
                }
                step.select(select)?;
                rows = select.iter().map(|&row| rows[row].clone()).collect();
            }
            assert!(step.step(&[1, 2]).is_err() && step.select(&[1]).is_err());
        }
    }
    Ok(())
}

/// The model of the papers in plain candle operations, sentence by sentence, from the same named parameters.
struct Plain<'a> {
    model: &'a dyn Model,
    config: ModelConfig,
}

impl Plain<'_> {
    fn p(&self, name: &str) -> Tensor {
        self.model.params().get(name).unwrap_or_else(|| panic!("no parameter {name}")).var.as_tensor().clone()
    }

    /// `x·Wᵀ + b` of a row.
    fn affine(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.p(&format!("{name}.weight")).t()?)?.broadcast_add(&self.p(&format!("{name}.bias")))
    }

    fn cell(&self, name: &str, x: &Tensor, extra: Option<&Tensor>, state: &mut [Tensor; 2]) -> Result<()> {
        let sigmoid = |x: &Tensor| (x.neg()?.exp()? + 1.0)?.recip();
        let map = |kind: &str, x: &Tensor| {
            x.matmul(&self.p(&format!("{name}.weight_{kind}")).t()?)?
                .broadcast_add(&self.p(&format!("{name}.bias_{kind}")))
        };
        let mut input = map("ih", x)?;
        if let Some(extra) = extra {
            input = (input + extra)?;
        }
        let hidden = map("hh", &state[0])?;
        if self.config.rnn.cell == Cell::Gru {
            let (i, h) = (input.chunk(3, 1)?, hidden.chunk(3, 1)?);
            let r = sigmoid(&(&i[0] + &h[0])?)?;
            let z = sigmoid(&(&i[1] + &h[1])?)?;
            let n = (&i[2] + (r * &h[2])?)?.tanh()?;
            state[0] = ((&n - (&z * &n)?)? + (&z * &state[0])?)?;
        } else {
            let gates = (input + hidden)?.chunk(4, 1)?;
            let (i, f, g, o) = (sigmoid(&gates[0])?, sigmoid(&gates[1])?, gates[2].tanh()?, sigmoid(&gates[3])?);
            state[1] = ((f * &state[1])? + (i * g)?)?;
            state[0] = (o * state[1].tanh()?)?;
        }
        Ok(())
    }

    fn zero(&self, width: usize) -> Result<Tensor> {
        Tensor::zeros((1, width), DType::F64, &Device::Cpu)
    }

    fn encode(&self, source: &[u32]) -> Result<Tensor> {
        let half = self.config.rnn.hidden_size / 2;
        let mut rows: Vec<Tensor> = source
            .iter()
            .map(|&id| self.p("model.encoder.embed_tokens.weight").narrow(0, id as usize, 1))
            .collect::<Result<_>>()?;
        for l in 0..self.config.encoder_layers() {
            let mut sides = vec![];
            for (direction, reverse) in [("forward", false), ("reverse", true)] {
                let mut state = [self.zero(half)?, self.zero(half)?];
                let mut order: Vec<usize> = (0..rows.len()).collect();
                if reverse {
                    order.reverse();
                }
                let mut states = vec![];
                for i in order {
                    self.cell(&format!("encoder.layers.{l}.{direction}"), &rows[i], None, &mut state)?;
                    states.push(state[0].clone());
                }
                if reverse {
                    states.reverse();
                }
                sides.push(states);
            }
            rows = sides[0].iter().zip(&sides[1]).map(|(a, b)| Tensor::cat(&[a, b], 1)).collect::<Result<_>>()?;
        }
        Tensor::cat(&rows, 0)
    }

    fn read(&self, scores: &Tensor, memory: &Tensor) -> Result<Tensor> {
        let exp = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?.matmul(memory)
    }

    /// Σ −log p(label) of a sentence pair.
    fn nll(&self, source: &[u32], target: &[u32]) -> Result<Tensor> {
        let memory = self.encode(source)?;
        let hidden = self.config.rnn.hidden_size;
        let additive = self.config.rnn.attention == AttentionKind::Bahdanau;
        let first = memory.narrow(0, 0, 1)?.narrow(1, hidden / 2, hidden / 2)?;
        let query_weight = self.p("decoder.attention.query.weight").t()?;
        let mut states = (0..self.config.decoder_layers())
            .map(|l| Ok([self.affine(&format!("decoder.layers.{l}.initial"), &first)?.tanh()?, self.zero(hidden)?]))
            .collect::<Result<Vec<_>>>()?;
        let mut total = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        let mut last = 12;
        for &label in target {
            let y = self.p("model.decoder.embed_tokens.weight").narrow(0, last as usize, 1)?;
            last = label;
            let mut context = self.zero(hidden)?;
            if additive {
                let keys = memory.matmul(&self.p("decoder.attention.key.weight").t()?)?;
                let energy = keys.broadcast_add(&states[0][0].matmul(&query_weight)?)?.tanh()?;
                let scores = energy.matmul(&self.p("decoder.attention.energy.weight").unsqueeze(1)?)?.t()?;
                context = self.read(&scores, &memory)?;
                let extra = context.matmul(&self.p("decoder.attention.context.weight").t()?)?;
                self.cell("decoder.layers.0", &y, Some(&extra), &mut states[0])?;
            } else {
                self.cell("decoder.layers.0", &y, None, &mut states[0])?;
            }
            for l in 1..states.len() {
                let mut below = states[l - 1][0].clone();
                if additive {
                    below = Tensor::cat(&[&below, &context], 1)?;
                }
                self.cell(&format!("decoder.layers.{l}"), &below, None, &mut states[l])?;
            }
            let top = &states[states.len() - 1][0];
            if !additive {
                context = self.read(&top.matmul(&query_weight)?.matmul(&memory.t()?)?, &memory)?;
            }
            let joined = Tensor::cat(&[top, &context, &y], 1)?;
            let deep = self.affine("decoder.readout", &joined)?.tanh()?;
            // `<pad>`, the last id, is never predicted
            let logits = deep.matmul(&self.p("lm_head.weight").t()?)?.broadcast_add(&self.p("output.bias"))?;
            let logits = logits.narrow(1, 0, 12)?;
            let log_sum = logits.exp()?.sum_all()?.log()?;
            total = (total + (log_sum - logits.get(0)?.get(label as usize)?)?)?;
        }
        Ok(total)
    }
}

#[test]
fn loss_and_gradients_are_those_of_the_papers_in_plain_operations() -> Result<()> {
    for (cell, attention) in KINDS {
        for layers in [1, 2] {
            let config = config(cell, attention, layers);
            let model = model(&config, DType::F64)?;
            let ours = loss(&*model, &Forward::train(1, 1))?;
            let plain = Plain { model: &*model, config };
            let (source, target) = (sources(), targets());
            let mut right = Tensor::zeros((), DType::F64, &Device::Cpu)?;
            for i in 0..source.len() {
                right = (right + plain.nll(source.get(i), target.get(i))?)?;
            }
            let difference = (ours.to_scalar::<f64>()? - right.to_scalar::<f64>()?).abs();
            assert!(difference < 1e-10, "{cell:?} {attention:?} {layers}: {difference}");
            let (ours, right) = (ours.backward()?, right.backward()?);
            for param in model.params() {
                let (Some(a), Some(b)) = (ours.get(&param.var), right.get(&param.var)) else {
                    panic!("{} has no gradient", param.name)
                };
                let difference = largest(&(a - b)?)? / largest(b)?;
                assert!(difference < 1e-9, "{}: {cell:?} {attention:?} {layers}: {difference}", param.name);
            }
        }
    }
    Ok(())
}
