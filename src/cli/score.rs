//! `nmt-train score`: log-probability of given translations, one a line.

use std::io::Write;

use anyhow::Result;

use crate::decode;
use crate::exit::ExitCode;

use super::args::{CommonArgs, ScoreArgs};
use super::text::{aligned, Lengths};
use super::trained;
use super::translate::{at_least_one, encode};

pub(super) fn score(args: &ScoreArgs, common: &CommonArgs) -> Result<ExitCode> {
    let texts = aligned(&[&args.source, &args.target])?;
    let runs = [trained::load(&args.run, &args.checkpoint, common)?];
    let run = &runs[0];
    let batch_size = args.batch_size.unwrap_or(run.config.decode.batch_size);
    at_least_one("--batch-size", batch_size, usize::MAX)?;
    let sources = encode(&run.tokenizers.source, &texts[0])?;
    let targets: Vec<&str> = texts[1].iter().map(String::as_str).collect();
    let targets = run.tokenizers.target.encode_labels(&targets)?;
    for ids in [&sources, &targets] {
        let mut lengths = Lengths::of(&runs);
        lengths.look(ids, 0);
        lengths.tell(common);
    }
    let pairs: Vec<_> = sources.into_iter().zip(targets).collect();
    let start = run.model.output().pad;
    let scores = decode::log_likelihoods(&[run.model.as_ref()], &pairs, start, batch_size, &mut |_| (), &|| false)?;
    let text: String = scores.iter().map(|score| format!("{score:.6}\n")).collect();
    Ok(std::io::stdout().lock().write_all(text.as_bytes()).map(|()| ExitCode::Success)?)
}
