//! `nmt-train translate`: lines from stdin or a file to stdout or a file, in order; a prompt on a terminal.
//!
//! | file | owns |
//! |---|---|
//! | `answer` | translations as what is printed: plain lines, lines with scores, n-best lists, JSON |
//! | `blocks` | the input in blocks of lines, each translated together |
//! | `job` | a file of answers that an interrupted job goes on with |
//! | `progress` | lines done, on a terminal |
//!
//! No signal is caught: stdout has nothing to save and a file is whole at every moment, so Ctrl-C ends the program as it
//! ends any other, also at the prompt.

mod answer;
mod blocks;
mod job;
mod progress;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Result;
use rustix::fs::{fstat, FileType};

use crate::config::LARGEST_BEAM;
use crate::data::Lines;
use crate::decode::{Options, Sampling};
use crate::exit::{ExitCode, UsageError};
use crate::run::Usable;
use crate::world::World;

use super::args::{CommonArgs, Format, TranslateArgs};
use super::helpers::Team;
use super::output::print;
use super::say;
use super::search::{at_least_one, encode, search_options};
use super::text::{is_stdin, Lengths};
use super::trained;
use answer::Answers;
use blocks::{Blocks, BLOCK_LINES};
use job::Job;
use progress::Bar;

/// As [`BLOCK_LINES`], of a file: no more than these are lost when a job is interrupted.
const JOB_LINES: usize = 1024;

pub(super) fn translate(args: &TranslateArgs, common: &CommonArgs, world: &World) -> Result<ExitCode> {
    let stdin = std::io::stdin();
    let input = args.input.as_deref().filter(|path| !is_stdin(path));
    let output = args.output.as_deref().filter(|path| *path != Path::new("-"));
    check(args, input, output, input.is_none() && stdin.is_terminal())?;
    let runs = trained::load_all(&args.runs, &args.decode.weights, common)?;
    let weights = output.map(|_| job::weights(&runs)).transpose()?.unwrap_or_default();
    let runs = runs.into_iter().map(Usable::prepacked).collect::<Result<Vec<_>>>()?;
    let mut options = search_options(&runs[0], &args.decode)?;
    how_many(args, &mut options)?;
    let translator = Translator { runs: &runs, world, options, answers: Answers::new(args, &runs, options) };
    let (lines, whole) = match input {
        Some(path) => (Lines::open(&path.to_string_lossy())?, !path.exists() || path.is_file()),
        None if stdin.is_terminal() => return interactive(&translator, common),
        None => (Lines::reading("stdin", std::io::stdin()), is_regular_file(&stdin)),
    };
    let shows = output.is_some() || (input.is_some() && !std::io::stdout().is_terminal());
    let mut bar = Bar::new(common, shows, input);
    match output {
        Some(path) => translator.write_file(path, weights, lines, whole, bar)?,
        None => translator.lines(Blocks::new(lines, whole, BLOCK_LINES), 0, &mut bar, &mut |_, text| print(text))?,
    }
    Ok(ExitCode::Success)
}

/// What is wrong with the arguments, before a model is loaded.
fn check(args: &TranslateArgs, input: Option<&Path>, output: Option<&Path>, prompts: bool) -> Result<()> {
    let json = args.format == Format::Json;
    if json && args.scores {
        return Err(UsageError("--scores is of --format text; the objects of --format json have scores".into()).into());
    }
    if args.alignment && !json {
        return Err(UsageError("--alignment needs --format json".into()).into());
    }
    let Some(output) = output else { return Ok(()) };
    if prompts {
        return Err(UsageError("--output needs --input FILE, or text through a pipe".into()).into());
    }
    job::check(output, input.unwrap_or(Path::new("/dev/stdin")), args.force)
}

