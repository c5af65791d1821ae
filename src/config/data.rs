//! `[data]` and `[tokenizer]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parallel text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataConfig {
    /// Training text: two line-aligned files, or one `.tsv` or `.jsonl` file, each also `.gz`, each a path or
    /// `hf://datasets/OWNER/NAME[@REVISION]/FILE`. Several corpora: a list of tables `{ files = [...], weight = 1.0 }`.
    pub train: Corpora,
    /// Validation text, same forms; [] = none.
    pub valid: Corpora,
    /// Test text, same forms, scored once after training; [] = none.
    pub test: Corpora,
    /// Name of the source language; also the field of JSON lines.
    pub source_language: String,
    /// Name of the target language; also the field of JSON lines. Chooses how BLEU cuts words, see validation.tokenize.
    pub target_language: String,
    /// Longest side of a training pair in tokens, `</s>` included; longer pairs are dropped and counted. 1 or more.
    pub max_length: usize,
    /// Shortest side of a training pair in tokens, `</s>` not counted; shorter pairs are dropped and counted.
    pub min_length: usize,
    /// Largest ratio of the longer to the shorter side in tokens; 0 = off, else 1 or more.
    pub max_length_ratio: f64,
    /// Folder of encoded corpora, shared by runs, safe to delete. Empty: `cache/` beside the run folder.
    pub cache_dir: String,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            train: Corpora::default(),
            valid: Corpora::default(),
            test: Corpora::default(),
            source_language: "en".to_string(),
            target_language: "de".to_string(),
            max_length: 100,
            min_length: 1,
            max_length_ratio: 0.0,
            cache_dir: String::new(),
        }
    }
}

/// Zero or more corpora. In TOML: `[]`, `"file.tsv"`, `["a.en", "a.de"]` or
/// `[{ files = ["a.en", "a.de"], weight = 2.0 }, { files = ["b.jsonl"] }]`.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema)]
pub struct Corpora(pub Vec<Corpus>);

/// One corpus: a source and a target file, or one file with both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Corpus {
    /// One or two files.
    pub files: Vec<String>,
    /// Expected passes over this corpus in one epoch: 1 = each pair once, 2 = twice, 0.5 = half of the pairs, anew
    /// each epoch. Above 0.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

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
    pub normalization: String,
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
            normalization: "nfc".to_string(),
            lowercase: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerKind {
    Bpe,
    Unigram,
}
