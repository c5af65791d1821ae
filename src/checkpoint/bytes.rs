//! Checkpoints as one piece of memory, for the other ranks of a job.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::format::{read_tensors, write_tensors};
use super::store::{pack, unpack};
use super::{Error, Result, Snapshot};

/// Named tensors.
///
/// # Errors
/// Two of one name; memory errors of candle.
pub fn to_bytes(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_tensors(&mut bytes, tensors).map_err(|e| of_memory(e.to_string()))?;
    Ok(bytes)
}

/// The inverse of [`to_bytes`]; on the CPU.
///
/// # Errors
/// Bytes that are nothing of the kind.
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    read_tensors(Path::new(MEMORY), bytes, &Device::Cpu)
}

const MEMORY: &str = "what another rank has sent";

fn of_memory(what: String) -> Error {
    Error::Damaged { path: MEMORY.into(), what }
}

impl Snapshot {
    /// All of it.
    ///
    /// # Errors
    /// Memory errors of candle.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let state = serde_json::to_vec(&self.state).map_err(|e| of_memory(e.to_string()))?;
        let raw = self.raw_weights.as_deref().map(to_bytes).transpose()?.unwrap_or_default();
        let parts = [to_bytes(&self.weights)?, raw, to_bytes(&pack(&self.optimizer)?)?, state];
        let mut bytes = self.step.to_le_bytes().to_vec();
        for part in parts {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// The inverse of [`Snapshot::to_bytes`].
    ///
    /// # Errors
    /// Bytes that are nothing of the kind.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let mut cut = |length: usize| -> Result<&[u8]> {
            let (part, after) = rest.split_at_checked(length).ok_or_else(|| of_memory("cut off".to_string()))?;
            rest = after;
            Ok(part)
        };
        let number = |eight: &[u8]| u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let step = number(cut(8)?);
        let mut part = || -> Result<&[u8]> {
            let length = number(cut(8)?) as usize;
            cut(length)
        };
        let weights = from_bytes(part()?)?;
        let raw_weights = Some(part()?).filter(|raw| !raw.is_empty()).map(from_bytes).transpose()?;
        let optimizer = unpack(from_bytes(part()?)?)?;
        let state = serde_json::from_slice(part()?).map_err(|e| of_memory(e.to_string()))?;
        Ok(Snapshot { step, weights, raw_weights, optimizer, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::OptimizerState;

    #[test]
    fn a_checkpoint_comes_out_of_memory_as_it_went_in() -> Result<()> {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu);
        let optimizer = OptimizerState {
            tensors: vec![("a.m".to_string(), tensor(&[0.5])?)],
            scalars: vec![("t".to_string(), 1.0 / 3.0)],
        };
        let mut snapshot = Snapshot {
            step: 7,
            weights: vec![("a".to_string(), tensor(&[1.0, 2.0])?)],
            raw_weights: None,
            optimizer,
            state: serde_json::json!({ "seconds": 0.1 }),
        };
        for raw in [None, Some(vec![("a".to_string(), tensor(&[3.0, 4.0])?)])] {
            snapshot.raw_weights = raw;
            let bytes = snapshot.to_bytes()?;
            let back = Snapshot::from_bytes(&bytes)?;
            assert_eq!((back.step, &back.state), (7, &snapshot.state));
            assert_eq!(back.optimizer.scalars, snapshot.optimizer.scalars);
            assert_eq!(back.to_bytes()?, bytes);
            assert!(Snapshot::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }
        Ok(())
    }
}
