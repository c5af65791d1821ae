//! The tokens of a SentencePiece tokenizer by id, which are more or others than the pieces of its model, and which of them
//! have a part to play.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// As it stands in `tokenizer.vocab.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vocabulary {
    pub(super) unk_token: String,
    pub(super) eos_token: String,
    pub(super) pad_token: String,
    /// As in MarianTokenizer: `>>de<<` at the start of a line is one token, and unknown text is one if it has an id.
    pub(super) marian: bool,
    /// By id; `None` for an id that no token has.
    pub(super) tokens: Vec<Option<String>>,
}

/// Why tokens and ids are no vocabulary.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it has no token {0}")]
    Missing(String),
    #[error("the tokens {0} and {1} have one id, {2}")]
    Twice(String, String, u32),
    #[error("the token {0} has two ids")]
    TwoIds(String),
    #[error(
        "{pad} has the id {pad_id}, but {last} the id {last_id}: the padding token must have the last one, for exported \
         models are cut there; a model with its rows in another order can not be used"
    )]
    PadNotLast { pad: String, pad_id: u32, last: String, last_id: u32 },
    #[error("the id {largest} is too large for {count} tokens")]
    Sparse { largest: u32, count: usize },
}

/// Ids that no token has, for each that has one.
const MOST_HOLES: usize = 16;

impl Vocabulary {
    /// Of a `vocab.json` beside SentencePiece models. `special`: names of the unknown token, the end of a sentence and
    /// padding; `marian` as in the struct.
    ///
    /// # Errors
    /// Two tokens with one id, ids far apart.
    pub(super) fn of(ids: Vec<(String, u32)>, special: &[String; 3], marian: bool) -> Result<Self, Unfit> {
        let largest = ids.iter().map(|(_, id)| *id).max().unwrap_or_default();
        if largest as usize > MOST_HOLES * (ids.len() + 64) {
            return Err(Unfit::Sparse { largest, count: ids.len() });
        }
        let mut tokens: Vec<Option<String>> = vec![None; largest as usize + 1];
        for (token, id) in ids {
            if let Some(other) = tokens[id as usize].replace(token.clone()) {
                return Err(Unfit::Twice(other, token, id));
            }
        }
        let [unk_token, eos_token, pad_token] = special.clone();
        Ok(Vocabulary { unk_token, eos_token, pad_token, marian, tokens })
    }

    /// Ids by token, and those of the unknown token, the end of a sentence and padding.
    ///
    /// # Errors
    /// A token twice, one of the three missing, padding not last.
    pub(super) fn ids(&self) -> Result<(HashMap<String, u32>, [u32; 3]), Unfit> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        let named = self.tokens.iter().zip(0..).filter_map(|(token, id)| Some((token.clone()?, id)));
        for (token, id) in named {
            if ids.insert(token.clone(), id).is_some() {
                return Err(Unfit::TwoIds(token));
            }
        }
        let find = |name: &String| ids.get(name).copied().ok_or_else(|| Unfit::Missing(name.clone()));
        let special = [find(&self.unk_token)?, find(&self.eos_token)?, find(&self.pad_token)?];
        let (pad_id, last_id) = (special[2], self.tokens.len() as u32 - 1);
        if pad_id != last_id {
            let last = self.tokens[last_id as usize].clone().unwrap_or_default();
            return Err(Unfit::PadNotLast { pad: self.pad_token.clone(), pad_id, last, last_id });
        }
        Ok((ids, special))
    }

    /// A name for each id: holes get one that no text can become.
    pub(super) fn names(&self, ids: &HashMap<String, u32>) -> Vec<String> {
        let filler = |id: usize| {
            let mut name = format!("<no_token_{id}>");
            while ids.contains_key(&name) {
                name.push('_');
            }
            name
        };
        self.tokens.iter().enumerate().map(|(id, token)| token.clone().unwrap_or_else(|| filler(id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[(&str, u32)]) -> Result<Vocabulary, Unfit> {
        Vocabulary::of(
            ids.iter().map(|(token, id)| (token.to_string(), *id)).collect(),
            &["<unk>", "</s>", "<pad>"].map(str::to_string),
            true,
        )
    }

    #[test]
    fn holes_are_filled_with_names_that_nothing_has() {
        let vocabulary = of(&[("</s>", 0), ("<unk>", 1), ("<no_token_3>", 2), ("<pad>", 4)]).unwrap();
        let (ids, special) = vocabulary.ids().unwrap();
        assert_eq!(special, [1, 0, 4]);
        assert_eq!(vocabulary.names(&ids), ["</s>", "<unk>", "<no_token_3>", "<no_token_3>_", "<pad>"]);
    }

    #[test]
    fn what_is_no_vocabulary_is_told() {
        let told = |ids: &[(&str, u32)]| of(ids).and_then(|v| v.ids()).unwrap_err().to_string();
        assert_eq!(told(&[("a", 0), ("b", 0)]), "the tokens a and b have one id, 0");
        assert_eq!(told(&[("</s>", 0), ("<pad>", 1)]), "it has no token <unk>");
        let last = told(&[("</s>", 0), ("<pad>", 1), ("<unk>", 2)]);
        assert!(last.starts_with("<pad> has the id 1, but <unk> the id 2: the padding token must"), "{last}");
        assert_eq!(told(&[("a", u32::MAX)]), "the id 4294967295 is too large for 1 tokens");
        assert_eq!(told(&[]), "it has no token <unk>");
    }
}
