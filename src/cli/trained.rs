//! The runs that a command names, opened for use: their weights will not change.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::exit::InputError;
use crate::machine;
use crate::run::{Checkpoint, Paths, Usable};

use super::args::{CommonArgs, WeightsArgs};
use super::{load_run_config, say};

/// Says which weights are used, and which precision, where that is not obvious.
pub(super) fn load(run: &Path, wanted: &WeightsArgs, common: &CommonArgs) -> Result<Usable> {
    let (checkpoint, precision) = (Checkpoint::named(&wanted.checkpoint)?, wanted.precision);
    let paths = Paths::existing(run)?;
    let config = load_run_config(&paths.config(), common)?.config;
    machine::set_threads(config.threads)?;
    let device = machine::device_for_use(config.device, config.train.precision, precision)?;
    if let Some(told) = precision.and_then(|asked| machine::fallback(&device, asked)) {
        say(common, &format!("{}: {told}", run.display()));
    }
    let found = Usable::load(&paths, config, checkpoint, &device)?;
    if let Some(instead) = &found.instead {
        say(common, &format!("{}: {instead}", run.display()));
    }
    Ok(found)
}

/// Several runs for one ensemble; they must agree on the vocabulary.
pub(super) fn load_all(runs: &[PathBuf], wanted: &WeightsArgs, common: &CommonArgs) -> Result<Vec<Usable>> {
    let all = runs.iter().map(|run| load(run, wanted, common)).collect::<Result<Vec<_>>>()?;
    for (other, run) in all.iter().zip(runs).skip(1) {
        if other.tokenizers.fingerprint() != all[0].tokenizers.fingerprint() {
            let first = runs[0].display();
            let (source, target) = all[0].tokenizers.paths();
            let target = target.map(|file| format!(", tokenizer.target_path = \"{first}/{file}\"")).unwrap_or_default();
            return Err(InputError::new(format!(
                "{first} and {} have different tokenizers: an ensemble needs one vocabulary; train the second run with \
                 tokenizer.path = \"{first}/{source}\"{target}",
                run.display()
            ))
            .into());
        }
    }
    Ok(all)
}
