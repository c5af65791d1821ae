//! Runs sorted into tasks.

use std::collections::BTreeMap;

use crate::config::{Config, ModelKind};
use crate::exit::InputError;
use crate::units;

use super::keys::{of_role, varying, Role};
use super::method::{methods, Method, Setting, Values};
use super::notes::notes;
use super::relative::{compare, Comparison};
use super::run::{Horizon, Run};
use super::Options;

/// Runs that may be compared: same data, vocabulary, model and batch.
#[derive(Clone, Debug)]
pub struct Task {
    pub label: String,
    /// What its runs have in common: keys and their values.
    pub(super) key: Values,
    /// Best first.
    pub methods: Vec<Method>,
    /// Against the baseline, when there is one.
    pub comparison: Option<Comparison>,
    /// The score to reach: as given, or the baseline's.
    pub target: Option<f64>,
    /// What a reader must know before trusting a number.
    pub notes: Vec<String>,
}

impl Task {
    /// All horizons, rising.
    pub fn horizons(&self) -> Vec<Horizon> {
        let mut found: Vec<Horizon> = self.methods.iter().flat_map(Method::horizons).collect();
        found.sort();
        found.dedup();
        found
    }

    /// Every setting with its method, best first, those without a final score last.
    pub fn settings(&self) -> Vec<(&Method, &Setting)> {
        let mut all: Vec<_> = self.methods.iter().flat_map(|m| m.settings.iter().map(move |s| (m, s))).collect();
        all.sort_by(|a, b| a.1.cost.total_cmp(&b.1.cost));
        all
    }
}

/// Sorts runs into tasks and compares within each.
///
/// # Errors
/// A baseline that was asked for and is in no task.
pub(super) fn sort(runs: Vec<Run>, options: &Options) -> Result<Vec<Task>, InputError> {
    let mut by_task: BTreeMap<Values, Vec<Run>> = BTreeMap::new();
    let mut order: Vec<Values> = Vec::new();
    for run in runs {
        let key = of_role(&run.config, Role::Task);
        if !by_task.contains_key(&key) {
            order.push(key.clone());
        }
        by_task.entry(key).or_default().push(run);
    }
    let keys: Vec<&[_]> = order.iter().map(Vec::as_slice).collect();
    let mut tasks = Vec::new();
    for key in &order {
        let runs = by_task.remove(key).unwrap_or_default();
        let label = task_label(&runs[0], &varying(key, &keys));
        let methods = methods(runs, options.score);
        let comparison = compare(&methods, options);
        let notes = notes(&methods, comparison.as_ref(), options.score);
        let target = options.target.or(comparison.as_ref().map(|comparison| comparison.target));
        tasks.push(Task { label, key: key.clone(), methods, comparison, target, notes });
    }
    let found = tasks.iter().any(|task| task.comparison.is_some());
    if !options.baseline.is_empty() && !found {
        let labels: Vec<&str> = tasks.iter().flat_map(|task| &task.methods).map(|m| m.label.as_str()).collect();
        let (wanted, labels) = (options.baseline.join(", "), labels.join(", "));
        return Err(InputError(format!("no finished run of the baseline ({wanted}); the runs are of: {labels}")));
    }
    Ok(tasks)
}

