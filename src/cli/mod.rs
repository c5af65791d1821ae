//! The command line: what can be typed, and what is done with it.
//!
//! | file | owns |
//! |---|---|
//! | `args` | what can be typed: types and help, no logic |
//! | `average` | `nmt-train average`: the mean of the weights of the last checkpoints |
//! | `common` | the arguments that all commands take |
//! | `evaluate` | `nmt-train evaluate`: scores of a run's translations, or of a file, as sacreBLEU prints them |
//! | `export` | `nmt-train export`: a run's model as a folder that other programs load |
//! | `helpers` | ranks that help one that translates or scores |
//! | `import` | `nmt-train import`: a model that came from elsewhere becomes the folder of a run |
//! | `manual` | `nmt-train completions`, `nmt-train man`: for shells and for `man` |
//! | `output` | what a command prints as its result |
//! | `report` | `nmt-train report`: compares runs |
//! | `score` | `nmt-train score`: scores of given translations, one a line |
//! | `search` | what the command line changes of how a run's model translates, and translating |
//! | `sweep` | `nmt-train sweep`: trains the runs of a file |
//! | `text` | text that the commands of a trained model read |
//! | `tokenizer` | `nmt-train tokenizer`: trains the tokenizer of a config and nothing else |
//! | `train` | `nmt-train --config …`, `nmt-train --resume …`: training |
//! | `trained` | the runs that a command names, opened for use |
//! | `tune` | `nmt-train tune`: beam and length penalty chosen on validation text |
//! | `translate` | `nmt-train translate`: lines from stdin or a file to stdout or a file; a prompt on a terminal |

pub mod args;
mod average;
mod check;
mod common;
mod evaluate;
mod export;
mod helpers;
mod import;
mod manual;
mod output;
mod report;
mod score;
mod search;
mod sweep;
mod text;
mod tokenizer;
mod train;
mod trained;
mod translate;
mod tune;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use crate::config::{self, Loaded, Source};
use crate::events::console::Console;
use crate::events::sinks::Sinks;
use crate::exit::{ExitCode, InputError, UsageError};
use crate::interop::{self, Origin};
use crate::train::Signals;
use crate::world::{self, Wish, World};
use crate::{checkpoint, data, decode, fsio, machine, metrics, model, tokenizer as tokenizers};

use args::{Cli, Command, CommonArgs};

/// Parses, runs, and turns an error into one message and a documented exit code.
pub fn main() -> std::process::ExitCode {
    machine::keep_candle_on_one_thread();
    if let Err(error) = machine::outlive_limits_of_files() {
        tell(&format!("signals can not be handled: {error}"));
    }
    let words = match words(std::env::args_os()) {
        Ok(words) => words,
        Err(fault) => {
            tell(&fault);
            return ExitCode::Usage.into();
        }
    };
    match run(Cli::parse_from(&words), &words) {
        Ok(code) => code.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::Success.into(),
        Err(error) => {
            tell(&message(&error));
            exit_code(&error).into()
        }
    }
}

/// Does `work` as the ranks of a job, if this process is one of them: they end together, well or not.
fn together(common: &CommonArgs, work: impl FnOnce(&World) -> Result<ExitCode>) -> Result<ExitCode> {
    let limit = Duration::from_secs(common.mpi_timeout);
    let world = match World::join(&Wish { join: common.mpi, limit }) {
        Err(_) if world::leaves_speaking_to_another() => {
            std::thread::sleep(world::POLITE);
            return Ok(ExitCode::Input);
        }
        world => world?,
    };
    if world.library().is_none() {
        return work(&world);
    }
    let ended = work(&world);
    let error = match ended {
        Ok(code) => match world.leave() {
            Ok(()) => return Ok(code),
            Err(error) => error.into(),
        },
        Err(error) => error,
    };
    // what all of them met, the leader says
    if !world.leads() {
        std::thread::sleep(world::POLITE);
    }
    let who = if world.leads() { String::new() } else { format!("{}: ", world.name_of(world.rank())) };
    tell(&format!("{who}{}", message(&error)));
    let code = exit_code(&error);
    world::end_all(code);
    Ok(code)
}

/// The command line, program name included. Paths go into configs, commands and messages, all of them UTF-8, so that
/// other bytes are refused.
fn words(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for (number, arg) in args.enumerate() {
        match arg.into_string() {
            Ok(word) => words.push(word),
            Err(program) if number == 0 => words.push(program.to_string_lossy().into_owned()),
            Err(arg) => {
                return Err(format!("argument {number} is not valid UTF-8: {arg:?}; give another name to the file"))
            }
        }
    }
    Ok(words)
}

/// A closed stderr must not turn an error into a panic.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "nmt-train: {text}");
}

