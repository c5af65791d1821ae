//! The weights of a MarianMT file under our names: tied tables once, sinusoids and padding looked at and left out.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::pickle;
use crate::checkpoint;
use crate::config::ModelConfig;
use crate::exit::InputError;
use crate::model::{table_names, OUTPUT_BIAS, OUTPUT_TABLE as OUTPUT, SOURCE_TABLE as SOURCE, TARGET_TABLE as TARGET};
use crate::ops;

const POSITIONS: [&str; 2] = ["model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"];

/// Largest difference of a stored sinusoid to ours: half precision has 11 bits.
const SINUSOID: f32 = 1e-3;

/// Reads `model.safetensors` or `pytorch_model.bin` of a model with the sizes of `model`.
///
/// Sets `model.output_bias` where the file has a bias on its logits that is more than padding's. All tensors are f32.
///
/// # Errors
/// A damaged file, one that holds more than tensors, numbers that are not finite, tables that are not tied as the config
/// says, positions that are no sinusoids. Missing and unknown names are left for [`checkpoint::fill`] to find.
pub(super) fn read(file: &Path, model: &mut ModelConfig) -> anyhow::Result<Vec<(String, Tensor)>> {
    let is_pickle = file.extension().is_some_and(|ending| ending == "bin");
    let found = match is_pickle {
        true => pickle::read(file)?,
        false => checkpoint::read_weights(file, &Device::Cpu)?,
    };
    let refused = |what: String| InputError(format!("{}: {what}", file.display()));
    let mut weights = Vec::with_capacity(found.len());
    for (name, tensor) in found {
        let tensor = number(&tensor).map_err(|what| refused(format!("{name} {what}")))?;
        weights.push((name, tensor));
    }
    let weights = ours(weights, model).and_then(|weights| sizes(&weights, model).map(|()| weights));
    weights.map_err(|what| refused(what).into())
}

/// That the file has the sizes that the config says: a model is built by them, and no memory holds what a wrong one says.
fn sizes(weights: &[(String, Tensor)], model: &ModelConfig) -> Result<(), String> {
    let wanted = [model.d_ff, model.d_model];
    for (side, layers) in [("encoder", model.encoder_layers()), ("decoder", model.decoder_layers())] {
        let last = format!("model.{side}.layers.{}.fc1.weight", layers.saturating_sub(1));
        match weights.iter().find(|(name, _)| *name == last).map(|(_, tensor)| tensor.dims()) {
            Some(found) if found == wanted => {}
            Some(found) => return Err(format!("{last} is {found:?}, by config.json it is {wanted:?}")),
            None => return Err(format!("{last} is missing: config.json says {layers} layers of the {side}")),
        }
    }
    Ok(())
}

/// As f32.
fn number(tensor: &Tensor) -> Result<Tensor, String> {
    if !matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        return Err(format!("holds whole numbers ({:?}); quantized models can not be imported", tensor.dtype()));
    }
    let text = |e: candle_core::Error| format!("can not be read: {e}");
    let tensor = tensor.to_dtype(DType::F32).map_err(text)?;
    let sum = tensor.abs().and_then(|x| x.sum_all()).and_then(|x| x.to_scalar::<f32>()).map_err(text)?;
    match sum.is_finite() {
        true => Ok(tensor),
        false => Err("has numbers that are not finite".to_string()),
    }
}

fn ours(mut weights: Vec<(String, Tensor)>, model: &mut ModelConfig) -> Result<Vec<(String, Tensor)>, String> {
    for name in POSITIONS {
        if let Some(table) = take(&mut weights, name) {
            sinusoids(&table, model.d_model).map_err(|what| format!("{name} {what}"))?;
        }
    }
    // a file may have a tied table under the name of each of its roles
    for (role, table) in [SOURCE, TARGET, OUTPUT].into_iter().zip(table_names(model.tied_embeddings)) {
        if role == table {
            continue;
        }
        let Some(tensor) = take(&mut weights, role) else { continue };
        match weights.iter().find(|(name, _)| name == table) {
            Some((_, other)) if !same(other, &tensor) => {
                return Err(format!("{role} differs from {table}, though config.json says that they are one table"));
            }
            Some(_) => {}
            None => weights.push((table.to_string(), tensor)),
        }
    }
    if let Some(bias) = take(&mut weights, OUTPUT_BIAS) {
        let bias = bias.flatten_all().and_then(|bias| bias.to_vec1::<f32>()).map_err(|e| e.to_string())?;
        weights.extend(output_bias(bias, model)?.map(|bias| (OUTPUT_BIAS.to_string(), bias)));
    }
    weights.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(weights)
}

fn take(weights: &mut Vec<(String, Tensor)>, name: &str) -> Option<Tensor> {
    let at = weights.iter().position(|(found, _)| found == name)?;
    Some(weights.remove(at).1)
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    let bits = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    a.dims() == b.dims() && matches!((bits(a), bits(b)), (Ok(a), Ok(b)) if a == b)
}

