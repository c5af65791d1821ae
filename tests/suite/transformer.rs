//! The Transformer and its loss against an independent implementation: padded, in plain candle operations and f64.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, D};
use nmt_train::batch::{Batch, Sequences};
use nmt_train::config::{ModelConfig, Norm, TiedEmbeddings};
use nmt_train::kinds::Activation;
use nmt_train::model::{build, Forward, Model, Side, Vocabulary};
use nmt_train::objective;
use nmt_train::ops::Criterion;
use nmt_train::params::ParamSet;
use nmt_train::rng::{stream, Purpose};

const VOCABULARY: usize = 13;
const PAD: u32 = 12;

fn config(norm: Norm, tied: TiedEmbeddings, activation: Activation) -> ModelConfig {
    ModelConfig {
        layers: 2,
        d_model: 8,
        d_ff: 12,
        heads: 2,
        dropout: 0.0,
        norm,
        activation,
        tied_embeddings: tied,
        ..ModelConfig::default()
    }
}

fn variants() -> Vec<ModelConfig> {
    vec![
        config(Norm::Post, TiedEmbeddings::All, Activation::Relu),
        config(Norm::Pre, TiedEmbeddings::All, Activation::Swish),
        config(Norm::Post, TiedEmbeddings::Decoder, Activation::Gelu),
        config(Norm::Pre, TiedEmbeddings::None, Activation::Relu),
    ]
}

/// A model whose every weight is random, biases and gains too; the `<pad>` row stays zero.
fn model(config: &ModelConfig, dtype: DType) -> Result<Box<dyn Model>> {
    let vocabulary = Vocabulary { source_size: VOCABULARY, target_size: VOCABULARY, source_pad: PAD, target_pad: PAD };
    let model = build(config, vocabulary, 1, dtype, &Device::Cpu)?;
    for (i, param) in model.params().iter().enumerate() {
        let mut rng = stream(7, Purpose::Probe, i as u64);
        let frozen = param.frozen_row.map(|row| row * param.var.dims()[1]..(row + 1) * param.var.dims()[1]);
        let noise: Vec<f64> = (0..param.var.elem_count())
            .map(|j| if frozen.as_ref().is_some_and(|f| f.contains(&j)) { 0.0 } else { 0.3 * rng.normal() })
            .collect();
        let noise = Tensor::from_vec(noise, param.var.shape(), &Device::Cpu)?.to_dtype(dtype)?;
        param.var.set(&(param.var.as_tensor() + noise)?.detach())?;
    }
    Ok(model)
}

fn batch(seed: u64, lengths: &[(usize, usize)]) -> Batch {
    let mut rng = stream(seed, Purpose::Text, 0);
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.below(VOCABULARY - 1) as u32).collect() };
    let pairs: Vec<(Vec<u32>, Vec<u32>)> = lengths.iter().map(|&(s, t)| (draw(s), draw(t))).collect();
    Batch {
        source: Sequences::pack(pairs.iter().map(|(s, _)| s.as_slice())),
        target: Sequences::pack(pairs.iter().map(|(_, t)| t.as_slice())),
        pairs: (0..pairs.len() as u64).collect(),
    }
}

const LENGTHS: &[(usize, usize)] = &[(5, 3), (1, 4), (7, 1), (2, 6)];

/// The same mathematics over `[sentences, longest, d]` with padding and masks.
struct Reference<'a> {
    params: &'a ParamSet,
    config: &'a ModelConfig,
}

