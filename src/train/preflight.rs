//! The table shown before the first step: what was read, what will be trained, with what. Users find half of their
//! mistakes here.

use serde_json::json;

use crate::config::{total_memory_bytes, Config, ModelKind};
use crate::data::Lengths;
use crate::events::Start;
use crate::machine;
use crate::model::Model;
use crate::ops::{self, Level};
use crate::units;
use crate::world::World;

use super::distance;
use super::memory::memory_estimate;
use super::phases;
use super::ranks::{self, Mates};
use super::resources::{Resources, Vectors};
use super::survey::{HeldOutSurvey, Survey};
use super::validator::Validator;

/// Facts that only the run knows.
pub(super) struct Facts<'a> {
    pub config: &'a Config,
    pub resources: &'a Resources,
    pub model: &'a dyn Model,
    pub optimizer: String,
    /// What the weights were at the start, where they were not drawn.
    pub begins: Option<&'a str>,
    pub pretrained: &'a [Vectors],
    pub updates_per_epoch: u64,
    pub total_updates: u64,
    /// Times as fast as f32, where it was measured.
    pub speed_of_bf16: Option<f64>,
    pub threads: usize,
    pub world: &'a World,
    pub mates: &'a Mates,
    pub run: &'a std::path::Path,
    pub step: u64,
}

/// Builds the table and the facts of the `start` row.
pub(super) fn start(facts: &Facts) -> Start {
    let table = [
        ("data", data(facts)),
        ("model", model(facts)),
        ("training", training(facts)),
        ("machine", machine_rows(facts)),
    ];
    let Facts { config, resources, .. } = facts;
    let device = facts.model.params().device();
    let values = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pairs": resources.train.kept,
        "source_vocabulary": resources.vocabulary.source_size,
        "target_vocabulary": resources.vocabulary.target_size,
        "parameters": facts.model.params().elements(),
        "updates_per_epoch": facts.updates_per_epoch,
        "total_updates": facts.total_updates,
        "optimizer": facts.optimizer,
        "threads": facts.threads,
        "ranks": facts.world.size(),
        "precision": machine::precision_of(device).name(),
        "computed_by": machine::computed_by(device),
        "seed": config.seed,
    });
    let mut values = values.as_object().cloned().unwrap_or_default();
    if let Some(valid) = &resources.valid {
        let looks = valid.symptoms_of_references();
        values.extend(looks.iter().map(|(symptom, value)| (format!("references.{}", symptom.name()), value.into())));
        values.insert("references".to_string(), valid.len().into());
    }
    let rows = |rows: Vec<(&str, String)>| rows.into_iter().map(|(label, value)| (label.to_string(), value)).collect();
    Start {
        table: table.into_iter().map(|(section, found)| (section.to_string(), rows(found))).collect(),
        facts: values,
        step: facts.step,
    }
}

fn data(facts: &Facts) -> Vec<(&'static str, String)> {
    let Facts { config, resources, .. } = facts;
    let train = &resources.train;
    let mut rows = vec![("training pairs", format!("{} of {}", units::count(train.kept), units::count(train.read)))];
    for dropped in &train.dropped {
        let reason = dropped.reason.describe(&config.data);
        let file = config.data.train.0.get(dropped.first_corpus).and_then(|corpus| corpus.files.first());
        let place = format!("{}:{}", file.map_or("", String::as_str), dropped.first_line);
        rows.push(("  dropped", format!("{} {reason}, the first at {place}", units::count(dropped.count))));
    }
    rows.extend(train.joined.iter().map(|joined| ("  line breaks", joined.describe(&config.data.train))));
    for (corpus, span) in config.data.train.0.iter().zip(train.spans()).filter(|(corpus, _)| !corpus.tag.is_empty()) {
        let pairs = units::count(span.pairs.len() as u64);
        rows.push(("  tagged", format!("{pairs}, by {} before the source", corpus.tag)));
    }
    let (source, target) = train.tokens();
    rows.push(("  tokens", format!("{} source, {} target", units::count(source), units::count(target))));
    let [source, target] = &resources.survey.train;
    rows.push((
        "  unknown",
        format!("{} source, {} target", units::count(source.unknown.part), units::count(target.unknown.part)),
    ));
    let held_out = |set: &Option<Validator>| set.as_ref().map_or("none".to_string(), |v| units::count(v.len() as u64));
    rows.push(("validation, test pairs", format!("{}, {}", held_out(&resources.valid), held_out(&resources.test))));
    for (joined, corpora) in resources.joined.iter().zip([&config.data.valid, &config.data.test]) {
        rows.extend(joined.iter().map(|joined| ("  line breaks", joined.describe(corpora))));
    }
    rows.extend(held_out_rows(&resources.survey));
    let sizes = resources.vocabulary;
    let pieces = match config.tokenizer.joint && config.tokenizer.target_path.is_empty() {
        true => units::count(sizes.source_size as u64),
        false => format!("{} + {}", units::count(sizes.source_size as u64), units::count(sizes.target_size as u64)),
    };
    rows.push(("vocabulary", format!("{pieces} pieces; {}", resources.tokenizer_note)));
    rows
}

