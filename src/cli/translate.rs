//! `nmt-train translate`: lines from stdin to stdout, in order; a prompt on a terminal.
//!
//! No signal is caught: there is nothing to save, so Ctrl-C ends the program as it ends any other, also at the prompt.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::{fstat, FileType};

use crate::config::LARGEST_BEAM;
use crate::data::{Error, Lines};
use crate::decode::{self, Hypothesis, Options, Penalty};
use crate::exit::{ExitCode, InputError};
use crate::model::Model;
use crate::run::Usable;
use crate::tokenizer::Tokenizer;

use super::args::{CommonArgs, DecodeArgs, TranslateArgs};
use super::say;
use super::text::Lengths;
use super::trained;

/// Lines read before any of them is translated, at most; more sort better into batches.
const BLOCK_LINES: usize = 4096;
/// Whoever writes nothing for so long is taken to wait for an answer.
const PAUSE: Duration = Duration::from_millis(50);
/// A block is translated after this time also when lines keep dribbling in. So which lines come together may depend on
/// time; sums over 8 rows and fewer are rounded in another order than over more, which the sixth digit of a score may show.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) fn translate(args: &TranslateArgs, common: &CommonArgs) -> Result<ExitCode> {
    let runs = trained::load_all(&args.runs, &args.decode.checkpoint, common)?;
    let mut options = search_options(&runs[0], &args.decode)?;
    if let Some(n) = args.n_best {
        at_least_one("--n-best", n, LARGEST_BEAM)?;
        options.n_best = n;
        options.beam_size = options.beam_size.max(n);
    }
    let mut lengths = Lengths::of(&runs);
    let mut answer = |lines: &[String], first_line: usize| -> Result<()> {
        let sources = encode(&runs[0].tokenizers.source, lines)?;
        lengths.look(&sources, first_line);
        lengths.tell(common);
        print(&runs[0], &search(&runs, &sources, &options)?, first_line, args)
    };
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        interactive(&runs[0], &mut answer, common)?;
        return Ok(ExitCode::Success);
    }
    let mut blocks = Blocks::new(Lines::reading("stdin", std::io::stdin()), is_regular_file(&stdin));
    let mut first_line = 0;
    loop {
        let (lines, fault) = blocks.next();
        answer(&lines, first_line)?;
        first_line += lines.len();
        if let Some(fault) = fault {
            return Err(fault);
        }
        if lines.is_empty() {
            lengths.tell_rest(common);
            return Ok(ExitCode::Success);
        }
    }
}

/// One line at a time, with a prompt.
fn interactive(
    run: &Usable,
    answer: &mut dyn FnMut(&[String], usize) -> Result<()>,
    common: &CommonArgs,
) -> Result<()> {
    let language = &run.config.data.source_language;
    say(common, &format!("type {language} and press Enter; Ctrl-D or Ctrl-C ends"));
    let mut input = Lines::reading("stdin", std::io::stdin());
    for number in 0.. {
        write!(std::io::stderr(), "{language}> ")?;
        let Some(line) = input.next()? else { break };
        answer(&[line], number)?;
    }
    Ok(())
}

