//! `nmt-train tokenizer`: trains the tokenizer of a config and nothing else.

use anyhow::Result;

use crate::exit::{ExitCode, InputError};
use crate::fsio;
use crate::machine;
use crate::tokenizer::Tokenizers;
use crate::train;

use super::args::{CommonArgs, TokenizerArgs};
use super::{load_config, say};

pub(super) fn tokenizer(args: &TokenizerArgs, common: &CommonArgs) -> Result<ExitCode> {
    let loaded = load_config(&args.config, &args.set, common)?;
    machine::set_threads(loaded.config.threads)?;
    let out = args.out.clone().unwrap_or_else(|| loaded.run_dir());
    if let Some(file) = Tokenizers::existing(&out) {
        return Err(InputError::new(format!("{} exists; choose another --out", file.display())).into());
    }
    if !loaded.config.model.init_from.is_empty() && loaded.config.model.init_tokenizer {
        let from = &loaded.config.model.init_from;
        return Err(InputError::new(format!(
            "there is nothing to train: the tokenizer is that of model.init_from = \"{from}\""
        ))
        .into());
    }
    let (tokenizers, note) = train::obtain_tokenizers(&loaded.config, None, &mut |note| say(common, &note))?;
    fsio::create_dir_all(&out)?;
    tokenizers.save(&out)?;
    let sizes = (tokenizers.source.vocab_size(), tokenizers.target.vocab_size());
    say(common, &format!("{note}: {} source and {} target pieces, in {}", sizes.0, sizes.1, out.display()));
    Ok(ExitCode::Success)
}
