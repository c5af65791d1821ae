//! A trained run, ready to translate: config, tokenizers, model with weights.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::DType;

use crate::checkpoint::{self, Store, Which};
use crate::config::Config;
use crate::exit::InputError;
use crate::model::{self, Model};
use crate::tokenizer::Tokenizers;
use crate::{shell, train};

use super::args::CommonArgs;
use super::load_run_config;

/// File that `nmt-train average` writes into a run folder.
pub(super) const AVERAGE: &str = "average.safetensors";

/// See the module.
pub(super) struct Trained {
    pub(super) config: Config,
    pub(super) tokenizers: Tokenizers,
    pub(super) model: Box<dyn Model>,
}

impl Trained {
    /// `checkpoint`: "best", "latest", "average" or an update.
    pub(super) fn load(run: &Path, checkpoint: &str, common: &CommonArgs) -> Result<Self> {
        let config_path = train::config_path(run);
        if !config_path.exists() {
            let run = run.display();
            return Err(InputError::new(format!("{run} is not a run folder: it has no config.toml")).into());
        }
        let config = load_run_config(&config_path, common)?.config;
        train::set_threads(config.threads)?;
        let device = train::device_for_use(&config.device, config.train.precision)?;
        let tokenizers = Tokenizers::load_saved(run)?;
        let vocabulary = train::vocabulary(&tokenizers);
        let model = model::build(&config.model, vocabulary, config.seed, DType::F32, &device)?;
        checkpoint::load_weights(&weights_path(run, checkpoint)?, model.params())?;
        Ok(Trained { config, tokenizers, model })
    }

    /// Several runs for one ensemble; they must agree on the vocabulary.
    pub(super) fn load_all(runs: &[PathBuf], checkpoint: &str, common: &CommonArgs) -> Result<Vec<Self>> {
        let all = runs.iter().map(|run| Self::load(run, checkpoint, common)).collect::<Result<Vec<_>>>()?;
        for (other, run) in all.iter().zip(runs).skip(1) {
            if other.tokenizers.fingerprint() != all[0].tokenizers.fingerprint() {
                return Err(InputError::new(format!(
                    "{} and {} have different tokenizers: an ensemble needs one vocabulary; train the second run with \
                     tokenizer.path = \"{}/tokenizer.json\"",
                    runs[0].display(),
                    run.display(),
                    runs[0].display()
                ))
                .into());
            }
        }
        Ok(all)
    }
}

/// The weights that a name means.
fn weights_path(run: &Path, name: &str) -> Result<PathBuf> {
    let which = match name {
        "best" => Which::Best,
        "latest" => Which::Latest,
        "average" => {
            let path = run.join(AVERAGE);
            return match path.exists() {
                true => Ok(path),
                false => Err(InputError::new(format!(
                    "{} does not exist; make it with `nmt-train average {} --last 5`",
                    path.display(),
                    shell::path(run)
                ))
                .into()),
            };
        }
        step => Which::Step(step.parse().map_err(|_| {
            InputError::new(format!("--checkpoint {step}: give best, latest, average or the number of an update"))
        })?),
    };
    Ok(Store::at(run).find(which)?)
}
