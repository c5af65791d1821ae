//! Where the numbers of tensors lie, and tensors from them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::machine::Machine;
use super::Fault;

/// Kinds of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(DType);

impl Number {
    /// Of a class of PyTorch.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        match class {
            "FloatStorage" => Some(Number(DType::F32)),
            "DoubleStorage" => Some(Number(DType::F64)),
            "HalfStorage" => Some(Number(DType::F16)),
            "BFloat16Storage" => Some(Number(DType::BF16)),
            "LongStorage" => Some(Number(DType::I64)),
            _ => None,
        }
    }
}

/// Numbers that tensors are cut from.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) number: Number,
    pub(super) count: usize,
}

impl Storage {
    pub(super) fn bytes(&self) -> Result<usize, Fault> {
        let bytes = self.count.checked_mul(self.number.0.size_in_bytes());
        bytes.ok_or_else(|| format!("damaged: its storage {} has more numbers than there can be", self.key))
    }
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// By number.
    pub(super) storage: usize,
    /// In numbers, as the strides.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What makes a tensor: storage, offset, shape, strides.
type Cut = (usize, usize, Vec<usize>, Vec<usize>);

/// The numbers of storages, and the tensors made of them.
#[derive(Default)]
pub(super) struct Numbers {
    content: BTreeMap<usize, Vec<u8>>,
    /// Tied tables stand in files several times.
    made: BTreeMap<Cut, Tensor>,
}

impl Numbers {
    /// Keeps the bytes of a storage, read once; `read` gets its key and its size in bytes.
    pub(super) fn put(
        &mut self,
        machine: &Machine,
        storage: usize,
        read: impl FnOnce(&str, usize) -> Result<Vec<u8>, Fault>,
    ) -> Result<(), Fault> {
        if self.content.contains_key(&storage) {
            return Ok(());
        }
        let known = machine.storage(storage);
        let size = known.bytes()?;
        let content = read(&known.key, size)?;
        if content.len() != size {
            return Err(format!("its storage {} has {} bytes where {size} are expected", known.key, content.len()));
        }
        self.content.insert(storage, content);
        Ok(())
    }

    /// The tensor, in one piece.
    pub(super) fn tensor(&mut self, machine: &Machine, wanted: Wanted) -> Result<(String, Tensor), Fault> {
        let Wanted { name, storage, offset, shape, strides } = wanted;
        let cut = (storage, offset, shape, strides);
        if let Some(made) = self.made.get(&cut) {
            return Ok((name, made.clone()));
        }
        let content = self.content.get(&storage).ok_or_else(|| format!("{name}: its numbers are not in the file"))?;
        let tensor = make(content, machine.storage(storage), &cut).map_err(|what| format!("{name}: {what}"))?;
        self.made.insert(cut, tensor.clone());
        Ok((name, tensor))
    }
}

fn make(content: &[u8], storage: &Storage, (_, offset, shape, strides): &Cut) -> Result<Tensor, Fault> {
    let outside = || format!("a tensor of shape {shape:?} reaches outside its storage of {} numbers", storage.count);
    if shape.len() != strides.len() {
        return Err("damaged: shape and strides of a tensor do not belong together".to_string());
    }
    let count = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).ok_or_else(outside)?;
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |reach, (&size, &stride)| reach.checked_add(size.saturating_sub(1).checked_mul(stride)?));
    let inside = count == 0 || reach.is_some_and(|reach| reach < storage.count);
    // a stride of 0 could make a tensor of any size from one number
    if !inside || count > storage.count {
        return Err(outside());
    }
    let width = storage.number.0.size_in_bytes();
    let mut rows: Vec<u8> = Vec::with_capacity(count * width);
    let mut index = vec![0; shape.len()];
    let (inner, inner_stride) = (shape.last().copied().unwrap_or(1), strides.last().copied().unwrap_or(1));
    for _ in 0..count / inner.max(1) {
        let outer: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        let start = offset + outer;
        match inner_stride {
            1 => rows.extend_from_slice(&content[start * width..(start + inner) * width]),
            stride => {
                for at in (0..inner).map(|i| start + i * stride) {
                    rows.extend_from_slice(&content[at * width..(at + 1) * width]);
                }
            }
        }
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Tensor::from_raw_buffer(&rows, storage.number.0, shape, &Device::Cpu).map_err(|e| e.to_string())
}
