//! `[tokenizer]`.

use super::limits::LARGEST_VOCABULARY;
use super::Checks;

settings! {
    /// Subword vocabulary.
    pub struct TokenizerConfig {
        /// A `tokenizer.json` or a SentencePiece `.model`, as a path or `hf://OWNER/NAME[@REVISION]/FILE`; empty =
        /// train one on the training text.
        pub path: String = String::new(),
        /// The target side's, when it differs from the source's; empty = the same.
        pub target_path: String = String::new(),
        /// Model to train: "bpe" or "unigram".
        pub kind: TokenizerKind = TokenizerKind::Bpe,
        /// Pieces of a trained vocabulary, special tokens included. 8 or more; fewer are made if the text has fewer.
        pub vocab_size: usize = 8000,
        /// One vocabulary for both languages (needed by tied_embeddings = "all").
        pub joint: bool = true,
        /// Unicode normalization of a trained tokenizer: "nfc", "nfkc" (also makes full-width punctuation ASCII) or
        /// "none".
        pub normalization: Normalization = Normalization::Nfc,
        /// Lower-case all text in a trained tokenizer.
        pub lowercase: bool = false,
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

choices! {
    pub enum TokenizerKind {
        Bpe = "bpe",
        Unigram = "unigram",
    }
}

choices! {
    /// How characters that look the same become the same.
    pub enum Normalization {
        Nfc = "nfc",
        Nfkc = "nfkc",
        None = "none",
    }
}
