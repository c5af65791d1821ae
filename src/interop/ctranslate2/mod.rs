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
use crate::tokenizer::{Tokenizer, Tokenizers};

/// Fills `folder`, to be called `name`. Returns what is not as in the run.
///
/// # Errors
/// An RNN; two tokens of one name; a full disk.
pub(super) fn write(folder: &NewFolder, run: &Usable, dtype: Dtype, name: &str) -> Result<Vec<String>, Error> {
    let variables = variables::of(&run.config.model, &weights(run, dtype)?, super::positions(run))?;
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
    files.push(("README.md", readme(name, &run.tokenizers).into_bytes()));
    for (file, bytes) in files {
        folder.file(file, |out| out.write_all(&bytes))?;
    }
    folder.file("model.bin", |out| binary::write(out, &variables, dtype))?;
    Ok(Vec::new())
}

/// Ending of the names of vocabularies beside SentencePiece models.
const VOCABULARY: &str = ".vocab.json";

/// Whether `</s>` at the end of the source is put there by CTranslate2: a tokenizer.json does it itself, SentencePiece not.
fn adds_eos(tokenizers: &Tokenizers) -> bool {
    is_spm(tokenizers.paths().0)
}

fn is_spm(file: &str) -> bool {
    file.ends_with(".spm")
}

/// `config.json`. The decoder starts from a zero embedding, so its start token is any.
fn config(tokenizers: &Tokenizers) -> serde_json::Value {
    let target = &tokenizers.target;
    let token = |id| target.token(id).unwrap_or_default();
    let (eos, unk) = (token(target.eos_id()), token(target.unk_id()));
    json!({
        "add_source_bos": false,
        "add_source_eos": adds_eos(tokenizers),
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
fn readme(name: &str, tokenizers: &Tokenizers) -> String {
    let (source_file, target_file) = tokenizers.paths();
    let load = |side: &str, file: &str| match is_spm(file) {
        true => format!("{side} = SentencePieceProcessor(model_file=folder + \"/{file}\")\n"),
        // "</s>" within a line is ordinary text
        false => format!("{side} = Tokenizer.from_file(folder + \"/{file}\")\n{side}.encode_special_tokens = True\n"),
    };
    let target_name = if target_file.is_some() { "target" } else { "source" };
    let loads = load("source", source_file) + &target_file.map(|file| load("target", file)).unwrap_or_default();
    let tokens = match is_spm(source_file) {
        true => "source.encode(lines, out_type=str)",
        false => "[line.tokens for line in source.encode_batch(lines)]",
    };
    let text = match is_spm(target_file.unwrap_or(source_file)) {
        true => format!("{target_name}.decode(result.hypotheses[0])"),
        false => {
            format!("{target_name}.decode([{target_name}.token_to_id(token) for token in result.hypotheses[0]])")
        }
    };
    let files: Vec<&str> = [Some(source_file), target_file].into_iter().flatten().collect();
    let mut imports: Vec<&str> = files
        .iter()
        .map(|file| match is_spm(file) {
            true => "from sentencepiece import SentencePieceProcessor\n",
            false => "from tokenizers import Tokenizer\n",
        })
        .collect();
    imports.dedup();
    let end = match adds_eos(tokenizers) {
        true => "CTranslate2 puts `</s>` at the end of each line, which the model needs",
        false => "it puts `</s>` at the end of each line, which the model needs",
    };
    format!(
        r#"# {name}

A translation model in the format of CTranslate2, exported by nmt-train {version}. `{source_file}` cuts text into the tokens
of its vocabulary; {end}.

```python
import ctranslate2
{imports}
folder = "."
translator = ctranslate2.Translator(folder)
{loads}
lines = ["A line to translate."]
for result in translator.translate_batch({tokens}, beam_size=5, max_input_length=0):
    print({text})
```

By default CTranslate2 forbids empty translations (`min_decoding_length`), stops at 256 tokens (`max_decoding_length`) and
cuts texts of more than 1024 tokens (`max_input_length`).
"#,
        version = env!("CARGO_PKG_VERSION"),
        imports = imports.concat(),
    )
}
