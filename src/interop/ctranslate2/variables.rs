//! Which variables a Transformer has in CTranslate2 (`specs/transformer_spec.py` there), and of which of our weights they
//! are made.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};

use super::super::marian::MarianError;
use super::super::Error;
use crate::config::{ModelConfig, ModelKind, Norm};
use crate::kinds::Activation;
use crate::model::{table_names, OUTPUT_BIAS};
use crate::ops;

/// A value of the model.
#[derive(Clone, Debug)]
pub(super) enum Variable {
    /// A flag or a number of a list.
    Int8(i8),
    Int16(i16),
    Float(f32),
    /// f32 on the CPU; a matrix or a table may be quantized, other tensors only rounded.
    Tensor {
        values: Tensor,
        is_quantizable: bool,
    },
}

/// Variables by name; the order of names is that of the file.
pub(super) type Variables = BTreeMap<String, Variable>;

/// The variables of a Transformer with these weights; `positions`: rows of the table of sinusoids.
///
/// # Errors
/// An RNN; a weight that is missing; padding, which the decoder starts from, whose row is not zero.
pub(super) fn of(
    model: &ModelConfig,
    weights: &[(String, Tensor)],
    positions: usize,
) -> std::result::Result<Variables, Error> {
    if model.kind == ModelKind::Rnn {
        return Err(MarianError::Rnn.into());
    }
    let weights = weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut made = Maker { weights, variables: Variables::new() };
    let [_, target, _] = table_names(model.tied_embeddings);
    let table = made.weight(target)?;
    let start = table.narrow(0, table.dim(0)? - 1, 1)?.flatten_all()?.to_vec1::<f32>()?;
    if start.iter().any(|&x| x != 0.0) {
        return Err(Error::Padding(target));
    }
    made.sides(model, positions)?;
    Ok(made.variables)
}

struct Maker<'a> {
    weights: BTreeMap<&'a str, &'a Tensor>,
    variables: Variables,
}

