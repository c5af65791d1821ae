//! How a run's model translates: searching, drawing; and among which settings the best is looked for.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::Args;
use std::path::PathBuf;

use super::{bleu_tokenizer, one_of};
use crate::config::LengthPenalty;
use crate::kinds::Precision;
use crate::scores::Metric;

/// Which weights, in which arithmetic.
#[derive(Clone, Debug, Args)]
pub struct WeightsArgs {
    /// Which weights: best, latest, average, or the number of an update
    #[arg(long, value_name = "WHICH", default_value = "best")]
    pub checkpoint: String,
    /// Precision of products; bf16 and int8 where a CPU has instructions for them, bf16 and tf32 on a GPU [default: f32
    /// on a CPU, the run's train.precision on a GPU]
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
}

/// How a run's model translates; what is not given is taken from the run's config.
#[derive(Clone, Debug, Args)]
pub struct DecodeArgs {
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Hypotheses kept a step; 1 = greedy, 1000 at most
    #[arg(short, long, value_name = "N")]
    pub beam: Option<usize>,
    /// Exponent of the length penalty; 0 = off
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub length_penalty: Option<f64>,
    /// Formula of the length penalty: length (score / length^A) or gnmt (score / ((5 + length) / 6)^A)
    #[arg(long, value_name = "NAME", value_parser = length_penalty_type())]
    pub length_penalty_type: Option<LengthPenalty>,
    /// No sequence of N tokens comes twice in a translation; 0 = off [default: decode.no_repeat_ngram_size]
    #[arg(long, value_name = "N")]
    pub no_repeat_ngram_size: Option<usize>,
    /// Source tokens × beam translated together; a longer line goes alone [default: decode.batch_size]
    #[arg(long = "max-batch-tokens", alias = "batch-size", value_name = "N")]
    pub batch_size: Option<usize>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Translations that are drawn; what is not given is taken from the run's config.
#[derive(Clone, Debug, Args)]
pub struct SamplingArgs {
    /// Draw each token from the model's distribution instead of searching; --sampling=false searches where the run's config
    /// says otherwise
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sampling: Option<bool>,
    /// Draw from the K most probable tokens only; 0 = all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw from the fewest most probable tokens that together have probability P; 1 = all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Probabilities are raised to 1/T before a token is drawn: below 1 sharper, above 1 flatter
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Seed of sampling; a sample is a function of seed, line and number alone [default: decode.seed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub struct TuneArgs {
    /// Run folders; several make an ensemble
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Beams to try
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,5,8,12")]
    pub beam: Vec<usize>,
    /// Exponents of the length penalty to try; 0 = off
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "0,0.4,0.6,0.8,1,1.2,1.4,1.6,2",
        allow_negative_numbers = true
    )]
    pub length_penalty: Vec<f64>,
    /// Formulas of the length penalty to try: length, gnmt [default: the run's]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = length_penalty_type())]
    pub length_penalty_type: Vec<LengthPenalty>,
    /// What the best is best in
    #[arg(short, long, value_name = "NAME", default_value = "bleu", value_parser = one_of(Metric::of_text()))]
    pub metric: Metric,
    /// Text to translate instead of the validation text; "-" = stdin. Never test text
    #[arg(long, value_name = "FILE", requires = "reference")]
    pub source: Option<PathBuf>,
    /// Its translations made by people; several times for several references a line
    #[arg(long, value_name = "FILE", requires = "source")]
    pub reference: Vec<PathBuf>,
    /// Words of BLEU, as of `evaluate` [default: validation.tokenize of the run]
    #[arg(long, value_name = "NAME", value_parser = bleu_tokenizer)]
    pub tokenize: Option<String>,
    /// Ignore case
    #[arg(long)]
    pub lowercase: bool,
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// Source tokens × beam translated together; a longer line goes alone [default: decode.batch_size]
    #[arg(long = "max-batch-tokens", alias = "batch-size", value_name = "N")]
    pub batch_size: Option<usize>,
    /// Keep the best setting in the run's config, for translate and evaluate
    #[arg(long)]
    pub write: bool,
    /// Write all settings and the best, for programs; "-" = stdout, instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Reads the name of a formula of the length penalty.
pub(super) fn length_penalty_type() -> impl TypedValueParser<Value = LengthPenalty> {
    let names = || LengthPenalty::ALL.iter().map(|kind| kind.name());
    PossibleValuesParser::new(names()).try_map(|name| {
        let found = LengthPenalty::ALL.iter().copied().find(|kind| kind.name() == name);
        found.ok_or("not a formula of the length penalty")
    })
}