/// The configured search with what the command line changes.
pub(super) fn search_options(run: &Usable, args: &DecodeArgs) -> Result<Options> {
    let mut options = Options::new(&run.config.decode, run.tokenizers.target.eos_id(), run.model.output().pad);
    options.beam_size = args.beam.unwrap_or(options.beam_size);
    options.batch_size = args.batch_size.unwrap_or(options.batch_size);
    options.penalty = Penalty { exponent: args.length_penalty.unwrap_or(options.penalty.exponent), ..options.penalty };
    at_least_one("--beam", options.beam_size, LARGEST_BEAM)?;
    at_least_one("--batch-size", options.batch_size, usize::MAX)?;
    if !(options.penalty.exponent >= 0.0 && options.penalty.exponent.is_finite()) {
        return Err(InputError::new("--length-penalty must be 0 or more").into());
    }
    Ok(options)
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

/// Translations, best first each. A line without ids gives one empty translation.
pub(super) fn search(runs: &[Usable], sources: &[Vec<u32>], options: &Options) -> Result<Vec<Vec<Hypothesis>>> {
    let models: Vec<&dyn Model> = runs.iter().map(|run| run.model.as_ref()).collect();
    Ok(decode::translate(&models, sources, options, &mut |_| (), &|| false)?)
}

fn print(run: &Usable, found: &[Vec<Hypothesis>], first_line: usize, args: &TranslateArgs) -> Result<()> {
    let mut text = String::new();
    for (hypotheses, number) in found.iter().zip(first_line..) {
        for hypothesis in hypotheses {
            let line = run.tokenizers.target.decode_line(&hypothesis.ids)?;
            match args.n_best {
                Some(_) => text.push_str(&format!("{number} ||| {line} ||| {:.6}\n", hypothesis.normalized)),
                None if args.scores => text.push_str(&format!("{:.6}\t{line}\n", hypothesis.normalized)),
                None => text.push_str(&format!("{line}\n")),
            }
        }
    }
    // Whole, so that a reader who has seen enough or an end by Ctrl-C seldom finds half a line.
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The input in blocks of lines. A thread reads, so that what has come can be translated while nothing comes.
struct Blocks {
    lines: Receiver<Result<String, Error>>,
    /// Whether nobody can wait for an answer: a file is there as a whole.
    whole: bool,
}

impl Blocks {
    fn new(mut input: Lines, whole: bool) -> Self {
        let (sender, lines) = sync_channel(BLOCK_LINES);
        std::thread::spawn(move || {
            while let Some(line) = input.next().transpose() {
                let last = line.is_err();
                if sender.send(line).is_err() || last {
                    break;
                }
            }
        });
        Blocks { lines, whole }
    }

    /// Up to [`BLOCK_LINES`] lines, empty at the end of the input; and what is wrong with the line after them, if it is.
    /// Waits for the first as long as it takes, for the others only as long as they keep coming.
    fn next(&mut self) -> (Vec<String>, Option<anyhow::Error>) {
        let mut lines = Vec::new();
        let mut started = Instant::now();
        while lines.len() < BLOCK_LINES {
            let next = match lines.is_empty() || self.whole {
                true => self.lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.lines.recv_timeout(PAUSE.min(PATIENCE.saturating_sub(started.elapsed()))),
            };
            match next {
                Ok(Ok(line)) => lines.push(line),
                Ok(Err(fault)) => return (lines, Some(told(fault))),
                Err(_) => break,
            }
            if lines.len() == 1 {
                started = Instant::now();
            }
        }
        (lines, None)
    }
}

/// The fault of a line that comes after lines which are translated.
fn told(fault: Error) -> anyhow::Error {
    match fault {
        Error::Utf8 { file, line, .. } => InputError::new(format!(
            "{file}:{line}: not valid UTF-8; the lines before it were translated, it and the rest not"
        ))
        .into(),
        other => other.into(),
    }
}

fn is_regular_file(input: &impl AsFd) -> bool {
    fstat(input).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::PipeWriter;

    fn piped(whole: bool) -> (Blocks, PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Blocks::new(Lines::reading("stdin", reader), whole), writer)
    }

    #[test]
    fn a_block_ends_where_the_writer_waits() {
        let (mut blocks, mut writer) = piped(false);
        for round in 0..3 {
            writer.write_all(format!("a{round}\nb{round}\n").as_bytes()).unwrap();
            let (lines, fault) = blocks.next();
            assert!(fault.is_none());
            // the two lines may come apart on a busy machine, but they come without a third
            let rest = if lines.len() == 1 { blocks.next().0 } else { Vec::new() };
            assert_eq!([lines, rest].concat(), [format!("a{round}"), format!("b{round}")]);
        }
        drop(writer);
        assert!(blocks.next().0.is_empty());
    }

    #[test]
    fn a_file_is_cut_by_number_alone() {
        let (mut blocks, mut writer) = piped(true);
        let writing = std::thread::spawn(move || {
            for line in 0..BLOCK_LINES + 3 {
                writeln!(writer, "{line}").unwrap();
                if line == BLOCK_LINES / 2 {
                    std::thread::sleep(3 * PAUSE);
                }
            }
        });
        let sizes = [blocks.next().0.len(), blocks.next().0.len(), blocks.next().0.len()];
        assert_eq!(sizes, [BLOCK_LINES, 3, 0]);
        writing.join().unwrap();
    }

    #[test]
    fn what_came_before_a_fault_comes_with_it() {
        let (mut blocks, mut writer) = piped(true);
        writer.write_all(b"good\n\xFF\nnever\n").unwrap();
        let (lines, fault) = blocks.next();
        assert_eq!(lines, ["good"]);
        assert!(fault.is_some_and(|fault| fault.to_string().starts_with("stdin:2: not valid UTF-8")));
    }
}
