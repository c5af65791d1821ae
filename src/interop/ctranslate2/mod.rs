//! Folders of CTranslate2: byte for byte the `model.bin` that its own converter makes of our Hugging Face folder, and what
//! that can not hold besides: pre-norm models and separate vocabularies.
//!
//! | file | owns |
//! |---|---|
//! | `binary` | the bytes of `model.bin` |
//! | `quantize` | weights as whole numbers and half floats |
//! | `readme` | what the folder says of its use |
//! | `variables` | which variables a Transformer has there, and of which of our weights they are made |

mod binary;
mod quantize;
mod readme;
mod variables;

use std::collections::BTreeSet;

use serde_json::json;

use super::export::{pretty, weights, Dtype, Error};
use crate::fsio::NewFolder;
use crate::run::Usable;
use crate::tokenizer::{Tokenizer, Tokenizers};

/// Fills `folder`, to be called `name`. Returns what is not as in the run.
///
/// # Errors
/// An RNN; two tokens of one name; a full disk.
pub(super) fn write(folder: &NewFolder, run: &Usable, dtype: Dtype, name: &str) -> Result<Vec<String>, Error> {
    let variables = variables::of(&run.config.model, &weights(run, dtype)?, super::export::positions(run))?;
    let (source, target) = (&run.tokenizers.source, &run.tokenizers.target);
    let vocabularies = [tokens(source)?, tokens(target)?];
    let mut files: Vec<(&str, Vec<u8>)> = vec![("config.json", pretty(&config(&run.tokenizers))?)];
    match &vocabularies {
        [source, target] if source == target => files.push(("shared_vocabulary.json", pretty(source)?)),
        [source, target] => {
            files.push(("source_vocabulary.json", pretty(source)?));
            files.push(("target_vocabulary.json", pretty(target)?));
        }
    }
    // ids are those of the vocabularies above
    files.extend(run.tokenizers.files()?.into_iter().filter(|(file, _)| !file.ends_with(VOCABULARY)));
    files.push(("README.md", readme::text(name, &run.tokenizers).into_bytes()));
    for (file, bytes) in files {
        folder.file(file, |out| out.write_all(&bytes))?;
    }
    folder.file("model.bin", |out| binary::write(out, &variables, dtype))?;
    Ok(Vec::new())
}

/// Ending of the names of vocabularies beside SentencePiece models.
const VOCABULARY: &str = ".vocab.json";

/// `config.json`. The decoder starts from a zero embedding, so its start token is any.
fn config(tokenizers: &Tokenizers) -> serde_json::Value {
    let target = &tokenizers.target;
    let token = |id| target.token(id).unwrap_or_default();
    let (eos, unk) = (token(target.eos_id()), token(target.unk_id()));
    json!({
        "add_source_bos": false,
        "add_source_eos": readme::adds_eos(tokenizers),
        "bos_token": "<s>",
        "decoder_start_token": eos,
        "eos_token": eos,
        "layer_norm_epsilon": null,
        "multi_query_attention": false,
        "unk_token": unk,
    })
}

/// All tokens by id but the last, padding, which CTranslate2 has not.
fn tokens(tokenizer: &Tokenizer) -> Result<Vec<String>, Error> {
    let mut tokens = tokenizer.tokens();
    tokens.pop();
    let mut seen = BTreeSet::new();
    match tokens.iter().enumerate().find(|(_, token)| !seen.insert(token.as_str())) {
        Some((id, token)) => Err(Error::SameToken { id, token: token.clone() }),
        None => Ok(tokens),
    }
}
