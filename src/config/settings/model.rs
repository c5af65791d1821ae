//! `[model]`.

use super::limits;
use super::{Checks, Config};
use crate::kinds::{Activation, Cell};

settings! {
    /// The encoder-decoder.
    pub struct ModelConfig {
        /// "transformer" (Vaswani et al. 2017) or "rnn" (Bahdanau et al. 2014).
        pub kind: ModelKind = ModelKind::Transformer,
        /// Layers of encoder and decoder, each. 1 or more.
        pub layers: usize = 6,
        /// Encoder layers; 0 = `layers`.
        pub encoder_layers: usize = 0,
        /// Decoder layers; 0 = `layers`.
        pub decoder_layers: usize = 0,
        /// Width of the Transformer. A multiple of 2 × heads.
        pub d_model: usize = 512,
        /// Inner width of the Transformer's feed-forward layers. 1 or more.
        pub d_ff: usize = 2048,
        /// Attention heads. 1 or more.
        pub heads: usize = 8,
        /// Activation of the feed-forward layers: "relu", "gelu" or "swish".
        pub activation: Activation = Activation::Relu,
        /// Layer normalization after ("post", what Marian models use) or before ("pre") each sublayer.
        pub norm: Norm = Norm::Post,
        /// Embedding tables shared: "all" (source, target, output), "decoder" (target, output) or "none".
        pub tied_embeddings: TiedEmbeddings = TiedEmbeddings::All,
        /// A trained bias on the logits of the Transformer, as Marian's models have (the RNN always has one).
        pub output_bias: bool = false,
        /// Word vectors for the source table: text in fastText, word2vec or GloVe form, width d_model (or
        /// rnn.embedding_size); empty = none.
        pub pretrained_embeddings: String = String::new(),
        /// Word vectors for the target table; empty = none.
        pub pretrained_target_embeddings: String = String::new(),
        /// Begin with the weights of a trained model: a run folder, a Hugging Face folder of a Marian model, or
        /// `hf://OWNER/NAME[@REVISION]`. What this section says of sizes is then taken from there; dropout is not. Empty =
        /// weights are drawn.
        pub init_from: String = String::new(),
        /// Also take the tokenizer of init_from; false: `[tokenizer]` says which, and rows of the embedding tables are
        /// taken over for the pieces that both have.
        pub init_tokenizer: bool = true,
        /// Share of values set to zero in each usual place while training. In [0, 1).
        pub dropout: f64 = 0.1,
        /// Dropout of attention weights; unset = `dropout`. In [0, 1).
        pub attention_dropout: Option<f64> = None,
        /// Dropout inside feed-forward layers; unset = `dropout`. In [0, 1).
        pub activation_dropout: Option<f64> = None,
        /// Dropout of embeddings; unset = `dropout`. In [0, 1).
        pub embedding_dropout: Option<f64> = None,
        /// Share of source tokens whose embedding is set to zero as a whole while training, position kept, the others scaled by
        /// 1/(1 − share); each token of a sentence for itself (Sennrich et al. 2016, "Edinburgh Neural Machine Translation
        /// Systems for WMT 16"; Marian's dropout-src). In [0, 1).
        pub source_word_dropout: f64 = 0.0,
        /// The same of target tokens, as the decoder reads them (Marian's dropout-trg). In [0, 1).
        pub target_word_dropout: f64 = 0.0,
        pub rnn: RnnConfig = RnnConfig::default(),
    }
}

impl ModelConfig {
    /// Encoder layers in force.
    pub fn encoder_layers(&self) -> usize {
        if self.encoder_layers == 0 {
            self.layers
        } else {
            self.encoder_layers
        }
    }

    /// Decoder layers in force.
    pub fn decoder_layers(&self) -> usize {
        if self.decoder_layers == 0 {
            self.layers
        } else {
            self.decoder_layers
        }
    }

    /// Dropout of attention weights in force.
    pub fn attention_dropout(&self) -> f64 {
        self.attention_dropout.unwrap_or(self.dropout)
    }

    /// Dropout inside feed-forward layers in force.
    pub fn activation_dropout(&self) -> f64 {
        self.activation_dropout.unwrap_or(self.dropout)
    }

