//! What changed between two configurations, and what that means for a run that goes on.

use serde_json::Value;

use super::keys::root;
use crate::config::settings::{as_toml, value_at, Config, ModelConfig, OptimizerConfig};

/// One key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path.
    pub path: &'static str,
    /// Value before, as TOML; empty for an option that was not set.
    pub old: String,
    /// Value now.
    pub new: String,
    /// What it means for a run that goes on.
    pub effect: Effect,
    /// Why, as "would change the model"; empty when nothing needs saying.
    pub why: &'static str,
}

/// What a changed key means for a run that is continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Does not touch what is learnt.
    Free,
    /// Training goes on differently; allowed, and said.
    Training,
    /// The run could not have been the same run; not allowed.
    Refused,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let shown = |value: &str| if value.is_empty() { "(unset)".to_string() } else { value.to_string() };
        write!(f, "{}: {} -> {}", self.path, shown(&self.old), shown(&self.new))?;
        if self.why.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.why)
    }
}

/// Keys that differ, in the order of the file.
pub fn differences(old: &Config, new: &Config) -> Vec<Difference> {
    let (old, new) = (serde_json::to_value(old).unwrap_or_default(), serde_json::to_value(new).unwrap_or_default());
    let keys = root().all_keys().into_iter().map(|key| key.path.as_str());
    let changed = keys.filter(|path| value_at(&old, path) != value_at(&new, path));
    changed
        .map(|path| {
            let (effect, why) = match path {
                "data.train" => training_text(value_at(&old, path), value_at(&new, path)),
                _ => effect(path),
            };
            let (old, new) = (as_toml(value_at(&old, path)), as_toml(value_at(&new, path)));
            Difference { path, old, new, effect, why }
        })
        .collect()
}

/// `config` with every key that makes another model as `model` has it, but for those in `free`.
pub fn with_architecture(config: &Config, model: &ModelConfig, free: &[&str]) -> Config {
    let values = |model: &ModelConfig| serde_json::json!({ "model": model });
    let (mut own, theirs) = (values(&config.model), values(model));
    for path in root().all_keys().into_iter().map(|key| key.path.as_str()) {
        if effect(path).1 == MODEL && !free.contains(&path) {
            let place = path.split('.').fold(&mut own, |value, name| &mut value[name]);
            *place = value_at(&theirs, path).clone();
        }
    }
    match serde_json::from_value(own["model"].take()) {
        Ok(model) => Config { model, ..config.clone() },
        // what was written reads back
        Err(_) => config.clone(),
    }
}

/// Every key with its value as TOML, in the order of the file; empty for an option that is not set.
pub fn flat(config: &Config) -> Vec<(&'static str, String)> {
    let values = serde_json::to_value(config).unwrap_or_default();
    root().all_keys().into_iter().map(|key| (key.path.as_str(), as_toml(value_at(&values, &key.path)))).collect()
}

/// Where the text lies says nothing of it: the text itself is compared when it is read. Weights and tags are not in it.
fn training_text(old: &Value, new: &Value) -> (Effect, &'static str) {
    let weighted = |corpora: &Value| match corpora.as_array().map(Vec::as_slice) {
        // without tables a list is one corpus
        Some(items @ [Value::Object(_), ..]) => {
            let of = |corpus: &Value| (corpus["weight"].as_f64(), corpus["tag"].as_str().unwrap_or("").to_string());
            items.iter().map(of).collect()
        }
        _ => vec![(Some(1.0), String::new())],
    };
    match weighted(old) == weighted(new) {
        true => effect("data.train"),
        false => (Effect::Refused, ORDER),
    }
}

const BITS: &str = "results may differ in their last bits";
const MODEL: &str = "would change the model";
const ORDER: &str = "would change the training data or its order";
const VOCABULARY: &str = "would change the vocabulary";
const SAME_TEXT: &str = "the text itself must be the same, which is looked at next";
const START: &str = "is read at the start of a run only";

/// First prefix that fits counts. What is not listed is refused: the safe mistake.
const EFFECTS: &[(&str, Effect, &str)] = &[
    ("seed", Effect::Refused, "would change the order of the data and every random choice"),
    ("run_dir", Effect::Free, ""),
    ("device", Effect::Free, BITS),
    ("threads", Effect::Free, BITS),
    ("data.train", Effect::Free, SAME_TEXT),
    ("data.columns", Effect::Free, SAME_TEXT),
    ("data.valid", Effect::Training, "scores before and after compare only if the text is the same"),
    ("data.test", Effect::Free, ""),
    ("data.cache_dir", Effect::Free, ""),
    ("data.", Effect::Refused, ORDER),
    ("tokenizer.bpe_dropout", Effect::Refused, ORDER),
    ("tokenizer.target_bpe_dropout", Effect::Refused, ORDER),
    ("tokenizer.sampling_alpha", Effect::Refused, ORDER),
    ("tokenizer.target_sampling_alpha", Effect::Refused, ORDER),
    ("tokenizer.", Effect::Refused, VOCABULARY),
    ("model.dropout", Effect::Training, ""),
    ("model.attention_dropout", Effect::Training, ""),
    ("model.activation_dropout", Effect::Training, ""),
    ("model.embedding_dropout", Effect::Training, ""),
    ("model.source_word_dropout", Effect::Training, ""),
    ("model.target_word_dropout", Effect::Training, ""),
    ("model.pretrained_", Effect::Refused, START),
    ("model.init_", Effect::Refused, START),
    ("model.", Effect::Refused, MODEL),
    ("train.batch_", Effect::Refused, ORDER),
    ("train.gradient_accumulation_steps", Effect::Refused, ORDER),
    ("train.max_", Effect::Free, ""),
    ("train.log_freq", Effect::Free, ""),
    ("train.share_optimizer", Effect::Free, ""),
    ("train.precision", Effect::Training, "weights and optimizer state are f32 in all of them"),
    ("train.", Effect::Training, ""),
    ("optimizer.", Effect::Training, ""),
    ("schedule.", Effect::Training, ""),
    ("embedding_distance.", Effect::Training, ""),
    ("phase", Effect::Training, "the phases so far must have trained the same with the same optimizer"),
    ("validation.metrics", Effect::Training, ""),
    ("validation.early_stopping_metric", Effect::Training, "the best so far is chosen anew, by this metric"),
    ("validation.tokenize", Effect::Training, "BLEU before and after is not of the same words"),
    ("validation.references", Effect::Training, "BLEU, chrF and TER before and after are not of the same references"),
    ("validation.", Effect::Free, ""),
    ("decode.", Effect::Free, ""),
    ("checkpoint.", Effect::Free, ""),
];

