//! The files of tokenizers that Hugging Face programs read: `tokenizer.json` where one can carry both sides, and, of
//! SentencePiece tokenizers, the files of MarianTokenizer.

use serde_json::{json, Map, Value};

use super::spm::Spm;
use super::{Error, Result, Tokenizer, Tokenizers};

/// What stands in `tokenizer_config.json` and is not the tokenizer's own.
#[derive(Clone, Copy, Debug)]
pub struct HuggingFace<'a> {
    pub source_language: &'a str,
    pub target_language: &'a str,
    /// Tokens of a line with `</s>`.
    pub model_max_length: usize,
}

/// The class by whose name transformers loads a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Reads `tokenizer.json`.
    Fast,
    /// Reads `source.spm`, `target.spm` and `vocab.json`, by the sentencepiece library.
    Marian,
}

impl Tokenizers {
    /// Names and contents of the files that a folder needs for transformers: `tokenizer_config.json`, and
    /// - `tokenizer.json` where one tokenizer is that of both sides. It gives the same ids; that of a SentencePiece model
    ///   nearly the same;
    /// - `source.spm`, `target.spm`, `vocab.json` and, of two vocabularies, `target_vocab.json` where both sides are
    ///   SentencePiece: MarianTokenizer gives the same ids. It is the class to load where there is no `tokenizer.json`.
    ///
    /// # Errors
    /// Two tokenizers that are not both SentencePiece, or whose special tokens have other ids on the other side.
    pub fn huggingface_files(&self, settings: &HuggingFace) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        let class = match (self.source.spm(), self.target.spm()) {
            (None, None) if self.is_joint() => {
                files.push(("tokenizer.json", self.source.to_json()?));
                Class::Fast
            }
            (Some(source), Some(target)) => {
                let json = Some(&self.source).filter(|_| self.is_joint() && !source.vocabulary.marian);
                let json = json.and_then(|tokenizer| tokenizer.to_json().ok());
                let class = if json.is_some() { Class::Fast } else { Class::Marian };
                files.extend(json.map(|json| ("tokenizer.json", json)));
                files.extend(self.vocabularies(source, target)?);
                class
            }
            _ => return Err(Error::TwoTokenizers { why: String::new() }),
        };
        files.push(("tokenizer_config.json", self.config(class, settings)));
        let mut files: Vec<(String, Vec<u8>)> =
            files.into_iter().map(|(name, text)| (name.to_string(), text.into_bytes())).collect();
        if let (Some(source), Some(target)) = (self.source.spm(), self.target.spm()) {
            files.push(("source.spm".to_string(), source.file.clone()));
            files.push(("target.spm".to_string(), target.file.clone()));
        }
        Ok(files)
    }

    /// `vocab.json`, and `target_vocab.json` of another.
    fn vocabularies(&self, source: &Spm, target: &Spm) -> Result<Vec<(&'static str, String)>> {
        let mut files = vec![("vocab.json", self.source.vocabulary_json())];
        if !self.share_vocabulary() {
            if source.special() != target.special() || source.special_names() != target.special_names() {
                let why = format!(
                    " whose special tokens are not the same: {} and {}",
                    special_tokens(source),
                    special_tokens(target)
                );
                return Err(Error::TwoTokenizers { why });
            }
            files.push(("target_vocab.json", self.target.vocabulary_json()));
        }
        Ok(files)
    }

    fn config(&self, class: Class, settings: &HuggingFace) -> String {
        let name = |id: u32| self.source.token(id).unwrap_or_default();
        let mut config = json!({
            "tokenizer_class": if class == Class::Fast { "PreTrainedTokenizerFast" } else { "MarianTokenizer" },
            "unk_token": name(self.source.unk_id()),
            "eos_token": name(self.source.eos_id()),
            "pad_token": name(self.source.pad_id()),
            "source_lang": settings.source_language,
            "target_lang": settings.target_language,
            "model_max_length": settings.model_max_length,
            // not the token types that the class would add, which models do not take
            "model_input_names": ["input_ids", "attention_mask"],
            // the names of special tokens in text are text
            "split_special_tokens": true,
            "clean_up_tokenization_spaces": false,
        });
        if self.source.spm().is_some() {
            config["separate_vocabs"] = (!self.share_vocabulary()).into();
            config["sp_model_kwargs"] = json!({});
        }
        format!("{config:#}\n")
    }
}

impl Tokenizer {
    /// Tokens and ids, as in `vocab.json`.
    fn vocabulary_json(&self) -> String {
        let ids: Map<String, Value> = self.tokens().into_iter().zip(0u32..).map(|(t, id)| (t, id.into())).collect();
        format!("{:#}\n", Value::Object(ids))
    }
}

fn special_tokens(spm: &Spm) -> String {
    let names = spm.special_names();
    let pairs = names.iter().zip(spm.special()).map(|(name, id)| format!("{name} {id}"));
    pairs.collect::<Vec<_>>().join(", ")
}
