//! Folders of CTranslate2: byte for byte the `model.bin` that its own converter makes of our Hugging Face folder, and what
//! that can not hold besides: pre-norm models and separate vocabularies.
//!
//! | file | owns |
//! |---|---|
//! | `binary` | the bytes of `model.bin` |
//! | `quantize` | weights as whole numbers and half floats |
//! | `variables` | which variables a Transformer has there, and of which of our weights they are made |

mod binary;
mod quantize;
mod variables;

use std::collections::BTreeSet;

use serde_json::json;

use super::{pretty, weights, Dtype, Error};
use crate::fsio::NewFolder;
use crate::run::Usable;
use crate::tokenizer::{Tokenizer, FILE, TARGET_FILE};

/// Fills `folder`, to be called `name`. Returns what is not as in the run.
///
/// # Errors
/// An RNN; two tokens of one name; a full disk.
pub(super) fn write(folder: &NewFolder, run: &Usable, dtype: Dtype, name: &str) -> Result<Vec<String>, Error> {
    let variables = variables::of(&run.config.model, &weights(run, dtype)?, super::positions(run))?;
    let (source, target) = (&run.tokenizers.source, &run.tokenizers.target);
    let vocabularies = [tokens(source)?, tokens(target)?];
    let mut files: Vec<(&str, Vec<u8>)> = vec![("config.json", pretty(&config(target))?)];
    match &vocabularies {
        [source, target] if source == target => files.push(("shared_vocabulary.json", pretty(source)?)),
        [source, target] => {
            files.push(("source_vocabulary.json", pretty(source)?));
            files.push(("target_vocabulary.json", pretty(target)?));
        }
    }
    files.push((FILE, source.to_json()?.into_bytes()));
    if !run.tokenizers.is_joint() {
        files.push((TARGET_FILE, target.to_json()?.into_bytes()));
    }
    files.push(("README.md", readme(name, run.tokenizers.is_joint()).into_bytes()));
    for (file, bytes) in files {
        folder.file(file, |out| out.write_all(&bytes))?;
    }
    folder.file("model.bin", |out| binary::write(out, &variables, dtype))?;
    Ok(Vec::new())
}

/// `config.json`. The encoder's text ends with `</s>`, which our tokenizer.json puts there; the decoder starts from a zero
/// embedding, so its start token is any.
fn config(target: &Tokenizer) -> serde_json::Value {
    let token = |id| target.token(id).unwrap_or_default();
    let (eos, unk) = (token(target.eos_id()), token(target.unk_id()));
    json!({
        "add_source_bos": false,
        "add_source_eos": false,
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

/// How to use the folder.
fn readme(name: &str, is_joint: bool) -> String {
    let (target, load) = match is_joint {
        true => ("source", String::new()),
        false => ("target", format!("\ntarget = Tokenizer.from_file(folder + \"/{TARGET_FILE}\")")),
    };
    format!(
        r#"# {name}

A translation model in the format of CTranslate2, exported by nmt-train {version}. `{FILE}` cuts text into the tokens of
its vocabulary and puts `</s>` at the end of each line, which the model needs.

```python
import ctranslate2
from tokenizers import Tokenizer

folder = "."
translator = ctranslate2.Translator(folder)
source = Tokenizer.from_file(folder + "/{FILE}")
source.encode_special_tokens = True  # "</s>" within a line is ordinary text{load}
tokens = [line.tokens for line in source.encode_batch(["A line to translate."])]
for result in translator.translate_batch(tokens, beam_size=5, max_input_length=0):
    print({target}.decode([{target}.token_to_id(token) for token in result.hypotheses[0]]))
```

By default CTranslate2 forbids empty translations (`min_decoding_length`), stops at 256 tokens (`max_decoding_length`) and
cuts texts of more than 1024 tokens (`max_input_length`).
"#,
        version = env!("CARGO_PKG_VERSION"),
    )
}
