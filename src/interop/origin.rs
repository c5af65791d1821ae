//! A trained model to begin with, wherever it lies: the folder of a run, a folder of Hugging Face, a repository of the Hub.

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde_json::Value;

use super::folder::Folder;
use super::marian::{GenerationConfig, MarianConfig};
use super::weights;
use crate::checkpoint::{self, Which};
use crate::config::{self, Config, DataConfig, DecodeConfig, ModelConfig};
use crate::exit::InputError;
use crate::fsio;
use crate::model::Vocabulary;
use crate::run::{vocabulary, Checkpoint, Paths, Weights};
use crate::tokenizer::{MarianFiles, Tokenizer, Tokenizers};

/// See the module.
pub struct Origin {
    /// As it was named.
    pub name: String,
    /// What the weights fit to, and the dropout they were trained with.
    pub model: ModelConfig,
    pub decode: DecodeConfig,
    /// Of source and target; empty where nothing says it.
    pub languages: [String; 2],
    /// Longest line in tokens, `</s>` included.
    pub max_length: usize,
    pub tokenizers: Tokenizers,
    /// Which weights these are, in words.
    pub weights_name: String,
    /// Where they were read, for messages.
    pub(super) file: PathBuf,
    /// By our names, sorted.
    pub(super) weights: Vec<(String, Tensor)>,
}

/// Positions that a model is taken to know; a table of them goes out with it.
const LONGEST: usize = 1 << 16;
const CONFIG: &str = "config.json";
/// Pickles of before safetensors.
const PICKLE: &str = "pytorch_model.bin";
const SAFETENSORS: &str = "model.safetensors";

impl Origin {
    /// Reads all of it; `name` is a path or `hf://OWNER/NAME[@REVISION]`.
    ///
    /// # Errors
    /// Nothing there, a model of another kind, a damaged file, tokenizers that are not those of the weights.
    pub fn open(name: &str) -> Result<Self> {
        let folder = Folder::named(name)?;
        match folder.local().map(Paths::of) {
            Some(paths) if paths.config().exists() => Self::of_run(name, &paths),
            Some(paths) if !paths.root().is_dir() => {
                let what = if paths.root().exists() { "is no folder" } else { "does not exist" };
                Err(InputError(format!(
                    "{name} {what}: a run's folder, a folder of Hugging Face (config.json, weights, tokenizer) or \
                     hf://OWNER/NAME is needed"
                ))
                .into())
            }
            _ => Self::of_marian(name, &folder),
        }
    }

    fn of_run(name: &str, paths: &Paths) -> Result<Self> {
        let Config { model, decode, data, .. } = config::load_recorded(&paths.config(), &[])?.config;
        let tokenizers = Tokenizers::load_saved(paths.root())?;
        let found = Weights::find(paths, Checkpoint::Saved(Which::Best))?;
        found.check_tokenizer(paths, &tokenizers)?;
        let weights_name = match (found.step, found.instead) {
            (Some(0), _) | (None, _) => name.to_string(),
            _ if found.is_average => format!("{name}, the average of its last validations, its best"),
            (Some(step), None) => format!("{name}, update {step}, its best"),
            (Some(_), Some(instead)) => format!("{name} ({instead})"),
        };
        Ok(Origin {
            name: name.to_string(),
            model,
            decode,
            languages: [data.source_language, data.target_language],
            max_length: data.max_length,
            tokenizers,
            weights_name,
            weights: checkpoint::read_weights(&found.path, &Device::Cpu)?,
            file: found.path,
        })
    }

    fn of_marian(name: &str, folder: &Folder) -> Result<Self> {
        let Some(config) = folder.file(CONFIG)? else {
            // for its error, which says why there is none
            let missing = folder.needed(CONFIG)?;
            return Err(InputError(format!(
                "{name} is neither the folder of a run (it has no config.toml) nor one of Hugging Face: there is no {}",
                missing.display()
            ))
            .into());
        };
        let text = fsio::read_to_string(&config)?;
        let refused = |what: String| InputError(format!("{name}: {what}"));
        let marian = MarianConfig::parse(&text).map_err(|e| refused(e.to_string()))?;
        let expected = marian.vocabulary().map_err(|e| refused(e.to_string()))?;
        let mut model = ModelConfig::try_from(&marian).map_err(|e| refused(e.to_string()))?;
        // older folders have the keys of the search in the one file
        let generation = match folder.file("generation_config.json")? {
            Some(file) => fsio::read_to_string(&file)?,
            None => text,
        };
        let generation: GenerationConfig =
            serde_json::from_str(&generation).map_err(|e| refused(format!("generation_config.json: {e}")))?;
        let (tokenizers, languages) = tokenizers(folder)?;
        check_vocabulary(name, expected, &tokenizers, marian.eos_token_id)?;
        let file = match folder.file(SAFETENSORS)? {
            Some(file) => file,
            None => folder.file(PICKLE)?.ok_or_else(|| {
                refused(format!("it has neither {SAFETENSORS} nor {PICKLE}; weights in several files are not read"))
            })?,
        };
        let weights = weights::read(&file, &mut model)?;
        Ok(Origin {
            name: name.to_string(),
            model,
            decode: DecodeConfig::from(&generation),
            languages,
            max_length: marian.max_position_embeddings.clamp(2, LONGEST),
            tokenizers,
            weights_name: format!("{name}, {}", file.file_name().unwrap_or_default().to_string_lossy()),
            weights,
            file,
        })
    }

