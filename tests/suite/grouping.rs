//! A sentence's loss and gradient do not depend on the sentences packed beside it; the step's own tape gives what
//! candle's gives; optimizers can see what every linear map was applied to.

use candle_core::{DType, Device, Result, Tensor};
use nmt_train::batch::{Batch, Sequences};
use nmt_train::config::{AttentionKind, ModelConfig, ModelKind, RnnConfig};
use nmt_train::kinds::Cell;
use nmt_train::model::{build, Forward, Model, Vocabulary};
use nmt_train::objective;
use nmt_train::ops::{self, Criterion};
use nmt_train::optim::{Accumulator, Gradients};
use nmt_train::rng::{stream, Purpose};

const VOCABULARY: Vocabulary = Vocabulary { source_size: 31, target_size: 31, source_pad: 30, target_pad: 30 };

fn configs(dropout: f64) -> [ModelConfig; 4] {
    let small = ModelConfig { layers: 2, d_model: 8, d_ff: 12, heads: 2, dropout, ..ModelConfig::default() };
    let rnn = |cell, attention| {
        let rnn = RnnConfig { cell, attention, hidden_size: 8, embedding_size: 8 };
        ModelConfig { kind: ModelKind::Rnn, rnn, ..small.clone() }
    };
    [
        small.clone(),
        rnn(Cell::Gru, AttentionKind::Bahdanau),
        rnn(Cell::Gru, AttentionKind::Luong),
        rnn(Cell::Lstm, AttentionKind::Bahdanau),
    ]
}

fn models(dtype: DType, dropout: f64) -> Result<Vec<Box<dyn Model>>> {
    configs(dropout).iter().map(|config| build(config, VOCABULARY, 5, dtype, &Device::Cpu)).collect()
}

/// Sentence pairs of these lengths.
fn pairs(lengths: &[(usize, usize)]) -> Vec<[Vec<u32>; 2]> {
    let mut rng = stream(3, Purpose::Text, 0);
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.below(30) as u32).collect() };
    lengths.iter().map(|&(source, target)| [draw(source), draw(target)]).collect()
}

fn batch(pairs: &[[Vec<u32>; 2]]) -> Batch {
    let side = |i: usize| Sequences::pack(pairs.iter().map(|pair| pair[i].as_slice()));
    Batch { source: side(0), target: side(1), pairs: (0..pairs.len() as u64).collect() }
}

const LENGTHS: &[(usize, usize)] = &[(5, 3), (1, 1), (17, 9), (2, 12), (9, 1), (1, 6), (33, 40)];

/// Σ loss over tokens and the gradients, by the tape of a training step.
fn step(model: &dyn Model, pairs: &[[Vec<u32>; 2]]) -> anyhow::Result<(f64, Gradients)> {
    let (loss, tape) =
        ops::record(|| objective::loss(model, &batch(pairs), &Forward::train(1, 0), Criterion::smoothed(0.1), 1))?;
    let [sum, ..] = loss.losses.sums()?;
    Ok((sum, Gradients::collect(model.params(), &mut tape.backward(&loss.loss)?)?))
}

