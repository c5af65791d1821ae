//! `nmt-train tune`: beam and length penalty chosen on validation text.
//!
//! | file | owns |
//! |---|---|
//! | `outcome` | what was found, as a table with a recommendation and as JSON |

mod outcome;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::config::LARGEST_BEAM;
use crate::data;
use crate::decode::{self, Options, Penalty};
use crate::events::console::Color;
use crate::exit::{ExitCode, InputError};
use crate::fsio;
use crate::metrics::{self, BleuOptions};
use crate::model::Model;
use crate::run::{Paths, RunFolder, Usable};
use crate::shell;

use super::args::{CommonArgs, TuneArgs};
use super::output::print;
use super::search::{at_least_one, encode, length_penalty, BATCH};
use super::text::{aligned, Lengths, Words};
use super::{load_run_config, recorded_threads, say, trained};
use outcome::{Outcome, Tried};

/// `words`: the command line.
pub(super) fn tune(args: &TuneArgs, common: &CommonArgs, words: &[String]) -> Result<ExitCode> {
    check(args)?;
    let runs = trained::load_all(&args.runs, &args.weights, common)?;
    let runs = runs.into_iter().map(Usable::prepacked).collect::<Result<Vec<_>>>()?;
    let text = Text::of(args, &runs[0], common)?;
    let tried = text.try_all(args, &runs, common)?;
    let outcome = Outcome::new(args, &runs[0], text.lines.len(), tried);
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let found = if to_stdout { outcome.json() } else { outcome.table() };
    print(found)?;
    if let Some(path) = args.json.as_deref().filter(|_| !to_stdout) {
        fsio::write_atomic(path, outcome.json().as_bytes())?;
    }
    if args.write {
        write(&args.runs[0], outcome.best(), words)?;
        say(common, &format!("written to {}", Paths::of(&args.runs[0]).config().display()));
    }
    Ok(ExitCode::Success)
}

/// What is wrong with the arguments, before a model is loaded.
fn check(args: &TuneArgs) -> Result<(), InputError> {
    args.beam.iter().try_for_each(|&beam| at_least_one("--beam", beam, LARGEST_BEAM))?;
    args.length_penalty.iter().try_for_each(|&exponent| length_penalty(exponent).map(drop))?;
    at_least_one(BATCH, args.batch_size.unwrap_or(1), usize::MAX)?;
    match args.write && args.runs.len() > 1 {
        true => Err(InputError::new(
            "--write keeps a setting in the config of one run; give that of an ensemble to each command",
        )),
        false => Ok(()),
    }
}

/// What is translated, and what it is compared with.
struct Text {
    lines: Vec<String>,
    /// Streams of one line each.
    references: Vec<Vec<String>>,
    words: Words,
}

impl Text {
    /// The files that were named, else the validation text of the run.
    fn of(args: &TuneArgs, run: &Usable, common: &CommonArgs) -> Result<Self> {
        let (lines, references) = match &args.source {
            Some(source) => {
                let paths: Vec<&Path> = std::iter::once(source).chain(&args.reference).map(AsRef::as_ref).collect();
                let mut texts = aligned(&paths)?;
                let references = texts.split_off(1);
                (texts.remove(0), references)
            }
            None => validation_text(run)?,
        };
        if lines.is_empty() {
            return Err(InputError::new("there is no line to translate").into());
        }
        let words = Words::wanted(args.tokenize.as_deref(), Some(run))?;
        let first: Vec<&str> = references[0].iter().map(String::as_str).collect();
        words.advice(&first).iter().for_each(|advice| say(common, advice));
        Ok(Text { lines, references, words })
    }

    /// Every setting, smaller beams first.
    fn try_all(&self, args: &TuneArgs, runs: &[Usable], common: &CommonArgs) -> Result<Vec<Tried>> {
        let sources = encode(&runs[0].tokenizers.source, &self.lines)?;
        let mut lengths = Lengths::of(runs);
        lengths.look(&sources, 0);
        lengths.tell(&mut |text| say(common, text));
        let models: Vec<&dyn Model> = runs.iter().map(|run| run.model.as_ref()).collect();
        let (decode, target) = (&runs[0].config.decode, &runs[0].tokenizers.target);
        let mut beams = args.beam.clone();
        beams.sort_unstable();
        beams.dedup();
        let penalties = penalties(args, &runs[0]);
        let mut tried = Vec::new();
        for beam_size in beams {
            let options = Options {
                beam_size,
                sampling: None,
                batch_size: args.batch_size.unwrap_or(decode.batch_size),
                ..Options::new(decode, target.eos_id(), runs[0].model.output().pad)
            };
            let clock = Instant::now();
            let found = decode::translate_under(&models, &sources, &options, &penalties, &mut |_| (), &|| false)?;
            let seconds = clock.elapsed().as_secs_f64();
            say(common, &format!("beam {beam_size}: {seconds:.1} s"));
            for (&penalty, found) in penalties.iter().zip(&found) {
                let lines = decode::best_lines(found, target)?;
                tried.push(self.judge(args, &lines, Tried::new(beam_size, penalty, seconds))?);
            }
        }
        Ok(tried)
    }

