//! Ranges of single keys and rules between keys. All findings are reported; none stops the search.

use serde_json::Value;

use super::data_rules;
use super::keys::{as_toml, value_at};
use super::limits::{self, is_bleu_tokenizer, too_many_threads, BLEU_TOKENIZERS, LARGEST_BEAM, LARGEST_VOCABULARY};
use super::{
    Config, DistanceForm, Every, HvrForm, HvrTruncation, Metric, ModelKind, OptimizerName, PhaseObjective,
    ScheduleKind, TiedEmbeddings, Trainable,
};

/// One thing wrong with a configuration whose types are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Keys that take part; the first one is at fault.
    pub keys: Vec<&'static str>,
    /// `key = value` of the first key.
    pub subject: String,
    /// What it must be.
    pub text: String,
}

/// Everything wrong with `config`; empty when it can be run, as far as can be told without looking at files.
pub fn validate(config: &Config) -> Vec<Finding> {
    let values = serde_json::to_value(config).unwrap_or_default();
    let mut check = Checks { values, findings: Vec::new() };
    top(&mut check, config);
    data_rules::data(&mut check, &config.data);
    tokenizer(&mut check, config);
    model(&mut check, config);
    train(&mut check, config);
    optimizer(&mut check, config);
    hvr(&mut check, config);
    schedule_free(&mut check, config);
    schedule(&mut check, config);
    validation(&mut check, config);
    embedding_distance(&mut check, config);
    phases(&mut check, config);
    check.findings
}

pub(super) struct Checks {
    /// The configuration, to show values in findings.
    values: Value,
    findings: Vec<Finding>,
}

