//! The pieces of a SentencePiece model as words of BLEU (spBLEU: Goyal et al. 2022), and the names that signatures give
//! them: those of sacreBLEU for the models that it knows.

use std::path::{Path, PathBuf};

use crate::fsio;
use crate::sentencepiece::{Damage, SentencePiece};

/// Why a model can not be used.
#[derive(Debug, thiserror::Error)]
pub enum SpmError {
    #[error(transparent)]
    File(#[from] fsio::Error),
    #[error("{path}: not a SentencePiece model: {damage}", path = path.display())]
    NotAModel { path: PathBuf, damage: Damage },
    #[error(
        "{name}: its model is not in {path}, where sacreBLEU keeps it; fetch {url} into that file, or name a file you have: \
         {name}:FILE", path = path.display()
    )]
    NotFetched { name: String, path: PathBuf, url: &'static str },
}

/// Models that sacreBLEU fetches, by its names: the name in signatures, and where it comes from.
const FETCHED: [(&str, &str, &str); 3] = [
    ("flores200", "flores200", "https://tinyurl.com/flores200sacrebleuspm"),
    ("flores101", "flores101", FLORES_101),
    ("spm", "flores101", FLORES_101),
];
const FLORES_101: &str = "https://dl.fbaipublicfiles.com/fairseq/models/flores/sacrebleu_tokenizer_spm.model";

/// The tokenizer of that name: the model in `file`, else the one that sacreBLEU fetched. `spm` with a file is any model,
/// known in signatures by its file.
///
/// # Errors
/// Those of [`SpmTokenizer::load`]; sacreBLEU has not fetched the model.
pub(super) fn named(name: &str, file: Option<&Path>) -> Result<SpmTokenizer, SpmError> {
    let known = FETCHED.iter().find(|(known, ..)| *known == name);
    match (file, known) {
        (Some(file), Some((known, signature, _))) if *known != "spm" => SpmTokenizer::load(file, Some(signature)),
        (Some(file), _) => SpmTokenizer::load(file, None),
        (None, Some((name, signature, url))) => {
            let path = fetched(url);
            match path.exists() {
                true => SpmTokenizer::load(&path, Some(signature)),
                false => Err(SpmError::NotFetched { name: name.to_string(), path, url }),
            }
        }
        (None, None) => SpmTokenizer::load(Path::new(name), None),
    }
}

/// Where sacreBLEU keeps what it fetched from there.
fn fetched(url: &str) -> PathBuf {
    let own = std::env::var_os("SACREBLEU").map(PathBuf::from);
    let folder = own.unwrap_or_else(|| std::env::home_dir().unwrap_or_default().join(".sacrebleu"));
    folder.join("models").join(url.rsplit('/').next().unwrap_or(url))
}

/// A model and its name.
pub struct SpmTokenizer {
    name: String,
    model: SentencePiece,
}

impl SpmTokenizer {
    /// Reads a `.model` file. `name` stands in signatures; without it, `spm-` and the name of the file.
    ///
    /// # Errors
    /// When it can not be read or is no such model.
    pub fn load(path: &Path, name: Option<&str>) -> Result<Self, SpmError> {
        let own = || format!("spm-{}", path.file_stem().unwrap_or_default().to_string_lossy());
        let model = SentencePiece::parse(&fsio::read(path)?);
        let model = model.map_err(|damage| SpmError::NotAModel { path: path.to_path_buf(), damage })?;
        Ok(SpmTokenizer { name: name.map_or_else(own, str::to_string), model })
    }

    /// Its name in signatures.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pieces of a line, with a space between each two.
    pub fn tokens(&self, line: &str) -> String {
        let mut out: Vec<u8> = Vec::with_capacity(2 * line.len());
        self.model.encode(line, |piece, _| {
            if !out.is_empty() {
                out.push(b' ');
            }
            out.extend_from_slice(piece);
        });
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl std::fmt::Debug for SpmTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} ({} pieces)", self.name, self.model.pieces().len())
    }
}

impl PartialEq for SpmTokenizer {
    /// Models are compared by name: that is what a signature tells.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for SpmTokenizer {}
