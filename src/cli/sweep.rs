//! `nmt-train sweep`: trains the runs of a file.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::config;
use crate::events::console::Console;
use crate::exit::{ExitCode, InputError, UsageError};
use crate::sweep::{self, Folder, Options, RunLine, Tally};
use crate::{fsio, machine, shell};

use super::args::{CommonArgs, SweepArgs};
use super::output::print;
use super::say;

/// `words`: the command line, to be printed with what there is to do next.
pub(super) fn sweep(args: &SweepArgs, common: &CommonArgs, words: &[String]) -> Result<ExitCode> {
    let file = args.file.display().to_string();
    let mut runs = read(&args.file, &file)?;
    if args.count {
        print(format!("{}\n", runs.len()))?;
        return Ok(ExitCode::Success);
    }
    if let Some(index) = args.index {
        if index > runs.len() {
            return Err(UsageError(format!("--index {index}: {file} has {} runs", runs.len())).into());
        }
        runs = runs.split_off(index - 1);
        runs.truncate(1);
    }
    let options = options(args, common)?;
    sweep::check(&file, &runs, &options)?;
    if args.dry_run {
        return dry_run(&runs, &options, common);
    }
    let mut console = Console::new(common.color, common.quiet);
    let tally = sweep::drive(&runs, &options, &mut console)?;
    last_words(&tally, args, &options, words, &mut console);
    Ok(match tally {
        Tally { stopped: true, .. } => ExitCode::Interrupted,
        Tally { failed: 1.., .. } => ExitCode::Failure,
        Tally { interrupted: 1.., .. } => ExitCode::Interrupted,
        Tally { elsewhere: 1.., .. } => ExitCode::Failure,
        _ => ExitCode::Success,
    })
}

fn read(path: &Path, file: &str) -> Result<Vec<RunLine>> {
    let text = fsio::read_written(path).map_err(|error| match error {
        fsio::Error::Utf8 { .. } | fsio::Error::TooLarge { .. } => anyhow::Error::new(InputError::new(error)),
        _ => UsageError(error.to_string()).into(),
    })?;
    Ok(sweep::parse(file, &text)?)
}

fn options(args: &SweepArgs, common: &CommonArgs) -> Result<Options> {
    // what is only printed may be meant for another machine
    for (option, number) in [("--jobs", args.jobs), ("--threads", common.threads.unwrap_or(0))] {
        let most = config::most_threads();
        if number > most && !args.dry_run {
            return Err(UsageError(format!("{option} {number}: {most} at most, 4 for each core")).into());
        }
    }
    let threads = common.threads.filter(|&threads| threads > 0);
    let name = args.file.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Options {
        out: args.out.clone().unwrap_or_else(|| PathBuf::from(format!("runs/sweep-{name}"))),
        jobs: args.jobs,
        threads: threads.unwrap_or_else(|| (machine::physical_cores() / args.jobs).max(1)),
        device: common.device.clone(),
        retry: args.retry,
        program: program()?,
    })
}

/// What trains: this very program, or another in its place.
fn program() -> Result<String> {
    match std::env::var("NMT_TRAIN") {
        Ok(program) if !program.is_empty() => Ok(program),
        _ => Ok(std::env::current_exe()?.display().to_string()),
    }
}

fn dry_run(runs: &[RunLine], options: &Options, common: &CommonArgs) -> Result<ExitCode> {
    for run in runs {
        let folder = Folder::of(run, options);
        let state = folder.state();
        say(common, &format!("{:<11} {}", state.word(), run.name));
        if state.is_due(options.retry) {
            print(format!("{}\n", shell::command(folder.command(run, &state, options))))?;
        }
    }
    Ok(ExitCode::Success)
}

/// How it went, and the command that is next.
fn last_words(tally: &Tally, args: &SweepArgs, options: &Options, words: &[String], console: &mut Console) {
    let again = shell::command(words);
    console.tell(&tally.to_string());
    if tally.stopped {
        console.tell(&format!("stopped; to go on: {again}"));
    } else if tally.failed > 0 && !args.retry {
        console.tell(&format!("to try what failed again: {again} --retry"));
    } else if tally.interrupted > 0 {
        console.tell(&format!("to go on with {} interrupted: {again}", tally.interrupted));
    }
    if args.index.is_none() && tally.finished > 0 {
        console.tell(&format!("nmt-train report {}", shell::path(&options.out)));
    }
}