impl Checks {
    /// A rule between keys; `keys[0]` is at fault when it does not hold.
    pub(super) fn rule(&mut self, holds: bool, keys: &[&'static str], text: impl Into<String>) {
        if !holds {
            let value = as_toml(value_at(&self.values, keys[0]));
            let subject = if value.is_empty() { keys[0].to_string() } else { format!("{} = {value}", keys[0]) };
            self.findings.push(Finding { keys: keys.to_vec(), subject, text: text.into() });
        }
    }

    pub(super) fn at_least(&mut self, key: &'static str, value: usize, least: usize) {
        self.rule(value >= least, &[key], format!("must be {least} or more"));
    }

    fn at_most(&mut self, key: &'static str, value: usize, most: usize) {
        self.rule(value <= most, &[key], format!("must be {most} at most"));
    }

    /// In [0, 1).
    fn share(&mut self, key: &'static str, value: f64) {
        self.rule((0.0..1.0).contains(&value), &[key], "must be in [0, 1)");
    }

    /// In (0, 1).
    fn open_share(&mut self, key: &'static str, value: f64) {
        self.rule(value > 0.0 && value < 1.0, &[key], "must be in (0, 1)");
    }

    fn above_zero(&mut self, key: &'static str, value: f64) {
        self.rule(value > 0.0 && value.is_finite(), &[key], "must be above 0");
    }

    fn not_negative(&mut self, key: &'static str, value: f64) {
        self.rule(value >= 0.0 && value.is_finite(), &[key], "must be 0 or more");
    }
}

fn top(check: &mut Checks, config: &Config) {
    let index = config.device.strip_prefix("cuda:");
    let known = ["cpu", "cuda", "auto"].contains(&config.device.as_str());
    let device = known || index.is_some_and(|index| index.parse::<u16>().is_ok());
    check.rule(device, &["device"], r#"must be "cpu", "cuda", "cuda:N" with a whole number N, or "auto""#);
    let too_many = too_many_threads(config.threads);
    check.rule(too_many.is_none(), &["threads"], too_many.unwrap_or_default());
}

fn tokenizer(check: &mut Checks, config: &Config) {
    let tokenizer = &config.tokenizer;
    check.at_least("tokenizer.vocab_size", tokenizer.vocab_size, 8);
    check.at_most("tokenizer.vocab_size", tokenizer.vocab_size, LARGEST_VOCABULARY);
    check.rule(
        ["nfkc", "nfc", "none"].contains(&tokenizer.normalization.as_str()),
        &["tokenizer.normalization"],
        r#"must be "nfkc", "nfc" or "none""#,
    );
    check.rule(
        tokenizer.target_path.is_empty() || !tokenizer.path.is_empty(),
        &["tokenizer.target_path", "tokenizer.path"],
        "must come with tokenizer.path, the source side's",
    );
    let all = config.model.tied_embeddings == TiedEmbeddings::All;
    check.rule(
        !all || !tokenizer.path.is_empty() || tokenizer.joint,
        &["model.tied_embeddings", "tokenizer.joint", "tokenizer.path"],
        r#"must be "decoder" or "none" when tokenizer.joint = false: two vocabularies can not share one table"#,
    );
    check.rule(
        !all || tokenizer.target_path.is_empty() || tokenizer.target_path == tokenizer.path,
        &["model.tied_embeddings", "tokenizer.target_path"],
        r#"must be "decoder" or "none" with tokenizer.target_path: two vocabularies can not share one table"#,
    );
}

fn model(check: &mut Checks, config: &Config) {
    let model = &config.model;
    check.at_least("model.layers", model.layers, 1);
    check.at_least("model.d_ff", model.d_ff, 1);
    check.at_least("model.heads", model.heads, 1);
    check.at_least("model.rnn.embedding_size", model.rnn.embedding_size, 1);
    let hidden = model.rnn.hidden_size;
    check.rule(hidden >= 2 && hidden.is_multiple_of(2), &["model.rnn.hidden_size"], "must be even, 2 or more");
    let unit = 2 * model.heads.max(1);
    let transformer = model.kind == ModelKind::Transformer;
    check.rule(
        model.d_model > 0 && (!transformer || model.d_model.is_multiple_of(unit)),
        &["model.d_model", "model.heads"],
        format!("must be a multiple of 2 × heads = {unit}"),
    );
    if let Some((keys, text)) = limits::beyond_memory(model) {
        check.rule(false, keys, text);
    }
    check.share("model.dropout", model.dropout);
    for (key, dropout) in [
        ("model.attention_dropout", model.attention_dropout),
        ("model.activation_dropout", model.activation_dropout),
        ("model.embedding_dropout", model.embedding_dropout),
    ] {
        check.share(key, dropout.unwrap_or(0.0));
    }
    check.rule(
        model.pretrained_target_embeddings.is_empty() || model.tied_embeddings != TiedEmbeddings::All,
        &["model.pretrained_target_embeddings", "model.tied_embeddings"],
        r#"must be empty with tied_embeddings = "all": the one table is filled from model.pretrained_embeddings"#,
    );
}

fn train(check: &mut Checks, config: &Config) {
    let train = &config.train;
    check.at_least("train.batch_size", train.batch_size.or(1), 1);
    check.at_least("train.gradient_accumulation_steps", train.gradient_accumulation_steps, 1);
    check.rule(train.log_freq >= 1, &["train.log_freq"], "must be 1 or more");
    check.not_negative("train.max_hours", train.max_hours);
    check.not_negative("train.clip_grad_norm", train.clip_grad_norm);
    check.share("train.label_smoothing", train.label_smoothing);
    check.share("train.ema_decay", train.ema_decay);
    let endless = train.max_updates == 0
        && train.max_epochs == 0
        && train.max_hours == 0.0
        && config.validation.early_stopping == 0;
    check.rule(
        !endless,
        &["train.max_updates", "train.max_epochs", "train.max_hours", "validation.early_stopping"],
        "must be above 0, or max_epochs, max_hours or validation.early_stopping: training would never end",
    );

    let decode = &config.decode;
    check.at_least("decode.beam_size", decode.beam_size, 1);
    check.at_most("decode.beam_size", decode.beam_size, LARGEST_BEAM);
    check.at_least("decode.batch_size", decode.batch_size, 1);
    check.not_negative("decode.length_penalty", decode.length_penalty);
    check.above_zero("decode.max_length_factor", decode.max_length_factor);
    check.rule(decode.max_length_factor <= 1000.0, &["decode.max_length_factor"], "must be 1000 at most");
    check.at_least("checkpoint.keep_last", config.checkpoint.keep_last, 1);
}

fn optimizer(check: &mut Checks, config: &Config) {
    let optimizer = &config.optimizer;
    check.above_zero("optimizer.lr", optimizer.lr);
    check.not_negative("optimizer.weight_decay", optimizer.weight_decay);
    check.above_zero("optimizer.embedding_lr_scale", optimizer.embedding_lr_scale);
    let (adam, adamw, clipped) = (&optimizer.adam, &optimizer.adamw, &optimizer.clipped_adam);
    check.share("optimizer.adam.beta1", adam.beta1);
    check.share("optimizer.adam.beta2", adam.beta2);
    check.above_zero("optimizer.adam.eps", adam.eps);
    check.share("optimizer.adamw.beta1", adamw.beta1);
    check.share("optimizer.adamw.beta2", adamw.beta2);
    check.above_zero("optimizer.adamw.eps", adamw.eps);
    check.share("optimizer.clipped_adam.beta1", clipped.beta1);
    check.share("optimizer.clipped_adam.beta2", clipped.beta2);
    check.above_zero("optimizer.clipped_adam.eps", clipped.eps);
    check.above_zero("optimizer.clipped_adam.max_norm", clipped.max_norm);
    let hessian2 = &optimizer.hessian2;
    check.share("optimizer.hessian2.beta1", hessian2.beta1);
    check.share("optimizer.hessian2.beta2", hessian2.beta2);
    check.above_zero("optimizer.hessian2.eps", hessian2.eps);
    check.rule(hessian2.rank.is_multiple_of(2), &["optimizer.hessian2.rank"], "must be even, 0 or more");
    check.open_share("optimizer.hessian2.curvature_beta", hessian2.curvature_beta);
    check.above_zero("optimizer.hessian2.damping", hessian2.damping);
    check.at_least("optimizer.hessian2.sketch_divisor", hessian2.sketch_divisor, 1);
    check.open_share("optimizer.hessian2.input_beta", hessian2.input_beta);
    check.above_zero("optimizer.hessian2.input_damping", hessian2.input_damping);
    check.rule(hessian2.statistics_freq >= 1, &["optimizer.hessian2.statistics_freq"], "must be 1 or more");
    check.at_least("optimizer.hessian2.statistics_rows", hessian2.statistics_rows, 1);
    check.at_least("optimizer.hessian2.block_size", hessian2.block_size, 1);
    check.share("optimizer.hessian2.truncation", hessian2.truncation);
    check.above_zero("optimizer.hessian2.trust", hessian2.trust);
    let (muon, soap) = (&optimizer.muon, &optimizer.soap);
    check.share("optimizer.muon.momentum", muon.momentum);
    check.at_least("optimizer.muon.iterations", muon.iterations, 1);
    check.share("optimizer.muon.beta1", muon.beta1);
    check.share("optimizer.muon.beta2", muon.beta2);
    check.above_zero("optimizer.muon.eps", muon.eps);
    check.share("optimizer.soap.beta1", soap.beta1);
    check.share("optimizer.soap.beta2", soap.beta2);
    check.above_zero("optimizer.soap.eps", soap.eps);
    check.rule(soap.precondition_frequency >= 1, &["optimizer.soap.precondition_frequency"], "must be 1 or more");
    check.at_least("optimizer.soap.max_precondition_dim", soap.max_precondition_dim, 1);
    let sgd = &optimizer.sgd;
    check.share("optimizer.sgd.momentum", sgd.momentum);
    check.rule((0.0..=1.0).contains(&sgd.dampening), &["optimizer.sgd.dampening"], "must be in [0, 1]");
    check.rule(
        !sgd.nesterov || (sgd.momentum > 0.0 && sgd.dampening == 0.0),
        &["optimizer.sgd.nesterov", "optimizer.sgd.momentum", "optimizer.sgd.dampening"],
        "must be false without momentum above 0 and dampening 0",
    );
}

fn hvr(check: &mut Checks, config: &Config) {
    let own = &config.optimizer.hvr;
    check.at_least("optimizer.hvr.window", own.window, 1);
    check.rule(
        own.window != 1 || !own.form.is_sound_low_rank(),
        &["optimizer.hvr.window", "optimizer.hvr.form"],
        format!(r#"must be 2 or more with form = "{}": one gradient has no spread about its mean"#, own.form.name()),
    );
    check.above_zero("optimizer.hvr.lambda_rel", own.lambda_rel);
    let threshold = own.threshold;
    check.rule(threshold > 0.0 && threshold <= 1.0, &["optimizer.hvr.threshold"], "must be in (0, 1]");
    check.not_negative("optimizer.hvr.literal_cap", own.literal_cap);
    check.share("optimizer.hvr.beta1", own.beta1);
    check.share("optimizer.hvr.beta2", own.beta2);
    check.above_zero("optimizer.hvr.eps", own.eps);
    let (fits, forms) = match own.truncation {
        HvrTruncation::None => (true, ""),
        HvrTruncation::Spectral | HvrTruncation::Elementwise => {
            (own.form.is_sound_low_rank(), r#""isqrt" or "inv", which solve with a Gram matrix"#)
        }
        HvrTruncation::Entries => (own.form == HvrForm::Diag, r#""diag", whose entries they are"#),
    };
    check.rule(
        fits,
        &["optimizer.hvr.truncation", "optimizer.hvr.form"],
        format!(r#"must be "none", or form {forms}; it is "{}""#, own.form.name()),
    );
}

fn schedule_free(check: &mut Checks, config: &Config) {
    let own = &config.optimizer.schedule_free;
    // at 0 the mean could not be told from what is stored
    check.rule(own.beta1 > 0.0 && own.beta1 < 1.0, &["optimizer.schedule_free.beta1"], "must be in (0, 1)");
    check.share("optimizer.schedule_free.beta2", own.beta2);
    check.above_zero("optimizer.schedule_free.eps", own.eps);
    check.not_negative("optimizer.schedule_free.r", own.r);
    check.not_negative("optimizer.schedule_free.weight_lr_power", own.weight_lr_power);
    let from_the_start = config.optimizer.name == OptimizerName::ScheduleFree;
    let in_a_phase = config.phase.iter().position(|phase| phase.optimizer == Some(OptimizerName::ScheduleFree));
    let (keys, user) = match (from_the_start, in_a_phase) {
        (true, _) => ("optimizer.name", r#"optimizer.name = "schedule-free""#.to_string()),
        (false, Some(i)) => ("phase", format!(r#"optimizer = "schedule-free" in phase {}"#, i + 1)),
        (false, None) => return,
    };
    check.rule(
        config.schedule.kind == ScheduleKind::Constant,
        &["schedule.kind", keys],
        format!(r#"must be "constant" with {user}, whose mean of the weights takes the place of a decaying rate"#),
    );
    check.rule(
        config.train.ema_decay == 0.0,
        &["train.ema_decay", keys],
        format!("must be 0 with {user}, which keeps a mean of the weights of its own"),
    );
}

fn schedule(check: &mut Checks, config: &Config) {
    let schedule = &config.schedule;
    check.not_negative("schedule.min_lr", schedule.min_lr);
    // noam's lr is a factor, not a rate
    check.rule(
        schedule.min_lr <= config.optimizer.lr || schedule.kind == ScheduleKind::Noam,
        &["schedule.min_lr", "optimizer.lr"],
        format!("must not be above optimizer.lr = {:?}", config.optimizer.lr),
    );
    check.open_share("schedule.plateau_factor", schedule.plateau_factor);
    match schedule.kind {
        ScheduleKind::Linear | ScheduleKind::Cosine => {
            let total = if schedule.total_updates > 0 { schedule.total_updates } else { config.train.max_updates };
            check.rule(
                total > 0,
                &["schedule.kind", "schedule.total_updates", "train.max_updates"],
                "must know where it ends: set schedule.total_updates or train.max_updates",
            );
            check.rule(
                total == 0 || schedule.start_update < total,
                &["schedule.start_update", "schedule.total_updates", "train.max_updates"],
                format!("must be below {total}, the last update of the schedule"),
            );
            let length = total.saturating_sub(schedule.start_update);
            check.rule(
                length == 0 || schedule.warmup_updates < length,
                &["schedule.warmup_updates", "schedule.total_updates", "train.max_updates"],
                format!("must be below the {length} updates of the schedule"),
            );
        }
        ScheduleKind::Noam => {
            check.rule(
                schedule.warmup_updates > 0,
                &["schedule.warmup_updates", "schedule.kind"],
                r#"must be above 0 with schedule.kind = "noam""#,
            );
            check.rule(
                config.model.kind == ModelKind::Transformer,
                &["schedule.kind", "model.kind"],
                r#"must be another with model.kind = "rnn", which has no d_model; use "inverse-sqrt""#,
            );
        }
        ScheduleKind::Plateau => check.rule(
            validates(config),
            &["schedule.kind", "validation.valid_freq", "validation.metrics", "data.valid"],
            "must be another without validations while training: set data.valid, validation.metrics and valid_freq",
        ),
        ScheduleKind::Constant | ScheduleKind::InverseSqrt => {}
    }
}

fn validation(check: &mut Checks, config: &Config) {
    let validation = &config.validation;
    check.at_least("validation.beam_size", validation.beam_size, 1);
    check.at_most("validation.beam_size", validation.beam_size, LARGEST_BEAM);
    let known = validation.tokenize.is_empty() || is_bleu_tokenizer(&validation.tokenize);
    let names = BLEU_TOKENIZERS.join(", ");
    check.rule(known, &["validation.tokenize"], format!("must be one of {names}, spm:FILE, or empty"));
    let names: Vec<&str> = validation.metrics.iter().map(|metric: &Metric| metric.name()).collect();
    check.rule(
        names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)),
        &["validation.metrics"],
        "must name each metric once",
    );
    check.rule(
        names.is_empty() || !config.data.valid.0.is_empty(),
        &["data.valid", "validation.metrics"],
        format!("must name a corpus for the metrics {}; without one set validation.metrics = []", names.join(", ")),
    );
    check.rule(
        names.is_empty() || validation.metrics.contains(&validation.early_stopping_metric),
        &["validation.early_stopping_metric", "validation.metrics"],
        format!("must be one of validation.metrics: {}", names.join(", ")),
    );
    check.rule(
        validation.early_stopping == 0 || validates(config),
        &["validation.early_stopping", "validation.valid_freq", "validation.metrics", "data.valid"],
        "must be 0 without validations while training: set data.valid, validation.metrics and valid_freq",
    );
}

fn embedding_distance(check: &mut Checks, config: &Config) {
    let distance = &config.embedding_distance;
    check.not_negative("embedding_distance.weight", distance.weight);
    check.not_negative("embedding_distance.guard_weight", distance.guard_weight);
    check.share("embedding_distance.decay", distance.decay);
    check.above_zero("embedding_distance.temperature", distance.temperature);
    check.at_least("embedding_distance.sample_size", distance.sample_size, 2);
    for (key, p) in [
        ("embedding_distance.min_probability", distance.min_probability),
        ("embedding_distance.min_attention", distance.min_attention),
    ] {
        check.rule(p > 0.0 && p < 1.0, &[key], "must be in (0, 1)");
    }
    check.share("embedding_distance.attention_from", distance.attention_from);
    check.rule(distance.min_count >= 1, &["embedding_distance.min_count"], "must be 1 or more");
    check.rule(distance.measure_freq >= 1, &["embedding_distance.measure_freq"], "must be 1 or more");
    let drop = distance.max_rank_drop;
    check.rule((0.0..=1.0).contains(&drop), &["embedding_distance.max_rank_drop"], "must be in [0, 1]");
    check.above_zero("embedding_distance.max_cosine_rise", distance.max_cosine_rise);
    check.rule(
        distance.form != DistanceForm::LiteralMath || distance.acknowledge_collapse,
        &["embedding_distance.form", "embedding_distance.acknowledge_collapse"],
        "must come with embedding_distance.acknowledge_collapse = true: its optimum is a table of equal vectors",
    );
}

/// Each finding names its phase, counted from 1.
fn phases(check: &mut Checks, config: &Config) {
    let mut fault = |i: usize, keys: &[&'static str], text: String| {
        let text = format!("phase {} {text}", i + 1);
        check.findings.push(Finding { keys: [&["phase"], keys].concat(), subject: String::new(), text });
    };
    for (i, phase) in config.phase.iter().enumerate() {
        let from = phase.from_update;
        if from == 0 {
            fault(i, &[], "must have from_update above 0; what holds from the start has its own keys".to_string());
        }
        if let Some(before) = i.checked_sub(1).map(|before| config.phase[before].from_update) {
            if from > 0 && from <= before {
                let text = format!("must begin after phase {i}: from_update = {from} is not above {before}");
                fault(i, &[], text);
            }
        }
        let Some(lr) = phase.lr else { continue };
        if !(lr > 0.0 && lr.is_finite()) {
            fault(i, &[], format!("must have lr above 0, not {lr:?}"));
        } else if lr < config.schedule.min_lr && config.schedule.kind != ScheduleKind::Noam {
            let text = format!("must not have lr = {lr:?} below schedule.min_lr = {:?}", config.schedule.min_lr);
            fault(i, &["schedule.min_lr"], text);
        }
    }
    if config.phase.windows(2).any(|two| two[1].from_update <= two[0].from_update) {
        return;
    }
    for (i, phase) in config.phase.iter().enumerate() {
        let now = config.in_force(phase.from_update);
        if phase.objective.is_some_and(PhaseObjective::has_distance)
            && config.embedding_distance.form == DistanceForm::Off
        {
            fault(
                i,
                &["embedding_distance.form"],
                "must come with embedding_distance.form = \"bridge\" or another than \"off\" for this objective"
                    .to_string(),
            );
        }
        if now.objective == PhaseObjective::Distance && now.trainable == Trainable::All {
            let text =
                "must have trainable = \"embeddings\" with objective = \"distance\": nothing else has a gradient";
            fault(i, &[], text.to_string());
        }
    }
}

/// Whether a metric is measured during training.
fn validates(config: &Config) -> bool {
    let validation = &config.validation;
    validation.valid_freq != Every::AtEnd && !validation.metrics.is_empty() && !config.data.valid.0.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{find, root};
    use crate::config::{load, Source};

    const GOOD: &str = "data.train = ['a.tsv']\ndata.valid = ['b.tsv']\ntrain.max_updates = 10000\n";

    fn problems(set: &str) -> String {
        let source = Source::Text { name: "toy.toml".to_string(), text: GOOD.to_string() };
        load(&source, &[set.to_string()]).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn every_range_in_a_doc_comment_is_checked() {
        let mut checked = 0;
        for key in root().all_keys() {
            let whole = as_toml(value_at(&serde_json::to_value(Config::default()).expect("json"), &key.path))
                .parse::<u64>()
                .is_ok();
            let beyond: &[&str] = match key.doc.as_str() {
                doc if doc.contains("n [0, 1)") => &["1.0", "-0.1"],
                doc if doc.contains("n (0, 1)") => &["0.0", "1.0"],
                doc if doc.contains("n (0, 1]") => &["0.0", "1.1"],
                doc if doc.contains("n [0, 1]") => &["1.1", "-0.1"],
                doc if doc.contains("2 or more") => &["1", "0"],
                doc if doc.contains("8 or more") => &["7"],
                doc if doc.contains("else 1 or more") => &["0.5", "-1.0"],
                doc if doc.contains("1 or more") => &["0"],
                doc if doc.contains("Above 0") => &["0.0", "-1.0"],
                doc if doc.contains("0 or more") && whole => &["-1"],
                doc if doc.contains("0 or more") => &["-0.1", "inf"],
                doc if doc.contains("0 = off") || doc.contains("0 = no limit") => &["-1"],
                _ => &[],
            };
            for value in beyond {
                let set = format!("{}={value}", key.path);
                assert!(problems(&set).contains(&format!("--set {set}: ")), "{set} is accepted: {}", key.doc);
                checked += 1;
            }
        }
        assert!(checked > 50, "{checked}");
    }

    #[test]
    fn findings_name_keys_that_exist() {
        let mut config = Config { device: "gpu".to_string(), ..Config::default() };
        config.data.max_length = 0;
        config.tokenizer.joint = false;
        config.model.d_model = 0;
        config.optimizer.sgd.nesterov = true;
        config.schedule.kind = ScheduleKind::Plateau;
        config.validation.early_stopping = 3;
        config.validation.metrics = vec![Metric::Bleu];
        let findings = validate(&config);
        assert!(findings.len() >= 9, "{findings:?}");
        for finding in findings {
            for key in finding.keys {
                assert!(matches!(find(key), Some(crate::config::keys::Node::Key(_))), "{key}");
            }
        }
    }

    #[test]
    fn defaults_with_a_corpus_and_a_limit_are_sound() {
        assert_eq!(problems("seed=2"), "");
    }

    #[test]
    fn rules_between_keys_hold() {
        for (set, text) in [
            ("device=cuda:x", "must be \"cpu\""),
            ("device=gpu", "must be \"cpu\""),
            ("data.train=[\"a.en\"]", "must be two files"),
            ("data.valid=[{files=[\"a.tsv\"], weight=2.0}]", "must have no weights"),
            ("data.train=[{files=[\"a\",\"b\",\"c\"]}]", "perhaps [{ files = [\"a\", \"b\"] }, { files = [\"c\"] }]"),
            ("data.columns=[1]", "must be two different columns"),
            ("data.columns=[0, 1]", "must be two different columns"),
            ("data.columns=['en', 'en']", "must be two different columns"),
            ("data.train=[{files=['a.tsv'], columns=[1, 2, 3]}]", "must have columns as data.columns"),
            ("data.train=[{files=['a.jsonl'], columns=[1, 2]}]", "must have columns for .tsv files only"),
            ("data.min_length=100", "must be below data.max_length = 100"),
            ("tokenizer.target_path=t.json", "must come with tokenizer.path"),
            ("model.d_model=24", "must be a multiple of 2 × heads = 16"),
            ("model.pretrained_target_embeddings=x.vec", "must be empty"),
            ("schedule.min_lr=1", "must not be above optimizer.lr = 0.001"),
            ("optimizer.hvr.window=1", "must be 2 or more with form = \"isqrt\": one gradient"),
            ("optimizer.hvr.truncation=entries", "must be \"none\", or form \"diag\", whose entries they are; it is"),
            ("optimizer.name=schedule-free", "schedule.kind = \"inverse-sqrt\" must be \"constant\" with"),
            ("validation.metrics=[\"nll\", \"nll\"]", "must name each metric once"),
            ("embedding_distance.form=literal-math", "must come with embedding_distance.acknowledge_collapse = true"),
            ("phase=[{from_update=0}]", "phase 1 must have from_update above 0"),
            ("phase=[{from_update=9},{from_update=9}]", "phase 2 must begin after phase 1: from_update = 9"),
            (
                "phase=[{from_update=9, optimizer='schedule-free'}]",
                "schedule.kind = \"inverse-sqrt\" must be \"constant\" with optimizer = \"schedule-free\" in phase 1",
            ),
            ("phase=[{from_update=9, lr=-1.0}]", "phase 1 must have lr above 0, not -1.0"),
            ("phase=[{from_update=9, objective='joint'}]", "phase 1 must come with embedding_distance.form"),
            ("phase=[{from_update=9, objective='distance'}]", "phase 1 must have trainable = \"embeddings\""),
            ("phase=[{from_update=9, optimiser='sgd'}]", "unknown key `phase.0.optimiser`; did you mean `optimizer`?"),
            ("phase=[{from_update=9, optimizer='sgdd'}]", "expected \"adam\""),
            ("phase=[{optimizer='sgd'}]", "from_update"),
            ("validation.early_stopping_metric=ter", "expected \"nll\", \"bleu\" or \"chrf\""),
        ] {
            let found = problems(set);
            assert!(found.contains(text), "{set}: {found}");
        }
        for set in [
            "device=cuda:1",
            "validation.tokenize=char",
            "schedule.kind=cosine",
            "schedule.kind=plateau",
            "schedule.kind=noam",
        ] {
            assert_eq!(problems(set), "");
        }
    }
}