/// Sets how many translations each line gets.
fn how_many(args: &TranslateArgs, options: &mut Options) -> Result<()> {
    let (option, n) = match (args.n_best, args.samples, options.sampling) {
        (None, None, _) => return Ok(()),
        (Some(n), _, None) => ("--n-best", n),
        (_, Some(n), Some(_)) => ("--samples", n),
        (Some(_), ..) => {
            let what = "--n-best lists what a search found; with --sampling give --samples N";
            return Err(UsageError(what.to_string()).into());
        }
        (_, Some(_), None) => {
            let what = "--samples needs --sampling; --n-best N lists what a search found";
            return Err(UsageError(what.to_string()).into());
        }
    };
    at_least_one(option, n, LARGEST_BEAM)?;
    options.n_best = n;
    options.beam_size = options.beam_size.max(n);
    Ok(())
}

/// The models, and how they are asked.
struct Translator<'a> {
    runs: &'a [Usable],
    world: &'a World,
    options: Options,
    answers: Answers<'a>,
}

/// Takes the lines of a block and the answer to them.
type Taker<'a> = &'a mut dyn FnMut(&[String], &str) -> Result<()>;

impl Translator<'_> {
    /// The answer to lines of which the first has the number `first_line` from 0.
    fn answer(&self, lines: &[String], first_line: usize, lengths: &mut Lengths, bar: &mut Bar) -> Result<String> {
        let sources = encode(&self.runs[0].tokenizers.source, lines)?;
        lengths.look(&sources, first_line);
        lengths.tell(&mut |text| bar.tell(text));
        let sampling = self.options.sampling.map(|sampling| Sampling { first_line, ..sampling });
        let options = Options { sampling, ..self.options };
        let team = Team { world: self.world, runs: self.runs };
        let found = team.search(&sources, &options, &mut |done| bar.show(first_line + done))?;
        self.answers.text(lines, &sources, &found, first_line)
    }

    /// Translates block after block until the input ends; the first line has the number `first_line`.
    fn lines(&self, mut blocks: Blocks, mut first_line: usize, bar: &mut Bar, take: Taker) -> Result<()> {
        let mut lengths = Lengths::of(self.runs);
        loop {
            let (lines, fault) = blocks.next();
            let text = self.answer(&lines, first_line, &mut lengths, bar)?;
            take(&lines, &text)?;
            first_line += lines.len();
            if let Some(fault) = fault {
                return Err(fault);
            }
            if lines.is_empty() {
                lengths.tell_rest(&mut |text| bar.tell(text));
                return Ok(());
            }
        }
    }

    /// Writes a file, or the rest of it. `weights`: a hash of the models'.
    fn write_file(&self, path: &Path, weights: String, mut lines: Lines, whole: bool, mut bar: Bar) -> Result<()> {
        let mut made_with: BTreeMap<_, _> =
            self.answers.made_with().into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        made_with.insert(job::WEIGHTS.to_string(), weights);
        let mut job = Job::begin(path, made_with, &mut lines)?;
        let before = job.lines();
        if before > 0 {
            bar.tell(&format!("{}: going on behind line {before}", job.folder().display()));
        }
        bar.begin_at(before);
        let done =
            self.lines(Blocks::new(lines, whole, JOB_LINES), before, &mut bar, &mut |lines, text| job.add(lines, text));
        let Err(fault) = done else { return job.finish() };
        match job.lines() {
            0 => job.discard(),
            lines => bar.tell(&format!(
                "{} keeps the answers to the first {lines} lines; the same command goes on behind them",
                job.folder().display()
            )),
        }
        Err(fault)
    }
}

/// One line at a time, with a prompt.
fn interactive(translator: &Translator, common: &CommonArgs) -> Result<ExitCode> {
    let language = &translator.runs[0].config.data.source_language;
    say(common, &format!("type {language} and press Enter; Ctrl-D or Ctrl-C ends"));
    let mut input = Lines::reading("stdin", std::io::stdin());
    let (mut lengths, mut bar) = (Lengths::of(translator.runs), Bar::new(common, false, None));
    for number in 0.. {
        write!(std::io::stderr(), "{language}> ")?;
        let Some(line) = input.next()? else { break };
        print(&translator.answer(&[line], number, &mut lengths, &mut bar)?)?;
    }
    Ok(ExitCode::Success)
}

fn is_regular_file(input: &impl AsFd) -> bool {
    fstat(input).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file())
}