/// What is odd about the held-out sets, in the order of the row above; nothing where nothing is.
fn held_out_rows(survey: &Survey) -> Vec<(&'static str, String)> {
    type Count = fn(&HeldOutSurvey) -> u64;
    let counts: [(&str, Count); 5] = [
        ("  with a blank side", |set| set.blank),
        ("  longer than max_length", |set| set.long),
        ("  unknown source tokens", |set| set.sides[0].unknown.part),
        ("  unknown target tokens", |set| set.sides[1].unknown.part),
        ("  also in training", |set| set.seen),
    ];
    let row = |(label, count): (&'static str, Count)| {
        let number = |name: &str| {
            let set = survey.held_out.iter().find(|set| set.name == name);
            set.map_or("none".to_string(), |set| units::count(count(set)))
        };
        let any = survey.held_out.iter().any(|set| count(set) > 0);
        any.then(|| (label, format!("{}, {}", number("data.valid"), number("data.test"))))
    };
    counts.into_iter().filter_map(row).collect()
}

fn model(facts: &Facts) -> Vec<(&'static str, String)> {
    let parts = parts(facts.model).into_iter().map(|(part, n)| format!("{part} {}", units::count(n)));
    let mut rows = vec![
        ("model", describe_model(facts.config)),
        ("parameters", units::count(facts.model.params().elements() as u64)),
        ("  by part", parts.collect::<Vec<_>>().join(", ")),
    ];
    rows.extend(facts.begins.map(|begins| ("begins with", begins.to_string())));
    rows.extend(facts.pretrained.iter().map(|vectors| ("word vectors", vectors.to_string())));
    rows
}

fn training(facts: &Facts) -> Vec<(&'static str, String)> {
    let Facts { config, .. } = facts;
    let segmentation = &facts.resources.segmentation;
    let tokens = facts.resources.train.tokens().1 as f64 * segmentation.growth[1];
    let mean = tokens / facts.updates_per_epoch.max(1) as f64;
    let mut regularization = describe_regularization(config);
    if let Some(cuts) = segmentation.describe() {
        regularization.push_str(&format!(", {cuts}"));
    }
    let length = match facts.total_updates {
        0 => "until early stopping or max_hours".to_string(),
        n => format!("{} updates, {:.1} epochs", units::count(n), n as f64 / facts.updates_per_epoch.max(1) as f64),
    };
    let mut optimizer = facts.optimizer.clone();
    let scale = config.optimizer.embedding_lr_scale();
    if scale != 1.0 {
        optimizer.push_str(&format!(", embedding tables at {scale} times the rate"));
    }
    if let Some(norm) = config.optimizer.clip_norm(config.train.clip_grad_norm) {
        optimizer.push_str(&format!(", gradients clipped to norm {norm}"));
    }
    if config.train.ema_decay > 0.0 {
        optimizer.push_str(&format!(", averaged with decay {}", config.train.ema_decay));
    }
    let mut rows = vec![
        (
            "update",
            format!("{mean:.0} target tokens in the mean; {} updates an epoch", units::count(facts.updates_per_epoch)),
        ),
        ("length", length),
        ("optimizer", optimizer),
        ("schedule", config.schedule.describe()),
        ("regularization", regularization),
    ];
    if config.checkpoint.average_last > 0 {
        let last = config.checkpoint.average_last;
        rows.push(("at the end", format!("the weights of the last {last} validations are averaged, and validated")));
    }
    if config.uses_distance() {
        rows.push(("embedding distance", distance::describe(&config.embedding_distance)));
    }
    rows.extend((1..=config.phase.len()).map(|i| ("phase", format!("{i}, {}", phases::describe(config, i)))));
    rows
}

