//! The parts a Transformer is made of, with the parameter names of Hugging Face's MarianMT.

use candle_core::{Result, Tensor};
use std::sync::Arc;

use super::Forward;
use crate::config::{ModelConfig, Norm};
use crate::ops::{self, Activation, Dropout, Prepacked, Step, Strongest};
use crate::params::{Init, ParamKind, ParamSet};

/// ε of layer normalization, PyTorch's default and MarianMT's.
const EPS: f64 = 1e-5;

/// x·Wᵀ + b, or several of them of one input, results side by side.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    /// Weights and biases; none where they are prepacked.
    maps: Vec<(Tensor, Tensor)>,
    prepacked: Option<Prepacked>,
}

impl Linear {
    pub(super) fn new(params: &mut ParamSet, name: &str, inner: usize, outer: usize) -> Result<Self> {
        let weight = params.add(&format!("{name}.weight"), ParamKind::Matrix, &[outer, inner], Init::XavierUniform)?;
        let bias = params.add(&format!("{name}.bias"), ParamKind::Vector, &[outer], Init::Zeros)?;
        Ok(Linear { maps: vec![(weight, bias)], prepacked: None })
    }

    /// This one and another one of the same input.
    fn beside(mut self, other: Linear) -> Self {
        self.maps.extend(other.maps);
        self
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.then(x, Activation::Identity, None)
    }

    /// With an activation and dropout.
    fn then(&self, x: &Tensor, activation: Activation, dropout: Option<Dropout>) -> Result<Tensor> {
        match &self.prepacked {
            Some(prepacked) => prepacked.apply(x, activation),
            None => Linear::apply_all(&[self], x, activation, dropout),
        }
    }

    /// Several of one input, in one product.
    fn apply_all(all: &[&Linear], x: &Tensor, activation: Activation, dropout: Option<Dropout>) -> Result<Tensor> {
        let (weights, biases): (Vec<&Tensor>, Vec<&Tensor>) =
            all.iter().flat_map(|linear| &linear.maps).map(|(weight, bias)| (weight, bias)).unzip();
        ops::joint_linear(x, &weights, &biases, activation, dropout)
    }

    /// See [`super::Model::prepacked`].
    fn prepack(&mut self) -> Result<()> {
        let (weights, biases): (Vec<&Tensor>, Vec<&Tensor>) =
            self.maps.iter().map(|(weight, bias)| (weight, bias)).unzip();
        self.prepacked = Prepacked::new(&weights, &biases)?;
        if self.prepacked.is_some() {
            self.maps.clear();
        }
        Ok(())
    }
}

/// Layer normalization.
#[derive(Clone, Debug)]
pub(super) struct LayerNorm {
    gain: Tensor,
    shift: Tensor,
}

impl LayerNorm {
    pub(super) fn new(params: &mut ParamSet, name: &str, d: usize) -> Result<Self> {
        Ok(LayerNorm {
            gain: params.add(&format!("{name}.weight"), ParamKind::Vector, &[d], Init::Ones)?,
            shift: params.add(&format!("{name}.bias"), ParamKind::Vector, &[d], Init::Zeros)?,
        })
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.gain, &self.shift, EPS)
    }
}

/// The residual connection around a sublayer f: LN(x + dropout(f(x))) or, pre-norm, x + dropout(f(LN(x))).
#[derive(Clone, Debug)]
pub(super) struct Residual {
    norm: LayerNorm,
    order: Norm,
    dropout: f64,
}

impl Residual {
    pub(super) fn new(params: &mut ParamSet, name: &str, config: &ModelConfig) -> Result<Self> {
        let norm = LayerNorm::new(params, name, config.d_model)?;
        Ok(Residual { norm, order: config.norm, dropout: config.dropout })
    }

    pub(super) fn around(
        &self,
        x: Tensor,
        forward: &Forward,
        f: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let LayerNorm { gain, shift } = &self.norm;
        match self.order {
            Norm::Post => ops::add_dropout_norm(&x, &f(&x)?, gain, shift, EPS, forward.dropout(self.dropout)),
            Norm::Pre => ops::add_dropout(&x, &f(&self.norm.apply(&x)?)?, forward.dropout(self.dropout)),
        }
    }
}

/// Multi-head attention (Vaswani et al. 2017, §3.2.2).
#[derive(Clone, Debug)]
pub(super) struct Attention {
    query: Linear,
    key_value: Linear,
    out: Linear,
    heads: usize,
    width: usize,
    /// 1/√(columns of a head).
    scale: f64,
    dropout: f64,
}

impl Attention {
    pub(super) fn new(params: &mut ParamSet, name: &str, config: &ModelConfig) -> Result<Self> {
        let d = config.d_model;
        let key = Linear::new(params, &format!("{name}.k_proj"), d, d)?;
        Ok(Attention {
            key_value: key.beside(Linear::new(params, &format!("{name}.v_proj"), d, d)?),
            query: Linear::new(params, &format!("{name}.q_proj"), d, d)?,
            out: Linear::new(params, &format!("{name}.out_proj"), d, d)?,
            heads: config.heads,
            width: d,
            scale: ops::default_scale(d, config.heads),
            dropout: config.attention_dropout(),
        })
    }

