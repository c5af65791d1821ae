//! `config.json` and `generation_config.json` of Hugging Face's MarianMT: one type for each, written at export and read
//! at import.

use serde::{Deserialize, Serialize};

use crate::config::{DecodeConfig, ModelConfig, ModelKind, Norm, TiedEmbeddings, LARGEST_BEAM};
use crate::kinds::Activation;
use crate::model::Vocabulary;

/// What keeps a model from being MarianMT's, or MarianMT's from being one of ours.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MarianError {
    /// A key of a config.json that our Transformer can not follow.
    #[error("config.json: {key} = {value}: {why}")]
    Key { key: &'static str, value: String, why: &'static str },
    #[error("config.json: {0}")]
    Json(String),
    #[error(
        "an RNN (model.kind = \"rnn\") is a model of this program only: neither Hugging Face nor CTranslate2 has its \
         counterpart"
    )]
    Rnn,
    #[error("model.norm = \"pre\": MarianMT normalizes after each sublayer only; --format ctranslate2 holds both")]
    PreNorm,
    #[error(
        "the vocabularies have {source_size} and {target_size} tokens: MarianMT has one padding id, the last of both; \
         --format ctranslate2 holds separate vocabularies"
    )]
    Paddings { source_size: usize, target_size: usize },
}

/// `config.json` of a Marian model. What a file does not say is as in transformers' `MarianConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MarianConfig {
    /// Every config.json of transformers has it.
    #[serde(default = "String::new")]
    pub model_type: String,
    pub architectures: Vec<String>,
    pub is_encoder_decoder: bool,
    pub vocab_size: usize,
    /// `None` = `vocab_size`.
    pub decoder_vocab_size: Option<usize>,
    pub d_model: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    /// Another name of `encoder_layers`, which transformers takes over it where both stand.
    #[serde(skip_deserializing)]
    pub num_hidden_layers: usize,
    pub encoder_attention_heads: usize,
    pub decoder_attention_heads: usize,
    pub encoder_ffn_dim: usize,
    pub decoder_ffn_dim: usize,
    /// "relu", "gelu", "swish" or "silu".
    pub activation_function: String,
    /// Of embeddings and of what sublayers add.
    pub dropout: f64,
    pub attention_dropout: f64,
    pub activation_dropout: f64,
    /// Longest text in tokens: rows of the table of sinusoids, which is computed and in no file.
    pub max_position_embeddings: usize,
    pub scale_embedding: bool,
    pub static_position_embeddings: bool,
    pub normalize_before: bool,
    pub normalize_embedding: bool,
    pub add_final_layer_norm: bool,
    pub share_encoder_decoder_embeddings: bool,
    /// Whether the output projection is the decoder's table.
    pub tie_word_embeddings: bool,
    pub pad_token_id: u32,
    pub eos_token_id: u32,
    pub bos_token_id: Option<u32>,
    pub decoder_start_token_id: u32,
    pub forced_eos_token_id: Option<u32>,
    pub use_cache: bool,
    pub init_std: f64,
    /// Type of the weights beside it. transformers calls it `dtype` since 4.56 and still reads this name.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub torch_dtype: Option<String>,
}

impl Default for MarianConfig {
    fn default() -> Self {
        MarianConfig {
            model_type: KIND.to_string(),
            architectures: vec!["MarianMTModel".to_string()],
            is_encoder_decoder: true,
            vocab_size: 58_101,
            decoder_vocab_size: None,
            d_model: 1024,
            encoder_layers: 12,
            decoder_layers: 12,
            num_hidden_layers: 12,
            encoder_attention_heads: 16,
            decoder_attention_heads: 16,
            encoder_ffn_dim: 4096,
            decoder_ffn_dim: 4096,
            activation_function: "gelu".to_string(),
            dropout: 0.1,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            max_position_embeddings: 1024,
            scale_embedding: false,
            static_position_embeddings: true,
            normalize_before: false,
            normalize_embedding: false,
            add_final_layer_norm: false,
            share_encoder_decoder_embeddings: true,
            tie_word_embeddings: true,
            pad_token_id: 58_100,
            eos_token_id: 0,
            bos_token_id: None,
            decoder_start_token_id: 58_100,
            forced_eos_token_id: Some(0),
            use_cache: true,
            init_std: 0.02,
            torch_dtype: None,
        }
    }
}

