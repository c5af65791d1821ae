//! The weights that the last validations scored, kept for their mean: nothing but the model, a file each.

use candle_core::Tensor;
use std::path::PathBuf;

use super::store::{folder_name, step_of, Store};
use super::{save_weights, Result};
use crate::fsio;

const FOLDER: &str = "validated";
const EXTENSION: &str = "safetensors";

impl Store {
    /// File of the weights that the validation after `step` scored, whether it exists or not.
    pub fn validated(&self, step: u64) -> PathBuf {
        self.validated_folder().join(folder_name(step)).with_extension(EXTENSION)
    }

    /// Those of the steps whose file is there.
    pub fn validated_there(&self, steps: &[u64]) -> Vec<u64> {
        steps.iter().copied().filter(|&step| self.validated(step).exists()).collect()
    }

    /// Writes that file.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn save_validated(&self, step: u64, weights: &[(String, Tensor)]) -> Result<()> {
        fsio::create_dir_all(&self.validated_folder())?;
        save_weights(&self.validated(step), weights)
    }

    /// Deletes all such files but those of the steps in `kept`.
    ///
    /// # Errors
    /// When one can not be deleted.
    pub fn retain_validated(&self, kept: &[u64]) -> Result<()> {
        for path in fsio::list(&self.validated_folder())? {
            let step = path.file_stem().and_then(|name| step_of(&name.to_string_lossy()));
            if step.is_some_and(|step| !kept.contains(&step)) {
                std::fs::remove_file(&path).map_err(|e| fsio::Error::io("delete", &path, e))?;
            }
        }
        Ok(())
    }

    /// Deletes leftovers of a crash among them.
    pub(super) fn clean_validated(&self) -> Result<()> {
        fsio::clean_leftovers(&self.validated_folder())?;
        Ok(())
    }

    fn validated_folder(&self) -> PathBuf {
        self.dir.join(FOLDER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn only_the_weights_that_are_kept_stay() -> std::result::Result<(), Box<dyn std::error::Error>> {
        let run = tempfile::tempdir()?;
        let store = Store::open(run.path())?;
        store.retain_validated(&[])?;
        let weights = [("a".to_string(), Tensor::new(&[1f32], &Device::Cpu)?)];
        for step in [10, 20, 30] {
            store.save_validated(step, &weights)?;
        }
        store.retain_validated(&[20, 40])?;
        assert_eq!([10, 20, 30].map(|step| store.validated(step).exists()), [false, true, false]);
        assert!(store.steps()?.is_empty(), "they are no checkpoints");
        Ok(())
    }
}
