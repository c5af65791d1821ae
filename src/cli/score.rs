//! `nmt-train score`: scores of given translations, one a line.

use anyhow::Result;

use crate::decode::Penalty;
use crate::exit::ExitCode;
use crate::world::World;

use super::args::{CommonArgs, ScoreArgs};
use super::helpers::Team;
use super::output::print;
use super::say;
use super::search::{at_least_one, encode, length_penalty, BATCH};
use super::text::{aligned, Lengths};
use super::trained;

pub(super) fn score(args: &ScoreArgs, common: &CommonArgs, world: &World) -> Result<ExitCode> {
    let texts = aligned(&[&args.source, &args.target])?;
    let runs = [trained::load(&args.run, &args.weights, common)?.prepacked()?];
    let run = &runs[0];
    let batch_size = args.batch_size.unwrap_or(run.config.decode.batch_size);
    at_least_one(BATCH, batch_size, usize::MAX)?;
    let exponent = length_penalty(args.length_penalty)?;
    let kind = args.length_penalty_type.unwrap_or(run.config.decode.length_penalty_type);
    let penalty = Penalty { kind, exponent };
    let sources = encode(&run.tokenizers.source, &texts[0])?;
    let targets: Vec<&str> = texts[1].iter().map(String::as_str).collect();
    let targets = run.tokenizers.target.encode_labels(&targets)?;
    for ids in [&sources, &targets] {
        let mut lengths = Lengths::of(&runs);
        lengths.look(ids, 0);
        lengths.tell(&mut |text| say(common, text));
    }
    let pairs: Vec<_> = sources.into_iter().zip(targets).collect();
    let scores = Team { world, runs: &runs }.score(&pairs, batch_size)?;
    let score = |(score, (_, target)): (&f64, &(_, Vec<u32>))| penalty.normalize(*score, target.len());
    let text: String = scores.iter().zip(&pairs).map(|pair| format!("{:.6}\n", score(pair))).collect();
    print(text)?;
    Ok(ExitCode::Success)
}