const KIND: &str = "marian";

impl MarianConfig {
    /// Of a model of ours whose lines end with `eos`; `positions`: longest text in tokens.
    ///
    /// # Errors
    /// RNN, pre-norm, vocabularies whose last ids differ.
    pub fn of(model: &ModelConfig, vocabulary: Vocabulary, eos: u32, positions: usize) -> Result<Self, MarianError> {
        let Vocabulary { source_size, target_size, source_pad, target_pad } = vocabulary;
        match (model.kind, model.norm) {
            (ModelKind::Rnn, _) => return Err(MarianError::Rnn),
            (_, Norm::Pre) => return Err(MarianError::PreNorm),
            _ if source_pad != target_pad => return Err(MarianError::Paddings { source_size, target_size }),
            _ => {}
        }
        let (encoder_layers, decoder_layers) = (model.encoder_layers(), model.decoder_layers());
        Ok(MarianConfig {
            vocab_size: source_size,
            decoder_vocab_size: Some(target_size),
            d_model: model.d_model,
            encoder_layers,
            decoder_layers,
            num_hidden_layers: encoder_layers,
            encoder_attention_heads: model.heads,
            decoder_attention_heads: model.heads,
            encoder_ffn_dim: model.d_ff,
            decoder_ffn_dim: model.d_ff,
            activation_function: activation_name(model.activation).to_string(),
            dropout: model.dropout,
            attention_dropout: model.attention_dropout(),
            activation_dropout: model.activation_dropout(),
            max_position_embeddings: positions,
            scale_embedding: true,
            share_encoder_decoder_embeddings: model.tied_embeddings == TiedEmbeddings::All,
            tie_word_embeddings: model.tied_embeddings != TiedEmbeddings::None,
            pad_token_id: target_pad,
            eos_token_id: eos,
            bos_token_id: Some(0),
            decoder_start_token_id: target_pad,
            forced_eos_token_id: Some(eos),
            ..MarianConfig::default()
        })
    }

    /// Reads a `config.json`; keys that are not ours are left alone.
    ///
    /// # Errors
    /// Not JSON, a value of another type (named by its line), a model that is not Marian's.
    pub fn parse(text: &str) -> Result<Self, MarianError> {
        let config: MarianConfig = serde_json::from_str(text).map_err(|e| MarianError::Json(e.to_string()))?;
        match config.model_type.as_str() {
            KIND => Ok(config),
            "" => Err(MarianError::Json("it has no model_type, so it is none of transformers".to_string())),
            other => Err(refused("model_type", other, "only \"marian\" is read")),
        }
    }

    /// Sizes and padding ids of the vocabularies.
    ///
    /// # Errors
    /// A decoder that does not start from padding, padding that is not the last id, one table of two sizes.
    pub fn vocabulary(&self) -> Result<Vocabulary, MarianError> {
        let (source_size, pad) = (self.vocab_size, self.pad_token_id);
        let target_size = self.decoder_vocab_size.unwrap_or(source_size);
        if self.decoder_start_token_id != pad {
            let why = "our decoder starts from padding, so it must be pad_token_id";
            return Err(refused("decoder_start_token_id", self.decoder_start_token_id, why));
        }
        if self.share_encoder_decoder_embeddings && target_size != source_size {
            return Err(refused("decoder_vocab_size", target_size, "one table for both sides has vocab_size rows"));
        }
        for size in [source_size, target_size] {
            if size == 0 || pad as usize != size - 1 {
                return Err(refused("pad_token_id", pad, "padding must be the last id of each vocabulary"));
            }
        }
        Ok(Vocabulary { source_size, target_size, source_pad: pad, target_pad: pad })
    }
}

