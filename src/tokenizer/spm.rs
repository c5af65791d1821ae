//! The engine of tokenizers that are a SentencePiece model with a vocabulary: ids and text are the library's.

use std::collections::HashMap;

use super::converted::{self, Token};
use super::sampling::spelling::{self, Word};
use super::vocabulary::{Unfit, Vocabulary};
use super::Result;
use crate::rng::Stream;
use crate::sentencepiece::{Sampling, Scratch, SentencePiece, SPACE};

/// See the module.
pub(super) struct Spm {
    pub(super) model: SentencePiece,
    /// The `.model` file.
    pub(super) file: Vec<u8>,
    pub(super) vocabulary: Vocabulary,
    /// Of each id.
    names: Vec<String>,
    ids: HashMap<String, u32>,
    /// The id of each piece of the model.
    own: Vec<u32>,
    /// The piece of the model that an id is, its unknown one for want of it.
    theirs: Vec<u32>,
    special: [u32; 3],
}

impl Spm {
    /// # Errors
    /// A vocabulary without these three, or with padding not last.
    pub(super) fn new(model: SentencePiece, file: Vec<u8>, vocabulary: Vocabulary) -> std::result::Result<Self, Unfit> {
        let (ids, special) = vocabulary.ids()?;
        let names = vocabulary.names(&ids);
        let mut theirs = vec![model.unknown(); names.len()];
        let mut own = Vec::with_capacity(model.pieces().len());
        for (piece, number) in model.pieces().iter().zip(0..) {
            let id = ids.get(&piece.text).copied();
            if let Some(id) = id {
                theirs[id as usize] = number;
            }
            own.push(from_text(id, &special));
        }
        Ok(Spm { model, file, vocabulary, names, ids, own, theirs, special })
    }

    /// Ids of the unknown token, the end of a sentence and padding.
    pub(super) fn special(&self) -> [u32; 3] {
        self.special
    }

    /// Their names.
    pub(super) fn special_names(&self) -> [&str; 3] {
        [&self.vocabulary.unk_token, &self.vocabulary.eos_token, &self.vocabulary.pad_token].map(String::as_str)
    }

    /// Ids of a line, without the end of a sentence.
    pub(super) fn encode(&self, line: &str) -> Vec<u32> {
        let (code, text) = self.code_and_text(line);
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        ids.extend(code);
        self.model.encode(text, |piece, number| ids.push(self.id(piece, number)));
        ids
    }

    /// The line as it is before the model cuts it, see [`spelling`].
    pub(super) fn spell(&self, line: &str) -> Vec<u8> {
        let (code, text) = self.code_and_text(line);
        let mut spelled = Vec::with_capacity(text.len() * 3 / 2 + 3);
        if let Some(code) = code {
            spelling::push(Word::Token(code), &mut spelled);
        }
        spelling::push(Word::Text(&self.model.normalized(text)), &mut spelled);
        spelled
    }

    /// Adds ids of a normalized text, drawn.
    pub(super) fn sample(
        &self,
        text: &[u8],
        sampling: Sampling,
        scratch: &mut Scratch,
        rng: &mut Stream,
        ids: &mut Vec<u32>,
    ) {
        self.model.sample(text, sampling, scratch, rng, |piece, number| ids.push(self.id(piece, number)));
    }

    /// The token of a language code at the start of a line, and the rest.
    fn code_and_text<'a>(&self, line: &'a str) -> (Option<u32>, &'a str) {
        let (code, text) = match self.vocabulary.marian {
            true => language_code(line),
            false => (None, line),
        };
        (code.map(|code| from_text(self.ids.get(code).copied(), &self.special)), text)
    }

    /// The id of a piece with this number in the model.
    fn id(&self, piece: &[u8], number: u32) -> u32 {
        match number == self.model.unknown() {
            true => self.unknown(piece),
            false => self.own[number as usize],
        }
    }

    /// The id of text that the model has no piece for. MarianTokenizer looks it up.
    fn unknown(&self, text: &[u8]) -> u32 {
        let known = std::str::from_utf8(text).ok().filter(|_| self.vocabulary.marian);
        from_text(known.and_then(|text| self.ids.get(text)).copied(), &self.special)
    }

    /// Text of ids; special tokens, the unknown one among them, are left out.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let is_text = |id: &&u32| (**id as usize) < self.names.len() && !self.special.contains(*id);
        let is_token = |id: &&u32| self.vocabulary.tokens[**id as usize].is_some();
        let pieces = ids.iter().filter(is_text).filter(is_token).map(|&id| id as usize);
        let text = self.model.decode(pieces.map(|id| (self.names[id].as_str(), self.theirs[id])));
        match self.vocabulary.marian {
            true => text.replace(SPACE, " ").trim().to_string(),
            false => text,
        }
    }

    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.names.get(id as usize).cloned()
    }

    /// The word that a token stands for or begins (ends, where spaces are behind words).
    pub(super) fn word(&self, token: &str, text: &str) -> Option<String> {
        let begins = match self.model.rules().whitespace_as_suffix {
            true => token.ends_with(SPACE),
            false => token.starts_with(SPACE),
        };
        let word = text.trim();
        (begins && !word.is_empty() && !word.contains(char::REPLACEMENT_CHARACTER)).then(|| word.to_string())
    }

    /// A line as the model sees it.
    pub(super) fn normalized(&self, line: &str) -> String {
        self.model.normalize(line).replace(SPACE, " ")
    }

    /// The tokenizer as a `tokenizer.json`, as far as that can express it.
    ///
    /// # Errors
    /// A model that it can not express at all.
    pub(super) fn to_json(&self) -> Result<String> {
        let tokens = self.names.iter().zip(&self.theirs).map(|(name, &number)| {
            let piece = self.model.piece(number);
            Token { name, piece: (piece.text == *name).then_some(piece) }
        });
        converted::to_json(&self.model, &tokens.collect::<Vec<_>>(), self.special)
    }
}

/// An id that text may become: the end of a sentence and padding are none, whatever the model calls a piece.
fn from_text(id: Option<u32>, [unk, eos, pad]: &[u32; 3]) -> u32 {
    id.filter(|id| id != eos && id != pad).unwrap_or(*unk)
}

/// `>>de<<` at the start of a line and the rest of it, as transformers' MarianTokenizer cuts it.
fn language_code(line: &str) -> (Option<&str>, &str) {
    let end = line.starts_with(">>").then(|| line.find("<<")).flatten();
    match end {
        Some(end) => (Some(&line[..end + 2]), &line[end + 2..]),
        None => (None, line),
    }
}
