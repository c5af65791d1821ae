//! `nmt-train evaluate`: scores of a run's translations, or of a file, as sacreBLEU prints them.

use std::io::Write;
use std::path::Path;

use anyhow::Result;

use crate::data;
use crate::decode;
use crate::exit::{ExitCode, InputError};
use crate::metrics::{self, BleuOptions, BleuTokenizer, ChrfOptions, TerOptions};
use crate::train::Signals;

use super::args::{CommonArgs, EvaluateArgs, Score, Tokenize};
use super::say;
use super::trained;
use super::translate::{search_options, translate_lines};

pub(super) fn evaluate(args: &EvaluateArgs, common: &CommonArgs) -> Result<ExitCode> {
    let references = lines(&args.reference)?;
    let mut language = String::new();
    let hypotheses = match &args.hypothesis {
        Some(path) => same_length(lines(path)?, path, &references, &args.reference)?,
        None => {
            let Some(path) = &args.source else {
                return Err(InputError::new("evaluating a run needs --source FILE").into());
            };
            let lines = same_length(lines(path)?, path, &references, &args.reference)?;
            let runs = trained::load_all(&args.runs, &args.decode.checkpoint, common)?;
            let options = search_options(&runs[0], &args.decode)?;
            let signals = Signals::install()?;
            let found = translate_lines(&runs, &lines, &options, &|| signals.raised())?;
            language.clone_from(&runs[0].config.data.target_language);
            let target = &runs[0].tokenizers.target;
            let best = |hypotheses: &Vec<decode::Hypothesis>| target.decode(hypotheses.first().map_or(&[], |h| &h.ids));
            found.iter().map(best).collect::<Result<Vec<_>, _>>()?
        }
    };
    let hypotheses: Vec<&str> = hypotheses.iter().map(String::as_str).collect();
    let references = [references.iter().map(String::as_str).collect::<Vec<_>>()];

    let (default_tokenizer, advice) = metrics::default_tokenizer(&language);
    if let (None, Some(advice)) = (args.tokenize, advice) {
        say(common, advice);
    }
    let tokenizer = args.tokenize.map_or(default_tokenizer, tokenizer);
    let mut out = std::io::stdout().lock();
    for metric in &args.metrics {
        let lowercase = args.lowercase;
        let (line, signature) = match metric {
            Score::Bleu => {
                let options = BleuOptions { tokenizer, lowercase, ..Default::default() };
                let score = metrics::bleu(&hypotheses, &references, &options)?;
                (score.to_string(), score.signature())
            }
            Score::Chrf | Score::ChrfPlusPlus => {
                let word_order = if *metric == Score::Chrf { 0 } else { 2 };
                let score = metrics::chrf(&hypotheses, &references, &ChrfOptions { word_order, lowercase })?;
                (score.to_string(), score.signature())
            }
            Score::Ter => {
                let score = metrics::ter(&hypotheses, &references, &TerOptions::default())?;
                (score.to_string(), score.signature())
            }
        };
        writeln!(out, "{line}  {signature}")?;
    }
    Ok(ExitCode::Success)
}

/// Lines of a file.
pub(super) fn lines(path: &Path) -> Result<Vec<String>> {
    Ok(data::read_lines(&path.to_string_lossy())?)
}

fn same_length(lines: Vec<String>, path: &Path, references: &[String], reference: &Path) -> Result<Vec<String>> {
    if lines.len() == references.len() {
        return Ok(lines);
    }
    Err(InputError::new(format!(
        "{} has {} lines, {} has {}; they must be line by line the same sentences",
        path.display(),
        lines.len(),
        reference.display(),
        references.len()
    ))
    .into())
}

fn tokenizer(name: Tokenize) -> BleuTokenizer {
    match name {
        Tokenize::T13a => BleuTokenizer::V13a,
        Tokenize::Zh => BleuTokenizer::Zh,
        Tokenize::Intl => BleuTokenizer::Intl,
        Tokenize::Char => BleuTokenizer::Char,
        Tokenize::None => BleuTokenizer::None,
    }
}