/// `[V]`; none where nothing but padding, the last, has one: padding is never predicted.
fn output_bias(mut bias: Vec<f32>, model: &mut ModelConfig) -> Result<Option<Tensor>, String> {
    if let Some(pad) = bias.last_mut() {
        *pad = 0.0;
    }
    model.output_bias |= bias.iter().any(|&bias| bias != 0.0);
    match model.output_bias {
        true => Tensor::new(bias, &Device::Cpu).map(Some).map_err(|e| e.to_string()),
        false => Ok(None),
    }
}

/// Positions are computed, so a table of others would be lost.
fn sinusoids(table: &Tensor, d_model: usize) -> Result<(), String> {
    let ours = table.dim(0).and_then(|rows| ops::sinusoids(rows, d_model));
    let close = |ours: Tensor| {
        let difference = (table - ours)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        Ok::<bool, candle_core::Error>(difference < SINUSOID)
    };
    match ours.and_then(close) {
        Ok(true) => Ok(()),
        _ => Err("is not the sinusoids of MarianMT; learnt positions can not be imported".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TiedEmbeddings;
    use crate::model::SHARED_TABLE as SHARED;

    fn table(rows: &[[f32; 2]]) -> Tensor {
        Tensor::new(rows.concat(), &Device::Cpu).unwrap().reshape((rows.len(), 2)).unwrap()
    }

    fn named(list: &[(&str, Tensor)]) -> Vec<(String, Tensor)> {
        list.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect()
    }

    fn model(tied_embeddings: TiedEmbeddings) -> ModelConfig {
        ModelConfig { tied_embeddings, d_model: 2, ..ModelConfig::default() }
    }

    fn names(found: &[(String, Tensor)]) -> Vec<&str> {
        found.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn tied_tables_count_once_whatever_names_they_have() {
        let one = table(&[[1.0, 2.0], [0.0, 0.0]]);
        let other = table(&[[1.0, 3.0], [0.0, 0.0]]);
        for present in [vec![SHARED], vec![TARGET, OUTPUT], vec![OUTPUT, SHARED, SOURCE, TARGET]] {
            let list: Vec<_> = present.iter().map(|&name| (name, one.clone())).collect();
            let found = ours(named(&list), &mut model(TiedEmbeddings::All)).unwrap();
            assert_eq!(names(&found), [SHARED]);
        }
        let untied = named(&[(SHARED, one.clone()), (OUTPUT, other.clone())]);
        let told = ours(untied, &mut model(TiedEmbeddings::All)).unwrap_err();
        assert!(told.contains("lm_head.weight differs from model.shared.weight"), "{told}");
        let separate = named(&[(SOURCE, one.clone()), (TARGET, other.clone()), (OUTPUT, other)]);
        let found = ours(separate, &mut model(TiedEmbeddings::Decoder)).unwrap();
        assert_eq!(names(&found), [TARGET, SOURCE]);
        let all = named(&[(OUTPUT, one.clone()), (SOURCE, one.clone()), (TARGET, one)]);
        assert_eq!(ours(all, &mut model(TiedEmbeddings::None)).unwrap().len(), 3);
    }

    #[test]
    fn a_bias_of_padding_alone_is_none() {
        for (bias, wanted) in [([0.0, 0.0, -1e4], None), ([0.0, 0.5, 9.0], Some(vec![0.0, 0.5, 0.0]))] {
            let mut model = model(TiedEmbeddings::All);
            let tensor = Tensor::new(&[bias], &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
            let found = ours(named(&[(OUTPUT_BIAS, tensor)]), &mut model).unwrap();
            assert_eq!(model.output_bias, wanted.is_some());
            assert_eq!(found.first().map(|(_, bias)| bias.to_vec1::<f32>().unwrap()), wanted);
        }
    }

    #[test]
    fn positions_must_be_the_sinusoids_that_are_computed() {
        let right = table(&[[0.0, 1.0], [1f32.sin(), 1f32.cos()]]);
        let found = ours(named(&[(POSITIONS[0], right)]), &mut model(TiedEmbeddings::All)).unwrap();
        assert!(found.is_empty());
        let learnt = named(&[(POSITIONS[1], table(&[[0.0, 0.9]]))]);
        assert!(ours(learnt, &mut model(TiedEmbeddings::All)).unwrap_err().contains("is not the sinusoids"));
    }

    #[test]
    fn numbers_are_finite_and_have_fractions() {
        let whole = Tensor::new(&[1u8], &Device::Cpu).unwrap();
        assert!(number(&whole).unwrap_err().contains("whole numbers"));
        let nan = Tensor::new(&[1f32, f32::NAN], &Device::Cpu).unwrap();
        assert!(number(&nan).unwrap_err().contains("not finite"));
    }
}