fn machine_rows(facts: &Facts) -> Vec<(&'static str, String)> {
    let memory = memory_estimate(facts.config, facts.model.params().elements());
    let mut rows = vec![
        ("device", device_text(facts)),
        ("products", products_text(facts)),
        ("memory", memory_text(memory, gpu(facts.model))),
        ("seed", facts.config.seed.to_string()),
        ("run folder", facts.run.display().to_string()),
    ];
    rows.extend(ranks::rows(facts.world, facts.mates));
    if facts.step > 0 {
        rows.push(("goes on after", format!("update {}", units::count(facts.step))));
    }
    rows
}

fn threads(n: usize) -> String {
    if n == 1 {
        "1 thread".to_string()
    } else {
        format!("{n} threads")
    }
}

/// "cpu, 2 threads, AVX2 instructions", or "cuda:0, NVIDIA H200".
fn device_text(facts: &Facts) -> String {
    match gpu(facts.model) {
        Some(gpu) => format!("{}, {}", facts.config.device, gpu.name),
        None => format!("cpu, {}, {} instructions", threads(facts.threads), Level::best()),
    }
}

/// "bf16", on a CPU with the instructions, "f32 (AVX-512); bf16 (AMX tiles) would be about 2.9× as fast here".
fn products_text(facts: &Facts) -> String {
    let device = facts.model.params().device();
    let precision = machine::precision_of(device).name();
    if !device.is_cpu() {
        return precision.to_string();
    }
    let bf16 = match (ops::units_in_force(), ops::bf16_units(), facts.speed_of_bf16) {
        (Some(units), ..) => return format!("{precision} ({units})"),
        (None, None, _) => "this CPU has no instructions for bf16".to_string(),
        (None, Some(units), Some(speed)) if speed >= 1.05 => {
            format!("bf16 ({units}) would be about {speed:.1}× as fast here")
        }
        (None, Some(units), _) => format!("bf16 ({units}) would not be faster here"),
    };
    format!("{precision} ({}); {bf16}", Level::best())
}

/// What computes instead of the CPU.
struct Gpu {
    name: String,
    memory_bytes: u64,
}

#[cfg(feature = "cuda")]
fn gpu(model: &dyn Model) -> Option<Gpu> {
    let device = model.params().device();
    let (name, memory_bytes) = crate::ops::cuda::describe(device).ok()?;
    Some(Gpu { name, memory_bytes })
}

#[cfg(not(feature = "cuda"))]
fn gpu(_model: &dyn Model) -> Option<Gpu> {
    None
}

fn memory_text(estimate: u64, gpu: Option<Gpu>) -> String {
    match gpu.map(|gpu| gpu.memory_bytes).or_else(total_memory_bytes) {
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
            m.d_model,
            m.d_ff,
            m.heads,
            name(m.norm),
        ),
        ModelKind::Rnn => format!(
            "{} with {} attention, {layers}, hidden {}, embeddings {}, tied embeddings: {tied}",
            name(m.rnn.cell),
            name(m.rnn.attention),
            m.rnn.hidden_size,
            m.rnn.embedding_size,
        ),
    }
}

fn describe_regularization(config: &Config) -> String {
    let model = &config.model;
    let mut text = format!("dropout {}", model.dropout);
    let places = [
        ("attention", model.attention_dropout),
        ("activation", model.activation_dropout),
        ("embedding", model.embedding_dropout),
    ];
    for (place, share) in places {
        if let Some(share) = share.filter(|&share| share != model.dropout) {
            text.push_str(&format!(", {place} dropout {share}"));
        }
    }
    text.push_str(&format!(", label smoothing {}", config.train.label_smoothing));
    let [source, target] = [model.source_word_dropout, model.target_word_dropout];
    if source > 0.0 || target > 0.0 {
        text.push_str(&format!(", word dropout {source} source, {target} target"));
    }
    if config.train.r_drop_alpha > 0.0 {
        text.push_str(&format!(", R-Drop {} (two passes)", config.train.r_drop_alpha));
    }
    text
}

/// The word a config writes for an enum value.
pub(super) fn name(value: impl serde::Serialize) -> String {
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