/// "transformer 2+2, d_model 128, 1 437 696 parameters, batches of 2048 tokens; train.en", and what sets it apart.
fn task_label(run: &Run, apart: &[String]) -> String {
    let Config { model, train, data, .. } = &run.config;
    let sides = |own: usize| if own == 0 { model.layers } else { own };
    let shape = match model.kind {
        ModelKind::Transformer => format!("d_model {}", model.d_model),
        ModelKind::Rnn => format!("hidden size {}", model.rnn.hidden_size),
    };
    let text = data.train.0.first().and_then(|corpus| corpus.files.first()).map_or("", String::as_str);
    let text = text.rsplit('/').next().unwrap_or(text);
    let layers = format!("{}+{}", sides(model.encoder_layers), sides(model.decoder_layers));
    let (parameters, batch) = (units::count(run.parameters), train.batch_size.or(0));
    let (kind, unit) = (model.kind.name(), train.batch_type.name());
    let label = format!("{kind} {layers}, {shape}, {parameters} parameters; {text}, batches of {batch} {unit}");
    // What the label says already need not be said twice.
    let told = ["layers=", "d_model=", "kind=", "hidden_size=", "batch_size=", "encoder_layers=", "decoder_layers="];
    let apart: Vec<&str> =
        apart.iter().filter(|text| !told.iter().any(|t| text.starts_with(t))).map(String::as_str).collect();
    if apart.is_empty() {
        label
    } else {
        format!("{label} ({})", apart.join(" "))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::run::tests::made;
    use super::*;
    use crate::config::OptimizerName;
    use crate::scores::Metric;

    pub(in crate::report) fn options() -> Options {
        Options { score: Metric::Nll, baseline: vec!["adam".to_string()], target: None }
    }

    /// Adam at 500 and 1000 updates, hessian2 at 250, 500 and 1000, two seeds each; hessian2's update costs a tenth more.
    pub(in crate::report) fn sweep() -> Vec<Run> {
        let table = [
            (OptimizerName::Adam, 500, 4e-3, 3.0, 0.5),
            (OptimizerName::Adam, 1000, 4e-3, 2.5, 0.5),
            (OptimizerName::Adam, 1000, 2e-3, 2.7, 0.5),
            (OptimizerName::Hessian2, 250, 6e-3, 3.2, 0.55),
            (OptimizerName::Hessian2, 500, 6e-3, 2.6, 0.55),
            (OptimizerName::Hessian2, 1000, 6e-3, 2.3, 0.55),
        ];
        let runs = table.iter().flat_map(|&(name, updates, lr, loss, seconds)| {
            [1, 2].map(|seed| {
                let change = |config: &mut Config| {
                    (config.seed, config.optimizer.name, config.optimizer.lr) = (seed, name, lr);
                    config.train.max_updates = updates;
                };
                made(&format!("{name:?}-{updates}-{lr}-{seed}"), change, loss + 0.02 * seed as f64, seconds)
            })
        });
        runs.collect()
    }

    #[test]
    fn runs_are_sorted_into_methods_settings_and_seeds() -> Result<(), InputError> {
        let tasks = sort(sweep(), &options())?;
        assert_eq!(tasks.len(), 1);
        let labels: Vec<&str> = tasks[0].methods.iter().map(|method| method.label.as_str()).collect();
        assert_eq!(labels, ["hessian2", "adam"]);
        let adam = &tasks[0].methods[1];
        let settings: Vec<String> =
            adam.settings.iter().map(|s| format!("{} {}", s.horizon.updates, s.label)).collect();
        assert_eq!(settings, ["500 lr=0.004", "1000 lr=0.004", "1000 lr=0.002"]);
        assert!((adam.settings[1].cost - 2.53).abs() < 1e-9);
        assert_eq!(adam.settings[1].seeds(), 2);
        Ok(())
    }

    #[test]
    fn another_model_is_another_task_and_a_variant_another_method() -> Result<(), InputError> {
        let mut runs = sweep();
        runs.push(made("deep", |config| config.model.layers = 4, 1.0, 0.5));
        runs.push(made("ema", |config| config.train.ema_decay = 0.999, 2.0, 0.5));
        let tasks = sort(runs, &options())?;
        assert_eq!(tasks.len(), 2);
        assert!(tasks.iter().any(|task| task.label.contains("4+4")), "{}", tasks[1].label);
        assert!(tasks[0].methods.iter().any(|method| method.label == "adam ema_decay=0.999"));
        Ok(())
    }

    #[test]
    fn one_lucky_run_does_not_beat_a_repeated_setting() -> Result<(), InputError> {
        let mut runs = sweep();
        runs.push(made("lucky", |config| config.optimizer.lr = 5e-3, 1.0, 0.5));
        let tasks = sort(runs, &options())?;
        let adam = tasks[0].methods.iter().find(|method| method.label == "adam").map(|adam| adam.best_of_all());
        assert_eq!(adam.flatten().map(|setting| setting.lr), Some(4e-3));
        Ok(())
    }

    #[test]
    fn a_given_target_needs_no_baseline() -> Result<(), InputError> {
        let lone = made("sgd", |config| config.optimizer.name = OptimizerName::Sgd, 2.0, 0.5);
        let options = Options { baseline: Vec::new(), target: Some(2.6), ..options() };
        let tasks = sort(vec![lone], &options)?;
        assert!(tasks[0].comparison.is_none() && tasks[0].target == Some(2.6));
        let rows = super::super::text::table(&tasks[0], Metric::Nll);
        assert_eq!(rows[1][5], "900", "{rows:?}");
        Ok(())
    }

    #[test]
    fn a_baseline_that_is_not_there_is_an_error() {
        let options = Options { baseline: vec!["lion".to_string()], ..options() };
        let error = sort(sweep(), &options).err().map(|e| e.0).unwrap_or_default();
        assert_eq!(error, "no finished run of the baseline (lion); the runs are of: hessian2, adam");
    }
}