impl Maker<'_> {
    fn sides(&mut self, model: &ModelConfig, positions: usize) -> Result<()> {
        let [source, target, output] = table_names(model.tied_embeddings);
        // its own sinusoids are others
        let encodings = ops::sinusoids(positions, model.d_model)?;
        for side in ["encoder", "decoder"] {
            self.number(side, "num_heads", Variable::Int16(model.heads.try_into().unwrap_or(i16::MAX)));
            self.number(side, "pre_norm", Variable::Int8((model.norm == Norm::Pre).into()));
            self.number(side, "activation", Variable::Int8(activation(model.activation)));
            self.number(side, "scale_embeddings", Variable::Float((model.d_model as f64).sqrt() as f32));
            self.vector(format!("{side}/position_encodings/encodings"), encodings.clone());
            if model.norm == Norm::Pre {
                self.norm(&format!("{side}/layer_norm"), &format!("model.{side}.layer_norm"))?;
            }
        }
        self.number("encoder", "embeddings_merge", Variable::Int8(0));
        self.number("encoder", "multi_query_attention", Variable::Int8(0));
        for flag in ["alibi", "alibi_use_positive_positions", "scale_alibi"] {
            self.number("decoder", flag, Variable::Int8(0));
        }
        self.number("decoder", "alignment_layer", Variable::Int16(-1));
        self.number("decoder", "alignment_heads", Variable::Int16(1));
        self.number("decoder", "start_from_zero_embedding", Variable::Int8(1));
        self.table("encoder/embeddings_0/weight", source)?;
        self.table("decoder/embeddings/weight", target)?;
        let size = self.table("decoder/projection/weight", output)?;
        let bias = match self.weights.get(OUTPUT_BIAS) {
            Some(bias) => bias.narrow(0, 0, size)?,
            None => Tensor::zeros(size, DType::F32, &Device::Cpu)?,
        };
        self.vector("decoder/projection/bias".to_string(), bias);
        for layer in 0..model.encoder_layers() {
            let (to, from) = (format!("encoder/layer_{layer}"), format!("model.encoder.layers.{layer}"));
            self.own_attention(&to, &from)?;
            self.feed_forward(&to, &from)?;
        }
        for layer in 0..model.decoder_layers() {
            let (to, from) = (format!("decoder/layer_{layer}"), format!("model.decoder.layers.{layer}"));
            self.own_attention(&to, &from)?;
            self.cross_attention(&to, &from)?;
            self.feed_forward(&to, &from)?;
        }
        Ok(())
    }

    fn own_attention(&mut self, to: &str, from: &str) -> Result<()> {
        let (to, maps) = (format!("{to}/self_attention"), format!("{from}.self_attn"));
        self.norm(&format!("{to}/layer_norm"), &format!("{from}.self_attn_layer_norm"))?;
        self.linear(&format!("{to}/linear_0"), &maps, &["q_proj", "k_proj", "v_proj"])?;
        self.linear(&format!("{to}/linear_1"), &maps, &["out_proj"])
    }

    fn cross_attention(&mut self, to: &str, from: &str) -> Result<()> {
        let (to, maps) = (format!("{to}/attention"), format!("{from}.encoder_attn"));
        self.norm(&format!("{to}/layer_norm"), &format!("{from}.encoder_attn_layer_norm"))?;
        self.linear(&format!("{to}/linear_0"), &maps, &["q_proj"])?;
        self.linear(&format!("{to}/linear_1"), &maps, &["k_proj", "v_proj"])?;
        self.linear(&format!("{to}/linear_2"), &maps, &["out_proj"])
    }

    fn feed_forward(&mut self, to: &str, from: &str) -> Result<()> {
        self.norm(&format!("{to}/ffn/layer_norm"), &format!("{from}.final_layer_norm"))?;
        self.linear(&format!("{to}/ffn/linear_0"), from, &["fc1"])?;
        self.linear(&format!("{to}/ffn/linear_1"), from, &["fc2"])
    }

    fn number(&mut self, side: &str, name: &str, value: Variable) {
        self.variables.insert(format!("{side}/{name}"), value);
    }

    fn vector(&mut self, to: String, values: Tensor) {
        self.variables.insert(to, Variable::Tensor { values, is_quantizable: false });
    }

    fn matrix(&mut self, to: String, values: Tensor) {
        self.variables.insert(to, Variable::Tensor { values, is_quantizable: true });
    }

    fn norm(&mut self, to: &str, from: &str) -> Result<()> {
        for (theirs, ours) in [("gamma", "weight"), ("beta", "bias")] {
            let values = self.weight(&format!("{from}.{ours}"))?;
            self.vector(format!("{to}/{theirs}"), values);
        }
        Ok(())
    }

    /// Maps of one input, their outputs below each other.
    fn linear(&mut self, to: &str, from: &str, maps: &[&str]) -> Result<()> {
        let all = |what: &str| -> Result<Tensor> {
            let parts = maps.iter().map(|map| self.weight(&format!("{from}.{map}.{what}")));
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
        };
        let (weight, bias) = (all("weight")?, all("bias")?);
        self.matrix(format!("{to}/weight"), weight);
        self.vector(format!("{to}/bias"), bias);
        Ok(())
    }

    /// A table without its last row, padding: the decoder starts from a zero embedding and nothing else is padding there.
    /// Returns its rows.
    fn table(&mut self, to: &str, from: &str) -> Result<usize> {
        let table = self.weight(from)?;
        let rows = table.dim(0)? - 1;
        self.matrix(to.to_string(), table.narrow(0, 0, rows)?);
        Ok(rows)
    }

    fn weight(&self, name: &str) -> Result<Tensor> {
        match self.weights.get(name) {
            Some(&weight) => Ok(weight.clone()),
            None => candle_core::bail!("the model has no weight {name}"),
        }
    }
}

/// Number in CTranslate2's list (`include/ctranslate2/ops/activation.h`).
fn activation(activation: Activation) -> i8 {
    match activation {
        Activation::Gelu => 3,
        Activation::Swish => 2,
        Activation::Relu | Activation::Identity | Activation::Tanh => 0,
    }
}
