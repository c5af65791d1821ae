//! What the command line changes of a run's search, and the search itself.

use anyhow::Result;

use crate::config::LARGEST_BEAM;
use crate::decode::{self, Hypothesis, Options};
use crate::exit::InputError;
use crate::model::Model;
use crate::run::Usable;
use crate::tokenizer::Tokenizer;

use super::args::DecodeArgs;

/// The option for `decode.batch_size`.
pub(super) const BATCH: &str = "--max-batch-tokens";

/// The configured search with what the command line changes.
pub(super) fn search_options(run: &Usable, args: &DecodeArgs) -> Result<Options> {
    let mut options = Options::new(&run.config.decode, run.tokenizers.target.eos_id(), run.model.output().pad);
    options.beam_size = args.beam.unwrap_or(options.beam_size);
    options.batch_size = args.batch_size.unwrap_or(options.batch_size);
    options.penalty.kind = args.length_penalty_type.unwrap_or(options.penalty.kind);
    options.penalty.exponent = length_penalty(args.length_penalty.unwrap_or(options.penalty.exponent))?;
    at_least_one("--beam", options.beam_size, LARGEST_BEAM)?;
    at_least_one(BATCH, options.batch_size, usize::MAX)?;
    Ok(options)
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

/// Translations, best first each; a line without ids gives one empty translation. `on_progress` gets the number of lines
/// done.
pub(super) fn search(
    runs: &[Usable],
    sources: &[Vec<u32>],
    options: &Options,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Hypothesis>>> {
    let models: Vec<&dyn Model> = runs.iter().map(|run| run.model.as_ref()).collect();
    Ok(decode::translate(&models, sources, options, on_progress, &|| false)?)
}