/// Sizes, activation, ties and dropout of the Transformer that computes what MarianMT computes with this config. Whether
/// it has an `output_bias` is known from the weights: MarianMT always has one, which may be zeros.
impl TryFrom<&MarianConfig> for ModelConfig {
    type Error = MarianError;

    fn try_from(marian: &MarianConfig) -> Result<Self, MarianError> {
        let flags = [
            ("normalize_before", marian.normalize_before, false, "MarianMT is post-norm"),
            ("normalize_embedding", marian.normalize_embedding, false, "our embeddings have no normalization"),
            ("add_final_layer_norm", marian.add_final_layer_norm, false, "MarianMT is post-norm"),
            ("scale_embedding", marian.scale_embedding, true, "our embeddings are multiplied by √d_model"),
            ("static_position_embeddings", marian.static_position_embeddings, true, "our positions are sinusoids"),
            ("is_encoder_decoder", marian.is_encoder_decoder, true, "a translator has both"),
        ];
        if let Some((key, value, _, why)) = flags.into_iter().find(|(_, value, wanted, _)| value != wanted) {
            return Err(refused(key, value, why));
        }
        let (heads, d_model) = (marian.encoder_attention_heads, marian.d_model);
        if marian.decoder_attention_heads != heads {
            let why = "must be encoder_attention_heads: our model has one number of heads";
            return Err(refused("decoder_attention_heads", marian.decoder_attention_heads, why));
        }
        if marian.decoder_ffn_dim != marian.encoder_ffn_dim {
            let why = "must be encoder_ffn_dim: our model has one inner width";
            return Err(refused("decoder_ffn_dim", marian.decoder_ffn_dim, why));
        }
        if heads == 0 || d_model == 0 || !d_model.is_multiple_of(2 * heads) {
            return Err(refused("d_model", d_model, "must be a multiple of twice encoder_attention_heads"));
        }
        for (key, size) in [
            ("encoder_layers", marian.encoder_layers),
            ("decoder_layers", marian.decoder_layers),
            ("encoder_ffn_dim", marian.encoder_ffn_dim),
        ] {
            if size == 0 {
                return Err(refused(key, size, "must be 1 or more"));
            }
        }
        for (key, share) in [
            ("dropout", marian.dropout),
            ("attention_dropout", marian.attention_dropout),
            ("activation_dropout", marian.activation_dropout),
        ] {
            if !(0.0..1.0).contains(&share) {
                return Err(refused(key, share, "must be in [0, 1)"));
            }
        }
        let layers = marian.encoder_layers;
        Ok(ModelConfig {
            kind: ModelKind::Transformer,
            layers,
            decoder_layers: if marian.decoder_layers == layers { 0 } else { marian.decoder_layers },
            d_model,
            d_ff: marian.encoder_ffn_dim,
            heads,
            activation: activation(&marian.activation_function)?,
            norm: Norm::Post,
            tied_embeddings: ties(marian)?,
            dropout: marian.dropout,
            attention_dropout: Some(marian.attention_dropout),
            activation_dropout: Some(marian.activation_dropout),
            ..ModelConfig::default()
        })
    }
}

fn refused(key: &'static str, value: impl ToString, why: &'static str) -> MarianError {
    MarianError::Key { key, value: value.to_string(), why }
}

fn ties(marian: &MarianConfig) -> Result<TiedEmbeddings, MarianError> {
    match (marian.share_encoder_decoder_embeddings, marian.tie_word_embeddings) {
        (true, true) => Ok(TiedEmbeddings::All),
        (false, true) => Ok(TiedEmbeddings::Decoder),
        (false, false) => Ok(TiedEmbeddings::None),
        (true, false) => {
            let why =
                "with share_encoder_decoder_embeddings = true it must be true: our model shares the two tables with \
                       the output projection or not at all";
            Err(refused("tie_word_embeddings", false, why))
        }
    }
}

/// transformers' name.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::Swish => "swish",
        Activation::Relu | Activation::Identity | Activation::Tanh => "relu",
    }
}

