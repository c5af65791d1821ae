//! `nmt-train score`: log-probability of given translations, one a line.

use std::io::Write;

use anyhow::Result;

use crate::decode;
use crate::exit::{ExitCode, InputError};
use crate::tokenizer::Tokenizer;
use crate::train::Signals;

use super::args::{CommonArgs, ScoreArgs};
use super::evaluate::lines;
use super::trained;

pub(super) fn score(args: &ScoreArgs, common: &CommonArgs) -> Result<ExitCode> {
    let (sources, targets) = (lines(&args.source)?, lines(&args.target)?);
    if sources.len() != targets.len() {
        return Err(InputError::new(format!(
            "{} has {} lines, {} has {}; they must be line by line the same sentences",
            args.source.display(),
            sources.len(),
            args.target.display(),
            targets.len()
        ))
        .into());
    }
    let run = trained::load(&args.run, &args.checkpoint, common)?;
    let ids = |lines: &[String], tokenizer: &Tokenizer| {
        tokenizer.encode_batch(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let sources = ids(&sources, &run.tokenizers.source)?;
    let pairs: Vec<_> = sources.into_iter().zip(ids(&targets, &run.tokenizers.target)?).collect();
    let batch_size = args.batch_size.unwrap_or(run.config.decode.batch_size).max(1);
    let signals = Signals::install()?;
    let start = run.model.output().masked;
    let scores = decode::score(&[run.model.as_ref()], &pairs, start, batch_size, &mut |_| (), &|| signals.raised())?;
    let mut out = std::io::stdout().lock();
    for score in scores {
        writeln!(out, "{score:.6}")?;
    }
    Ok(ExitCode::Success)
}
