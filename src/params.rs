//! The ordered, named set of trainable tensors. Order is the order of construction, the same in every process.

use candle_core::{DType, Device, Result, Tensor, Var};
use std::collections::BTreeMap;

use crate::rng::{stream, Purpose};

/// What a tensor is, for optimizers and decay masks; never guessed from names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// `[out, in]` weight of a linear map.
    Matrix,
    /// `[gates·hidden, in]` weight inside a recurrence.
    Recurrent,
    /// `[vocabulary, d]` rows of tokens; `tied`: also (or only) the output projection.
    Table {
        /// Whether it is the output projection.
        tied: bool,
    },
    /// Biases, gains, attention vectors.
    Vector,
}

/// How a new tensor is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform in ±√(6 / (fan_in + fan_out)) over the last two dimensions (Glorot & Bengio 2010).
    XavierUniform,
    /// Uniform in ±bound.
    Uniform(f64),
    /// Each `[n, n]` block of rows orthogonal (Saxe et al. 2014), for recurrences.
    Orthogonal,
}

/// One trainable tensor.
#[derive(Clone, Debug)]
pub struct Param {
    /// As in checkpoints.
    pub name: String,
    /// What it is.
    pub kind: ParamKind,
    /// Its values.
    pub var: Var,
    /// Row kept at zero: `<pad>` of a table. Its gradient is cleared before the update and decay skips it.
    pub frozen_row: Option<usize>,
}

/// Trainable tensors in a fixed order.
#[derive(Clone, Debug)]
pub struct ParamSet {
    params: Vec<Param>,
    by_name: BTreeMap<String, usize>,
    seed: Option<u64>,
    dtype: DType,
    device: Device,
}

impl ParamSet {
    /// Empty; weights are drawn from `seed`, each parameter from its own stream. Without a seed they are zeros, which take no
    /// memory until they are replaced by what a file says.
    pub fn new(seed: impl Into<Option<u64>>, dtype: DType, device: &Device) -> Self {
        ParamSet { params: Vec::new(), by_name: BTreeMap::new(), seed: seed.into(), dtype, device: device.clone() }
    }

    /// Of variables that are there.
    ///
    /// # Errors
    /// Two of one name; another number type or device than the first has.
    pub fn of(params: impl IntoIterator<Item = Param>) -> Result<Self> {
        let params: Vec<Param> = params.into_iter().collect();
        let (dtype, device) =
            params.first().map_or((DType::F32, Device::Cpu), |param| (param.var.dtype(), param.var.device().clone()));
        let mut set = ParamSet::new(None, dtype, &device);
        for param in params {
            if param.var.dtype() != dtype || !param.var.device().same_device(&device) {
                candle_core::bail!(
                    "{} is {:?} on {:?}, others are not",
                    param.name,
                    param.var.dtype(),
                    param.var.device()
                );
            }
            set.insert(param)?;
        }
        Ok(set)
    }

    fn insert(&mut self, param: Param) -> Result<()> {
        if self.by_name.insert(param.name.clone(), self.params.len()).is_some() {
            candle_core::bail!("parameter {} is defined twice", param.name);
        }
        self.params.push(param);
        Ok(())
    }

    /// Adds a tensor and returns the handle that models keep; updates of the `Var` show through it.
    pub fn add(&mut self, name: &str, kind: ParamKind, shape: &[usize], init: Init) -> Result<Tensor> {
        self.add_with_frozen_row(name, kind, shape, init, None)
    }

    /// As [`ParamSet::add`], with one row that stays zero.
    pub fn add_with_frozen_row(
        &mut self,
        name: &str,
        kind: ParamKind,
        shape: &[usize],
        init: Init,
        frozen_row: Option<usize>,
    ) -> Result<Tensor> {
        let var = match self.seed {
            Some(seed) => Var::from_tensor(&self.drawn(seed, shape, init, frozen_row)?)?,
            None => Var::zeros(shape, self.dtype, &self.device)?,
        };
        let handle = var.as_tensor().clone();
        self.insert(Param { name: name.to_string(), kind, var, frozen_row })?;
        Ok(handle)
    }

    fn drawn(&self, seed: u64, shape: &[usize], init: Init, frozen_row: Option<usize>) -> Result<Tensor> {
        let mut values = draw(init, shape, seed, self.params.len() as u64);
        if let Some(row) = frozen_row {
            let width = shape[shape.len() - 1];
            values[row * width..(row + 1) * width].fill(0.0);
        }
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
    }