fn activation(name: &str) -> Result<Activation, MarianError> {
    match name {
        "relu" => Ok(Activation::Relu),
        "gelu" => Ok(Activation::Gelu),
        "swish" | "silu" => Ok(Activation::Swish),
        _ => Err(refused("activation_function", name, "known are relu, gelu, swish and silu")),
    }
}

/// `generation_config.json`: how `generate` searches when it is told nothing. Older folders have its keys in
/// `config.json`. What is not said is as in transformers' `GenerationConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Sequences of ids that are never predicted: padding.
    pub bad_words_ids: Option<Vec<Vec<u32>>>,
    pub bos_token_id: Option<u32>,
    pub decoder_start_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    /// Last id of a translation that reaches `max_length`.
    pub forced_eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    /// Of a translation, in tokens, with what the decoder starts from.
    pub max_length: usize,
    pub num_beams: usize,
    /// Exponent `a` of score / length^a.
    pub length_penalty: f64,
    /// No sequence of so many tokens comes twice; 0 = off.
    pub no_repeat_ngram_size: Option<usize>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        GenerationConfig {
            bad_words_ids: None,
            bos_token_id: None,
            decoder_start_token_id: None,
            eos_token_id: None,
            forced_eos_token_id: None,
            pad_token_id: None,
            max_length: 20,
            num_beams: 1,
            length_penalty: 1.0,
            no_repeat_ngram_size: None,
        }
    }
}

impl GenerationConfig {
    /// The search of `decode` for this model, translations of up to `max_length` tokens.
    pub fn of(marian: &MarianConfig, decode: &DecodeConfig, max_length: usize) -> Self {
        GenerationConfig {
            bad_words_ids: Some(vec![vec![marian.pad_token_id]]),
            bos_token_id: marian.bos_token_id,
            decoder_start_token_id: Some(marian.decoder_start_token_id),
            eos_token_id: Some(marian.eos_token_id),
            forced_eos_token_id: marian.forced_eos_token_id,
            pad_token_id: Some(marian.pad_token_id),
            max_length,
            num_beams: decode.beam_size,
            length_penalty: decode.length_penalty,
            no_repeat_ngram_size: Some(decode.no_repeat_ngram_size),
        }
    }
}

