//! Encoder-decoders. A model is a set of named parameters and the computation of decoder states from packed batches;
//! losses are in `objective`, search is in `decode`.
//!
//! | file | owns |
//! |---|---|
//! | `layers` | the parts a Transformer is made of, with MarianMT's names of parameters |
//! | `pretrained` | embedding tables filled from word vectors in text form |
//! | `rnn` | the recurrent encoder-decoder with attention, "the 2014 NMT" |
//! | `rnn_step` | one decoding step of the recurrent model |
//! | `transformer` | the Transformer |
//! | `transformer_step` | one decoding step of the Transformer |

mod layers;
pub mod pretrained;
mod rnn;
mod rnn_step;
mod transformer;
mod transformer_step;

pub use rnn::RNN_OUTPUT_BIAS;
pub use transformer::{table_names, OUTPUT_BIAS, OUTPUT_TABLE, SHARED_TABLE, SOURCE_TABLE, TARGET_TABLE};

use candle_core::{DType, Device, Result, Tensor};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use crate::batch::Sequences;
use crate::config::{ModelConfig, ModelKind};
use crate::ops::{self, Dropout, Prepacked, Strongest};
use crate::params::ParamSet;
use crate::rng::MaskKey;

/// Vocabulary facts that a model needs; ids are dense, `<pad>` is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    pub source_size: usize,
    pub target_size: usize,
    /// Last id of the source vocabulary.
    pub source_pad: u32,
    /// Last id of the target vocabulary; also what the decoder starts from.
    pub target_pad: u32,
}

/// Training or evaluation, and where dropout masks come from. One value for one forward pass.
#[derive(Debug)]
pub struct Forward {
    /// `(seed, micro-batch since the start of training)`; `None` = evaluation, no dropout.
    training: Option<(u64, u64)>,
    /// Next dropout site; sites are numbered in the order of the program.
    site: Cell<u64>,
}

impl Forward {
    /// Dropout on, masks named by seed and micro-batch.
    // Not inlined: with constant arguments rustc 1.95 makes a constant of the whole value, passes it by reference to
    // one shared copy, and a second use finds the sites counted on (seen in tests/suite/rnn.rs).
    #[inline(never)]
    pub fn train(seed: u64, micro_batch: u64) -> Self {
        Forward { training: Some((seed, micro_batch)), site: Cell::new(0) }
    }

    /// Dropout off.
    pub fn eval() -> Self {
        Forward { training: None, site: Cell::new(0) }
    }

    /// The next mask for a share `p`; `None` when nothing is to be dropped.
    pub fn dropout(&self, p: f64) -> Option<Dropout> {
        let (seed, micro_batch) = self.training?;
        let site = self.site.get();
        self.site.set(site + 1);
        (p > 0.0).then(|| Dropout { p, key: MaskKey::new(seed, micro_batch, site) })
    }

    /// The mask over whole tokens of one side, for a share `p` of them; `None` when nothing is to be dropped. Apart from the
    /// numbered sites, whose masks stay what they are without it.
    pub fn word_dropout(&self, side: Side, p: f64) -> Option<Dropout> {
        let (seed, micro_batch) = self.training?;
        (p > 0.0).then(|| Dropout { p, key: MaskKey::new(seed, micro_batch, WORD_SITES + side as u64) })
    }

    /// A pass through a model: in evaluation it leaves no tape, so that what led to a result is freed.
    fn run<R>(&self, pass: impl FnOnce() -> R) -> R {
        match self.training {
            Some(_) => pass(),
            None => ops::untracked(pass),
        }
    }

    /// Whether `x [N, d]` should go through a layer in parts: what lies between input and result is several times as
    /// large, and of one text as long as a book it need not exist at a time.
    fn in_parts(&self, x: &Tensor) -> bool {
        self.training.is_none() && x.device().is_cpu() && x.dims().first().is_some_and(|&rows| rows > PART)
    }

    /// `map` of `x`, rows of the result depending only on the same rows of `x`; it also gets their numbers.
    fn by_rows(&self, x: &Tensor, map: impl Fn(&Tensor, Range<usize>) -> Result<Tensor>) -> Result<Tensor> {
        let rows = x.dim(0)?;
        if !self.in_parts(x) {
            return map(x, 0..rows);
        }
        let mut result: Option<Tensor> = None;
        for part in ops::blocks(rows, PART) {
            let y = map(&x.narrow(0, part.start, part.len())?, part.clone())?;
            let all = match result.take() {
                Some(all) => all,
                None => Tensor::zeros((rows, y.dim(1)?), y.dtype(), y.device())?,
            };
            all.slice_set(&y, 0, part.start)?;
            result = Some(all);
        }
        result.map_or_else(|| map(x, 0..rows), Ok)
    }
}