    pub(super) fn prepack(&mut self) -> Result<()> {
        [&mut self.query, &mut self.key_value, &mut self.out].into_iter().try_for_each(Linear::prepack)
    }

    /// Of sentences to themselves.
    pub(super) fn own(&self, x: &Tensor, offsets: &Arc<Vec<usize>>, causal: bool, forward: &Forward) -> Result<Tensor> {
        if forward.in_parts(x) || self.query.prepacked.is_some() {
            return self.by_rows(x, x, [offsets, offsets], causal, forward);
        }
        let qkv = Linear::apply_all(&[&self.query, &self.key_value], x, Activation::Identity, None)?;
        let dropout = forward.dropout(self.dropout);
        self.out.apply(&ops::self_attention(&qkv, offsets, self.heads, causal, dropout)?)
    }

    /// Of the sentences of `x` to those of `memory`; offsets of both.
    pub(super) fn cross(
        &self,
        x: &Tensor,
        memory: &Tensor,
        offsets: [&Arc<Vec<usize>>; 2],
        forward: &Forward,
    ) -> Result<Tensor> {
        if forward.in_parts(x) {
            return self.by_rows(x, memory, offsets, false, forward);
        }
        let (q, kv) = (self.query.apply(x)?, self.key_value.apply(memory)?);
        let dropout = forward.dropout(self.dropout);
        self.out.apply(&ops::cross_attention(&q, &kv, offsets, self.heads, self.scale, dropout)?)
    }

    /// As [`Attention::own`] and [`Attention::cross`] in evaluation; of a long text only keys and values exist as a whole.
    fn by_rows(
        &self,
        x: &Tensor,
        memory: &Tensor,
        offsets: [&Arc<Vec<usize>>; 2],
        causal: bool,
        forward: &Forward,
    ) -> Result<Tensor> {
        let kv = self.key_value.apply(memory)?;
        forward.by_rows(x, |x, rows| {
            let q = self.query.apply(x)?;
            self.out.apply(&ops::attention_of_rows(&q, &kv, rows, offsets, self.heads, self.scale, causal)?)
        })
    }

    /// Where [`Attention::cross`] looks most, mean over heads, without dropout.
    pub(super) fn strongest(
        &self,
        x: &Tensor,
        memory: &Tensor,
        offsets: [&Arc<Vec<usize>>; 2],
    ) -> Result<Vec<Strongest>> {
        let keys = ops::columns(&self.key_value.apply(memory)?, 0, self.width)?;
        ops::strongest_product(&self.query.apply(x)?, &keys, offsets, self.heads, self.scale)
    }

    /// What is attended to: keys and values side by side.
    pub(super) fn keys_values(&self, memory: &Tensor) -> Result<Tensor> {
        self.key_value.apply(memory)
    }

    /// As [`Attention::keys_values`], apart.
    pub(super) fn memory(&self, memory: &Tensor) -> Result<Step> {
        let both = self.keys_values(memory)?;
        Ok((ops::columns(&both, 0, self.width)?, ops::columns(&both, self.width, self.width)?))
    }

    /// What multiplies scores.
    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// Queries from `x`; `attend(queries, heads)` looks them up in a cache.
    pub(super) fn lookup(&self, x: &Tensor, attend: impl FnOnce(&Tensor, usize) -> Result<Tensor>) -> Result<Tensor> {
        self.out.apply(&attend(&self.query.apply(x)?, self.heads)?)
    }
}

/// φ(x·W₁ᵀ + b₁)·W₂ᵀ + b₂.
#[derive(Clone, Debug)]
pub(super) struct FeedForward {
    inner: Linear,
    outer: Linear,
    activation: Activation,
    dropout: f64,
}

impl FeedForward {
    /// `name` is the layer's: its maps are `fc1` and `fc2` there.
    pub(super) fn new(params: &mut ParamSet, name: &str, config: &ModelConfig) -> Result<Self> {
        Ok(FeedForward {
            inner: Linear::new(params, &format!("{name}.fc1"), config.d_model, config.d_ff)?,
            outer: Linear::new(params, &format!("{name}.fc2"), config.d_ff, config.d_model)?,
            activation: config.activation,
            dropout: config.activation_dropout(),
        })
    }

    pub(super) fn prepack(&mut self) -> Result<()> {
        self.inner.prepack()?;
        self.outer.prepack()
    }

    pub(super) fn apply(&self, x: &Tensor, forward: &Forward) -> Result<Tensor> {
        let dropout = forward.dropout(self.dropout);
        forward.by_rows(x, |x, _| self.outer.apply(&self.inner.then(x, self.activation, dropout)?))
    }
}