/// Beam, length penalty and what may not be repeated; the rest of `[decode]` has no counterpart there.
impl From<&GenerationConfig> for DecodeConfig {
    fn from(generation: &GenerationConfig) -> Self {
        DecodeConfig {
            beam_size: generation.num_beams.clamp(1, LARGEST_BEAM),
            length_penalty: generation.length_penalty.max(0.0),
            no_repeat_ngram_size: generation.no_repeat_ngram_size.unwrap_or(0),
            ..DecodeConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    const VOCABULARY: Vocabulary = Vocabulary { source_size: 100, target_size: 100, source_pad: 99, target_pad: 99 };

    fn model() -> ModelConfig {
        ModelConfig {
            layers: 3,
            decoder_layers: 1,
            d_model: 64,
            heads: 4,
            activation: Activation::Swish,
            attention_dropout: Some(0.0),
            activation_dropout: Some(0.2),
            ..ModelConfig::default()
        }
    }

    /// config.json of a model that changed nothing but `key`.
    fn changed(key: &str, value: Value) -> MarianConfig {
        let config = MarianConfig::of(&model(), VOCABULARY, 2, 1024).unwrap();
        let mut json = serde_json::to_value(config).unwrap();
        json[key] = value;
        MarianConfig::parse(&json.to_string()).unwrap()
    }

    #[test]
    fn a_model_comes_back_as_it_went() {
        for tied in [TiedEmbeddings::All, TiedEmbeddings::Decoder, TiedEmbeddings::None] {
            let ours = ModelConfig { tied_embeddings: tied, ..model() };
            let config = MarianConfig::of(&ours, VOCABULARY, 2, 1024).unwrap();
            let read = MarianConfig::parse(&serde_json::to_string(&config).unwrap()).unwrap();
            assert_eq!(read.vocabulary(), Ok(VOCABULARY));
            assert_eq!(ModelConfig::try_from(&read), Ok(ours));
        }
    }

    #[test]
    fn unknown_keys_are_left_alone_and_defaults_are_those_of_transformers() {
        let config =
            MarianConfig::parse(r#"{"model_type": "marian", "dtype": "x", "torch_dtype": 3, "new": []}"#).unwrap();
        assert_eq!((config.encoder_layers, config.d_model, config.pad_token_id), (12, 1024, 58_100));
        assert_eq!(config.vocabulary().map(|v| v.target_size), Ok(58_101));
        let error = ModelConfig::try_from(&config).unwrap_err().to_string();
        assert_eq!(error, "config.json: scale_embedding = false: our embeddings are multiplied by √d_model");
    }

    #[test]
    fn what_our_transformer_can_not_be_is_refused_by_key_and_value() {
        for (key, value) in [
            ("normalize_before", json!(true)),
            ("normalize_embedding", json!(true)),
            ("add_final_layer_norm", json!(true)),
            ("scale_embedding", json!(false)),
            ("static_position_embeddings", json!(false)),
            ("decoder_attention_heads", json!(2)),
            ("decoder_ffn_dim", json!(7)),
            ("activation_function", json!("tanh")),
            ("d_model", json!(63)),
            ("decoder_layers", json!(0)),
            ("dropout", json!(1.5)),
            ("tie_word_embeddings", json!(false)),
        ] {
            let shown = value.as_str().map_or(value.to_string(), str::to_string);
            let error = ModelConfig::try_from(&changed(key, value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: {key} = {shown}: ")), "{error}");
        }
        for (key, value) in [("decoder_start_token_id", 3), ("pad_token_id", 98), ("decoder_vocab_size", 50)] {
            let mut config = changed(key, value.into());
            if key == "pad_token_id" {
                config.decoder_start_token_id = 98;
            }
            let error = config.vocabulary().unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: {key} = {value}: ")), "{error}");
        }
        let error = |text: &str| MarianConfig::parse(text).unwrap_err().to_string();
        assert_eq!(error(r#"{"model_type": "t5"}"#), "config.json: model_type = t5: only \"marian\" is read");
        assert!(error("{\n\"d_model\": \"wide\"}").contains("line 2"));
        assert!(error("[").starts_with("config.json: "));
    }

    #[test]
    fn what_marian_can_not_be_names_the_format_that_can() {
        let error = |model: &ModelConfig, vocabulary| {
            MarianConfig::of(model, vocabulary, 2, 1024).map(|_| ()).unwrap_err().to_string()
        };
        let pre = error(&ModelConfig { norm: Norm::Pre, ..model() }, VOCABULARY);
        assert!(pre.contains("model.norm") && pre.contains("--format ctranslate2"), "{pre}");
        let rnn = error(&ModelConfig { kind: ModelKind::Rnn, norm: Norm::Pre, ..model() }, VOCABULARY);
        assert!(rnn.contains("neither"), "{rnn}");
        let sizes = error(&model(), Vocabulary { source_size: 90, source_pad: 89, ..VOCABULARY });
        assert!(sizes.contains("90 and 100") && sizes.contains("--format ctranslate2"), "{sizes}");
    }

    #[test]
    fn search_goes_out_and_comes_back() {
        let marian = MarianConfig::of(&model(), VOCABULARY, 2, 1024).unwrap();
        let decode =
            DecodeConfig { beam_size: 4, length_penalty: 0.6, no_repeat_ngram_size: 4, ..DecodeConfig::default() };
        let generation = GenerationConfig::of(&marian, &decode, 512);
        let read: GenerationConfig = serde_json::from_str(&serde_json::to_string(&generation).unwrap()).unwrap();
        assert_eq!(DecodeConfig::from(&read), decode);
        assert_eq!(read.bad_words_ids, Some(vec![vec![99]]));
        assert_eq!(DecodeConfig::from(&GenerationConfig::default()).beam_size, 1);
    }
}