impl Reference<'_> {
    fn get(&self, name: &str) -> Tensor {
        self.params.get(name).unwrap_or_else(|| panic!("no parameter {name}")).var.as_tensor().clone()
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"));
        x.broadcast_matmul(&weight.t()?)?.broadcast_add(&self.get(&format!("{name}.bias")))
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centered.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
        let (gain, shift) = (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        centered.broadcast_div(&deviation)?.broadcast_mul(&gain)?.broadcast_add(&shift)
    }

    fn residual(&self, x: &Tensor, name: &str, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        match self.config.norm {
            Norm::Post => self.norm(&(x + f(x)?)?, name),
            Norm::Pre => x + f(&self.norm(x, name)?)?,
        }
    }

    /// `hidden(query, key, sentence)`: whether the query may not see the key.
    fn attention(
        &self,
        x: &Tensor,
        memory: &Tensor,
        name: &str,
        hidden: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<Tensor> {
        let ((b, tq, d), (_, tk, _), heads) = (x.dims3()?, memory.dims3()?, self.config.heads);
        let split = |x: Tensor, t: usize| x.reshape((b, t, heads, d / heads))?.transpose(1, 2)?.contiguous();
        let q = split(self.linear(x, &format!("{name}.q_proj"))?, tq)?;
        let k = split(self.linear(memory, &format!("{name}.k_proj"))?, tk)?;
        let v = split(self.linear(memory, &format!("{name}.v_proj"))?, tk)?;
        let mut mask = Vec::new();
        for sentence in 0..b {
            for i in 0..tq {
                mask.extend((0..tk).map(|j| if hidden(i, j, sentence) { -1e30 } else { 0.0f64 }));
            }
        }
        let mask = Tensor::from_vec(mask, (b, 1, tq, tk), &Device::Cpu)?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / ((d / heads) as f64).sqrt())?;
        let scores = scores.broadcast_add(&mask)?;
        let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
        let o = p.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((b, tq, d))?;
        self.linear(&o, &format!("{name}.out_proj"))
    }

    fn feed_forward(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let z = self.linear(x, &format!("{name}.fc1"))?;
        let h = match self.config.activation {
            Activation::Relu => z.relu()?,
            Activation::Swish => (&z / (z.neg()?.exp()? + 1.0)?)?,
            Activation::Gelu => ((&z / 2f64.sqrt())?.erf()? + 1.0)?.mul(&(&z * 0.5)?)?,
            other => unreachable!("{other:?} is of no config"),
        };
        self.linear(&h, &format!("{name}.fc2"))
    }

    fn embed(&self, table: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        let (b, d) = (sequences.len(), self.config.d_model);
        let longest = (0..b).map(|i| sequences.get(i).len()).max().unwrap_or(0);
        let (mut ids, mut angles) = (Vec::new(), Vec::new());
        for i in 0..b {
            ids.extend_from_slice(sequences.get(i));
            ids.resize((i + 1) * longest, PAD);
        }
        for position in 0..longest {
            for column in 0..d {
                let i = column % (d / 2);
                let angle = position as f64 / 10_000f64.powf(2.0 * i as f64 / d as f64);
                angles.push(if column < d / 2 { angle.sin() } else { angle.cos() });
            }
        }
        let angles = Tensor::from_vec(angles, (1, longest, d), &Device::Cpu)?;
        let rows = table.index_select(&Tensor::from_vec(ids, b * longest, &Device::Cpu)?, 0)?;
        (rows.reshape((b, longest, d))? * (d as f64).sqrt())?.broadcast_add(&angles)
    }

    /// Σ of the smoothed loss.
    fn loss(&self, batch: &Batch, smoothing: f64) -> Result<Tensor> {
        let (source, target, output) = match self.config.tied_embeddings {
            TiedEmbeddings::All => ["model.shared.weight"; 3].into(),
            TiedEmbeddings::Decoder => (
                "model.encoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
            ),
            TiedEmbeddings::None => {
                ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
            }
        };
        let pre = self.config.norm == Norm::Pre;
        let source_length = |i: usize| batch.source.get(i).len();
        let mut x = self.embed(&self.get(source), &batch.source)?;
        for i in 0..self.config.layers {
            let name = format!("model.encoder.layers.{i}");
            x = self.residual(&x, &format!("{name}.self_attn_layer_norm"), |x| {
                self.attention(x, x, &format!("{name}.self_attn"), |_, key, s| key >= source_length(s))
            })?;
            x = self.residual(&x, &format!("{name}.final_layer_norm"), |x| self.feed_forward(x, &name))?;
        }
        if pre {
            x = self.norm(&x, "model.encoder.layer_norm")?;
        }
        let mut y = self.embed(&self.get(target), &batch.target.shifted_right(PAD))?;
        for i in 0..self.config.layers {
            let name = format!("model.decoder.layers.{i}");
            y = self.residual(&y, &format!("{name}.self_attn_layer_norm"), |y| {
                self.attention(y, y, &format!("{name}.self_attn"), |query, key, _| key > query)
            })?;
            y = self.residual(&y, &format!("{name}.encoder_attn_layer_norm"), |y| {
                self.attention(y, &x, &format!("{name}.encoder_attn"), |_, key, s| key >= source_length(s))
            })?;
            y = self.residual(&y, &format!("{name}.final_layer_norm"), |y| self.feed_forward(y, &name))?;
        }
        if pre {
            y = self.norm(&y, "model.decoder.layer_norm")?;
        }
        // <pad>, the last id, is left out of the vocabulary
        let table = self.get(output).narrow(0, 0, VOCABULARY - 1)?;
        let z = y.broadcast_matmul(&table.t()?)?;
        let shifted = z.broadcast_sub(&z.max_keepdim(D::Minus1)?.detach())?;
        let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
        let mut total = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        for i in 0..batch.target.len() {
            for (t, &label) in batch.target.get(i).iter().enumerate() {
                let row = log_p.narrow(0, i, 1)?.narrow(1, t, 1)?.flatten_all()?;
                let nll = row.narrow(0, label as usize, 1)?.sum_all()?.neg()?;
                let uniform = (row.sum_all()? / -((VOCABULARY - 1) as f64))?;
                total = ((total + (nll * (1.0 - smoothing))?)? + (uniform * smoothing)?)?;
            }
        }
        Ok(total)
    }
}