    /// In their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Param> {
        self.params.iter()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.params.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// By name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.by_name.get(name).map(|&i| &self.params[i])
    }

    /// Source and target embedding table, which may be one: models define them first, in this order. `None` without any.
    pub fn embeddings(&self) -> Option<[&Param; 2]> {
        let mut tables = self.params.iter().filter(|param| matches!(param.kind, ParamKind::Table { .. }));
        let source = tables.next()?;
        Some([source, tables.next().unwrap_or(source)])
    }

    /// The parameters for which `keep` holds, in the same order; they share their values with these.
    #[must_use]
    pub fn subset(&self, keep: impl Fn(&Param) -> bool) -> Self {
        let params: Vec<Param> = self.params.iter().filter(|param| keep(param)).cloned().collect();
        let by_name = params.iter().enumerate().map(|(i, param)| (param.name.clone(), i)).collect();
        ParamSet { params, by_name, seed: self.seed, dtype: self.dtype, device: self.device.clone() }
    }

    /// Of all of them.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where all of them are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of scalars.
    pub fn elements(&self) -> usize {
        self.params.iter().map(|p| p.var.elem_count()).sum()
    }
}

impl<'a> IntoIterator for &'a ParamSet {
    type Item = &'a Param;
    type IntoIter = std::slice::Iter<'a, Param>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Values in f64, rounded to the parameter's type afterwards, so f32 and f64 models start from the same weights.
fn draw(init: Init, shape: &[usize], seed: u64, index: u64) -> Vec<f64> {
    let n = shape.iter().product();
    let mut rng = stream(seed, Purpose::Init, index);
    let mut uniform = |bound: f64| (0..n).map(|_| (2.0 * rng.uniform() - 1.0) * bound).collect();
    match init {
        Init::Zeros => vec![0.0; n],
        Init::Ones => vec![1.0; n],
        Init::Uniform(bound) => uniform(bound),
        Init::XavierUniform => {
            let (fan_out, fan_in) = (shape[shape.len() - 2], shape[shape.len() - 1]);
            uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
        }
        Init::Normal(std) => (0..n).map(|_| rng.normal() * std).collect(),
        Init::Orthogonal => {
            let width = shape[shape.len() - 1];
            let mut values: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
            for block in values.chunks_mut(width * width) {
                orthogonalize(block, width);
            }
            values
        }
    }
}

/// Gram–Schmidt over rows, twice for accuracy.
fn orthogonalize(rows: &mut [f64], width: usize) {
    for _ in 0..2 {
        for i in 0..rows.len() / width {
            let (done, rest) = rows.split_at_mut(i * width);
            let row = &mut rest[..width];
            for other in done.chunks(width) {
                let dot = dot(row, other);
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
            let norm = row.iter().map(|a| a * a).sum::<f64>().sqrt();
            row.iter_mut().for_each(|a| *a /= norm);
        }
    }
}

/// In eight partial sums, which the compiler computes side by side: a model of width 512 has 10⁹ of these products.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_weights_and_the_frozen_row_is_zero() -> Result<()> {
        let build = |seed| -> Result<Vec<Vec<f32>>> {
            let mut set = ParamSet::new(seed, DType::F32, &Device::Cpu);
            set.add("w", ParamKind::Matrix, &[3, 4], Init::XavierUniform)?;
            let table =
                set.add_with_frozen_row("e", ParamKind::Table { tied: true }, &[3, 4], Init::Normal(1.0), Some(2))?;
            table.to_vec2::<f32>()
        };
        assert_eq!(build(1)?, build(1)?);
        assert_ne!(build(1)?, build(2)?);
        assert_eq!(build(1)?[2], [0.0; 4]);
        Ok(())
    }

    #[test]
    fn a_subset_shares_its_values_and_the_first_tables_are_the_embeddings() -> Result<()> {
        let mut set = ParamSet::new(1, DType::F32, &Device::Cpu);
        assert!(set.embeddings().is_none());
        set.add("w", ParamKind::Matrix, &[2], Init::Zeros)?;
        set.add("e", ParamKind::Table { tied: true }, &[2], Init::Ones)?;
        let names = |set: &ParamSet| set.embeddings().map(|tables| tables.map(|table| table.name.clone()));
        assert_eq!(names(&set), Some(["e".to_string(), "e".to_string()]));
        set.add("f", ParamKind::Table { tied: false }, &[2], Init::Ones)?;
        set.add("output", ParamKind::Table { tied: true }, &[2], Init::Ones)?;
        assert_eq!(names(&set), Some(["e".to_string(), "f".to_string()]));
        let subset = set.subset(|param| param.name != "e");
        assert_eq!(subset.iter().map(|param| param.name.as_str()).collect::<Vec<_>>(), ["w", "f", "output"]);
        set.get("f").unwrap().var.set(&Tensor::new(&[5f32, 6.0], &Device::Cpu)?)?;
        assert_eq!(subset.get("f").unwrap().var.to_vec1::<f32>()?, [5.0, 6.0]);
        assert!(subset.get("e").is_none());
        Ok(())
    }

    #[test]
    fn orthogonal_blocks_have_orthonormal_rows() {
        let values = draw(Init::Orthogonal, &[8, 4], 1, 0);
        for block in values.chunks(16) {
            for (i, a) in block.chunks(4).enumerate() {
                for (j, b) in block.chunks(4).enumerate() {
                    let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12);
                }
            }
        }
    }
}