/// Sites of word dropout, beyond those of any network.
const WORD_SITES: u64 = 1 << 32;

/// A language of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// Rows that go through a layer together in evaluation; no batch of sentences has more unless it was asked for.
const PART: usize = 4096;

/// The output projection: logits = states · tableᵀ + bias.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[V, d]`.
    pub table: Tensor,
    /// The table laid out for products, of a model that is only used; else nothing.
    pub prepacked: Arc<[Prepacked]>,
    /// `[V]`, trained; of the Transformer only with `model.output_bias`.
    pub bias: Option<Tensor>,
    /// `<pad>`: what the decoder reads first; never predicted, its logit is masked in loss and search.
    pub pad: u32,
}

/// The encoder's result for a packed batch of sources.
#[derive(Clone, Debug)]
pub struct Memory {
    /// `[source tokens, d]`.
    pub states: Tensor,
    /// Borders of the sentences in `states`.
    pub offsets: Arc<Vec<usize>>,
}

/// An encoder-decoder over packed batches.
pub trait Model: Send + Sync {
    fn params(&self) -> &ParamSet;

    fn output(&self) -> Output;

    /// Encoder states of the sources.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn encode(&self, source: &Sequences, forward: &Forward) -> Result<Memory>;

    /// Decoder states `[target tokens, d]` for all positions at once, `input` being the labels shifted right.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn decode(&self, memory: &Memory, input: &Sequences, forward: &Forward) -> Result<Tensor>;

    /// Where each target position looks: the row of `memory` with the largest weight in the last layer's attention, mean
    /// over its heads (Transformer), or in the attention of the recurrence (RNN). `input`: the labels shifted right. No
    /// dropout.
    ///
    /// # Errors
    /// Shape or memory errors of candle; a model that has no attention.
    fn alignment(&self, memory: &Memory, input: &Sequences) -> Result<Vec<Strongest>> {
        let _ = (memory, input);
        candle_core::bail!("this model has no attention to take pairs of words from")
    }

    /// This model for use alone, with weights laid out for products once. They must not change any more; those that nothing
    /// else needs are freed unless another handle ([`Model::share`]) holds them, and [`Model::params`] is empty. On a GPU, or
    /// where a model does not know how, as it is.
    ///
    /// # Errors
    /// Memory errors of candle.
    fn prepacked(self: Box<Self>) -> Result<Box<dyn Model>>;

    /// Another handle of this model, with the same weights.
    fn share(&self) -> Box<dyn Model>;

    /// Begins step-by-step decoding: one row a sentence of `memory`.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn begin(&self, memory: &Memory) -> Result<Box<dyn StepState>>;
}

impl Output {
    /// With its table laid out for products.
    fn prepacked(self) -> Result<Self> {
        Ok(Output { prepacked: ops::prepacked_table(&self.table)?.into(), ..self })
    }
}

/// Cached decoder state of several hypotheses, one a row. Holds what it needs of the model (cheap tensor handles).
pub trait StepState: Send {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// Advances every row by its last token; returns decoder states `[rows, d]`.
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn step(&mut self, last: &[u32]) -> Result<Tensor>;

    /// Keeps rows `rows[0], rows[1], …` in this order (repeats allowed: beams; missing: finished ones leave).
    ///
    /// # Errors
    /// Shape or memory errors of candle.
    fn select(&mut self, rows: &[usize]) -> Result<()>;
}

/// Builds the model of `config` with weights drawn from a seed, or without one, for weights that a file has
/// ([`ParamSet::new`]).
///
/// # Errors
/// Shape or memory errors of candle.
pub fn build(
    config: &ModelConfig,
    vocabulary: Vocabulary,
    seed: impl Into<Option<u64>>,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn Model>> {
    let params = ParamSet::new(seed, dtype, device);
    match config.kind {
        ModelKind::Transformer => Ok(Box::new(transformer::Transformer::new(config, vocabulary, params)?)),
        ModelKind::Rnn => Ok(Box::new(rnn::Rnn::new(config, vocabulary, params)?)),
    }
}
