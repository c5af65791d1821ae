//! README.md of a folder for CTranslate2: how text becomes the tokens that it takes, and what it gives becomes text.

use crate::tokenizer::Tokenizers;

/// Whether `</s>` at the end of the source is put there by CTranslate2: a tokenizer.json does it itself, SentencePiece not.
pub(super) fn adds_eos(tokenizers: &Tokenizers) -> bool {
    is_spm(tokenizers.paths().0)
}

fn is_spm(file: &str) -> bool {
    file.ends_with(".spm")
}

/// Said of models for several languages.
const CODES: &str = "
The code of the target language is a token of its own, which SentencePiece would cut: put it before the others, as in
`[\">>de<<\"] + source.encode(line, out_type=str)`.
";

/// The whole file; `name` is the model's.
pub(super) fn text(name: &str, tokenizers: &Tokenizers) -> String {
    let (source, target) = tokenizers.paths();
    let target_name = if target.is_some() { "target" } else { "source" };
    let mut imports: Vec<&str> = [source].into_iter().chain(target).map(import).collect();
    imports.dedup();
    format!(
        r#"# {name}

A translation model in the format of CTranslate2, exported by nmt-train {version}. `{source}` cuts text into the tokens of
its vocabulary; {who} puts `</s>` at the end of each line, which the model needs.

```python
import ctranslate2
{imports}
folder = "."
translator = ctranslate2.Translator(folder)
{loads}
lines = ["A line to translate."]
for result in translator.translate_batch({tokens}, beam_size=5):
    print({text})
```
{codes}
By default CTranslate2 forbids empty translations (`min_decoding_length`), stops at 256 tokens (`max_decoding_length`) and
cuts texts of more than 1024 tokens (`max_input_length`).
"#,
        version = env!("CARGO_PKG_VERSION"),
        who = if adds_eos(tokenizers) { "CTranslate2" } else { "it" },
        imports = imports.concat(),
        loads = load("source", source) + &target.map(|file| load("target", file)).unwrap_or_default(),
        tokens = encode(source),
        text = decode(target_name, target.unwrap_or(source)),
        codes = if is_spm(source) && has_codes(tokenizers) { CODES } else { "" },
    )
}

fn import(file: &str) -> &'static str {
    match is_spm(file) {
        true => "from sentencepiece import SentencePieceProcessor\n",
        false => "from tokenizers import Tokenizer\n",
    }
}

fn load(side: &str, file: &str) -> String {
    match is_spm(file) {
        true => format!("{side} = SentencePieceProcessor(model_file=folder + \"/{file}\")\n"),
        // "</s>" within a line is ordinary text
        false => format!("{side} = Tokenizer.from_file(folder + \"/{file}\")\n{side}.encode_special_tokens = True\n"),
    }
}

fn encode(file: &str) -> &'static str {
    match is_spm(file) {
        true => "source.encode(lines, out_type=str)",
        false => "[line.tokens for line in source.encode_batch(lines)]",
    }
}

fn decode(side: &str, file: &str) -> String {
    match is_spm(file) {
        // a piece of the vocabulary that only the other side's model has is left as it is
        true => format!("{side}.decode(result.hypotheses[0]).replace(\"▁\", \" \").strip()"),
        false => format!("{side}.decode([{side}.token_to_id(token) for token in result.hypotheses[0]])"),
    }
}

/// Whether a token names a language, as in the models of opus-mt for several.
fn has_codes(tokenizers: &Tokenizers) -> bool {
    tokenizers.source.tokens().iter().any(|token| token.starts_with(">>") && token.ends_with("<<"))
}
