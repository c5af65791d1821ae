//! `nmt-train --config …`, `nmt-train --resume …`: training.

use std::path::Path;

use anyhow::Result;

use crate::config::{self, differences, BatchSize, Config, Difference, Effect};
use crate::events::jsonl::final_json;
use crate::events::sinks::Sinks;
use crate::events::{End, Event};
use crate::exit::{ExitCode, InputError};
use crate::interop;
use crate::machine;
use crate::run::{Paths, RunFolder, StopReason};
use crate::train::{self, Job, Opened, Session, Signals};
use crate::world::World;
use crate::{fsio, shell};

use super::args::{CommonArgs, TrainArgs};
use super::output::print;
use super::{load_config, load_config_to_train, load_run_config, say, terminal, with_common};

/// `words`: the command line, to be recorded.
pub(super) fn train(
    args: &TrainArgs,
    common: &CommonArgs,
    words: &[String],
    signals: Signals,
    world: &World,
) -> Result<ExitCode> {
    let mut sinks = if world.leads() { terminal(common) } else { Sinks::new() };
    let (config, previous, origin, folder) = match (&args.resume, &args.config) {
        (Some(run), _) => {
            let (config, previous, folder) = resumed(run, args, common, &mut sinks, world)?;
            (config, previous, None, folder)
        }
        (None, Some(path)) => {
            let (mut loaded, origin) = load_config_to_train(path, &args.set, common)?;
            loaded.config.train.gradient_accumulation_steps *= world.size();
            // Before the folder is made: a wrong device should not leave one behind.
            machine::device(loaded.config.device, loaded.config.train.precision)?;
            let folder = open_folder(world, &loaded.run_dir(), |root| RunFolder::create(root, args.force))?;
            // So that the config in the folder names the folder, whatever that config's own name.
            (Config { run_dir: folder.root().display().to_string(), ..loaded.config }, None, origin, folder)
        }
        (None, None) => return Err(InputError::new("nothing to train: give --config FILE or --resume RUN").into()),
    };
    let threads = match config.threads {
        0 if !world.is_alone() => world.threads(machine::physical_cores(), machine::physical_cores_of_host()),
        threads => threads,
    };
    let threads = machine::set_threads(threads)?;
    let command = shell::command(words);
    let job = Job { config, previous, origin, folder, sinks, signals, threads, command, world: world.clone() };
    let session = match Session::open(job)? {
        Opened::Ready(session) => session,
        Opened::Finished(finished) => {
            if world.leads() {
                say(common, &finished.to_string());
                let mut end = final_json(&End::default());
                end.extend(finished.end);
                write_final_json(args, &end)?;
            }
            return Ok(ExitCode::Success);
        }
    };
    let outcome = train::run(*session)?;
    if world.leads() {
        write_final_json(args, &final_json(&outcome.end))?;
    }
    Ok(match outcome.stop {
        StopReason::Diverged => ExitCode::Diverged,
        StopReason::Signal | StopReason::MaxHours => ExitCode::Interrupted,
        StopReason::MaxUpdates | StopReason::MaxEpochs | StopReason::EarlyStopping => ExitCode::Success,
    })
}

/// Config, config until now and folder of a run that goes on. What changed against the run's own config is told, or refused.
fn resumed(
    run: &Path,
    args: &TrainArgs,
    common: &CommonArgs,
    sinks: &mut Sinks,
    world: &World,
) -> Result<(Config, Option<Config>, RunFolder)> {
    let own = Paths::existing(run)?.config();
    let folder = open_folder(world, run, RunFolder::open)?;
    let old = load_run_config(&own, &CommonArgs { device: None, threads: None, ..common.clone() })?;
    if let Some(gone) = old.removed.first() {
        return Err(InputError::new(format!(
            "{} can not be continued by this version:\n  {gone} in a new run\nits model can be used as before",
            run.display()
        ))
        .into());
    }
    let old = old.config;
    if old.is_imported() {
        return Err(InputError::new(format!(
            "{run} holds a model that was imported, so there is no training to go on with; to train it on, start a new run \
             with model.init_from = \"{run}\"",
            run = run.display()
        ))
        .into());
    }
    let mut new = match &args.config {
        Some(path) => {
            let mut loaded = load_config(path, &args.set, common)?;
            loaded.config.train.gradient_accumulation_steps *= world.size();
            interop::keep(&loaded, &old)
        }
        None => config::load_recorded(&own, &with_common(&args.set, common))?.config,
    };
    // The folder may have been moved or named by the config file; it is the one that was given.
    new.run_dir = run.display().to_string();
    // The number that was found when the run began.
    if new.train.batch_size == BatchSize::Auto {
        new.train.batch_size = old.train.batch_size;
    }
    let micro_batches = new.train.gradient_accumulation_steps;
    if !micro_batches.is_multiple_of(world.size()) {
        return Err(InputError::new(format!(
            "an update of {} has {micro_batches} micro-batches (train.gradient_accumulation_steps), which {} ranks can not \
             share evenly; take a number of ranks that divides {micro_batches}",
            run.display(),
            world.size()
        ))
        .into());
    }
    let changes: Vec<Difference> = differences(&old, &new).into_iter().filter(|d| d.path != "run_dir").collect();
    let (refused, allowed): (Vec<_>, Vec<_>) = changes.iter().partition(|d| d.effect == Effect::Refused);
    if !refused.is_empty() {
        let lines: Vec<String> = refused.iter().map(|change| format!("  {change}")).collect();
        return Err(InputError::new(format!(
            "{} can not be continued with these changes:\n{}\nset them back, or start a new run with another run_dir",
            run.display(),
            lines.join("\n")
        ))
        .into());
    }
    for change in allowed {
        sinks.emit(&Event::Note(format!("changed: {change}")));
    }
    Ok((new, Some(old), folder))
}

/// The folder of a run, opened by the leader before any other rank looks at it.
fn open_folder(world: &World, root: &Path, open: impl FnOnce(&Path) -> Result<RunFolder>) -> Result<RunFolder> {
    let folder = if world.leads() { open(root)? } else { RunFolder::follow(root) };
    world.wait()?;
    Ok(folder)
}

fn write_final_json(args: &TrainArgs, end: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    let Some(path) = &args.final_json else { return Ok(()) };
    let mut line = serde_json::to_string(end)?;
    line.push('\n');
    if path == Path::new("-") {
        print(line)?;
    } else {
        fsio::write_atomic(path, line.as_bytes())?;
    }
    Ok(())
}
