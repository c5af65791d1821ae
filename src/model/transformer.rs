//! The Transformer (Vaswani et al. 2017), post-norm as Marian's models or pre-norm, over packed batches. Parameter
//! names, layouts and sinusoids are those of Hugging Face's MarianMT; the decoder starts from `<pad>`.
//!
//! Initial weights as in fairseq: Xavier uniform matrices, zero biases, tables normal with deviation d^−½.

use candle_core::{Result, Tensor};
use std::sync::Arc;

use super::layers::{Attention, FeedForward, LayerNorm, Residual};
use super::transformer_step::TransformerStep;
use super::{Forward, Memory, Model, Output, Side, StepState, Vocabulary};
use crate::batch::Sequences;
use crate::config::{ModelConfig, Norm, TiedEmbeddings};
use crate::ops::{self, Strongest};
use crate::params::{Init, ParamKind, ParamSet};

/// The bias on the logits, `[V]`; `[1, V]` in MarianMT's files.
pub const OUTPUT_BIAS: &str = "final_logits_bias";

/// The one embedding table of all sides, and those of each side where they are several.
pub const SHARED_TABLE: &str = "model.shared.weight";
pub const SOURCE_TABLE: &str = "model.encoder.embed_tokens.weight";
pub const TARGET_TABLE: &str = "model.decoder.embed_tokens.weight";
pub const OUTPUT_TABLE: &str = "lm_head.weight";

/// Names of the tables of source, target and output.
pub fn table_names(tied: TiedEmbeddings) -> [&'static str; 3] {
    match tied {
        TiedEmbeddings::All => [SHARED_TABLE; 3],
        TiedEmbeddings::Decoder => [SOURCE_TABLE, TARGET_TABLE, TARGET_TABLE],
        TiedEmbeddings::None => [SOURCE_TABLE, TARGET_TABLE, OUTPUT_TABLE],
    }
}

/// An encoder-decoder of self-attention, cross-attention and feed-forward layers.
#[derive(Clone)]
pub(super) struct Transformer {
    params: ParamSet,
    source: Embedding,
    encoder: Vec<EncoderLayer>,
    encoder_norm: Option<LayerNorm>,
    decoder: Arc<Decoder>,
    output: Output,
}

impl Transformer {
    /// `params`: where its parameters are added, empty.
    pub(super) fn new(config: &ModelConfig, vocabulary: Vocabulary, mut params: ParamSet) -> Result<Self> {
        let d = config.d_model;
        if config.heads == 0 || !d.is_multiple_of(2 * config.heads) {
            candle_core::bail!("model.d_model = {d} must be a multiple of twice model.heads = {}", config.heads);
        }
        let Tables { source, target, output } = Tables::new(&mut params, config, vocabulary)?;
        let encoder = (0..config.encoder_layers())
            .map(|i| EncoderLayer::new(&mut params, &format!("model.encoder.layers.{i}"), config))
            .collect::<Result<_>>()?;
        let encoder_norm = final_norm(&mut params, "model.encoder.layer_norm", config)?;
        let layers = (0..config.decoder_layers())
            .map(|i| DecoderLayer::new(&mut params, &format!("model.decoder.layers.{i}"), config))
            .collect::<Result<_>>()?;
        let norm = final_norm(&mut params, "model.decoder.layer_norm", config)?;
        // last, so that the weights before it are drawn alike with and without it
        let bias = match config.output_bias {
            true => Some(params.add(OUTPUT_BIAS, ParamKind::Vector, &[vocabulary.target_size], Init::Zeros)?),
            false => None,
        };
        let embedding = Embedding::new(target, config, (Side::Target, config.target_word_dropout));
        Ok(Transformer {
            params,
            source: Embedding::new(source, config, (Side::Source, config.source_word_dropout)),
            encoder,
            encoder_norm,
            decoder: Arc::new(Decoder { embedding, layers, norm }),
            output: Output { table: output, prepacked: Arc::default(), bias, pad: vocabulary.target_pad },
        })
    }
}

impl Model for Transformer {
    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn output(&self) -> Output {
        self.output.clone()
    }

    fn encode(&self, source: &Sequences, forward: &Forward) -> Result<Memory> {
        let offsets = Arc::clone(&source.offsets);
        let states = forward.run(|| {
            let mut x = self.source.apply(&source.ids, &ops::positions(&offsets), forward)?;
            for layer in &self.encoder {
                x = layer.apply(x, &offsets, forward)?;
            }
            normalized(&self.encoder_norm, x)
        })?;
        Ok(Memory { states, offsets })
    }

