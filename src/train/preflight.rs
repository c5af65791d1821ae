//! The table shown before the first step: what was read, what will be trained, with what. Users find half of their
//! mistakes here.

use serde_json::{json, Map, Value};

use crate::config::{BatchType, Config, ModelKind};
use crate::events::Start;
use crate::model::Model;
use crate::units;

use super::machine;
use super::setup::Resources;

/// Facts that only the run knows.
pub(super) struct Facts<'a> {
    pub config: &'a Config,
    pub resources: &'a Resources,
    pub model: &'a dyn Model,
    pub optimizer: String,
    pub updates_per_epoch: u64,
    pub total_updates: u64,
    pub mean_tokens_per_update: f64,
    pub threads: usize,
    pub run: &'a std::path::Path,
    pub step: u64,
}

/// Bytes a training process of this model needs at its peak, roughly: weights, gradients and two moments for every
/// parameter, and the activations that one micro-batch keeps for its backward pass.
pub(super) fn memory_estimate(config: &Config, parameters: usize, optimizer_states: usize) -> u64 {
    let model = &config.model;
    let layers = model.encoder_layers() + model.decoder_layers();
    let per_token = match model.kind {
        // Per layer: projections, attention output, feed-forward inner, two norms; twice, for the gradient edges.
        ModelKind::Transformer => layers * (12 * model.d_model + 3 * model.d_ff),
        ModelKind::Rnn => layers * 14 * model.rnn.hidden_size,
    };
    let tokens = match config.train.batch_type {
        BatchType::Tokens => config.train.batch_size,
        BatchType::Sentences => config.train.batch_size * 30,
    };
    let ema = usize::from(config.train.ema_decay > 0.0);
    (4 * (parameters * (2 + optimizer_states + ema) + tokens * per_token)) as u64
}

/// Builds the table and the facts of the `start` row.
pub(super) fn start(facts: &Facts) -> Start {
    let Facts { config, resources, .. } = facts;
    let text = |s: &dyn std::fmt::Display| s.to_string();
    let parameters = facts.model.params().elements();
    let memory = memory_estimate(config, parameters, 2);

    let mut data = vec![("training pairs".to_string(), format!("{} kept of {}", units::count(resources.train.len() as u64), units::count(resources.train.read_pairs())))];
    for dropped in resources.train.dropped() {
        data.push((format!("  dropped: {}", dropped.reason), format!("{} (first at line {})", units::count(dropped.count), units::count(dropped.first_line))));
    }
    let held_out = |set: &Option<super::Validator>| set.as_ref().map_or("none".to_string(), |v| units::count(v.len() as u64));
    data.push(("validation, test pairs".into(), format!("{}, {}", held_out(&resources.valid), held_out(&resources.test))));
    data.push(("tokenizer".into(), resources.tokenizer_note.clone()));

    let mut model = vec![("model".to_string(), describe_model(config))];
    model.extend(parts(facts.model).into_iter().map(|(part, n)| (format!("  {part}"), units::count(n))));
    model.push(("parameters".into(), units::count(parameters as u64)));
    model.extend(resources.pretrained_notes.iter().map(|note| ("pretrained vectors".to_string(), note.clone())));

    let length = match facts.total_updates {
        0 => "no limit in updates".to_string(),
        n => format!("{} updates", units::count(n)),
    };
    let training = vec![
        ("batch".to_string(), format!("{:.0} target tokens an update in the mean, {} updates an epoch", facts.mean_tokens_per_update, units::count(facts.updates_per_epoch))),
        ("length".into(), length),
        ("optimizer".into(), facts.optimizer.clone()),
        ("schedule".into(), describe_schedule(config)),
        ("regularization".into(), format!("dropout {}, label smoothing {}", config.model.dropout, config.train.label_smoothing)),
    ];
    let mut machine = vec![
        ("device".to_string(), format!("{}, {} threads, {}", device_name(facts.model), facts.threads, crate::ops::simd_level())),
        ("memory estimate".into(), memory_text(memory)),
        ("seed".into(), text(&config.seed)),
        ("run folder".into(), facts.run.display().to_string()),
    ];
    if facts.step > 0 {
        machine.push(("continues after".into(), format!("update {}", units::count(facts.step))));
    }

    let mut json_facts = Map::new();
    for (key, value) in [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("pairs", json!(resources.train.len())),
        ("source_vocabulary", json!(resources.vocabulary.source_size)),
        ("target_vocabulary", json!(resources.vocabulary.target_size)),
        ("parameters", json!(parameters)),
        ("updates_per_epoch", json!(facts.updates_per_epoch)),
        ("optimizer", json!(facts.optimizer)),
        ("threads", json!(facts.threads)),
        ("seed", json!(config.seed)),
    ] {
        json_facts.insert(key.to_string(), value as Value);
    }
    let table = [("data", data), ("model", model), ("training", training), ("machine", machine)];
    Start { table: table.map(|(name, rows)| (name.to_string(), rows)).into(), facts: json_facts, step: facts.step }
}

fn device_name(model: &dyn Model) -> &'static str {
    if model.params().device().is_cpu() { "cpu" } else { "cuda" }
}

fn memory_text(estimate: u64) -> String {
    match machine::total_memory_bytes() {
        Some(total) => format!("about {} of {}", units::bytes(estimate), units::bytes(total)),
        None => format!("about {}", units::bytes(estimate)),
    }
}

fn describe_model(config: &Config) -> String {
    let m = &config.model;
    let layers = format!("{}+{} layers", m.encoder_layers(), m.decoder_layers());
    let tied = name(m.tied_embeddings);
    match m.kind {
        ModelKind::Transformer => format!(
            "transformer, {layers}, d_model {}, d_ff {}, {} heads, {}-norm, tied embeddings: {tied}",
            m.d_model, m.d_ff, m.heads, name(m.norm),
        ),
        ModelKind::Rnn => format!(
            "{} with {} attention, {layers}, hidden {}, embeddings {}, tied embeddings: {tied}",
            name(m.rnn.cell), name(m.rnn.attention), m.rnn.hidden_size, m.rnn.embedding_size,
        ),
    }
}

fn describe_schedule(config: &Config) -> String {
    let s = &config.schedule;
    format!("{}, warm-up {} updates", name(s.kind), units::count(s.warmup_updates))
}

/// The word a config writes for an enum value.
fn name(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default()
}

/// Parameters by the first two parts of their names, in order of first appearance.
fn parts(model: &dyn Model) -> Vec<(String, u64)> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for param in model.params() {
        let name = param.name.strip_prefix("model.").unwrap_or(&param.name);
        let part = name.split('.').next().unwrap_or(name);
        let n = param.var.elem_count() as u64;
        match found.iter_mut().find(|(known, _)| known == part) {
            Some((_, total)) => *total += n,
            None => found.push((part.to_string(), n)),
        }
    }
    found
}