    /// Dropout of embeddings in force.
    pub fn embedding_dropout(&self) -> f64 {
        self.embedding_dropout.unwrap_or(self.dropout)
    }

    /// Whether anything is dropped in training.
    pub fn drops_out(&self) -> bool {
        let words = [self.source_word_dropout, self.target_word_dropout];
        let of_transformer = [self.attention_dropout(), self.activation_dropout()];
        let inner = if self.kind == ModelKind::Transformer { of_transformer } else { [0.0; 2] };
        let everywhere = [self.dropout, self.embedding_dropout()];
        [words, inner, everywhere].as_flattened().iter().any(|&p| p > 0.0)
    }

    pub(super) fn rules(&self, check: &mut Checks, config: &Config) {
        let hidden = self.rnn.hidden_size;
        check.rule(hidden < 2 || hidden.is_multiple_of(2), &["model.rnn.hidden_size"], "must be even, 2 or more");
        let unit = 2 * self.heads.max(1);
        let transformer = self.kind == ModelKind::Transformer;
        check.rule(
            self.d_model > 0 && (!transformer || self.d_model.is_multiple_of(unit)),
            &["model.d_model", "model.heads"],
            format!("must be a multiple of 2 × heads = {unit}"),
        );
        if let Some((keys, text)) = limits::beyond_memory(self) {
            check.rule(false, keys, text);
        }
        let all = self.tied_embeddings == TiedEmbeddings::All;
        check.rule(
            self.pretrained_target_embeddings.is_empty() || !all,
            &["model.pretrained_target_embeddings", "model.tied_embeddings"],
            r#"must be empty with tied_embeddings = "all": the one table is filled from model.pretrained_embeddings"#,
        );
        let tokenizer = &config.tokenizer;
        let inherits = !self.init_from.is_empty() && self.init_tokenizer;
        check.rule(
            !inherits || (tokenizer.path.is_empty() && tokenizer.target_path.is_empty()),
            &["tokenizer.path", "model.init_from", "model.init_tokenizer"],
            "must be empty with model.init_from, whose tokenizer is taken; or set model.init_tokenizer = false",
        );
        check.rule(
            !all || !tokenizer.path.is_empty() || tokenizer.joint || inherits,
            &["model.tied_embeddings", "tokenizer.joint", "tokenizer.path"],
            r#"must be "decoder" or "none" when tokenizer.joint = false: two vocabularies can not share one table"#,
        );
        check.rule(
            !all || tokenizer.target_path.is_empty() || tokenizer.target_path == tokenizer.path,
            &["model.tied_embeddings", "tokenizer.target_path"],
            r#"must be "decoder" or "none" with tokenizer.target_path: two vocabularies can not share one table"#,
        );
    }

    /// Width of the embedding tables.
    pub fn embedding_size(&self) -> usize {
        match self.kind {
            ModelKind::Transformer => self.d_model,
            ModelKind::Rnn => self.rnn.embedding_size,
        }
    }
}

settings! {
    /// The recurrent model, used when `model.kind = "rnn"`.
    pub struct RnnConfig {
        /// "gru" (Cho et al. 2014) or "lstm".
        pub cell: Cell = Cell::Gru,
        /// "bahdanau" (additive; the context enters the recurrence) or "luong" (general; after the recurrence).
        pub attention: AttentionKind = AttentionKind::Bahdanau,
        /// Width of the decoder's state; the encoder has half of it in each direction. Even, 2 or more.
        pub hidden_size: usize = 512,
        /// Width of the embedding tables. 1 or more.
        pub embedding_size: usize = 256,
    }
}

choices! {
    pub enum ModelKind {
        Transformer = "transformer",
        Rnn = "rnn",
    }
}

choices! {
    pub enum Norm {
        Post = "post",
        Pre = "pre",
    }
}

choices! {
    pub enum TiedEmbeddings {
        All = "all",
        Decoder = "decoder",
        None = "none",
    }
}

choices! {
    pub enum AttentionKind {
        Bahdanau = "bahdanau",
        Luong = "luong",
    }
}
