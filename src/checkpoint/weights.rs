//! Weights in and out of a model, with names and shapes compared before anything changes.

use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

use super::format::{read_tensors, write_tensors, TensorFile};
use super::store::{model_bytes, model_file};
use super::{Error, Result};
use crate::fsio;
use crate::params::{Param, ParamKind, ParamSet};

/// Names listed in an error before "and N more".
const SHOWN: usize = 4;

/// Weights of a checkpoint folder (checked against its manifest) or of any safetensors file, sorted by name.
///
/// # Errors
/// [`Error::Damaged`], or the file can not be read.
pub fn read_weights(path: &Path, device: &Device) -> Result<Vec<(String, Tensor)>> {
    let (file, bytes) = if path.is_dir() { model_bytes(path)? } else { (path.to_path_buf(), fsio::read(path)?) };
    read_tensors(&file, &bytes, device)
}

/// Writes weights as one safetensors file, atomically.
///
/// # Errors
/// When it can not be written.
pub fn save_weights(path: &Path, weights: &[(String, Tensor)]) -> Result<()> {
    Ok(fsio::write_atomic_with(path, |out| write_tensors(out, weights))?)
}

/// Fills a model from a checkpoint folder or a safetensors file, a part of a tensor at a time. Number types are converted.
///
/// # Errors
/// [`Error::Mismatch`] naming tensors that are missing, unexpected or of another shape; the model is then unchanged.
pub fn load_weights(path: &Path, params: &ParamSet) -> Result<()> {
    let file = if path.is_dir() { model_file(path)? } else { TensorFile::open(path, None)? };
    for param in fitting(file.shapes(), params).map_err(|what| mismatch(file.path(), what))? {
        file.read_into(&param.name, &param.var)?;
    }
    Ok(())
}

/// As [`load_weights`], with tensors at hand; `path` is for the message.
///
/// # Errors
/// [`Error::Mismatch`]; the model is then unchanged.
pub fn fill(path: &Path, weights: Vec<(String, Tensor)>, params: &ParamSet) -> Result<()> {
    let weights: BTreeMap<String, Tensor> = weights.into_iter().collect();
    let shapes = weights.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    for param in fitting(shapes, params).map_err(|what| mismatch(path, what))? {
        let Some(tensor) = weights.get(&param.name) else { continue };
        param.var.set(&tensor.to_device(param.var.device())?.to_dtype(param.var.dtype())?)?;
    }
    Ok(())
}

fn mismatch(path: &Path, what: String) -> Error {
    Error::Mismatch { path: path.to_path_buf(), what }
}

/// The parameters, if all have their weights and there are no others; else what is wrong.
fn fitting(
    mut shapes: BTreeMap<String, Vec<usize>>,
    params: &ParamSet,
) -> std::result::Result<impl Iterator<Item = &Param>, String> {
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for param in params {
        match shapes.remove(&param.name) {
            None => missing.push(param.name.clone()),
            Some(shape) if shape != param.var.dims() => misshapen.push((param, shape)),
            Some(_) => {}
        }
    }
    if let Some((param, shape)) = misshapen.first() {
        return Err(misshapen_text(param, shape, misshapen.len() - 1));
    }
    let unexpected: Vec<String> = shapes.into_keys().collect();
    if !(missing.is_empty() && unexpected.is_empty()) {
        let part = |label: &str, names: &[String]| match names.len() {
            0 => String::new(),
            n if n > SHOWN => format!("; {label}: {}, and {} more", names[..SHOWN].join(", "), n - SHOWN),
            _ => format!("; {label}: {}", names.join(", ")),
        };
        return Err(format!(
            "these weights are of another kind of model than the config says (kind, layers, norm, ties){}{}",
            part("missing", &missing),
            part("not expected", &unexpected)
        ));
    }
    Ok(params.iter())
}

fn misshapen_text(param: &Param, theirs: &[usize], others: usize) -> String {
    let ours = param.var.dims();
    let more = if others > 0 { format!("; {others} other shapes differ too") } else { String::new() };
    let shapes = format!("{} {theirs:?} against {ours:?}", param.name);
    match param.kind {
        ParamKind::Table { .. } if theirs.len() == ours.len() && theirs[1..] == ours[1..] => format!(
            "the checkpoint has a vocabulary of {}, the tokenizer one of {} ({shapes}){more}; \
             use the tokenizer that the checkpoint was trained with",
            theirs[0], ours[0]
        ),
        _ => format!("these weights have other sizes than the config says ({shapes}){more}"),
    }
}
