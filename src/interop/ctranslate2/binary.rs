//! The bytes of `model.bin`, little-endian:
//!
//! ```text
//! u32 version of the format    string name of the specification    u32 its revision
//! u32 number of variables; each: string name, u8 rank, u32 sizes, u8 type, u32 bytes, values; sorted by name
//! u32 number of aliases; each: string name, string the variable of the same values that stands for it
//! string: u16 bytes with the NUL at its end, bytes, NUL
//! ```

use std::collections::btree_map::{BTreeMap, Entry};
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
            Entry::Vacant(free) => {
                free.insert(name);
            }
            Entry::Occupied(taken) => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn variable(values: &[f32], rows: usize) -> Variable {
        let values = Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap();
        Variable::Tensor { values, is_quantizable: true }
    }

    fn bytes(variables: &[(&str, Variable)], dtype: Dtype) -> Vec<u8> {
        let variables = variables.iter().map(|(name, variable)| (name.to_string(), variable.clone())).collect();
        let mut out = Vec::new();
        write(&mut out, &variables, dtype).unwrap();
        out
    }

    /// Written by hand from the description of the format.
    #[test]
    fn bytes_are_those_of_the_format() {
        let all = [("b/weight", variable(&[1.0, -1.0], 1)), ("a", Variable::Int16(-1)), ("c", Variable::Float(2.0))];
        let head = b"\x06\0\0\0\x10\0TransformerSpec\0\x07\0\0\0";
        let a = b"\x02\0a\0\0\x02\x02\0\0\0\xFF\xFF";
        let c = b"\x02\0c\0\0\0\x04\0\0\0\0\0\0\x40";
        let weight = b"\x09\0b/weight\0\x02\x01\0\0\0\x02\0\0\0";
        let floats = b"\0\x08\0\0\0\0\0\x80\x3F\0\0\x80\xBF";
        let none = b"\0\0\0\0";
        let expected = [&head[..], b"\x03\0\0\0", a, weight, floats, c, none].concat();
        assert_eq!(bytes(&all, Dtype::Float32), expected);

        let whole = b"\x01\x02\0\0\0\x7F\x81";
        let scale = b"\x0F\0b/weight_scale\0\x01\x01\0\0\0\0\x04\0\0\0\0\0\xFE\x42";
        let expected = [&head[..], b"\x04\0\0\0", a, weight, whole, scale, c, none].concat();
        assert_eq!(bytes(&all, Dtype::Int8), expected);

        let whole = b"\x02\x04\0\0\0\0\x04\0\xFC";
        let scale = b"\x0F\0b/weight_scale\0\0\0\x04\0\0\0\0\0\x80\x44";
        let expected = [&head[..], b"\x04\0\0\0", a, weight, whole, scale, c, none].concat();
        assert_eq!(bytes(&all, Dtype::Int16), expected);

        let half = b"\x04\x04\0\0\0\0\x3C\0\xBC";
        let expected = [&head[..], b"\x03\0\0\0", a, weight, half, c, none].concat();
        assert_eq!(bytes(&all, Dtype::Float16), expected);
    }

    #[test]
    fn equal_tensors_are_written_once_under_the_first_name() {
        let table = variable(&[1.0, 2.0], 2);
        let all = [("z", table.clone()), ("y", variable(&[1.0, 2.0], 1)), ("x", table.clone()), ("w", table)];
        let variables: Variables = all.into_iter().map(|(name, variable)| (name.to_string(), variable)).collect();
        let found: Vec<(&str, &str)> = aliases(&variables).unwrap().into_iter().collect();
        assert_eq!(found, [("x", "w"), ("z", "w")]);
        let mut out = Vec::new();
        write(&mut out, &variables, Dtype::Int8).unwrap();
        assert!(out.ends_with(b"\x02\0\0\0\x02\0x\0\x02\0w\0\x02\0z\0\x02\0w\0"), "{out:?}");
    }
}
