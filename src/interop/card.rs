//! The model card of an exported folder, README.md in the Hub's form. It says what the run folder knows; what nobody wrote
//! down there is left out or marked to be filled in.

use serde_json::Value;

use super::marian::activation_name;
use super::Dtype;
use crate::checkpoint::{Best, Store};
use crate::config::{Config, Corpora};
use crate::fsio;
use crate::run::rows::{self, Row};
use crate::run::Usable;
use crate::scores::Metric;
use crate::units;

/// What a card tells of.
pub(super) struct Card<'a> {
    /// Of the model: the folder's.
    pub(super) name: &'a str,
    pub(super) config: &'a Config,
    /// The update whose weights it has; `None` = averaged ones.
    pub(super) step: Option<u64>,
    /// Whether they are the average that the run itself made and found to be best.
    pub(super) is_best_average: bool,
    pub(super) parameters: usize,
    /// Tokens of the vocabularies of source and target; one where they share it.
    pub(super) vocabularies: Vec<usize>,
    pub(super) dtype: Dtype,
    /// No tokenizer.json is there.
    pub(super) needs_sentencepiece: bool,
    /// metrics.jsonl, what of it holds.
    pub(super) rows: Vec<Row>,
    /// command.txt: one command a line.
    pub(super) commands: String,
}

/// A score of held-out text.
struct Score {
    /// "validation" or "test".
    set: &'static str,
    metric: Metric,
    value: f64,
    /// sacreBLEU's, where the run kept it.
    signature: Option<String>,
}

impl<'a> Card<'a> {
    /// Of a run's model; files of the run that can not be read tell nothing, and the second value says so.
    pub(super) fn of(
        run: &'a Usable,
        name: &'a str,
        dtype: Dtype,
        needs_sentencepiece: bool,
    ) -> (Self, Option<String>) {
        let read = rows::read(&run.paths.metrics());
        let fault = read.as_ref().err().map(|fault| format!("the model card has no scores: {fault}"));
        let tokenizers = &run.tokenizers;
        let mut vocabularies = vec![tokenizers.source.vocab_size(), tokenizers.target.vocab_size()];
        if tokenizers.share_vocabulary() {
            vocabularies.pop();
        }
        let card = Card {
            name,
            config: &run.config,
            step: run.step,
            is_best_average: run.step.is_none()
                && Store::at(run.paths.root()).best().is_ok_and(|best| best == Some(Best::Average)),
            parameters: run.model.params().elements(),
            vocabularies,
            dtype,
            needs_sentencepiece,
            rows: rows::that_hold(read.unwrap_or_default()),
            commands: fsio::read_to_string(&run.paths.commands()).unwrap_or_default(),
        };
        (card, fault)
    }

    /// The whole file.
    pub(super) fn text(&self) -> String {
        let scores = self.scores();
        let mut lines = self.front_matter(&scores);
        lines.extend(self.introduction());
        lines.extend(self.usage());
        lines.extend(self.training());
        lines.extend(table(&scores));
        lines.join("\n") + "\n"
    }

    /// A value of the row that began the run.
    fn started_with(&self, key: &str) -> Option<&Value> {
        self.rows.iter().rev().filter(|row| rows::event(row) == "start").find_map(|row| row.get(key))
    }