fn run(cli: Cli, words: &[String]) -> Result<ExitCode> {
    let Cli { command, train: train_args, common, .. } = cli;
    // a sweep's threads may be meant for another machine
    let threads = common.threads.filter(|_| !matches!(command, Some(Command::Sweep(_))));
    if let Some((threads, why)) = threads.and_then(|n| Some((n, config::too_many_threads(n)?))) {
        return Err(InputError::new(format!("--threads {threads} {why}")).into());
    }
    match command {
        None => {
            // before the library has handlers of its own
            let signals = Signals::install()?;
            together(&common, |world| train::train(&train_args, &common, words, signals, world))
        }
        Some(command) => together(&common, |world| match world.leads() {
            true => {
                let code = lead(&command, &common, words, world)?;
                helpers::dismiss(world)?;
                Ok(code)
            }
            false => helpers::help(&command, &common, world),
        }),
    }
}

/// A command that one process does.
fn lead(command: &Command, common: &CommonArgs, words: &[String], world: &World) -> Result<ExitCode> {
    match command {
        Command::Sweep(_) if !world.is_alone() => Err(InputError::new(
            "a sweep starts a process for each of its runs: start it without a launcher of several processes",
        )
        .into()),
        Command::Check(args) => check::check(args, common),
        Command::Init(args) => init(args.preset.as_deref()),
        Command::Tokenizer(args) => tokenizer::tokenizer(args, common),
        Command::Translate(args) => translate::translate(args, common, world),
        Command::Evaluate(args) => evaluate::evaluate(args, common, world),
        Command::Tune(args) => tune::tune(args, common, words),
        Command::Score(args) => score::score(args, common, world),
        Command::Average(args) => average::average(args),
        Command::Export(args) => export::export(args, common),
        Command::Import(args) => import::import(args, common, words),
        Command::Sweep(args) => sweep::sweep(args, common, words),
        Command::Report(args) => report::report(args, common),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    }
}

fn init(preset: Option<&str>) -> Result<ExitCode> {
    let text = config::init(preset).map_err(InputError)?;
    output::print(text)?;
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
        || error.is::<interop::pickle::Error>()
        || error.is::<tokenizers::Error>()
        || error.is::<metrics::MetricsError>()
        || error.is::<model::pretrained::PretrainedError>()
        || error.downcast_ref().is_some_and(interop::Error::is_input)
        || matches!(error.downcast_ref(), Some(fsio::Error::Locked { .. } | fsio::Error::MaybeLocked { .. }))
        || matches!(error.downcast_ref(), Some(checkpoint::Error::Mismatch { .. }))
        || matches!(error.downcast_ref(), Some(decode::DecodeError::Vocabularies { .. }));
    match input {
        true => ExitCode::Input,
        false if error.is::<UsageError>() => ExitCode::Usage,
        false => ExitCode::Failure,
    }
}

/// A config file with the `--set` arguments, `--device` and `--threads` of the command line.
fn load_config(path: &Path, sets: &[String], common: &CommonArgs) -> Result<Loaded> {
    Ok(config::load(&Source::Path(path.to_path_buf()), &with_common(sets, common))?)
}

/// As [`load_config`], of a run that is about to begin, with the model that it begins with, if any.
fn load_config_to_train(path: &Path, sets: &[String], common: &CommonArgs) -> Result<(Loaded, Option<Origin>)> {
    let mut loaded = load_config(path, sets, common)?;
    let origin = interop::open(&mut loaded.config, &loaded.given)?;
    Ok((loaded, origin))
}

/// The `--set` arguments and those that `--device` and `--threads` stand for.
fn with_common(sets: &[String], common: &CommonArgs) -> Vec<String> {
    let mut sets = sets.to_vec();
    sets.extend(common.device.iter().map(|device| format!("device={device}")));
    sets.extend(common.threads.iter().map(|threads| format!("threads={threads}")));
    sets
}

/// The config of a run, which may have been made on a larger machine: if it asks for more threads than this one is asked
/// for, and the command line says nothing, one a core is taken.
fn load_run_config(path: &Path, common: &CommonArgs) -> Result<Loaded> {
    let own = recorded_threads(path).filter(|&n| config::too_many_threads(n).is_some()).map(|_| 0);
    let common = CommonArgs { threads: common.threads.or(own), ..common.clone() };
    Ok(config::load_recorded(path, &with_common(&[], &common))?)
}

/// What a recorded config says of threads.
fn recorded_threads(path: &Path) -> Option<usize> {
    let recorded: toml::Table = fsio::read_to_string(path).ok()?.parse().ok()?;
    usize::try_from(recorded.get("threads")?.as_integer()?).ok()
}

/// The terminal as a sink.
fn terminal(common: &CommonArgs) -> Sinks {
    let mut sinks = Sinks::new();
    sinks.push("the terminal", Box::new(Console::new(common.color, common.quiet)));
    sinks
}

/// A line to stderr, unless `--quiet`.
fn say(common: &CommonArgs, text: &str) {
    if !common.quiet {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn an_argument_that_is_not_utf8_is_told_by_number_and_a_program_name_may_be_anything() {
        let arg = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let told = words([arg(b"nmt"), arg(b"-c"), arg(b"caf\xE9.toml")].into_iter()).unwrap_err();
        assert_eq!(told, r#"argument 2 is not valid UTF-8: "caf\xE9.toml"; give another name to the file"#);
        assert_eq!(words([arg(b"\xFF"), arg("größe".as_bytes())].into_iter()).unwrap(), ["\u{FFFD}", "größe"]);
    }
}