fn effect(path: &str) -> (Effect, &'static str) {
    if let Some(why) = OptimizerConfig::fixed(path) {
        return (Effect::Refused, why);
    }
    let known = EFFECTS.iter().find(|(prefix, ..)| path.starts_with(prefix));
    known.map_or((Effect::Refused, "not known to be safe"), |(_, effect, why)| (*effect, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Every, TiedEmbeddings};

    #[test]
    fn every_key_is_classified_and_every_rule_is_used() {
        let keys = root().all_keys();
        let mut used = vec![false; EFFECTS.len()];
        for key in keys {
            let rule = EFFECTS.iter().position(|(prefix, ..)| key.path.starts_with(prefix));
            used[rule.unwrap_or_else(|| panic!("{} is not classified", key.path))] = true;
        }
        let idle: Vec<&str> = EFFECTS.iter().zip(&used).filter(|(_, used)| !**used).map(|(e, _)| e.0).collect();
        assert!(idle.is_empty(), "{idle:?}");
    }

    #[test]
    fn the_architecture_is_all_that_makes_another_model() {
        let (mut config, mut other) =
            (Config::default(), ModelConfig { d_model: 64, dropout: 0.4, ..Default::default() });
        config.model.dropout = 0.3;
        config.model.init_from = "run".to_string();
        other.rnn.hidden_size = 8;
        other.tied_embeddings = TiedEmbeddings::None;
        let with = with_architecture(&config, &other, &["model.tied_embeddings"]);
        let changed: Vec<&str> = differences(&config, &with).iter().map(|change| change.path).collect();
        assert_eq!(changed, ["model.d_model", "model.rnn.hidden_size"]);
        assert_eq!((with.model.dropout, with.model.rnn.hidden_size), (0.3, 8));
        assert_eq!(with_architecture(&config, &other, &[]).model.tied_embeddings, TiedEmbeddings::None);
    }

    #[test]
    fn only_changed_keys_are_listed_with_both_values() {
        let old = Config::default();
        assert_eq!(differences(&old, &old), []);
        let mut new = old.clone();
        new.optimizer.lr = 5e-4;
        new.model.tied_embeddings = TiedEmbeddings::None;
        new.model.attention_dropout = Some(0.0);
        new.train.max_updates = 100;
        new.validation.valid_freq = Every::Epochs(1);
        new.threads = 2;
        let found: Vec<String> = differences(&old, &new).iter().map(|d| format!("{:?} {d}", d.effect)).collect();
        assert_eq!(
            found,
            [
                "Free threads: 0 -> 2 (results may differ in their last bits)",
                r#"Refused model.tied_embeddings: "all" -> "none" (would change the model)"#,
                "Training model.attention_dropout: (unset) -> 0.0",
                "Free train.max_updates: 0 -> 100",
                "Training optimizer.lr: 0.001 -> 0.0005",
                r#"Free validation.valid_freq: 1000 -> "1e""#,
            ]
        );
    }

    /// Text that moved may be named anew; weights and the number of corpora belong to the run.
    #[test]
    fn training_text_may_be_named_anew_with_the_same_weights() {
        use crate::config::{Corpora, Corpus};
        let train = |corpora: &[(&str, f64)]| {
            let corpus = |&(file, weight): &(&str, f64)| Corpus { weight, ..Corpus::of(vec![file.to_string()]) };
            let mut config = Config::default();
            config.data.train = Corpora(corpora.iter().map(corpus).collect());
            config
        };
        let effect = |old: &[(&str, f64)], new: &[(&str, f64)]| differences(&train(old), &train(new))[0].effect;
        let one = [("a.tsv", 1.0)];
        assert_eq!(effect(&one, &[("new/a.tsv.gz", 1.0)]), Effect::Free);
        assert_eq!(effect(&one, &[("a.tsv", 2.0)]), Effect::Refused);
        assert_eq!(effect(&one, &[("a.tsv", 1.0), ("b.tsv", 1.0)]), Effect::Refused);
        let two = [("a.tsv", 1.0), ("b.tsv", 0.5)];
        assert_eq!(effect(&two, &[("c.tsv", 1.0), ("d.tsv", 0.5)]), Effect::Free);
        assert_eq!(effect(&two, &[("b.tsv", 0.5), ("a.tsv", 1.0)]), Effect::Refused);
        let (plain, mut tagged) = (train(&two), train(&two));
        tagged.data.train.0[1].tag = "<BT>".to_string();
        assert_eq!(differences(&plain, &tagged)[0].effect, Effect::Refused);
    }
}