fn flat(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn gradient(grads: &GradStore, params: &ParamSet, name: &str) -> Result<Vec<f64>> {
    let param = params.get(name).unwrap_or_else(|| panic!("no parameter {name}"));
    flat(grads.get(&param.var).unwrap_or_else(|| panic!("{name} has no gradient")))
}

#[test]
fn loss_and_gradients_are_those_of_a_padded_reference() -> Result<()> {
    let batch = batch(3, LENGTHS);
    for config in variants() {
        let model = model(&config, DType::F64)?;
        let tokens = batch.target.tokens();
        let fused = objective::loss(model.as_ref(), &batch, &Forward::train(1, 0), Criterion::smoothed(0.1), tokens)?;
        let plain = Reference { params: model.params(), config: &config }.loss(&batch, 0.1)?;
        let plain_sum = plain.to_scalar::<f64>()?;
        let [fused_sum, ..] = fused.losses.sums()?;
        assert!((fused_sum - plain_sum).abs() < 1e-10 * plain_sum, "{fused_sum} {plain_sum}");
        assert_eq!(fused.tokens, tokens);
        let (fused, plain) = (fused.loss.backward()?, (plain / tokens as f64)?.backward()?);
        for param in model.params() {
            let (a, b) =
                (gradient(&fused, model.params(), &param.name)?, gradient(&plain, model.params(), &param.name)?);
            let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            assert!(largest(&difference) < 1e-10 * largest(&b).max(1e-2), "{}: {:e}", param.name, largest(&difference));
        }
    }
    Ok(())
}

#[test]
fn every_parameter_gets_a_gradient() -> Result<()> {
    let batch = batch(4, LENGTHS);
    for mut config in variants() {
        config.dropout = 0.1;
        let model = model(&config, DType::F64)?;
        let grads = objective::loss(model.as_ref(), &batch, &Forward::train(1, 5), Criterion::smoothed(0.1), 10)?
            .loss
            .backward()?;
        for param in model.params() {
            let size = largest(&gradient(&grads, model.params(), &param.name)?);
            // adding a vector to every key moves all scores of a query alike, so this gradient is zero without dropout
            if !param.name.ends_with("k_proj.bias") {
                assert!(size > 1e-7, "{}: {size:e}", param.name);
            }
        }
    }
    Ok(())
}

#[test]
fn dropout_masks_are_named_by_seed_and_micro_batch() -> Result<()> {
    let batch = batch(5, LENGTHS);
    let mut config = config(Norm::Post, TiedEmbeddings::All, Activation::Relu);
    config.dropout = 0.3;
    let model = model(&config, DType::F32)?;
    let loss = |seed, micro_batch| -> Result<f64> {
        Ok(objective::loss(model.as_ref(), &batch, &Forward::train(seed, micro_batch), Criterion::smoothed(0.0), 1)?
            .losses
            .sums()?[0])
    };
    assert_eq!(loss(1, 0)?, loss(1, 0)?);
    assert_ne!(loss(1, 0)?, loss(1, 1)?);
    assert_ne!(loss(1, 0)?, loss(2, 0)?);
    // word dropout moves no other mask
    let (without, with) = (Forward::train(1, 0), Forward::train(1, 0));
    let words = [Side::Source, Side::Target].map(|side| with.word_dropout(side, 0.3));
    let values = with.dropout(0.3);
    assert_eq!(without.dropout(0.3), values);
    assert!(words[0] != words[1] && words[0] != values && words[1] != values);
    Ok(())
}

#[test]
fn a_sentence_is_judged_alike_in_any_company() -> Result<()> {
    for config in variants() {
        let model = model(&config, DType::F32)?;
        let together = batch(6, LENGTHS);
        let scores = objective::pair_nlls(model.as_ref(), &together)?;
        assert_eq!(scores.len(), LENGTHS.len());
        for (i, score) in scores.iter().enumerate() {
            let alone = Batch {
                source: Sequences::pack([together.source.get(i)]),
                target: Sequences::pack([together.target.get(i)]),
                pairs: vec![0],
            };
            let own = objective::pair_nlls(model.as_ref(), &alone)?[0];
            assert!((own - score).abs() < 1e-5 * score, "{own} alone, {score} in company");
        }
        let trained = objective::loss(model.as_ref(), &together, &Forward::eval(), Criterion::smoothed(0.1), 1)?;
        let [_, nll_sum, _] = trained.losses.sums()?;
        assert!((nll_sum - scores.iter().sum::<f64>()).abs() < 1e-5 * nll_sum);
    }
    Ok(())
}

#[test]
fn step_by_step_states_are_those_of_the_whole_sentence_also_after_reordering() -> Result<()> {
    for config in variants() {
        let model = model(&config, DType::F32)?;
        let sources = batch(8, &[(4, 1), (1, 1), (6, 1)]).source;
        let memory = model.encode(&sources, &Forward::eval())?;
        let mut state = model.begin(&memory)?;
        // (source, tokens read so far) of each row; in every round: tokens read, then the rows that stay
        let mut rows: Vec<(usize, Vec<u32>)> = (0..3).map(|i| (i, Vec::new())).collect();
        let rounds: [(&[u32], &[usize]); 4] = [
            (&[PAD, PAD, PAD], &[0, 0, 1, 2, 2]),
            (&[1, 2, 3, 4, 5], &[4, 1, 1, 3]),
            (&[6, 7, 8, 9], &[3, 2, 0]),
            (&[1, 0, 11], &[0]),
        ];
        for (tokens, keep) in rounds {
            let states = state.step(tokens)?;
            rows.iter_mut().zip(tokens).for_each(|((_, read), &token)| read.push(token));
            assert_eq!((state.rows(), states.dims()), (rows.len(), &[rows.len(), config.d_model][..]));
            for (i, (source, read)) in rows.iter().enumerate() {
                let memory = model.encode(&Sequences::pack([sources.get(*source)]), &Forward::eval())?;
                let whole = model.decode(&memory, &Sequences::pack([read.as_slice()]), &Forward::eval())?;
                let (a, b) = (flat(&states.get(i)?)?, flat(&whole.get(read.len() - 1)?)?);
                let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
                assert!(largest(&difference) < 1e-5, "row {i} after {read:?}: {:e}", largest(&difference));
            }
            state.select(keep)?;
            rows = keep.iter().map(|&row| rows[row].clone()).collect();
        }
        assert!(state.select(&[1]).is_err());
        assert!(state.step(&[1, 2]).is_err());
    }
    Ok(())
}

#[test]
fn a_weight_that_is_no_number_shows_in_the_loss() -> Result<()> {
    let config = config(Norm::Post, TiedEmbeddings::All, Activation::Relu);
    for name in ["model.encoder.layers.0.fc1.weight", "model.decoder.layers.1.self_attn.k_proj.bias"] {
        let model = model(&config, DType::F32)?;
        let var = &model.params().get(name).unwrap_or_else(|| panic!("no parameter {name}")).var;
        var.set(&(var.as_tensor() * f64::NAN)?.detach())?;
        let loss =
            objective::loss(model.as_ref(), &batch(9, LENGTHS), &Forward::train(1, 0), Criterion::smoothed(0.1), 1)?;
        assert!(loss.losses.sums()?[0].is_nan() && loss.loss.to_scalar::<f32>()?.is_nan(), "{name}");
    }
    Ok(())
}

#[test]
fn gradients_have_the_same_bits_with_one_thread_and_with_three() -> Result<()> {
    let mut config = config(Norm::Post, TiedEmbeddings::All, Activation::Relu);
    (config.d_model, config.d_ff, config.dropout) = (64, 128, 0.1);
    let model = model(&config, DType::F32)?;
    let batch = batch(2, &[(12, 11); 60]);
    let run = |threads| -> Result<Vec<Vec<f64>>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(candle_core::Error::wrap)?;
        pool.install(|| {
            let loss = objective::loss(model.as_ref(), &batch, &Forward::train(1, 0), Criterion::smoothed(0.1), 660)?;
            let grads = loss.loss.backward()?;
            model.params().iter().map(|p| gradient(&grads, model.params(), &p.name)).collect()
        })
    };
    let (one, three) = (run(1)?, run(3)?);
    for (param, (one, three)) in model.params().iter().zip(one.iter().zip(&three)) {
        assert_eq!(one, three, "{}", param.name);
    }
    Ok(())
}

#[test]
fn tying_all_tables_of_two_vocabularies_is_refused_with_the_cure() {
    let vocabulary = Vocabulary { source_size: 10, target_size: 12, source_pad: 9, target_pad: 11 };
    let config = config(Norm::Post, TiedEmbeddings::All, Activation::Relu);
    let message = build(&config, vocabulary, 1, DType::F32, &Device::Cpu).err().map(|e| e.to_string());
    assert!(message.is_some_and(|m| m.contains("tied_embeddings") && m.contains("\"decoder\"")));
}
