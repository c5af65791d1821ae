//! Folders of Hugging Face's MarianMT: what `AutoTokenizer` and `AutoModelForSeq2SeqLM` load as it is.
//!
//! Names and layouts of our parameters are MarianMT's; positions are computed there as here and stand in no file. What
//! is added is `final_logits_bias [1, V]`, which keeps padding from being predicted.

use candle_core::{DType, Device, Tensor};

use super::card::Card;
use super::export::{positions, pretty, weights, Dtype, Error};
use super::marian::{GenerationConfig, MarianConfig};
use crate::checkpoint;
use crate::config::LengthPenalty;
use crate::fsio::NewFolder;
use crate::model::OUTPUT_BIAS;
use crate::run::{vocabulary, Usable};
use crate::tokenizer::HuggingFace;

/// Longest translation in tokens, unless the run was trained on longer text.
const MAX_LENGTH: usize = 512;
/// Logit of padding: its probability is 0 in f32, and a float16 holds it.
const PAD_BIAS: f32 = -1e4;
/// What is said of another length penalty.
const GNMT: &str = "decode.length_penalty_type = \"gnmt\" has no counterpart in transformers: beam search divides by \
                    length^length_penalty there";
/// What is said of another dropout of embeddings.
const DROPOUT: &str =
    "model.embedding_dropout has no counterpart in MarianMT: who trains the model on there drops embeddings by \
                       model.dropout";

/// Fills `folder`, to be called `name`. Returns what is not as in the run.
///
/// # Errors
/// What MarianMT can not hold, naming what can; a full disk.
pub(super) fn write(folder: &NewFolder, run: &Usable, dtype: Dtype, name: &str) -> Result<Vec<String>, Error> {
    if matches!(dtype, Dtype::Int8 | Dtype::Int16) {
        return Err(Error::Dtype(dtype));
    }
    let (model, data, decode) = (&run.config.model, &run.config.data, &run.config.decode);
    let vocabulary = vocabulary(&run.tokenizers);
    let mut marian = MarianConfig::of(model, vocabulary, run.tokenizers.target.eos_id(), positions(run))?;
    marian.torch_dtype = Some(dtype.name().to_string());
    let generation = GenerationConfig::of(&marian, decode, data.max_length.max(MAX_LENGTH));
    let settings = HuggingFace {
        source_language: &data.source_language,
        target_language: &data.target_language,
        model_max_length: positions(run),
    };
    let mut files = run.tokenizers.huggingface_files(&settings)?;
    let mut tensors = weights(run, dtype)?;
    let bias = output_bias(&mut tensors, vocabulary.target_size)?;
    tensors.push((OUTPUT_BIAS.to_string(), bias));
    for (_, tensor) in &mut tensors {
        *tensor = tensor.to_dtype(dtype.of_floats())?;
    }
    files.push(("config.json".to_string(), pretty(&marian)?));
    files.push(("generation_config.json".to_string(), pretty(&generation)?));
    let needs_sentencepiece = files.iter().all(|(file, _)| file != "tokenizer.json");
    let (card, fault) = Card::of(run, name, dtype, needs_sentencepiece);
    files.push(("README.md".to_string(), card.text().into_bytes()));
    for (file, bytes) in files {
        folder.file(&file, |out| out.write_all(&bytes))?;
    }
    folder.file("model.safetensors", |out| checkpoint::write_tensors(out, &tensors))?;
    let gnmt = decode.length_penalty_type == LengthPenalty::Gnmt && decode.length_penalty > 0.0;
    let dropout = model.embedding_dropout() != model.dropout;
    let lost = [(gnmt, GNMT), (dropout, DROPOUT)].into_iter().filter(|(is_lost, _)| *is_lost);
    Ok(fault.into_iter().chain(lost.map(|(_, text)| text.to_string())).collect())
}

/// The model's own bias, taken out of `tensors`, or zeros, `[1, V]`, with padding as good as impossible.
fn output_bias(tensors: &mut Vec<(String, Tensor)>, size: usize) -> Result<Tensor, Error> {
    let own = tensors.iter().position(|(name, _)| name == OUTPUT_BIAS).map(|i| tensors.remove(i).1);
    let mut bias = own.map_or(Ok(vec![0.0; size]), |own| own.flatten_all()?.to_vec1::<f32>())?;
    if let Some(pad) = bias.last_mut() {
        *pad = PAD_BIAS;
    }
    Ok(Tensor::from_vec(bias, (1, size), &Device::Cpu)?.to_dtype(DType::F32)?)
}