    /// The setting with its scores.
    fn judge(&self, args: &TuneArgs, hypotheses: &[String], setting: Tried) -> Result<Tried> {
        let hypotheses: Vec<&str> = hypotheses.iter().map(String::as_str).collect();
        let references: Vec<Vec<&str>> =
            self.references.iter().map(|lines| lines.iter().map(String::as_str).collect()).collect();
        let lowercase = args.lowercase;
        let options = BleuOptions { tokenizer: self.words.tokenizer.clone(), lowercase, ..Default::default() };
        let bleu = metrics::bleu(&hypotheses, &references, &options)?;
        let mut tried = Tried { length: bleu.ratio(), brevity_penalty: bleu.bp, ..setting };
        for metric in outcome::shown(args.metric) {
            let found = metrics::measure(metric, &hypotheses, &references, &self.words.tokenizer, lowercase)?;
            tried.scores.set(metric, found.score);
            if metric == args.metric {
                tried.signature = found.signature;
            }
        }
        Ok(tried)
    }
}

/// The penalties of the lists; those without an effect are one.
fn penalties(args: &TuneArgs, run: &Usable) -> Vec<Penalty> {
    let own = [run.config.decode.length_penalty_type];
    let kinds = if args.length_penalty_type.is_empty() { &own[..] } else { &args.length_penalty_type };
    let mut penalties: Vec<Penalty> = Vec::new();
    for &kind in kinds {
        for &exponent in &args.length_penalty {
            let known = |other: &Penalty| other.exponent == exponent && (other.kind == kind || exponent == 0.0);
            if !penalties.iter().any(known) {
                penalties.push(Penalty { kind, exponent });
            }
        }
    }
    penalties
}

/// Sources and references of the run's validation text.
fn validation_text(run: &Usable) -> Result<(Vec<String>, Vec<Vec<String>>)> {
    let (config, shown) = (&run.config, run.paths.root().display());
    if config.data.valid.0.is_empty() {
        return Err(InputError(format!(
            "{shown} has no validation text (data.valid); name some: --source FILE --reference FILE. Not test text: its \
             score would no longer say what the model does with text that nobody has seen"
        ))
        .into());
    }
    let elsewhere =
        || format!("{shown}: its validation text can not be read; --source FILE --reference FILE name it anew");
    let pairs = data::held_out(&config.data.valid, &config.data).with_context(elsewhere)?.pairs;
    let files = &config.validation.references;
    let further = data::further_references(files, &config.data.valid, pairs.len()).with_context(elsewhere)?;
    let (lines, own) = pairs.into_iter().unzip();
    Ok((lines, std::iter::once(own).chain(further).collect()))
}

/// Makes a setting that of the run.
fn write(run: &Path, best: &Tried, words: &[String]) -> Result<()> {
    let folder = RunFolder::open(run)?;
    let plain = CommonArgs { device: None, threads: None, quiet: true, color: Color::Auto, mpi: false, mpi_timeout: 0 };
    let loaded = load_run_config(&folder.config(), &plain)?;
    if let Some(gone) = loaded.removed.first() {
        return Err(InputError::new(format!(
            "the config of {} is an earlier version's and stays as it is:\n  {gone}\ngive the options to each command",
            run.display()
        ))
        .into());
    }
    let mut config = loaded.config;
    // more than this machine bears may be right where the run was made
    config.threads = recorded_threads(&folder.config()).unwrap_or(config.threads);
    config.decode.beam_size = best.beam_size;
    config.decode.length_penalty = best.penalty.exponent;
    config.decode.length_penalty_type = best.penalty.kind;
    folder.record(&config, &shell::command(words))
}
