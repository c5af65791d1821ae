//! `nmt-train import`: a model that came from elsewhere becomes the folder of a run.

use anyhow::Result;
use candle_core::{DType, Device};

use crate::checkpoint::{Snapshot, Store};
use crate::config::Config;
use crate::exit::{ExitCode, InputError};
use crate::interop::{self, Origin};
use crate::model::{self, Model};
use crate::run::{vocabulary, Ledger, RunFolder};
use crate::{shell, units};

use super::args::{CommonArgs, ImportArgs};
use super::say;

/// `words`: the command line, to be recorded.
pub(super) fn import(args: &ImportArgs, common: &CommonArgs, words: &[String]) -> Result<ExitCode> {
    let shown = args.out.display();
    if interop::is_run(&args.model) {
        return Err(InputError(format!("{} is the folder of a run already; it needs no import", args.model)).into());
    }
    interop::vacant(&args.out)?;
    let origin = Origin::open(&args.model)?;
    let config = config(&origin, &shown.to_string());
    let model = model::build(&config.model, vocabulary(&origin.tokenizers), config.seed, DType::F32, &Device::Cpu)?;
    origin.fill(model.as_ref(), &origin.tokenizers)?;

    let folder = interop::begin(&args.out)?;
    origin.tokenizers.save(folder.path())?;
    let store = Store::open(folder.path())?;
    store.save(&snapshot(model.as_ref(), &origin)?)?;
    // no other is as good
    store.retain(&[0], 1, 1)?;
    RunFolder::open(folder.path())?.record(&config, &shell::command(words))?;
    folder.commit()?;
    let numbers = units::count(model.params().elements() as u64);
    say(common, &format!("{shown}: {numbers} weights of {}", origin.weights_name));
    let [source, target] = [&config.data.source_language, &config.data.target_language];
    say(common, &format!("  {source} to {target}, {}", vocabularies(&origin)));
    say(common, &format!("  next  nmt-train translate {}", shell::path(&args.out)));
    Ok(ExitCode::Success)
}

/// Sizes of the vocabularies, and how they cut text.
fn vocabularies(origin: &Origin) -> String {
    let of = vocabulary(&origin.tokenizers);
    let (source, target) = (units::count(of.source_size as u64), units::count(of.target_size as u64));
    match (origin.tokenizers.is_joint(), origin.tokenizers.share_vocabulary()) {
        (true, _) => format!("one tokenizer of {source} pieces"),
        (false, true) => format!("two tokenizers of one vocabulary of {source} pieces"),
        (false, false) => format!("vocabularies of {source} and {target} pieces"),
    }
}

/// That of a run without text.
fn config(origin: &Origin, run_dir: &str) -> Config {
    let mut config = Config {
        run_dir: run_dir.to_string(),
        data: origin.data(),
        model: origin.model.clone(),
        decode: origin.decode.clone(),
        ..Config::default()
    };
    config.model.init_from.clone_from(&origin.name);
    config.tokenizer.joint = origin.tokenizers.share_vocabulary();
    config.validation.metrics.clear();
    config
}

/// A checkpoint before the first update.
fn snapshot(model: &dyn Model, origin: &Origin) -> Result<Snapshot> {
    let weights = model.params().iter().map(|param| (param.name.clone(), param.var.as_tensor().clone()));
    let ledger = Ledger::new(String::new(), origin.tokenizers.fingerprint());
    Ok(Snapshot { weights: weights.collect(), state: ledger.to_json()?, ..Snapshot::default() })
}