fn list(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

#[test]
fn loss_and_gradients_do_not_depend_on_how_sentences_are_grouped() -> anyhow::Result<()> {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
        for model in models(dtype, 0.0)? {
            let pairs = pairs(LENGTHS);
            let (together, gradients) = step(model.as_ref(), &pairs)?;
            for size in [1, 3] {
                let (mut apart, mut sum) = (0.0, Accumulator::default());
                for group in pairs.chunks(size) {
                    let (loss, gradients) = step(model.as_ref(), group)?;
                    apart += loss;
                    sum.add(gradients)?;
                }
                assert!((apart - together).abs() < tolerance * together, "{apart} {together}");
                let Some(sum) = sum.take(1.0)? else { anyhow::bail!("no batch") };
                for ((sum, gradient), param) in sum.tensors.iter().zip(&gradients.tensors).zip(model.params().iter()) {
                    let largest = list(gradient)?.iter().fold(1.0f64, |top, g| top.max(g.abs()));
                    for (a, b) in list(sum)?.iter().zip(&list(gradient)?) {
                        assert!((a - b).abs() < 10.0 * tolerance * largest, "{}: {a} {b}", param.name);
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_tape_of_a_step_gives_the_gradients_of_candles_tape() -> anyhow::Result<()> {
    for model in models(DType::F32, 0.3)? {
        let pairs = pairs(LENGTHS);
        let (_, gradients) = step(model.as_ref(), &pairs)?;
        let loss = objective::loss(model.as_ref(), &batch(&pairs), &Forward::train(1, 0), Criterion::smoothed(0.1), 1)?;
        let by_candle = Gradients::collect(model.params(), &mut loss.loss.backward()?)?;
        for ((ours, candles), param) in gradients.tensors.iter().zip(&by_candle.tensors).zip(model.params().iter()) {
            // a sum of several gradients may be taken in another order
            let largest = list(candles)?.iter().fold(1.0f64, |top, g| top.max(g.abs()));
            for (a, b) in list(ours)?.iter().zip(&list(candles)?) {
                assert!((a - b).abs() < 1e-6 * largest, "{}: {a} {b}", param.name);
            }
        }
    }
    Ok(())
}

/// Of R-Drop, by its definition: two passes, whose masks both halves of the doubled batch must have, each in every place.
#[test]
fn r_drop_compares_two_passes_of_which_each_has_masks_of_its_own() -> anyhow::Result<()> {
    let (pairs, r_drop) = (pairs(LENGTHS), Criterion { label_smoothing: 0.1, r_drop_alpha: 5.0 });
    let step = |model: &dyn Model, criterion| -> anyhow::Result<([f64; 3], Gradients)> {
        let (loss, tape) = ops::record(|| objective::loss(model, &batch(&pairs), &Forward::train(1, 0), criterion, 1))?;
        Ok((loss.losses.sums()?, Gradients::collect(model.params(), &mut tape.backward(&loss.loss)?)?))
    };
    for model in models(DType::F64, 0.0)? {
        let ([loss, nll, _], gradients) = step(model.as_ref(), Criterion::smoothed(0.1))?;
        let ([loss_of_both, nll_of_both, kl], of_both) = step(model.as_ref(), r_drop)?;
        assert!((loss - loss_of_both).abs() < 1e-9 * loss && (nll - nll_of_both).abs() < 1e-9 * nll && kl.abs() < 1e-9);
        for ((a, b), param) in gradients.tensors.iter().zip(&of_both.tensors).zip(model.params().iter()) {
            let (a, b) = (list(a)?, list(b)?);
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-9 * (1.0 + a.abs())), "{}", param.name);
        }
    }
    let places: [fn(&mut ModelConfig); 6] = [
        |config| config.dropout = 0.3,
        |config| config.attention_dropout = Some(0.3),
        |config| config.activation_dropout = Some(0.3),
        |config| config.embedding_dropout = Some(0.3),
        |config| config.source_word_dropout = 0.3,
        |config| config.target_word_dropout = 0.3,
    ];
    for mut config in configs(0.0) {
        let inner = if config.kind == ModelKind::Rnn { 1..3 } else { 0..0 };
        for (i, place) in places.iter().enumerate().filter(|(i, _)| !inner.contains(i)) {
            let plain = config.clone();
            place(&mut config);
            let model = build(&config, VOCABULARY, 5, DType::F32, &Device::Cpu)?;
            let [_, _, kl] = step(model.as_ref(), r_drop)?.0;
            assert!(kl > 1e-3, "place {i} of {:?}: {kl}", config.kind);
            config = plain;
        }
    }
    Ok(())
}

#[test]
fn every_matrix_of_a_linear_map_has_its_inputs_on_the_tape() -> anyhow::Result<()> {
    let model = &models(DType::F32, 0.0)?[0];
    let pairs = pairs(LENGTHS);
    let (_, tape) = ops::record(|| {
        objective::loss(model.as_ref(), &batch(&pairs), &Forward::train(1, 0), Criterion::smoothed(0.1), 1)
    })?;
    let inputs = tape.linear_inputs();
    let tokens = batch(&pairs).source.tokens();
    for param in model.params().iter().filter(|param| param.name.ends_with("proj.weight") || param.name.contains("fc"))
    {
        if param.var.dims().len() == 1 {
            continue;
        }
        let found: Vec<_> = inputs.iter().filter(|i| i.weights.iter().any(|w| w.id() == param.var.id())).collect();
        assert_eq!(found.len(), 1, "{}", param.name);
        assert_eq!(found[0].input.dims()[1], param.var.dims()[1], "{}", param.name);
        if param.name.starts_with("model.encoder") {
            assert_eq!(found[0].input.dims()[0], tokens, "{}", param.name);
        }
    }
    let own: Vec<_> = inputs.iter().filter(|i| i.weights.len() == 3).collect();
    assert_eq!(own.len(), 4, "queries, keys and values of two encoder and two decoder layers share their inputs");
    Ok(())
}
