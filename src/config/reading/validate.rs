//! Whether a configuration can be run: ranges, which stand in the doc comments of the keys and are read from there, and
//! the rules of each section. All findings are reported; none stops the search.

use super::keys::root;
use super::ranges::Range;
use crate::config::settings::{Checks, Config, Finding};

/// Everything wrong with `config`; empty when it can be run, as far as can be told without looking at files.
pub fn validate(config: &Config) -> Vec<Finding> {
    let mut check = Checks::of(serde_json::to_value(config).unwrap_or_default());
    // TOML, unlike JSON, has a word for numbers that are not finite
    let values = toml::Value::try_from(config).ok();
    for key in root().all_keys() {
        let at = |value| key.path.split('.').try_fold(value, |value: &toml::Value, name| value.get(name));
        let number = match values.as_ref().and_then(at) {
            Some(toml::Value::Integer(n)) => *n as f64,
            Some(toml::Value::Float(x)) => *x,
            _ => continue,
        };
        for range in Range::all_in(&key.doc) {
            check.rule(range.holds(number), &[key.path.as_str()], range.to_string());
        }
    }
    config.rules(&mut check);
    check.findings()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reading::keys::{find, root, Node};
    use crate::config::settings::{as_toml, value_at};
    use crate::config::{load, ScheduleKind, Source};
    use crate::scores::Metric;

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
        let mut config = Config::default();
        config.data.max_length = 0;
        config.threads = 1_000_000;
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
                assert!(matches!(find(key), Some(Node::Key(_))), "{key}");
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
            ("device=cuda:x", "expected \"cpu\", \"cuda\", \"cuda:N\" with a whole number N, or \"auto\""),
            ("device=gpu", "expected \"cpu\""),
            ("tokenizer.normalization=nfd", "expected \"nfc\", \"nfkc\" or \"none\""),
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
            ("validation.early_stopping_metric=wer", "expected \"nll\", \"bleu\", \"chrf\", \"chrf++\" or \"ter\""),
            ("validation.early_stopping_metric=ter", "must be one of validation.metrics: nll, bleu, chrf"),
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