    /// The scores of these very weights.
    fn scores(&self) -> Vec<Score> {
        let last = |event: &str, of_these: &dyn Fn(&Row) -> bool| {
            self.rows.iter().rev().find(|row| rows::event(row) == event && of_these(row))
        };
        // the test set is translated with the best weights, the last ones where none is the best
        let of_average = |row: &Row| row.get("average_is_best").and_then(Value::as_bool) == Some(true);
        let tested = |row: &Row| row.get("best_step").and_then(Value::as_u64).or(rows::step(row));
        let (valid, test) = match self.step {
            Some(step) => (
                last("valid", &|row| rows::step(row) == Some(step)),
                last("end", &|row| !of_average(row) && tested(row) == Some(step)),
            ),
            None if self.is_best_average => (last("average", &|_| true), last("end", &of_average)),
            None => return Vec::new(),
        };
        let mut scores = Vec::new();
        for (set, prefix, row) in [("validation", "", valid), ("test", "test_", test)] {
            for &metric in Metric::ALL {
                let key = format!("{prefix}{}", metric.name());
                let Some(value) = row.and_then(|row| row.get(&key)?.as_f64()) else { continue };
                let signature = row.and_then(|row| row.get(&format!("{key}_signature"))?.as_str());
                scores.push(Score { set, metric, value, signature: signature.map(str::to_string) });
            }
        }
        scores
    }

    /// What the Hub reads.
    fn front_matter(&self, scores: &[Score]) -> Vec<String> {
        let data = &self.config.data;
        let mut lines = vec!["---".to_string()];
        let mut languages: Vec<&str> = vec![&data.source_language, &data.target_language];
        languages.dedup();
        languages.retain(|language| is_language_code(language));
        if !languages.is_empty() {
            lines.push("language:".to_string());
            lines.extend(languages.iter().map(|language| format!("- {}", quoted(language))));
        }
        lines.push("license: unknown # fill in, for example cc-by-4.0".to_string());
        lines.push("library_name: transformers".to_string());
        lines.push("pipeline_tag: translation".to_string());
        lines.push("tags:".to_string());
        lines.extend(["translation", "marian", "nmt-train"].iter().map(|tag| format!("- {tag}")));
        if let Some((_, base)) = self.config.model.init_from.split_once("hf://") {
            lines.push(format!("base_model: {}", quoted(base.split('@').next().unwrap_or(base))));
        }
        let datasets = hub_datasets(&data.train);
        if !datasets.is_empty() {
            lines.push("datasets:".to_string());
            lines.extend(datasets.iter().map(|dataset| format!("- {}", quoted(dataset))));
        }
        lines.extend(self.model_index(scores));
        lines.extend(["---".to_string(), String::new()]);
        lines
    }

    /// Scores for the Hub's lists; of text only, which it knows by name.
    fn model_index(&self, scores: &[Score]) -> Vec<String> {
        let mut lines = Vec::new();
        for set in ["validation", "test"] {
            let of_set: Vec<&Score> =
                scores.iter().filter(|score| score.set == set && score.metric.is_of_text()).collect();
            if of_set.is_empty() {
                continue;
            }
            if lines.is_empty() {
                lines.push("model-index:".to_string());
                lines.push(format!("- name: {}", quoted(self.name)));
                lines.push("  results:".to_string());
            }
            let corpora = if set == "test" { &self.config.data.test } else { &self.config.data.valid };
            lines.push("  - task:".to_string());
            lines.push("      type: translation".to_string());
            lines.push("    dataset:".to_string());
            lines.push("      type: text".to_string());
            lines.push(format!("      name: {}", quoted(&format!("{set}: {}", files(corpora)))));
            lines.push("    metrics:".to_string());
            for score in of_set {
                // the Hub knows no chrF++ but as a kind of chrF
                lines.push(format!("    - type: {}", score.metric.name().trim_end_matches("++")));
                lines.push(format!("      name: {}", quoted(score.metric.label())));
                lines.push(format!("      value: {}", score.metric.show(score.value)));
            }
        }
        lines
    }

    fn introduction(&self) -> Vec<String> {
        let data = &self.config.data;
        let version = self.started_with("version").and_then(Value::as_str);
        let trained = version.map_or(String::new(), |version| format!(" It was trained with nmt-train {version}."));
        let languages = format!("{} to {}", data.source_language, data.target_language);
        vec![
            format!("# {}", self.name),
            String::new(),
            format!("A Transformer with the architecture of Marian that translates {languages}.{trained}"),
            String::new(),
            "*To fill in: licence (above), what it is meant for, where its text comes from, known limits.*".to_string(),
        ]
    }

