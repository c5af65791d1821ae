//! Tokenizers from SentencePiece files: a model alone, one with the vocabulary that a run keeps beside it, and those of a
//! folder of MarianTokenizer (opus-mt).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::load::{unpacked, Origin, EOS_NAMES, OWN_PAD, PAD_NAMES};
use super::spm::Spm;
use super::vocabulary::{Unfit, Vocabulary};
use super::{template, Engine, Error, Result, Tokenizer};
use crate::fsio;
use crate::sentencepiece::{Kind, SentencePiece};

/// The files of a MarianTokenizer.
#[derive(Clone, Debug)]
pub struct MarianFiles<'a> {
    /// Segments the source language.
    pub source_spm: &'a Path,
    pub target_spm: &'a Path,
    /// Ids of tokens, of both sides or the source's.
    pub vocab: &'a Path,
    /// The target's, where it is another (`separate_vocabs`).
    pub target_vocab: Option<&'a Path>,
    /// Names of the unknown token, the end of a sentence and padding.
    pub special: [String; 3],
    /// What MarianTokenizer adds to SentencePiece: language codes, and ids of text that the model has no piece for. Folders
    /// that were exported from a SentencePiece tokenizer alone are read without it.
    pub marian: bool,
}

impl MarianFiles<'_> {
    /// The usual names of [`MarianFiles::special`].
    pub fn usual() -> [String; 3] {
        ["<unk>", "</s>", "<pad>"].map(str::to_string)
    }
}

/// Whether a file looks like a model, a damaged one too: it begins with a piece, and that with its text.
pub(super) fn is_model(bytes: &[u8]) -> bool {
    matches!(bytes, [0x0A, piece, 0x0A, text, ..] if text < piece)
}

/// A tokenizer of the model in `path`, whose content is `file`, with the vocabulary beside it, which may be absent but in
/// a run.
///
/// # Errors
/// What is no model, a vocabulary that is none.
pub(super) fn of_model(path: &Path, file: Vec<u8>, origin: Origin) -> Result<Tokenizer> {
    let model = parsed(path, &file)?;
    let beside = beside(path).or_else(|| (origin == Origin::Run).then(|| path.with_extension("vocab.json")));
    match beside {
        Some(saved) => {
            let bytes = fsio::read(&saved)?;
            let wrong = |reason: String| Error::Vocabulary { path: saved.clone(), reason };
            let vocabulary = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
            tokenizer(model, file, vocabulary, Vec::new()).map_err(|unfit| wrong(unfit.to_string()))
        }
        None => {
            let (vocabulary, added) = own_vocabulary(&model);
            let wrong = |unfit: Unfit| Error::Vocabulary { path: path.to_path_buf(), reason: unfit.to_string() };
            tokenizer(model, file, vocabulary, added).map_err(wrong)
        }
    }
}

/// The tokenizers of both sides of a MarianTokenizer; one for both where the files are the same.
///
/// # Errors
/// Files that can not be read or are something else, padding that has not the last id.
pub(super) fn marian(files: &MarianFiles) -> Result<(Tokenizer, Option<Tokenizer>)> {
    let source_file = unpacked(files.source_spm)?;
    let target_file = unpacked(files.target_spm)?;
    let vocabulary = marian_vocabulary(files.vocab, files)?;
    let target_vocabulary = match files.target_vocab {
        Some(path) => marian_vocabulary(path, files)?,
        None => vocabulary.clone(),
    };
    let is_joint = source_file == target_file && vocabulary == target_vocabulary;
    let side = |spm: &Path, file: Vec<u8>, vocab: &Path, vocabulary| {
        let wrong = |unfit: Unfit| Error::Vocabulary { path: vocab.to_path_buf(), reason: unfit.to_string() };
        tokenizer(parsed(spm, &file)?, file, vocabulary, Vec::new()).map_err(wrong)
    };
    let target_vocab = files.target_vocab.unwrap_or(files.vocab);
    let source = side(files.source_spm, source_file, files.vocab, vocabulary)?;
    let target =
        (!is_joint).then(|| side(files.target_spm, target_file, target_vocab, target_vocabulary)).transpose()?;
    Ok((source, target))
}

fn parsed(path: &Path, file: &[u8]) -> Result<SentencePiece> {
    SentencePiece::parse(file)
        .map_err(|damage| Error::NotAModel { path: path.to_path_buf(), reason: damage.to_string() })
}

