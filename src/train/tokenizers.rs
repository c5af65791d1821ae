//! The tokenizers of a run: those of files, those of a model to begin with, or trained on the training text, which is done once for
//! a text.

use std::path::Path;

use anyhow::Result;

use crate::config::Config;
use crate::data::{self, Contents, Side};
use crate::fsio;
use crate::interop::Origin;
use crate::tokenizer::{self, Tokenizer, Tokenizers};

/// Beside the tokenizers in the cache: their fingerprint, written last.
const SEAL: &str = "fingerprint";

/// The tokenizers of a model to begin with, if it is to keep them.
pub(super) fn inherited(config: &Config, origin: Option<&Origin>) -> Option<(Tokenizers, String)> {
    let origin = origin.filter(|_| config.model.init_tokenizer)?;
    Some((origin.tokenizers.clone(), format!("of {}", origin.name)))
}

/// Loads the tokenizers that the config names, or trains them on the training text; the second value says which. `cache`: the
/// training text by content, and the folder where trained tokenizers are looked for and kept.
///
/// # Errors
/// Unreadable text, a tokenizer that can not be used, a folder that can not be written to.
pub fn obtain_tokenizers(
    config: &Config,
    cache: Option<(&Contents, &Path)>,
    note: &mut dyn FnMut(String),
) -> Result<(Tokenizers, String)> {
    let settings = &config.tokenizer;
    if !settings.path.is_empty() {
        let source = data::resolve(&settings.path)?;
        let target = match settings.target_path.as_str() {
            "" => None,
            path => Some(data::resolve(path)?),
        };
        let tokenizers = Tokenizers::load(&source, target.as_deref())?;
        for added in tokenizers.added() {
            note(format!("{}: {added}", settings.path));
        }
        return Ok((tokenizers, settings.path.clone()));
    }
    let tokenizers = match cache {
        Some((contents, folder)) => {
            let name = contents.tokenizer(&config.data, settings, tokenizer::TRAINER)?;
            trained_once(config, &folder.join(name), note)?
        }
        None => trained(config, note)?,
    };
    let kind = if settings.joint { "joint" } else { "one a side" };
    Ok((tokenizers, format!("{}, {kind}, trained on the training text", format!("{:?}", settings.kind).to_lowercase())))
}

/// Those of the folder, or trained and put there.
fn trained_once(config: &Config, folder: &Path, note: &mut dyn FnMut(String)) -> Result<Tokenizers> {
    let seal = folder.join(SEAL);
    if seal.exists() {
        let wanted = fsio::read_to_string(&seal)?;
        match Tokenizers::load_saved(folder) {
            Ok(found) if found.fingerprint() == wanted => return Ok(found),
            _ => note(format!("the tokenizer in {} is damaged", folder.display())),
        }
    }
    let tokenizers = trained(config, note)?;
    fsio::create_dir_all(folder)?;
    tokenizers.save(folder)?;
    fsio::write_atomic(&seal, tokenizers.fingerprint().as_bytes())?;
    Ok(tokenizers)
}

fn trained(config: &Config, note: &mut dyn FnMut(String)) -> Result<Tokenizers> {
    note("training the tokenizer on the training text".to_string());
    Ok(match config.tokenizer.joint {
        true => Tokenizers::joint(train(config, None)?),
        false => Tokenizers::separate(train(config, Some(Side::Source))?, train(config, Some(Side::Target))?),
    })
}

/// A tokenizer of one side's training text, or of both.
fn train(config: &Config, side: Option<Side>) -> Result<Tokenizer> {
    // The trainer takes lines, not results; a fault of the text ends them and is looked at afterwards.
    let mut fault = None;
    let lines = data::text_lines(&config.data.train, &config.data, side);
    let lines = lines.map_while(|line| line.map_err(|e| fault = Some(e)).ok());
    let tags = if side == Some(Side::Target) { Vec::new() } else { config.data.train.tags() };
    let tokenizer = Tokenizer::train(&config.tokenizer, &tags, lines);
    match fault {
        Some(fault) => Err(fault.into()),
        None => Ok(tokenizer?),
    }
}