    fn decode(&self, memory: &Memory, input: &Sequences, forward: &Forward) -> Result<Tensor> {
        let offsets = &input.offsets;
        forward.run(|| {
            let mut y = self.decoder.embedding.apply(&input.ids, &ops::positions(offsets), forward)?;
            for layer in &self.decoder.layers {
                let own = |y: &Tensor| layer.own.own(y, offsets, true, forward);
                let cross = |y: &Tensor| layer.cross.cross(y, &memory.states, [offsets, &memory.offsets], forward);
                y = layer.apply(y, own, cross, forward)?;
            }
            normalized(&self.decoder.norm, y)
        })
    }

    fn alignment(&self, memory: &Memory, input: &Sequences) -> Result<Vec<Strongest>> {
        let (forward, offsets) = (&Forward::eval(), &input.offsets);
        let both = [offsets, &memory.offsets];
        let mut found = Vec::new();
        forward.run(|| -> Result<()> {
            let mut y = self.decoder.embedding.apply(&input.ids, &ops::positions(offsets), forward)?;
            for (l, layer) in self.decoder.layers.iter().enumerate() {
                let own = |y: &Tensor| layer.own.own(y, offsets, true, forward);
                let cross = |y: &Tensor| {
                    if l + 1 == self.decoder.layers.len() {
                        found = layer.cross.strongest(y, &memory.states, both)?;
                    }
                    layer.cross.cross(y, &memory.states, both, forward)
                };
                y = layer.apply(y, own, cross, forward)?;
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn prepacked(self: Box<Self>) -> Result<Box<dyn Model>> {
        let mut model = *self;
        if !model.params.device().is_cpu() || model.params.is_empty() {
            return Ok(Box::new(model));
        }
        model.params = model.params.subset(|_| false);
        for layer in &mut model.encoder {
            layer.own.prepack()?;
            layer.feed_forward.prepack()?;
        }
        // there is one handle of it, unless the model is shared
        for layer in &mut Arc::make_mut(&mut model.decoder).layers {
            layer.own.prepack()?;
            layer.cross.prepack()?;
            layer.feed_forward.prepack()?;
        }
        Ok(Box::new(Transformer { output: model.output.prepacked()?, ..model }))
    }

    fn share(&self) -> Box<dyn Model> {
        Box::new(self.clone())
    }

    fn begin(&self, memory: &Memory) -> Result<Box<dyn StepState>> {
        Ok(Box::new(ops::untracked(|| TransformerStep::new(Arc::clone(&self.decoder), memory))?))
    }
}

/// The embedding tables, which may be one; named alike in every kind of model.
pub(super) struct Tables {
    pub(super) source: Tensor,
    pub(super) target: Tensor,
    pub(super) output: Tensor,
}

impl Tables {
    pub(super) fn new(params: &mut ParamSet, config: &ModelConfig, vocabulary: Vocabulary) -> Result<Self> {
        let d = config.embedding_size();
        let mut table = |name: &str, size: usize, pad: u32, tied: bool| {
            let init = Init::Normal((d as f64).powf(-0.5));
            params.add_with_frozen_row(name, ParamKind::Table { tied }, &[size, d], init, Some(pad as usize))
        };
        let Vocabulary { source_size, target_size, source_pad, target_pad } = vocabulary;
        match config.tied_embeddings {
            TiedEmbeddings::All => {
                if (source_size, source_pad) != (target_size, target_pad) {
                    candle_core::bail!(
                        "model.tied_embeddings = \"all\" needs one vocabulary for both sides, \
                         these have {source_size} and {target_size} entries; set it to \"decoder\" or train a joint \
                         tokenizer"
                    );
                }
                let shared = table(SHARED_TABLE, source_size, source_pad, true)?;
                Ok(Tables { source: shared.clone(), target: shared.clone(), output: shared })
            }
            TiedEmbeddings::Decoder => {
                let source = table(SOURCE_TABLE, source_size, source_pad, false)?;
                let target = table(TARGET_TABLE, target_size, target_pad, true)?;
                Ok(Tables { source, target: target.clone(), output: target })
            }
            TiedEmbeddings::None => Ok(Tables {
                source: table(SOURCE_TABLE, source_size, source_pad, false)?,
                target: table(TARGET_TABLE, target_size, target_pad, false)?,
                output: table(OUTPUT_TABLE, target_size, target_pad, true)?,
            }),
        }
    }
}

/// dropout(√d·E\[id\]·w + sinusoids), w being 0 for the words that are dropped.
#[derive(Clone, Debug)]
pub(super) struct Embedding {
    table: Tensor,
    scale: f64,
    words: (Side, f64),
    dropout: f64,
}

impl Embedding {
    fn new(table: Tensor, config: &ModelConfig, words: (Side, f64)) -> Self {
        Embedding { table, scale: (config.d_model as f64).sqrt(), words, dropout: config.embedding_dropout() }
    }

    pub(super) fn apply(&self, ids: &[u32], positions: &[usize], forward: &Forward) -> Result<Tensor> {
        let (side, p) = self.words;
        let dropouts = [forward.word_dropout(side, p), forward.dropout(self.dropout)];
        ops::embed(&self.table, ids, Some(positions), self.scale, dropouts)
    }
}

#[derive(Clone)]
struct EncoderLayer {
    own: Attention,
    own_residual: Residual,
    feed_forward: FeedForward,
    final_residual: Residual,
}

impl EncoderLayer {
    fn new(params: &mut ParamSet, name: &str, config: &ModelConfig) -> Result<Self> {
        Ok(EncoderLayer {
            own: Attention::new(params, &format!("{name}.self_attn"), config)?,
            own_residual: Residual::new(params, &format!("{name}.self_attn_layer_norm"), config)?,
            feed_forward: FeedForward::new(params, name, config)?,
            final_residual: Residual::new(params, &format!("{name}.final_layer_norm"), config)?,
        })
    }

    /// The input is given away, to be freed as soon as no gradient needs it.
    fn apply(&self, x: Tensor, offsets: &Arc<Vec<usize>>, forward: &Forward) -> Result<Tensor> {
        let own = |x: &Tensor| self.own.own(x, offsets, false, forward);
        let x = self.own_residual.around(x, forward, own)?;
        self.final_residual.around(x, forward, |x| self.feed_forward.apply(x, forward))
    }
}

/// Everything after the encoder but the output projection; shared with step-by-step decoding.
#[derive(Clone)]
pub(super) struct Decoder {
    pub(super) embedding: Embedding,
    pub(super) layers: Vec<DecoderLayer>,
    pub(super) norm: Option<LayerNorm>,
}

#[derive(Clone)]
pub(super) struct DecoderLayer {
    pub(super) own: Attention,
    own_residual: Residual,
    pub(super) cross: Attention,
    cross_residual: Residual,
    feed_forward: FeedForward,
    final_residual: Residual,
}

impl DecoderLayer {
    fn new(params: &mut ParamSet, name: &str, config: &ModelConfig) -> Result<Self> {
        Ok(DecoderLayer {
            own: Attention::new(params, &format!("{name}.self_attn"), config)?,
            own_residual: Residual::new(params, &format!("{name}.self_attn_layer_norm"), config)?,
            cross: Attention::new(params, &format!("{name}.encoder_attn"), config)?,
            cross_residual: Residual::new(params, &format!("{name}.encoder_attn_layer_norm"), config)?,
            feed_forward: FeedForward::new(params, name, config)?,
            final_residual: Residual::new(params, &format!("{name}.final_layer_norm"), config)?,
        })
    }

    /// The layer around its two attentions, which differ between whole sentences and single steps.
    pub(super) fn apply(
        &self,
        y: Tensor,
        own: impl FnOnce(&Tensor) -> Result<Tensor>,
        cross: impl FnOnce(&Tensor) -> Result<Tensor>,
        forward: &Forward,
    ) -> Result<Tensor> {
        let y = self.own_residual.around(y, forward, own)?;
        let y = self.cross_residual.around(y, forward, cross)?;
        self.final_residual.around(y, forward, |y| self.feed_forward.apply(y, forward))
    }
}

/// The norm after the last layer, which only pre-norm models have.
fn final_norm(params: &mut ParamSet, name: &str, config: &ModelConfig) -> Result<Option<LayerNorm>> {
    match config.norm {
        Norm::Post => Ok(None),
        Norm::Pre => LayerNorm::new(params, name, config.d_model).map(Some),
    }
}

/// Applies [`final_norm`].
pub(super) fn normalized(norm: &Option<LayerNorm>, x: Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.apply(&x),
        None => Ok(x),
    }
}
