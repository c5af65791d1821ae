//! A trained run, opened for use: its tokenizers and a model with the weights of one of its checkpoints.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device};

use super::folder::Paths;
use crate::checkpoint::{self, Best, Store, Which};
use crate::config::Config;
use crate::exit::InputError;
use crate::model::{self, Model, Vocabulary};
use crate::shell;
use crate::tokenizer::Tokenizers;

/// See the module.
pub struct Usable {
    pub config: Config,
    pub tokenizers: Tokenizers,
    pub model: Box<dyn Model>,
    /// Where the run lies.
    pub paths: Paths,
    /// The update whose weights it has; `None` = the averaged ones.
    pub step: Option<u64>,
    /// Which weights it has, where these are not the obvious ones.
    pub instead: Option<String>,
}

/// The weights that a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    Saved(Which),
    /// The file that `nmt-train average` writes.
    Average,
}

impl Checkpoint {
    /// From "best", "latest", "average" or the number of an update.
    ///
    /// # Errors
    /// Anything else.
    pub fn named(name: &str) -> Result<Self, InputError> {
        match name {
            "best" => Ok(Checkpoint::Saved(Which::Best)),
            "latest" => Ok(Checkpoint::Saved(Which::Latest)),
            "average" => Ok(Checkpoint::Average),
            step => step.parse().map(|step| Checkpoint::Saved(Which::Step(step))).map_err(|_| {
                InputError::new(format!("--checkpoint {step}: give best, latest, average or the number of an update"))
            }),
        }
    }
}

/// Sizes and special ids for the model.
pub fn vocabulary(tokenizers: &Tokenizers) -> Vocabulary {
    Vocabulary {
        source_size: tokenizers.source.vocab_size(),
        target_size: tokenizers.target.vocab_size(),
        source_pad: tokenizers.source.pad_id(),
        target_pad: tokenizers.target.pad_id(),
    }
}

impl Usable {
    /// `config`: that of the run.
    ///
    /// # Errors
    /// No such checkpoint, a damaged one, a tokenizer that is not the one these weights were trained with.
    pub fn load(paths: &Paths, config: Config, checkpoint: Checkpoint, device: &Device) -> Result<Self> {
        let tokenizers = Tokenizers::load_saved(paths.root())?;
        let model = model::build(&config.model, vocabulary(&tokenizers), None, DType::F32, device)?;
        let weights = Weights::find(paths, checkpoint)?;
        checkpoint::load_weights(&weights.path, model.params())?;
        weights.check_tokenizer(paths, &tokenizers)?;
        let step = weights.step.filter(|_| !weights.is_average);
        Ok(Usable { config, tokenizers, model, paths: paths.clone(), step, instead: weights.instead })
    }
}

impl Usable {
    /// With its weights laid out for use alone ([`Model::prepacked`]).
    ///
    /// # Errors
    /// Memory errors of candle.
    pub fn prepacked(self) -> Result<Self> {
        Ok(Usable { model: self.model.prepacked()?, ..self })
    }
}

/// The weights of a run that were asked for.
pub struct Weights {
    /// A checkpoint's folder or a safetensors file.
    pub path: PathBuf,
    /// Whose ledger knows the tokenizer of these weights, if one does.
    pub step: Option<u64>,
    /// Which ones they are, where these are not the obvious ones.
    pub instead: Option<String>,
    /// Whether they are the mean of several.
    pub is_average: bool,
}

impl Weights {
    /// # Errors
    /// No such checkpoint, or no average.
    pub fn find(paths: &Paths, checkpoint: Checkpoint) -> Result<Self> {
        let store = Store::at(paths.root());
        let path = paths.average();
        let is_average = match checkpoint {
            Checkpoint::Average => true,
            Checkpoint::Saved(Which::Best) => store.best()? == Some(Best::Average) && path.exists(),
            Checkpoint::Saved(_) => false,
        };
        match checkpoint {
            Checkpoint::Saved(which) if !is_average => {
                let found = store.find(which)?;
                Ok(Weights { path: found.path, step: Some(found.step), instead: found.instead, is_average })
            }
            _ => {
                if !path.exists() {
                    let make = format!("nmt-train average {} --last 5", shell::path(paths.root()));
                    return Err(InputError(format!("{} does not exist; make it with `{make}`", path.display())).into());
                }
                let step = store.find(Which::Latest).ok().map(|found| found.step);
                Ok(Weights { path, step, instead: None, is_average })
            }
        }
    }

    /// Ids of another vocabulary of the same size would give words that mean nothing.
    ///
    /// # Errors
    /// Tokenizers that are not those of the training.
    pub fn check_tokenizer(&self, paths: &Paths, tokenizers: &Tokenizers) -> Result<(), InputError> {
        let state = self.step.and_then(|step| Store::at(paths.root()).state(step).ok());
        let trained_with = state.as_ref().and_then(|state| state["tokenizer_fingerprint"].as_str()).unwrap_or_default();
        if trained_with.is_empty() || trained_with == tokenizers.fingerprint() {
            return Ok(());
        }
        Err(InputError(format!(
            "the tokenizer in {} is not the one this run was trained with, so ids would mean other words; put its own \
             {} back",
            paths.root().display(),
            tokenizers.paths().0
        )))
    }
}
