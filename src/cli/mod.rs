//! The command line: what can be typed, and what is done with it.

pub mod args;
mod average;
mod check;
mod evaluate;
mod report;
mod score;
mod tokenizer;
mod train;
mod trained;
mod translate;

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap::Parser;

use crate::config::{self, Loaded, Source};
use crate::events::console::{self, Console};
use crate::events::sinks::Sinks;
use crate::exit::{ExitCode, InputError};
use crate::{checkpoint, data, decode, fsio, metrics, model, tokenizer as tokenizers};

use args::{Cli, Color, Command, CommonArgs};

/// Parses, runs, and turns an error into one message and a documented exit code.
pub fn main() -> std::process::ExitCode {
    let Cli { command, train: train_args, common, .. } = Cli::parse();
    let result = match command {
        None => train::train(&train_args, &common),
        Some(Command::Check(args)) => check::check(&args, &common),
        Some(Command::Init(args)) => init(args.preset.as_deref()),
        Some(Command::Tokenizer(args)) => tokenizer::tokenizer(&args, &common),
        Some(Command::Translate(args)) => translate::translate(&args, &common),
        Some(Command::Evaluate(args)) => evaluate::evaluate(&args, &common),
        Some(Command::Score(args)) => score::score(&args, &common),
        Some(Command::Average(args)) => average::average(&args),
        Some(Command::Report(args)) => report::report(&args, &common),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::Success.into(),
        Err(error) => {
            // A closed stderr must not turn an error into a panic.
            let _ = writeln!(std::io::stderr(), "nmt-train: {}", message(&error));
            exit_code(&error).into()
        }
    }
}

fn init(preset: Option<&str>) -> Result<ExitCode> {
    let text = config::init(preset).map_err(InputError)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::Success)
}

/// An error and its causes; a cause that the text before it tells already is not repeated.
fn message(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    causes.fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

/// The reader of a pipe has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What the user gave, or the machine and the program?
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let input = error.is::<InputError>()
        || error.is::<config::Problems>()
        || error.is::<data::Error>()
        || error.is::<data::HubError>()
        || error.is::<tokenizers::Error>()
        || error.is::<metrics::MetricsError>()
        || error.is::<model::pretrained::PretrainedError>()
        || matches!(error.downcast_ref(), Some(fsio::Error::Locked { .. } | fsio::Error::MaybeLocked { .. }))
        || matches!(error.downcast_ref(), Some(checkpoint::Error::Mismatch { .. }))
        || matches!(error.downcast_ref(), Some(decode::DecodeError::Vocabularies { .. }));
    match error.downcast_ref() {
        Some(decode::DecodeError::Stopped) => ExitCode::Interrupted,
        _ if input => ExitCode::Input,
        _ => ExitCode::Failure,
    }
}

/// A config file with the `--set` arguments, `--device` and `--threads` of the command line.
fn load_config(path: &Path, sets: &[String], common: &CommonArgs) -> Result<Loaded> {
    let mut sets = sets.to_vec();
    sets.extend(common.device.iter().map(|device| format!("device={device}")));
    sets.extend(common.threads.iter().map(|threads| format!("threads={threads}")));
    Ok(config::load(&Source::Path(path.to_path_buf()), &sets)?)
}

/// The terminal as a sink.
fn terminal(common: &CommonArgs) -> Sinks {
    let color = match common.color {
        Color::Auto => console::Color::Auto,
        Color::Always => console::Color::Always,
        Color::Never => console::Color::Never,
    };
    let mut sinks = Sinks::new();
    sinks.push("the terminal", Box::new(Console::new(color, common.quiet)));
    sinks
}

/// A line to stderr, unless `--quiet`.
fn say(common: &CommonArgs, text: &str) {
    if !common.quiet {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
