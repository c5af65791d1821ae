//! `[train]`, `[validation]`, `[decode]`, `[checkpoint]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The training loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainConfig {
    /// Size of a batch in `batch_type` units, 1 or more; or "auto": the largest that fits into the memory of the GPU,
    /// tried out at the start with the batch of the most work. The run folder's config has the number found.
    pub batch_size: BatchSize,
    /// "tokens" (target tokens, `</s>` included; batches hold no padding) or "sentences" (pairs).
    pub batch_type: BatchType,
    /// Updates after which training ends; 0 = no limit.
    pub max_updates: u64,
    /// Passes over the training text after which training ends; 0 = no limit.
    pub max_epochs: u64,
    /// Hours of this process after which it saves and exits with code 75, to be resumed; 0 = no limit.
    pub max_hours: f64,
    /// Micro-batches whose gradients are summed for one update. 1 or more.
    pub gradient_accumulation_steps: usize,
    /// Largest norm of the gradient; larger ones are scaled down to it. 0 = off (clipped-adam then uses its max_norm).
    pub clip_grad_norm: f64,
    /// Probability spread evenly over the vocabulary in the training target. In [0, 1).
    pub label_smoothing: f64,
    /// Decay of the exponential moving average of the weights that is validated and saved as the model; 0 = off.
    /// In [0, 1); 0.999 is usual. Early on min(ema_decay, (1 + n) / (10 + n)) is used.
    pub ema_decay: f64,
    /// Number format of activations and products; weights and optimizers are always f32. "f32"; on a GPU also "tf32"
    /// (products of f32 numbers rounded to 10 bits of mantissa) and "bf16" (activations of half the size, sums in f32).
    pub precision: Precision,
    /// Updates between lines of metrics.jsonl and of the plain log. 1 or more.
    pub log_freq: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            batch_size: BatchSize::Of(4096),
            batch_type: BatchType::Tokens,
            max_updates: 0,
            max_epochs: 0,
            max_hours: 0.0,
            gradient_accumulation_steps: 1,
            clip_grad_norm: 0.0,
            label_smoothing: 0.1,
            ema_decay: 0.0,
            precision: Precision::F32,
            log_freq: 100,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BatchType {
    Tokens,
    Sentences,
}

/// Size of a batch: a number, or what the memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum BatchSize {
    Auto,
    Of(usize),
}

impl BatchSize {
    /// The number; `otherwise` where it is still to be found.
    pub fn or(self, otherwise: usize) -> usize {
        match self {
            BatchSize::Of(size) => size,
            BatchSize::Auto => otherwise,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    F32,
    Tf32,
    Bf16,
}

/// How often: TOML writes `1000` or "1000u" (updates), "2e" (epochs), or 0 (only at the end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Every {
    AtEnd,
    Updates(u64),
    Epochs(u64),
}

/// Validation during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ValidationConfig {
    /// When: a number of updates, "2e" for every second epoch, 0 = only at the end.
    pub valid_freq: Every,
    /// What is measured: any of "nll", "bleu", "chrf". Without bleu and chrf nothing is translated.
    pub metrics: Vec<Metric>,
    /// Beam of the translations made for bleu and chrf; 1 = greedy. 1 or more, 1000 at most.
    pub beam_size: usize,
    /// Validations without improvement of early_stopping_metric after which training ends; 0 = never.
    pub early_stopping: u32,
    /// Metric that chooses the best checkpoint and stops early; one of `metrics`.
    pub early_stopping_metric: Metric,
    /// How BLEU cuts lines into words, for validation, test and `nmt-train evaluate`: "13a", "zh", "intl", "char" or "none"
    /// as in sacreBLEU, or "spm:FILE", the pieces of a SentencePiece model (flores200). Empty: zh for the target language
    /// "zh", char for "ja" and "ko", else 13a.
    pub tokenize: String,
    /// Sample translations shown after each validation. 0 or more.
    pub samples: usize,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        ValidationConfig {
            valid_freq: Every::Updates(1000),
            metrics: vec![Metric::Nll, Metric::Bleu, Metric::Chrf],
            beam_size: 1,
            early_stopping: 0,
            early_stopping_metric: Metric::Nll,
            tokenize: String::new(),
            samples: 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Negative log-likelihood a target token, unsmoothed; lower is better.
    Nll,
    /// BLEU of the translations; higher is better.
    Bleu,
    /// chrF2 of the translations; higher is better.
    Chrf,
}

impl Metric {
    /// Whether a smaller value is better.
    pub fn lower_is_better(self) -> bool {
        self == Metric::Nll
    }

    /// Its name in config, metrics.jsonl and reports.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Nll => "nll",
            Metric::Bleu => "bleu",
            Metric::Chrf => "chrf",
        }
    }
}

/// Translation: the test after training, and the defaults of `nmt-train translate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DecodeConfig {
    /// Hypotheses kept a step; 1 = greedy. 1 or more, 1000 at most.
    pub beam_size: usize,
    /// Exponent `a` of the length penalty; 0 = off. 0 or more.
    pub length_penalty: f64,
    /// Formula: "length" (score / length^a, as Marian and fairseq) or "gnmt" (score / ((5 + length) / 6)^a).
    pub length_penalty_type: LengthPenalty,
    /// Longest translation in tokens: this factor × source tokens + 10. Above 0, 1000 at most.
    pub max_length_factor: f64,
    /// Source tokens decoded together. 1 or more.
    pub batch_size: usize,
}

impl Default for DecodeConfig {
    fn default() -> Self {
        DecodeConfig {
            beam_size: 5,
            length_penalty: 1.0,
            length_penalty_type: LengthPenalty::Length,
            max_length_factor: 2.0,
            batch_size: 2048,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LengthPenalty {
    Length,
    Gnmt,
}

/// What is kept on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointConfig {
    /// When: a number of updates, "1e" for every epoch, 0 = only at the end and at a stop.
    pub save_freq: Every,
    /// Newest checkpoints kept. 1 or more.
    pub keep_last: usize,
    /// Best checkpoints kept, by validation.early_stopping_metric. 0 or more.
    pub keep_best: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { save_freq: Every::Updates(1000), keep_last: 3, keep_best: 1 }
    }
}
