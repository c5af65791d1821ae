//! The tokenizers of both sides, and the files that keep them in the folder of a run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::spm_files::{self, MarianFiles};
use super::{load, Engine, Result, Tokenizer};
use crate::fsio;

/// The tokenizers of both sides; with a joint vocabulary they are the same.
#[derive(Clone)]
pub struct Tokenizers {
    pub source: Arc<Tokenizer>,
    pub target: Arc<Tokenizer>,
}

/// Names of a tokenizer's files in the folder of a run.
struct Names {
    json: &'static str,
    spm: &'static str,
    /// Tokens by id, beside `spm`.
    vocabulary: &'static str,
}

/// Of the source's or the joint tokenizer.
const SOURCE: Names = Names { json: "tokenizer.json", spm: "tokenizer.spm", vocabulary: "tokenizer.vocab.json" };
/// Of the target's, where it is another.
const TARGET: Names =
    Names { json: "tokenizer.target.json", spm: "tokenizer.target.spm", vocabulary: "tokenizer.target.vocab.json" };

/// All files that [`Tokenizers::save`] may write.
pub const FILES: [&str; 6] = [SOURCE.json, SOURCE.spm, SOURCE.vocabulary, TARGET.json, TARGET.spm, TARGET.vocabulary];

impl Tokenizers {
    /// One for both sides.
    pub fn joint(tokenizer: Tokenizer) -> Self {
        let tokenizer = Arc::new(tokenizer);
        Tokenizers { source: Arc::clone(&tokenizer), target: tokenizer }
    }

    /// One for each side.
    pub fn separate(source: Tokenizer, target: Tokenizer) -> Self {
        Tokenizers { source: Arc::new(source), target: Arc::new(target) }
    }

    fn of((source, target): (Tokenizer, Option<Tokenizer>)) -> Self {
        match target {
            Some(target) => Self::separate(source, target),
            None => Self::joint(source),
        }
    }

    /// Loads the source's and, unless it is the same, the target's file.
    ///
    /// # Errors
    /// Those of [`Tokenizer::load`].
    pub fn load(source: &Path, target: Option<&Path>) -> Result<Self> {
        let first = Tokenizer::load(source)?;
        let target = target.filter(|target| *target != source).map(Tokenizer::load).transpose()?;
        Ok(Self::of((first, target)))
    }

    /// Those of a MarianTokenizer (opus-mt): pieces of two SentencePiece models, ids of `vocab.json`. A language code
    /// `>>de<<` at the start of a line is one token, and unknown text is one if `vocab.json` has it.
    ///
    /// # Errors
    /// Files that can not be read or are something else; a vocabulary without `<unk>`, `</s>` and, as its last id, `<pad>`.
    pub fn marian(files: &MarianFiles) -> Result<Self> {
        spm_files::marian(files).map(Self::of)
    }

    /// Loads what [`Tokenizers::save`] wrote.
    ///
    /// # Errors
    /// Those of [`Tokenizer::load`].
    pub fn load_saved(folder: &Path) -> Result<Self> {
        let find =
            |names: &Names| [names.json, names.spm].map(|name| folder.join(name)).into_iter().find(|p| p.exists());
        let source = find(&SOURCE).unwrap_or_else(|| folder.join(SOURCE.json));
        let load = |path: &Path| load::load(path, load::Origin::Run);
        let target = find(&TARGET).map(|path| load(&path)).transpose()?;
        Ok(Self::of((load(&source)?, target)))
    }

    /// Writes the files of a run: `tokenizer.json`, or of a SentencePiece tokenizer `tokenizer.spm` and
    /// `tokenizer.vocab.json`; with `target` in their names those of the target, when it has another. One vocabulary of
    /// two SentencePiece models is there once.
    ///
    /// # Errors
    /// When a file can not be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        for (name, bytes) in self.files()? {
            fsio::write_atomic(&folder.join(name), &bytes)?;
        }
        Ok(())
    }

    /// Names and contents of what [`Tokenizers::save`] writes.
    ///
    /// # Errors
    /// When the library can not write a `tokenizer.json`.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let source = self.source.files(&SOURCE)?;
        if self.is_joint() {
            return Ok(source);
        }
        let mut target = self.target.files(&TARGET)?;
        if self.source.spm().is_some_and(|source| self.target.spm().is_some_and(|t| t.vocabulary == source.vocabulary))
        {
            target.retain(|(name, _)| *name != TARGET.vocabulary);
        }
        Ok(source.into_iter().chain(target).collect())
    }

    /// Names of the files in the folder of a run that `tokenizer.path` and, where the target has another,
    /// `tokenizer.target_path` of another run would take.
    pub fn paths(&self) -> (&'static str, Option<&'static str>) {
        let name =
            |tokenizer: &Tokenizer, names: &Names| if tokenizer.spm().is_some() { names.spm } else { names.json };
        (name(&self.source, &SOURCE), (!self.is_joint()).then(|| name(&self.target, &TARGET)))
    }

    /// The file of a tokenizer in this folder, if there is one.
    pub fn existing(folder: &Path) -> Option<PathBuf> {
        FILES.iter().map(|name| folder.join(name)).find(|path| path.exists())
    }

    /// Whether one tokenizer is that of both sides.
    pub fn is_joint(&self) -> bool {
        Arc::ptr_eq(&self.source, &self.target)
    }

    /// Whether an id means the same on both sides, so that they can share one table: one tokenizer, or two that cut text
    /// differently into tokens of one vocabulary.
    pub fn share_vocabulary(&self) -> bool {
        let special = |side: &Tokenizer| (side.unk_id(), side.eos_id(), side.pad_id());
        self.is_joint()
            || special(&self.source) == special(&self.target) && self.source.tokens() == self.target.tokens()
    }

    /// What was added to loaded files, one sentence each.
    pub fn added(&self) -> Vec<String> {
        let sides: &[&Arc<Tokenizer>] = if self.is_joint() { &[&self.source] } else { &[&self.source, &self.target] };
        sides.iter().flat_map(|side| side.added().to_vec()).collect()
    }

    /// Hash of both sides.
    pub fn fingerprint(&self) -> String {
        match self.is_joint() {
            true => self.source.fingerprint().to_string(),
            false => format!("{}-{}", self.source.fingerprint(), self.target.fingerprint()),
        }
    }
}

impl Tokenizer {
    fn files(&self, names: &Names) -> Result<Vec<(&'static str, Vec<u8>)>> {
        Ok(match &self.engine {
            Engine::Json(json) => vec![(names.json, json.to_json()?.into_bytes())],
            Engine::Spm(spm) => {
                let vocabulary = spm_files::saved(&spm.vocabulary).into_bytes();
                vec![(names.spm, spm.file.clone()), (names.vocabulary, vocabulary)]
            }
        })
    }
}
