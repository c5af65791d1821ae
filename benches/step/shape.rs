//! What is trained: model, sizes, batch; presets and their changes.

use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Transformer,
    Gru,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    /// Transformer 3+3, d 256, ff 1024, 4 heads, V 8000, 128 × 16 tokens: 92.8 GFLOP.
    Reference,
    /// GRU, 2 layers of 512, Bahdanau attention, V 8000, 128 × 16 tokens.
    Gru,
    /// Transformer-base: 6+6, d 512, ff 2048, 8 heads, V 32000, 32 × 64 tokens.
    Base,
}

/// Sizes; those not given are the preset's.
#[derive(Args, Clone, Debug)]
pub(crate) struct ShapeArgs {
    #[arg(long, value_enum, default_value = "reference")]
    preset: Preset,
    #[arg(long)]
    model: Option<Kind>,
    /// Width: of the Transformer; of embeddings and states of the GRU.
    #[arg(long)]
    d: Option<usize>,
    #[arg(long)]
    heads: Option<usize>,
    #[arg(long)]
    ff: Option<usize>,
    /// Layers of encoder and decoder, each.
    #[arg(long)]
    layers: Option<usize>,
    #[arg(long)]
    vocab: Option<usize>,
    /// Sentence pairs.
    #[arg(long)]
    batch: Option<usize>,
    /// Tokens of each sentence.
    #[arg(long)]
    len: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) d: usize,
    pub(crate) heads: usize,
    pub(crate) ff: usize,
    pub(crate) layers: usize,
    pub(crate) vocab: usize,
    pub(crate) batch: usize,
    pub(crate) len: usize,
}

impl ShapeArgs {
    pub(crate) fn shape(&self) -> Shape {
        let (kind, [d, heads, ff, layers, vocab, batch, len]) = match self.preset {
            Preset::Reference => (Kind::Transformer, [256, 4, 1024, 3, 8000, 128, 16]),
            Preset::Gru => (Kind::Gru, [512, 1, 0, 2, 8000, 128, 16]),
            Preset::Base => (Kind::Transformer, [512, 8, 2048, 6, 32000, 32, 64]),
        };
        Shape {
            kind: self.model.unwrap_or(kind),
            d: self.d.unwrap_or(d),
            heads: self.heads.unwrap_or(heads),
            ff: self.ff.unwrap_or(ff),
            layers: self.layers.unwrap_or(layers),
            vocab: self.vocab.unwrap_or(vocab),
            batch: self.batch.unwrap_or(batch),
            len: self.len.unwrap_or(len),
        }
    }
}

impl Shape {
    /// Target tokens of a step; as many source tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.batch * self.len
    }

    /// GFLOP of the matrix products of one step; `None` where they are not counted.
    pub(crate) fn gflop(&self) -> Option<f64> {
        let &Shape { d, ff, layers, vocab, .. } = self;
        let encoder = 4 * d * d + 2 * d * ff;
        let decoder = 8 * d * d + 2 * d * ff;
        let products = layers * (encoder + decoder) + vocab * d;
        (self.kind == Kind::Transformer).then(|| 6e-9 * products as f64 * self.tokens() as f64)
    }

    /// As arguments of a server.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let kind = match self.kind {
            Kind::Transformer => "transformer",
            Kind::Gru => "gru",
        };
        let sizes = [
            ("d", self.d),
            ("heads", self.heads),
            ("ff", self.ff),
            ("layers", self.layers),
            ("vocab", self.vocab),
            ("batch", self.batch),
            ("len", self.len),
        ];
        let sizes = sizes.into_iter().flat_map(|(name, size)| [format!("--{name}"), size.to_string()]);
        ["--model".to_string(), kind.to_string()].into_iter().chain(sizes).collect()
    }
}
