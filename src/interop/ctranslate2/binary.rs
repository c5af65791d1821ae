//! The bytes of `model.bin`, little-endian:
//!
//! ```text
//! u32 version of the format    string name of the specification    u32 its revision
//! u32 number of variables; each: string name, u8 rank, u32 sizes, u8 type, u32 bytes, values; sorted by name
//! u32 number of aliases; each: string name, string the variable of the same values that stands for it
//! string: u16 bytes with the NUL at its end, bytes, NUL
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};

use candle_core::Tensor;
use safetensors::tensor::View;

use super::super::Dtype;
use super::quantize;
use super::variables::{Variable, Variables};

const VERSION: u32 = 6;
const SPECIFICATION: &str = "TransformerSpec";
const REVISION: u32 = 7;

/// Types of values by their number.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Float32 = 0,
    Int8 = 1,
    Int16 = 2,
    Float16 = 4,
    Bfloat16 = 5,
}

/// Writes all variables; tensors of equal values are written once. With int8 and int16 a matrix is followed by its scales.
///
/// # Errors
/// A tensor of 4 GiB or more; what `out` meets.
pub(super) fn write(out: &mut dyn Write, variables: &Variables, dtype: Dtype) -> io::Result<()> {
    let aliases = aliases(variables).map_err(io::Error::other)?;
    let written = || variables.iter().filter(|(name, _)| !aliases.contains_key(name.as_str()));
    let has_scale = |variable: &Variable| matches!(variable, Variable::Tensor { is_quantizable: true, .. });
    let scales = match quantize::is_whole(dtype) {
        true => written().filter(|(_, variable)| has_scale(variable)).count(),
        false => 0,
    };
    number(out, VERSION)?;
    string(out, SPECIFICATION)?;
    number(out, REVISION)?;
    number(out, written().count() + scales)?;
    for (name, variable) in written() {
        match variable {
            Variable::Int8(value) => values(out, name, &[], Kind::Int8, &value.to_le_bytes())?,
            Variable::Int16(value) => values(out, name, &[], Kind::Int16, &value.to_le_bytes())?,
            Variable::Float(value) => values(out, name, &[], Kind::Float32, &value.to_le_bytes())?,
            Variable::Tensor { values, is_quantizable } => tensor(out, name, values, *is_quantizable, dtype)?,
        }
    }
    number(out, aliases.len())?;
    for (alias, name) in aliases {
        string(out, alias)?;
        string(out, name)?;
    }
    Ok(())
}

/// Names of tensors that repeat another, with the first name of these values.
fn aliases(variables: &Variables) -> candle_core::Result<BTreeMap<&str, &str>> {
    let mut first: BTreeMap<(Vec<usize>, u128), &str> = BTreeMap::new();
    let mut aliases = BTreeMap::new();
    for (name, variable) in variables {
        let Variable::Tensor { values, .. } = variable else { continue };
        let hash = xxhash_rust::xxh3::xxh3_128(&View::data(values));
        match first.entry((values.dims().to_vec(), hash)) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(name);
            }
            std::collections::btree_map::Entry::Occupied(taken) => {
                aliases.insert(name.as_str(), *taken.get());
            }
        }
    }
    Ok(aliases)
}

fn tensor(out: &mut dyn Write, name: &str, tensor: &Tensor, is_quantizable: bool, dtype: Dtype) -> io::Result<()> {
    let dims = tensor.dims();
    if !(is_quantizable && quantize::is_whole(dtype)) {
        let kind = match dtype {
            Dtype::Float16 => Kind::Float16,
            Dtype::Bfloat16 => Kind::Bfloat16,
            Dtype::Float32 | Dtype::Int8 | Dtype::Int16 => Kind::Float32,
        };
        let rounded = tensor.to_dtype(dtype.of_floats()).map_err(io::Error::other)?;
        return values(out, name, dims, kind, &View::data(&rounded));
    }
    let floats = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(io::Error::other)?;
    let name_of_scale = format!("{name}_scale");
    if dtype == Dtype::Int8 {
        let quantized = quantize::int8(&floats, dims.last().copied().unwrap_or(1));
        let bytes: Vec<u8> = quantized.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let scales: Vec<u8> = quantized.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        values(out, name, dims, Kind::Int8, &bytes)?;
        return values(out, &name_of_scale, &[quantized.scales.len()], Kind::Float32, &scales);
    }
    let (quantized, scale) = quantize::int16(&floats);
    let bytes: Vec<u8> = quantized.iter().flat_map(|value| value.to_le_bytes()).collect();
    values(out, name, dims, Kind::Int16, &bytes)?;
    values(out, &name_of_scale, &[], Kind::Float32, &scale.to_le_bytes())
}

fn values(out: &mut dyn Write, name: &str, dims: &[usize], kind: Kind, bytes: &[u8]) -> io::Result<()> {
    string(out, name)?;
    out.write_all(&[dims.len() as u8])?;
    dims.iter().try_for_each(|&size| number(out, size))?;
    out.write_all(&[kind as u8])?;
    number(out, bytes.len())?;
    out.write_all(bytes)
}

fn number(out: &mut dyn Write, value: impl TryInto<u32>) -> io::Result<()> {
    let too_large = |_| io::Error::other("model.bin of CTranslate2 holds no tensor of 4 GiB or more");
    let value: u32 = value.try_into().map_err(too_large)?;
    out.write_all(&value.to_le_bytes())
}

fn string(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let length = u16::try_from(text.len() + 1).map_err(io::Error::other)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(text.as_bytes())?;
    out.write_all(&[0])
}
