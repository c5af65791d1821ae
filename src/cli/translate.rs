//! `nmt-train translate`: lines from stdin to stdout, in order; a prompt on a terminal.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;

use crate::decode::{self, Hypothesis, Options, Penalty};
use crate::exit::{ExitCode, InputError};
use crate::model::Model;
use crate::train::Signals;

use super::args::{CommonArgs, DecodeArgs, TranslateArgs};
use super::say;
use super::trained;
use crate::run::Usable;

/// Lines read before any of them is translated; more sort better into batches, fewer come out sooner.
const BLOCK_LINES: usize = 4096;

pub(super) fn translate(args: &TranslateArgs, common: &CommonArgs) -> Result<ExitCode> {
    let runs = trained::load_all(&args.runs, &args.decode.checkpoint, common)?;
    let mut options = search_options(&runs[0], &args.decode)?;
    if let Some(n) = args.n_best {
        options.n_best = n.max(1);
        options.beam_size = options.beam_size.max(options.n_best);
    }
    let signals = Signals::install()?;
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return interactive(&runs, &options, args, &signals, common);
    }
    let mut input = stdin.lock();
    let mut first_line = 0;
    loop {
        let (lines, fault) = read_block(&mut input, first_line)?;
        let found = translate_lines(&runs, &lines, &options, &|| signals.raised())?;
        print(&runs[0], &found, first_line, args)?;
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        if lines.is_empty() {
            return Ok(ExitCode::Success);
        }
        first_line += lines.len();
    }
}

/// One line at a time, with a prompt.
fn interactive(
    runs: &[Usable],
    options: &Options,
    args: &TranslateArgs,
    signals: &Signals,
    common: &CommonArgs,
) -> Result<ExitCode> {
    let data = &runs[0].config.data;
    say(common, &format!("type {} and press Enter; Ctrl-D ends", data.source_language));
    for number in 0.. {
        write!(std::io::stderr(), "{}> ", data.source_language)?;
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            break;
        }
        let line = line.trim_end_matches(['\n', '\r']).to_string();
        let found = translate_lines(runs, &[line], options, &|| signals.raised())?;
        print(&runs[0], &found, number, args)?;
    }
    Ok(ExitCode::Success)
}

/// The configured search with what the command line changes.
pub(super) fn search_options(run: &Usable, args: &DecodeArgs) -> Result<Options> {
    let mut options = Options::new(&run.config.decode, run.tokenizers.target.eos_id(), run.model.output().masked);
    options.beam_size = args.beam.unwrap_or(options.beam_size);
    options.batch_size = args.batch_size.unwrap_or(options.batch_size);
    options.penalty = Penalty { exponent: args.length_penalty.unwrap_or(options.penalty.exponent), ..options.penalty };
    if options.beam_size == 0 || options.batch_size == 0 {
        return Err(InputError::new("--beam and --batch-size must be 1 or more").into());
    }
    if options.penalty.exponent < 0.0 {
        return Err(InputError::new("--length-penalty must be 0 or more").into());
    }
    Ok(options)
}

/// Translations of lines, best first each. A line without text gives one empty translation.
pub(super) fn translate_lines(
    runs: &[Usable],
    lines: &[String],
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Hypothesis>>> {
    let text: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut sources = runs[0].tokenizers.source.encode_batch(&text)?;
    for (ids, line) in sources.iter_mut().zip(lines) {
        if line.trim().is_empty() {
            ids.clear();
        }
    }
    let models: Vec<&dyn Model> = runs.iter().map(|run| run.model.as_ref()).collect();
    Ok(decode::translate(&models, &sources, options, &mut |_| (), stop)?)
}

/// Up to [`BLOCK_LINES`] lines, empty at the end of the input; and what is wrong with the line after them, if it is.
fn read_block(input: &mut impl BufRead, first_line: usize) -> Result<(Vec<String>, Option<InputError>)> {
    let mut lines = Vec::new();
    while lines.len() < BLOCK_LINES {
        let mut bytes = Vec::new();
        if input.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let Ok(line) = String::from_utf8(bytes) else {
            let number = first_line + lines.len() + 1;
            let text =
                format!("stdin:{number}: not valid UTF-8; the lines before it were translated, it and the rest not");
            return Ok((lines, Some(InputError(text))));
        };
        lines.push(line);
    }
    Ok((lines, None))
}

fn print(run: &Usable, found: &[Vec<Hypothesis>], first_line: usize, args: &TranslateArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for (hypotheses, number) in found.iter().zip(first_line..) {
        for hypothesis in hypotheses {
            let text = run.tokenizers.target.decode(&hypothesis.ids)?;
            match args.n_best {
                Some(_) => writeln!(out, "{number} ||| {text} ||| {:.6}", hypothesis.normalized)?,
                None if args.scores => writeln!(out, "{:.6}\t{text}", hypothesis.normalized)?,
                None => writeln!(out, "{text}")?,
            }
        }
    }
    Ok(out.flush()?)
}
