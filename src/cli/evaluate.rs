//! `nmt-train evaluate`: scores of a run's translations, or of a file, as sacreBLEU prints them.

use std::path::Path;

use anyhow::Result;

use crate::decode;
use crate::exit::{ExitCode, InputError};
use crate::metrics::{self, BleuTokenizer};
use crate::run::Usable;
use crate::scores::Metric;
use crate::symptoms::Progress;
use crate::world::World;

use super::args::{CommonArgs, EvaluateArgs};
use super::helpers::Team;
use super::output::print;
use super::say;
use super::search::{encode, search_options};
use super::text::{aligned, Lengths, Words};
use super::trained;

pub(super) fn evaluate(args: &EvaluateArgs, common: &CommonArgs, world: &World) -> Result<ExitCode> {
    let Some(input) = args.hypothesis.as_ref().or(args.source.as_ref()) else {
        return Err(InputError::new("evaluating a run needs --source FILE").into());
    };
    // A model that is not there, or a name that is wrong, should be known before a pipe is waited for.
    let runs = trained::load_all(&args.runs, &args.decode.weights, common)?;
    let runs = runs.into_iter().map(Usable::prepacked).collect::<Result<Vec<_>>>()?;
    let run = runs.first();
    let words = Words::wanted(args.tokenize.as_deref(), run)?;
    let paths: Vec<&Path> = std::iter::once(input).chain(&args.reference).map(AsRef::as_ref).collect();
    let mut texts = aligned(&paths)?;
    let references = texts.split_off(1);
    let input = texts.remove(0);
    let (sources, hypotheses) = match run {
        Some(_) => (Some(&input), translations(Team { world, runs: &runs }, &input, args, common)?),
        None => (None, input.clone()),
    };
    let sources: Option<Vec<&str>> = sources.map(|lines| lines.iter().map(String::as_str).collect());
    let hypotheses: Vec<&str> = hypotheses.iter().map(String::as_str).collect();
    let references: Vec<Vec<&str>> =
        references.iter().map(|lines| lines.iter().map(String::as_str).collect()).collect();
    if args.metrics.contains(&Metric::Bleu) {
        words.advice(&references[0]).iter().for_each(|advice| say(common, advice));
    }
    tell_symptoms(sources.as_deref(), &hypotheses, &references, &words.tokenizer, common)?;
    for &metric in &args.metrics {
        let found = metrics::measure(metric, &hypotheses, &references, &words.tokenizer, args.lowercase)?;
        print(format!("{}  {}\n", found.line, found.signature))?;
    }
    Ok(ExitCode::Success)
}

/// What is odd about the translations beside their references, as training tells it.
fn tell_symptoms(
    sources: Option<&[&str]>,
    hypotheses: &[&str],
    references: &[Vec<&str>],
    tokenizer: &BleuTokenizer,
    common: &CommonArgs,
) -> Result<()> {
    let found = metrics::symptoms(sources, hypotheses, references, tokenizer)?;
    let of_references = metrics::symptoms_of_references(sources, &references[0]);
    let notable = found.told(&of_references);
    if !notable.is_empty() {
        say(common, &format!("hypotheses {notable}"));
    }
    for (_, message) in found.faults(&of_references, hypotheses.len(), Progress::TRAINED) {
        say(common, &message);
    }
    Ok(())
}

/// The best translation of each line.
fn translations(team: Team, lines: &[String], args: &EvaluateArgs, common: &CommonArgs) -> Result<Vec<String>> {
    let runs = team.runs;
    let sources = encode(&runs[0].tokenizers.source, lines)?;
    let mut lengths = Lengths::of(runs);
    lengths.look(&sources, 0);
    lengths.tell(&mut |text| say(common, text));
    let found = team.search(&sources, &search_options(&runs[0], &args.decode)?, &mut |_| ())?;
    Ok(decode::best_lines(&found, &runs[0].tokenizers.target)?)
}
