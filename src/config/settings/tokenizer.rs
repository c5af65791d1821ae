//! `[tokenizer]`.

use super::limits::LARGEST_VOCABULARY;
use super::{Checks, Config};

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
        /// Probability of leaving out each merge while training text is cut into pieces, anew in each epoch (BPE-dropout,
        /// Provilkov et al. 2020); all other text is cut by all merges. For BPE tokenizers. 0 = off; 0.1 is usual, 0.6
        /// where words are whole sentences (Chinese, Japanese). In [0, 1). Sentences become longer: train.batch_size
        /// counts the tokens to be expected, data.max_length those without it, and a sentence that would be longer than
        /// that is left as it is.
        pub bpe_dropout: f64 = 0.0,
        /// The target side's; unset = `bpe_dropout`. In [0, 1).
        pub target_bpe_dropout: Option<f64> = None,
        /// Cut training text in one of all possible ways, drawn anew in each epoch by its probability to this power
        /// (subword regularization, Kudo 2018; the alpha of SentencePiece with nbest_size = -1); all other text is cut in
        /// the most probable way. For Unigram tokenizers; lengths as with bpe_dropout. 0 = off; 0.1 to 0.5 is usual, less
        /// is more random.
        pub sampling_alpha: f64 = 0.0,
        /// The target side's; unset = `sampling_alpha`. 0 or more.
        pub target_sampling_alpha: Option<f64> = None,
    }
}

impl TokenizerConfig {
    /// Of source and target.
    pub fn bpe_dropouts(&self) -> [f64; 2] {
        [self.bpe_dropout, self.target_bpe_dropout.unwrap_or(self.bpe_dropout)]
    }

    /// Of source and target.
    pub fn sampling_alphas(&self) -> [f64; 2] {
        [self.sampling_alpha, self.target_sampling_alpha.unwrap_or(self.sampling_alpha)]
    }

    pub(super) fn rules(&self, check: &mut Checks, config: &Config) {
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
        let (dropouts, alphas) = (self.bpe_dropouts(), self.sampling_alphas());
        let both = (0..2).any(|side| dropouts[side] > 0.0 && alphas[side] > 0.0);
        check.rule(
            !both,
            &["tokenizer.sampling_alpha", "tokenizer.bpe_dropout"],
            "must be 0 on a side with bpe_dropout, which is for BPE tokenizers; this is for Unigram tokenizers",
        );
        let is_trained = self.path.is_empty() && (config.model.init_from.is_empty() || !config.model.init_tokenizer);
        if both || !is_trained {
            return;
        }
        let is_off = |of_sides: [f64; 2]| of_sides == [0.0; 2];
        check.rule(
            self.kind == TokenizerKind::Bpe || is_off(dropouts),
            &[key("tokenizer.bpe_dropout", self.bpe_dropout), "tokenizer.kind"],
            "must be 0 with kind = \"unigram\", whose text is varied by tokenizer.sampling_alpha",
        );
        check.rule(
            self.kind == TokenizerKind::Unigram || is_off(alphas),
            &[key("tokenizer.sampling_alpha", self.sampling_alpha), "tokenizer.kind"],
            "must be 0 with kind = \"bpe\", whose text is varied by tokenizer.bpe_dropout",
        );
    }
}

/// The key at fault: that of both sides, or where it is off that of the target.
fn key(of_both: &'static str, value: f64) -> &'static str {
    match of_both {
        _ if value > 0.0 => of_both,
        "tokenizer.bpe_dropout" => "tokenizer.target_bpe_dropout",
        _ => "tokenizer.target_sampling_alpha",
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