    fn usage(&self) -> Vec<String> {
        let text = format!(
            r#"
## Use

With transformers{packages} (put the name of the repository or the path of this folder in place of `{name}`):

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({quoted})
model = AutoModelForSeq2SeqLM.from_pretrained({quoted})
batch = tokenizer(["A line to translate."], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```

With nmt-train, which can also go on training it:

```sh
nmt-train import {path} --out run
nmt-train translate run <in.txt >out.txt
```
"#,
            packages = if self.needs_sentencepiece { " and sentencepiece" } else { "" },
            name = self.name,
            quoted = quoted(self.name),
            path = crate::shell::quoted(self.name),
        );
        text.trim_end().lines().map(str::to_string).collect()
    }

    fn training(&self) -> Vec<String> {
        let Config { data, model, train, schedule, .. } = self.config;
        let mut facts: Vec<(&str, String)> = Vec::new();
        if !data.train.0.is_empty() {
            let pairs = self.started_with("pairs").and_then(Value::as_u64);
            let pairs = pairs.map_or(String::new(), |pairs| format!(", {} pairs", units::count(pairs)));
            facts.push(("training text", format!("{}{pairs}", files(&data.train))));
        }
        let sizes: Vec<String> = self.vocabularies.iter().map(|&size| units::count(size as u64)).collect();
        let both = if sizes.len() == 1 { " for both languages" } else { "" };
        facts.push(("vocabulary", format!("{} pieces{both}", sizes.join(" and "))));
        let (encoder, decoder) = (model.encoder_layers(), model.decoder_layers());
        facts.push((
            "model",
            format!(
                "{encoder} + {decoder} layers, d_model {}, d_ff {}, {} heads, {}, {} parameters",
                model.d_model,
                model.d_ff,
                model.heads,
                activation_name(model.activation),
                units::count(self.parameters as u64),
            ),
        ));
        if !model.init_from.is_empty() {
            facts.push(("began with the weights of", model.init_from.clone()));
        }
        let weights = match self.step {
            // of an import, which has no updates
            Some(0) => String::new(),
            Some(step) => format!("of update {}, ", units::count(step)),
            None => "the average of several checkpoints, ".to_string(),
        };
        facts.push(("weights", format!("{weights}stored as {}", self.dtype.name())));
        if let Some(described) = self.started_with("optimizer").and_then(Value::as_str) {
            facts.push(("optimizer", described.to_string()));
            facts.push(("schedule", schedule.describe()));
            facts.push(("label smoothing", train.label_smoothing.to_string()));
            if train.r_drop_alpha > 0.0 {
                facts.push(("R-Drop", format!("alpha {}", train.r_drop_alpha)));
            }
            facts.push(("seed", self.config.seed.to_string()));
        }
        let mut lines = vec![String::new(), "## Training".to_string(), String::new()];
        lines.extend(facts.into_iter().map(|(what, value)| format!("- {what}: {value}")));
        if !self.commands.trim().is_empty() {
            lines.extend([String::new(), "Made with:".to_string(), String::new(), "```sh".to_string()]);
            lines.extend(self.commands.trim_end().lines().map(str::to_string));
            lines.push("```".to_string());
        }
        lines
    }
}

/// The scores for people.
fn table(scores: &[Score]) -> Vec<String> {
    if scores.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = ["", "## Scores", "", "| text | metric | score | signature |", "|---|---|---|---|"]
        .map(str::to_string)
        .to_vec();
    for Score { set, metric, value, signature } in scores {
        // a signature has vertical bars of its own
        let signature = signature.as_deref().map_or(String::new(), |text| format!("`{}`", text.replace('|', "\\|")));
        lines.push(format!("| {set} | {} | {} | {signature} |", metric.label(), metric.show(*value)));
    }
    lines
}

/// The files of corpora as a config names them.
fn files(corpora: &Corpora) -> String {
    let corpus = |files: &[String]| files.join(" + ");
    corpora.0.iter().map(|one| corpus(&one.files)).collect::<Vec<_>>().join(", ")
}

/// Names of the Hub's datasets among the files, each once.
fn hub_datasets(corpora: &Corpora) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for file in corpora.0.iter().flat_map(|corpus| &corpus.files) {
        let Some(rest) = file.strip_prefix("hf://datasets/") else { continue };
        let name: Vec<&str> = rest.split(['/', '@']).take(2).collect();
        let name = name.join("/");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Whether the Hub takes it for a language: two or three letters of ISO 639.
fn is_language_code(name: &str) -> bool {
    (2..=3).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// A string of YAML, and of Python: JSON's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Corpus, DataConfig, ModelConfig};

    fn card(config: &Config, rows: &str) -> String {
        let rows = rows::parse(rows).unwrap();
        let (commands, dtype) = ("nmt-train -c c.toml\n".to_string(), Dtype::Float16);
        Card {
            name: "a b",
            config,
            step: Some(20),
            is_best_average: false,
            parameters: 1000,
            vocabularies: vec![50, 60],
            dtype,
            needs_sentencepiece: false,
            rows,
            commands,
        }
        .text()
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let card = card(&Config::default(), "");
        for absent in ["model-index", "datasets", "Scores", "training text", "optimizer", "base_model", "trained with"]
        {
            assert!(!card.contains(absent), "{absent} in\n{card}");
        }
        assert!(card.contains("of update 20, stored as float16") && card.contains("nmt-train import 'a b'"), "{card}");
    }

    #[test]
    fn text_and_models_of_the_hub_are_linked() {
        let text = ["hf://datasets/me/text@v1/a.en", "hf://datasets/me/text/a.de"].map(str::to_string).to_vec();
        let data = DataConfig {
            train: Corpora(vec![Corpus::of(text), Corpus::of(vec!["b.tsv".to_string()])]),
            source_language: "english".to_string(),
            target_language: "ast".to_string(),
            ..DataConfig::default()
        };
        let model = ModelConfig { init_from: "hf://me/model@main".to_string(), ..ModelConfig::default() };
        let card = card(&Config { data, model, ..Config::default() }, "");
        assert!(card.starts_with("---\nlanguage:\n- \"ast\"\nlicense:"), "{card}");
        assert!(card.contains("\nbase_model: \"me/model\"\ndatasets:\n- \"me/text\"\n---\n"), "{card}");
        assert!(card.contains("translates english to ast.\n"), "{card}");
    }

    #[test]
    fn scores_are_those_of_these_weights() {
        let start = r#"{"event":"start","step":0,"version":"9.9","pairs":1234}"#;
        let valid = r#"{"event":"valid","step":20,"nll":2.5,"chrf++":30.126}"#;
        let other = r#"{"event":"valid","step":30,"nll":1.5}"#;
        let end = |best: &str| format!(r#"{{"event":"end","step":30,{best}"test_ter":50,"test_ter_signature":"a|b"}}"#);
        let text = |best: &str| card(&Config::default(), &[start, valid, other, &end(best)].join("\n"));
        let of_best = text(r#""best_step":20,"#);
        assert!(of_best.contains("nmt-train 9.9"), "{of_best}");
        let table =
            "| validation | NLL | 2.500 |  |\n| validation | chrF++ | 30.13 |  |\n| test | TER | 50.00 | `a\\|b` |\n";
        assert!(of_best.ends_with(table), "{of_best}");
        assert!(of_best.contains("    - type: chrf\n      name: \"chrF++\"\n      value: 30.13\n"), "{of_best}");
        for of_others in [r#""best_step":30,"#, ""] {
            assert!(!text(of_others).contains("TER"));
        }
    }
}
