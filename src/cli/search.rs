//! What the command line changes of how a run's model translates.

use anyhow::Result;

use crate::config::{DecodeConfig, LARGEST_BEAM};
use crate::decode::Options;
use crate::exit::{InputError, UsageError};
use crate::run::Usable;
use crate::tokenizer::Tokenizer;

use super::args::{DecodeArgs, SamplingArgs};

/// The option for `decode.batch_size`.
pub(super) const BATCH: &str = "--max-batch-tokens";

/// What is configured, with what the command line changes.
pub(super) fn search_options(run: &Usable, args: &DecodeArgs) -> Result<Options> {
    let config = sampling_config(&run.config.decode, args)?;
    let mut options = Options::new(&config, run.tokenizers.target.eos_id(), run.model.output().pad);
    options.beam_size = args.beam.unwrap_or(options.beam_size);
    options.batch_size = args.batch_size.unwrap_or(options.batch_size);
    options.no_repeat_ngram_size = args.no_repeat_ngram_size.unwrap_or(options.no_repeat_ngram_size);
    options.penalty.kind = args.length_penalty_type.unwrap_or(options.penalty.kind);
    options.penalty.exponent = length_penalty(args.length_penalty.unwrap_or(options.penalty.exponent))?;
    at_least_one("--beam", options.beam_size, LARGEST_BEAM)?;
    at_least_one(BATCH, options.batch_size, usize::MAX)?;
    Ok(options)
}

/// The config with what the command line says of sampling.
fn sampling_config(config: &DecodeConfig, args: &DecodeArgs) -> Result<DecodeConfig> {
    let SamplingArgs { sampling, top_k, top_p, temperature, seed } = args.sampling;
    let sampling = sampling.unwrap_or(config.sampling);
    let of_sampling = [
        ("--top-k", top_k.is_some()),
        ("--top-p", top_p.is_some()),
        ("--temperature", temperature.is_some()),
        ("--seed", seed.is_some()),
    ];
    if let Some((option, _)) = of_sampling.iter().find(|(_, given)| *given && !sampling) {
        return Err(UsageError(format!("{option} needs --sampling: a search draws nothing")).into());
    }
    let of_search = [("--beam", args.beam.is_some()), ("--no-repeat-ngram-size", args.no_repeat_ngram_size.is_some())];
    if let Some((option, _)) = of_search.iter().find(|(_, given)| *given && sampling) {
        return Err(UsageError(format!("{option} is of a search; with --sampling nothing is searched")).into());
    }
    let config = DecodeConfig {
        sampling,
        top_k: top_k.unwrap_or(config.top_k),
        top_p: top_p.unwrap_or(config.top_p),
        temperature: temperature.unwrap_or(config.temperature),
        seed: seed.unwrap_or(config.seed),
        ..config.clone()
    };
    if !(config.top_p > 0.0 && config.top_p <= 1.0) {
        return Err(InputError::new("--top-p must be in (0, 1]").into());
    }
    if !(config.temperature > 0.0 && config.temperature.is_finite()) {
        let what = "--temperature must be above 0; for the most probable token of each step leave --sampling out and give --beam 1";
        return Err(InputError::new(what).into());
    }
    Ok(config)
}

/// Refuses an exponent that is none.
pub(super) fn length_penalty(exponent: f64) -> Result<f64, InputError> {
    match exponent >= 0.0 && exponent.is_finite() {
        true => Ok(exponent),
        false => Err(InputError::new("--length-penalty must be 0 or more")),
    }
}

/// Refuses a number of 0, and one above `most`.
pub(super) fn at_least_one(option: &str, n: usize, most: usize) -> Result<(), InputError> {
    match n {
        0 => Err(InputError::new(format!("{option} must be 1 or more"))),
        n if n > most => Err(InputError::new(format!("{option} must be {most} at most, not {n}"))),
        _ => Ok(()),
    }
}

/// Lines as a model reads them.
pub(super) fn encode(tokenizer: &Tokenizer, lines: &[String]) -> Result<Vec<Vec<u32>>> {
    Ok(tokenizer.encode_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>())?)
}