fn tokenizer(
    model: SentencePiece,
    file: Vec<u8>,
    vocabulary: Vocabulary,
    added: Vec<String>,
) -> std::result::Result<Tokenizer, Unfit> {
    let hashed = [file.as_slice(), saved(&vocabulary).as_bytes()].concat();
    let fingerprint = format!("{:032x}", xxh3_128(&hashed));
    let spm = Spm::new(model, file, vocabulary)?;
    let [unk, eos, pad] = spm.special();
    Ok(Tokenizer { engine: Engine::Spm(Box::new(spm)), unk, eos, pad, added, fingerprint })
}

/// A vocabulary as a run keeps it.
pub(super) fn saved(vocabulary: &Vocabulary) -> String {
    // strings, a flag and a list of strings: nothing that could fail
    serde_json::to_string(vocabulary).unwrap_or_default()
}

/// The vocabulary that a run keeps beside a model: `tokenizer.vocab.json` of `tokenizer.spm`, that of
/// `tokenizer.target.spm` too where the target has none of its own.
fn beside(path: &Path) -> Option<PathBuf> {
    let own = path.with_extension("vocab.json");
    let of_source = own.to_str().and_then(|name| name.strip_suffix(".target.vocab.json")).map(|stem| stem.to_string());
    let of_source = of_source.map(|stem| PathBuf::from(format!("{stem}.vocab.json")));
    let is_spm = path.extension().is_some_and(|extension| extension == "spm");
    [Some(own), of_source].into_iter().flatten().find(|file| is_spm && file.is_file())
}

/// The vocabulary of a model alone: its pieces, and what training needs besides. The second value says what was added.
fn own_vocabulary(model: &SentencePiece) -> (Vocabulary, Vec<String>) {
    let mut tokens: Vec<String> = model.pieces().iter().map(|piece| piece.text.clone()).collect();
    let mut added = Vec::new();
    let kind = |name: &str| model.pieces().iter().find(|piece| piece.text == name).map(|piece| piece.kind);
    let mut add = |tokens: &mut Vec<String>, name: &str, what: &str| {
        added.push(format!("no {what}; added {name} as id {}", tokens.len()));
        tokens.push(name.to_string());
        name.to_string()
    };
    // by its first name it may be a piece of any kind: nothing else is called so
    let (first, others) = (EOS_NAMES[0], &EOS_NAMES[1..]);
    let is_control = |name: &&str| kind(name) == Some(Kind::Control);
    let eos = [model.eos_name()]
        .into_iter()
        .filter(is_control)
        .chain([first].into_iter().filter(|name| kind(name).is_some()));
    let eos_token = match eos.chain(others.iter().copied().filter(is_control)).next() {
        Some(name) => name.to_string(),
        None => add(&mut tokens, first, "token for the end of a sentence"),
    };
    let last = tokens.last().cloned().unwrap_or_default();
    let pad_token = match PAD_NAMES.contains(&last.as_str()) {
        true => last,
        false if kind(template::PAD).is_none() => add(&mut tokens, template::PAD, "padding token as the last id"),
        false => add(&mut tokens, OWN_PAD, "padding token as the last id"),
    };
    let unk_token = model.piece(model.unknown()).text.clone();
    let tokens = tokens.into_iter().map(Some).collect();
    (Vocabulary { unk_token, eos_token, pad_token, marian: false, tokens }, added)
}

/// Reads a `vocab.json`: an object of tokens and ids.
fn marian_vocabulary(path: &Path, files: &MarianFiles) -> Result<Vocabulary> {
    let wrong = |reason: String| Error::Vocabulary { path: path.to_path_buf(), reason };
    let bytes = unpacked(path)?;
    let json: BTreeMap<String, Value> =
        serde_json::from_slice(&bytes).map_err(|e| wrong(format!("not an object of tokens and ids ({e})")))?;
    let id = |(token, id): (String, Value)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((token, id)),
        None => Err(wrong(format!("the token {token} has {id} for an id"))),
    };
    let ids = json.into_iter().map(id).collect::<Result<Vec<_>>>()?;
    Vocabulary::of(ids, &files.special, files.marian).map_err(|unfit| wrong(unfit.to_string()))
}
