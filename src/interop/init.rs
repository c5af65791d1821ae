//! `model.init_from`: a run that begins with a trained model.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::origin::Origin;
use crate::checkpoint;
use crate::config::{self, differences, Config, Loaded, ModelConfig};
use crate::exit::InputError;
use crate::model::{
    table_names, Model, OUTPUT_BIAS, OUTPUT_TABLE, RNN_OUTPUT_BIAS, SHARED_TABLE, SOURCE_TABLE, TARGET_TABLE,
};
use crate::tokenizer::{Tokenizer, Tokenizers};
use crate::units;

/// Whether tables are tied is a matter of the vocabulary too.
const TIES: &str = "model.tied_embeddings";

/// Opens what `model.init_from` names, if anything, and makes `config` that of a run that begins with it: what the model
/// decides comes from there. `given`: the keys that the user gave.
///
/// # Errors
/// Those of [`Origin::open`]; a key that was given and says otherwise.
pub fn open(config: &mut Config, given: &[&str]) -> Result<Option<Origin>> {
    if config.model.init_from.is_empty() {
        return Ok(None);
    }
    let origin = Origin::open(&config.model.init_from)?;
    let adopted = adopt(config, &origin.model);
    let against: Vec<String> = differences(config, &adopted)
        .iter()
        .filter(|change| given.contains(&change.path))
        .map(|change| format!("  {} = {}, but that model has {}", change.path, change.old, change.new))
        .collect();
    if !against.is_empty() {
        return Err(InputError(format!(
            "model.init_from = \"{}\" decides the sizes of the model:\n{}\nleave these keys out",
            origin.name,
            against.join("\n")
        ))
        .into());
    }
    *config = adopted;
    if config.model.init_tokenizer {
        config.tokenizer.joint = origin.tokenizers.share_vocabulary();
    }
    Ok(Some(origin))
}

/// `config` with what `model` decides.
fn adopt(config: &Config, model: &ModelConfig) -> Config {
    let free: &[&str] = if config.model.init_tokenizer { &[] } else { &[TIES] };
    config::with_architecture(config, model, free)
}

/// The config that a run, which began with a trained model, goes on with: what that model decided is not decided anew.
pub fn keep(loaded: &Loaded, old: &Config) -> Config {
    let mut config = loaded.config.clone();
    if config.model.init_from.is_empty() || config.model.init_from != old.model.init_from {
        return config;
    }
    let adopted = adopt(&config, &old.model);
    let given = |path: &str| loaded.given.contains(&path);
    // a key that was given stands, to be refused as any other change of the model
    if !differences(&config, &adopted).iter().any(|change| given(change.path)) {
        config = adopted;
        config.tokenizer.joint = old.tokenizer.joint;
    }
    config
}

impl Origin {
    /// Gives its weights to a model with these tokenizers; says what was taken and what is fresh.
    ///
    /// # Errors
    /// Names or shapes that differ, naming them; the model is then unchanged.
    pub fn fill(&self, model: &dyn Model, tokenizers: &Tokenizers) -> Result<String> {
        let kept = tokenizers.fingerprint() == self.tokenizers.fingerprint();
        let (weights, rows) = match kept {
            true => (self.weights.clone(), None),
            false => self.by_piece(model, tokenizers)?,
        };
        checkpoint::fill(&self.file, weights, model.params())?;
        let numbers = units::count(model.params().elements() as u64);
        Ok(match rows {
            None => format!("all {numbers} weights of {}; fresh: optimizer, schedule, counts", self.weights_name),
            Some(rows) => format!(
                "weights of {}, rows of the embedding tables by piece: {}; fresh: the other rows, optimizer, schedule, \
                 counts",
                self.weights_name,
                rows.join(", ")
            ),
        })
    }

    /// Weights for a model with another vocabulary: rows of its tables by piece, the drawn ones where a piece is new. Also
    /// in words how many were found.
    fn by_piece(&self, model: &dyn Model, tokenizers: &Tokenizers) -> Result<(Weights, Option<Vec<String>>)> {
        let old = |name: &str| self.weights.iter().find(|(found, _)| found == name).map(|(_, tensor)| tensor);
        let mut weights: Weights = Vec::new();
        let mut told = Vec::new();
        for param in model.params() {
            let name = param.name.as_str();
            let role = role(name);
            if role.is_none() && !BIASES.contains(&name) {
                weights.extend(old(name).map(|tensor| (name.to_string(), tensor.clone())));
                continue;
            }
            let stands = role.map_or(name, |role| table_names(self.model.tied_embeddings)[role]);
            let Some(source) = old(stands) else { continue };
            let [from, to] = match role {
                Some(0) => [&self.tokenizers.source, &tokenizers.source],
                _ => [&self.tokenizers.target, &tokenizers.target],
            };
            let (tensor, found) = moved(source, &param.var.as_tensor().to_device(&Device::Cpu)?, from, to)?;
            weights.push((name.to_string(), tensor));
            if let Some((_, side)) = SIDES.iter().find(|(table, _)| *table == name) {
                let [found, all] = [found, to.vocab_size()].map(|n| units::count(n as u64));
                told.push(format!("{side}{found} of {all}"));
            }
        }
        // what the new model has no place for is told when they are put in
        let is_used = |name: &str| role(name).is_some() || model.params().get(name).is_some();
        weights.extend(self.weights.iter().filter(|(name, _)| !is_used(name)).cloned());
        Ok((weights, Some(told)))
    }
}

type Weights = Vec<(String, Tensor)>;

/// Biases on the logits, a number for each piece.
const BIASES: [&str; 2] = [OUTPUT_BIAS, RNN_OUTPUT_BIAS];
/// Embedding tables, and whose they are for people.
const SIDES: [(&str, &str); 3] = [(SOURCE_TABLE, "source "), (TARGET_TABLE, "target "), (SHARED_TABLE, "")];

/// What a table is for, as a place in [`table_names`]; of a shared one, the target.
fn role(name: &str) -> Option<usize> {
    match name {
        SOURCE_TABLE => Some(0),
        TARGET_TABLE | SHARED_TABLE => Some(1),
        OUTPUT_TABLE => Some(2),
        _ => None,
    }
}

/// `drawn` with the rows of `source` for the pieces that both tokenizers have, and how many these are.
fn moved(source: &Tensor, drawn: &Tensor, from: &Tokenizer, to: &Tokenizer) -> Result<(Tensor, usize)> {
    let ids: BTreeMap<String, usize> = from.tokens().into_iter().zip(0..).collect();
    let width = source.elem_count() / source.dim(0)?;
    if drawn.elem_count() != width * to.vocab_size() {
        // another width, which is told with the names when the weights are put in
        return Ok((source.clone(), 0));
    }
    let old: Vec<f32> = source.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut new: Vec<f32> = drawn.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut found = 0;
    for (row, token) in new.chunks_exact_mut(width).zip(to.tokens()) {
        if let Some(&id) = ids.get(&token) {
            row.copy_from_slice(&old[id * width..(id + 1) * width]);
            found += 1;
        }
    }
    Ok((Tensor::from_vec(new, drawn.shape(), &Device::Cpu)?, found))
}
