//! `nmt-train export`: what formats have in common.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::marian::MarianError;
use super::{ctranslate2, huggingface};
use crate::fsio::{self, NewFolder};
use crate::run::Usable;
use crate::tokenizer;

/// `--format`: the program that is to load the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A folder for transformers and the Hub: post-norm Transformers with one vocabulary
    Huggingface,
    /// A folder for CTranslate2: every Transformer
    Ctranslate2,
}

/// `--dtype`: how weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    #[default]
    Float32,
    Float16,
    Bfloat16,
    /// CTranslate2 only: matrices and tables in 8 bits, a scale for each row
    Int8,
    /// CTranslate2 only: matrices and tables in 16 bits, a scale for each
    Int16,
}

impl Dtype {
    /// Its name on the command line and in files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Dtype::Float32 => "float32",
            Dtype::Float16 => "float16",
            Dtype::Bfloat16 => "bfloat16",
            Dtype::Int8 => "int8",
            Dtype::Int16 => "int16",
        }
    }

    /// What weights that are not made whole numbers are stored as.
    pub(super) fn of_floats(self) -> DType {
        match self {
            Dtype::Float32 | Dtype::Int8 | Dtype::Int16 => DType::F32,
            Dtype::Float16 => DType::F16,
            Dtype::Bfloat16 => DType::BF16,
        }
    }
}

/// What can go wrong with an export.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Marian(#[from] MarianError),
    #[error("--format huggingface stores float32, float16 or bfloat16; --dtype {} is of --format ctranslate2", .0.name())]
    Dtype(Dtype),
    #[error("{} is not empty; delete it or give another --out", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is not a name for a new folder; give another --out", .0.display())]
    NoName(PathBuf),
    #[error("{} is a file; give another --out, a folder that is made", .0.display())]
    IsFile(PathBuf),
    #[error("{0} holds values that are no finite numbers: training had diverged; give another --checkpoint")]
    NotFinite(String),
    #[error("{name} holds {value}, too large for float16; give --dtype bfloat16 or float32")]
    TooLarge { name: String, value: f32 },
    #[error("the id {id} and another one are both called {token:?}: CTranslate2 tells tokens by their names")]
    SameToken { id: usize, token: String },
    #[error(
        "the row of padding in {0} is not zero, as after training in another program; CTranslate2's decoder starts from \
         zero and would translate otherwise; --format huggingface starts from the row"
    )]
    Padding(&'static str),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error(transparent)]
    File(#[from] fsio::Error),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    #[error("can not write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// Whether the user gave what can not be done, and not the machine a fault.
    pub fn is_input(&self) -> bool {
        !matches!(self, Error::File(_) | Error::Tensor(_) | Error::Json(_))
    }
}

/// What an export made.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Names and sizes in bytes of the files, sorted by name.
    pub files: Vec<(String, u64)>,
    /// What is not as in the run, one sentence each.
    pub notes: Vec<String>,
}

/// That `out` can become a folder of ours: absent or empty. Asked before anything is loaded.
///
/// # Errors
/// It is a file, holds something, or has no name to make it by.
pub fn vacant(out: &Path) -> Result<(), Error> {
    if out.file_name().is_none() {
        return Err(Error::NoName(out.to_path_buf()));
    }
    if out.exists() && !out.is_dir() {
        return Err(Error::IsFile(out.to_path_buf()));
    }
    match fsio::list(out)?.is_empty() {
        true => Ok(()),
        false => Err(Error::NotEmpty(out.to_path_buf())),
    }
}

/// Begins the folder `out`, which appears whole or not at all.
///
/// # Errors
/// `out` is not [`vacant`]; a full disk.
pub fn begin(out: &Path) -> Result<NewFolder, Error> {
    vacant(out)?;
    // a link stays one, and leads to what takes the place of the empty folder
    Ok(NewFolder::begin(&out.canonicalize().unwrap_or_else(|_| out.to_path_buf()))?)
}

/// Writes the model of `run` as a folder `out`, which appears whole or not at all.
///
/// # Errors
/// What the format can not hold, naming one that can; those of [`begin`]; a full disk.
pub fn export(run: &Usable, format: Format, dtype: Dtype, out: &Path) -> Result<Exported, Error> {
    let folder = begin(out)?;
    let notes = match format {
        Format::Huggingface => huggingface::write(&folder, run, dtype, &name(out))?,
        Format::Ctranslate2 => ctranslate2::write(&folder, run, dtype, &name(out))?,
    };
    let mut files = Vec::new();
    for path in fsio::list(folder.path())? {
        let bytes = std::fs::metadata(&path).map_err(|e| fsio::Error::io("look at", &path, e))?.len();
        files.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
    }
    folder.commit()?;
    Ok(Exported { files, notes })
}

/// Last part of a path, for people.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Longest text in tokens that an exported model has positions for.
pub(super) fn positions(run: &Usable) -> usize {
    run.config.data.max_length.max(1024)
}

/// The weights of a model by name, f32 on the CPU.
///
/// # Errors
/// Values that are no finite numbers, or that `dtype` can not hold.
pub(super) fn weights(run: &Usable, dtype: Dtype) -> Result<Vec<(String, Tensor)>, Error> {
    let mut weights = Vec::new();
    for param in run.model.params() {
        let tensor = param.var.as_tensor().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(Error::NotFinite(param.name.clone()));
        }
        let too_large = |value: &&f32| dtype == Dtype::Float16 && value.abs() > LARGEST_F16;
        if let Some(&value) = values.iter().find(too_large) {
            return Err(Error::TooLarge { name: param.name.clone(), value });
        }
        weights.push((param.name.clone(), tensor));
    }
    Ok(weights)
}

/// What rounds to the largest finite float16 at most.
const LARGEST_F16: f32 = 65_519.0;

/// Files that hold JSON for people and programs: indented, with a line feed at the end.
pub(super) fn pretty(value: &impl serde::Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}