    /// `[data]` of a run that only holds this model.
    pub fn data(&self) -> DataConfig {
        let mut data = DataConfig { max_length: self.max_length, ..DataConfig::default() };
        let [source, target] = &self.languages;
        for (key, language) in [(&mut data.source_language, source), (&mut data.target_language, target)] {
            if !language.is_empty() {
                key.clone_from(language);
            }
        }
        data
    }
}

/// Those of a folder, and the languages that `tokenizer_config.json` names. SentencePiece models come first: they are what
/// the model was trained with, a `tokenizer.json` beside them was made from them.
fn tokenizers(folder: &Folder) -> Result<(Tokenizers, [String; 2])> {
    let config: Value = match folder.file("tokenizer_config.json")? {
        Some(file) => serde_json::from_str(&fsio::read_to_string(&file)?)
            .map_err(|e| InputError(format!("{}: not JSON: {e}", file.display())))?,
        None => Value::Null,
    };
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_string();
    let languages = [text("source_lang"), text("target_lang")];
    let found = match (folder.file("source.spm")?, folder.file("tokenizer.json")?) {
        (Some(source), _) => {
            let separate = config["separate_vocabs"].as_bool().unwrap_or(false);
            let target_vocab = if separate { Some(folder.needed("target_vocab.json")?) } else { None };
            let (target, vocab) = (folder.needed("target.spm")?, folder.needed("vocab.json")?);
            Tokenizers::marian(&MarianFiles {
                source_spm: &source,
                target_spm: &target,
                vocab: &vocab,
                target_vocab: target_vocab.as_deref(),
                special: special(&config),
                // older folders do not say
                marian: config["tokenizer_class"].as_str().is_none_or(|class| class.starts_with("Marian")),
            })?
        }
        (None, Some(file)) => Tokenizers::joint(Tokenizer::load(&file)?),
        (None, None) => {
            let needed = folder.needed("source.spm")?;
            return Err(
                InputError(format!("{}: missing, and there is no tokenizer.json either", needed.display())).into()
            );
        }
    };
    Ok((found, languages))
}

/// Names of the unknown token, the end of a sentence and padding, each text or an object around it.
fn special(config: &Value) -> [String; 3] {
    let [unk, eos, pad] = MarianFiles::usual();
    let name = |key: &str, usual: String| match &config[key] {
        Value::String(name) => name.clone(),
        token => token["content"].as_str().map_or(usual, str::to_string),
    };
    [name("unk_token", unk), name("eos_token", eos), name("pad_token", pad)]
}

/// Ids must mean to the tokenizer what they mean to the weights.
fn check_vocabulary(name: &str, expected: Vocabulary, tokenizers: &Tokenizers, eos: u32) -> Result<(), InputError> {
    let found = vocabulary(tokenizers);
    if found != expected {
        let sizes = |v: Vocabulary| match v.source_size == v.target_size {
            true => v.source_size.to_string(),
            false => format!("{} and {}", v.source_size, v.target_size),
        };
        return Err(InputError(format!(
            "{name}: config.json says a vocabulary of {}, the tokenizer has {} with padding; they do not belong together",
            sizes(expected),
            sizes(found)
        )));
    }
    let ends = [tokenizers.source.eos_id(), tokenizers.target.eos_id()];
    match ends.iter().find(|&&id| id != eos) {
        Some(id) => Err(InputError(format!(
            "{name}: config.json says eos_token_id = {eos}, the tokenizer ends lines with {id}; they do not belong together"
        ))),
        None => Ok(()),
    }
}

/// Whether a name stands for a run that is there.
pub fn is_run(name: &str) -> bool {
    !name.starts_with("hf://") && Paths::of(Path::new(name)).config().exists()
}
