//! The mean of several checkpoints' weights, the field's habit after training (Junczys-Dowmunt et al. 2016).

use candle_core::{DType, Device, Tensor};
use std::path::{Path, PathBuf};

use super::weights::read_weights;
use super::{Error, Result};

/// Mean of the weights of checkpoint folders or safetensors files, added up in f64 in the order given and rounded once
/// to the type of the first. Sorted by name.
///
/// # Errors
/// No path; a file that can not be read or is damaged; names or shapes that differ, naming the file and the tensor.
pub fn average(paths: &[PathBuf]) -> Result<Vec<(String, Tensor)>> {
    let [first, rest @ ..] = paths else {
        return Err(Error::Mismatch { path: PathBuf::new(), what: "no checkpoints to average".to_string() });
    };
    let first_weights = read_weights(first, &Device::Cpu)?;
    let types: Vec<DType> = first_weights.iter().map(|(_, t)| t.dtype()).collect();
    let mut sums = Vec::with_capacity(first_weights.len());
    for (name, tensor) in first_weights {
        sums.push((name, tensor.to_dtype(DType::F64)?));
    }
    for path in rest {
        let weights = read_weights(path, &Device::Cpu)?;
        compare(path, first, &sums, &weights)?;
        for ((_, sum), (_, tensor)) in sums.iter_mut().zip(&weights) {
            *sum = (&*sum + tensor.to_dtype(DType::F64)?)?;
        }
    }
    let n = paths.len() as f64;
    sums.into_iter().zip(types).map(|((name, sum), dtype)| Ok((name, (sum / n)?.to_dtype(dtype)?))).collect()
}

fn compare(path: &Path, first: &Path, a: &[(String, Tensor)], b: &[(String, Tensor)]) -> Result<()> {
    let differs = |what| Error::Mismatch { path: path.to_path_buf(), what };
    if a.len() != b.len() {
        return Err(differs(format!("{} tensors, {} has {}", b.len(), first.display(), a.len())));
    }
    for ((name, x), (other, y)) in a.iter().zip(b) {
        if name != other || x.dims() != y.dims() {
            let (x, y) = (x.dims(), y.dims());
            return Err(differs(format!("{other} {y:?} where {} has {name} {x:?}", first.display())));
        }
    }
    Ok(())
}
