//! `[tokenizer]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::LARGEST_VOCABULARY;
use super::Checks;

/// Subword vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TokenizerConfig {
    /// A `tokenizer.json` or a SentencePiece `.model`, as a path or `hf://OWNER/NAME[@REVISION]/FILE`; empty = train one on
    /// the training text.
    pub path: String,
    /// The target side's `tokenizer.json` when it differs from the source's; empty = the same.
    pub target_path: String,
    /// Model to train: "bpe" or "unigram".
    pub kind: TokenizerKind,
    /// Pieces of a trained vocabulary, special tokens included. 8 or more; fewer are made if the text has fewer.
    pub vocab_size: usize,
    /// One vocabulary for both languages (needed by tied_embeddings = "all").
    pub joint: bool,
    /// Unicode normalization of a trained tokenizer: "nfc", "nfkc" (also makes full-width punctuation ASCII) or "none".
    pub normalization: Normalization,
    /// Lower-case all text in a trained tokenizer.
    pub lowercase: bool,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        TokenizerConfig {
            path: String::new(),
            target_path: String::new(),
            kind: TokenizerKind::Bpe,
            vocab_size: 8000,
            joint: true,
            normalization: Normalization::Nfc,
            lowercase: false,
        }
    }
}

impl TokenizerConfig {
    pub(super) fn rules(&self, check: &mut Checks) {
        check.rule(
            self.vocab_size <= LARGEST_VOCABULARY,
            &["tokenizer.vocab_size"],
            format!("must be {LARGEST_VOCABULARY} at most"),
        );
        check.rule(
            self.target_path.is_empty() || !self.path.is_empty(),
            &["tokenizer.target_path", "tokenizer.path"],
            "must come with tokenizer.path, the source side's",
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerKind {
    Bpe,
    Unigram,
}

/// How characters that look the same become the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    Nfc,
    Nfkc,
    None,
}

impl Normalization {
    /// As in a config.
    pub fn name(self) -> &'static str {
        match self {
            Normalization::Nfc => "nfc",
            Normalization::Nfkc => "nfkc",
            Normalization::None => "none",
        }
    }
}
