//! Runs of a task sorted into methods and settings.

use std::collections::BTreeMap;

use crate::config::{flat, Config};
use crate::scores::Metric;

use super::keys::{of_role, short, unquoted, varying, Role};
use super::numbers::median;
use super::run::{Horizon, Run, RunState};

/// Keys and their values.
pub(super) type Values = Vec<(&'static str, String)>;

/// A way to train: optimizer and variant, averaging, phases.
#[derive(Clone, Debug)]
pub struct Method {
    pub label: String,
    /// Name of the optimizer.
    pub optimizer: String,
    /// By horizon, then best first.
    pub settings: Vec<Setting>,
}

/// A method with its tuned numbers at one horizon.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The tuned numbers that differ within the method, as `lr=0.004`.
    pub label: String,
    pub lr: f64,
    pub horizon: Horizon,
    /// By seed.
    pub runs: Vec<Run>,
    /// Median final score of its runs as a cost; NaN when none is finished.
    pub cost: f64,
}

impl Setting {
    /// Its runs with one of these seeds (each as often as it is named), or all when it has none of them.
    pub(super) fn with_seeds(&self, seeds: Option<&[u64]>) -> Vec<&Run> {
        let named = seeds.unwrap_or_default();
        let of = |seed: &u64| self.runs.iter().filter(|run| run.config.seed == *seed).collect::<Vec<_>>();
        let found: Vec<&Run> = named.iter().flat_map(of).collect();
        if found.is_empty() {
            self.runs.iter().collect()
        } else {
            found
        }
    }

    /// Median seconds of an update over its runs.
    pub fn step_seconds(&self) -> f64 {
        median(self.runs.iter().map(Run::step_seconds).filter(|seconds| seconds.is_finite()))
    }

    /// Number of different seeds among finished runs.
    pub fn seeds(&self) -> usize {
        let finished = self.runs.iter().filter(|run| run.state != RunState::Unfinished);
        finished.map(|run| run.config.seed).collect::<std::collections::BTreeSet<_>>().len()
    }
}

impl Method {
    /// Its horizons, rising.
    pub fn horizons(&self) -> Vec<Horizon> {
        let mut found: Vec<Horizon> = self.settings.iter().map(|setting| setting.horizon).collect();
        found.sort();
        found.dedup();
        found
    }

    /// The setting that speaks for the method at a horizon: of those with the most seeds (so that one lucky run does not
    /// beat a repeated one) the best; `None` when none is finished.
    pub fn best(&self, horizon: Horizon) -> Option<&Setting> {
        let there = self.settings.iter().filter(|s| s.horizon == horizon && !s.cost.is_nan());
        there.min_by(|a, b| b.seeds().cmp(&a.seeds()).then(a.cost.total_cmp(&b.cost)))
    }

    /// The best of [`Method::best`] over horizons, with the shorter horizon where two are equal.
    pub fn best_of_all(&self) -> Option<&Setting> {
        self.horizons().into_iter().filter_map(|horizon| self.best(horizon)).min_by(|a, b| a.cost.total_cmp(&b.cost))
    }

    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.settings.iter().flat_map(|setting| &setting.runs)
    }
}

/// Methods, best first.
pub(super) fn methods(runs: Vec<Run>, score: Metric) -> Vec<Method> {
    let usual = of_role(&Config::default(), Role::Method);
    let mut by_method: BTreeMap<Values, Vec<Run>> = BTreeMap::new();
    for run in runs {
        by_method.entry(of_role(&run.config, Role::Method)).or_default().push(run);
    }
    let mut methods: Vec<Method> = by_method
        .into_iter()
        .map(|(key, runs)| {
            let optimizer = key.iter().find(|(path, _)| *path == "optimizer.name");
            let optimizer = optimizer.map_or(String::new(), |(_, value)| unquoted(value));
            let mut label = vec![optimizer.clone()];
            let unusual = with_defaults(&usual, &runs[0].config);
            label.extend(varying(&key, &[&unusual]).into_iter().filter(|text| !text.starts_with("name=")));
            Method { label: label.join(" "), optimizer, settings: settings(runs, score) }
        })
        .collect();
    let best = |method: &Method| method.best_of_all().map_or(f64::NAN, |setting| setting.cost);
    methods.sort_by(|a, b| best(a).total_cmp(&best(b)).then_with(|| a.label.cmp(&b.label)));
    methods
}

/// The default method keys, with the default table of this config's own optimizer.
fn with_defaults(usual: &Values, config: &Config) -> Values {
    let mut default = Config::default();
    default.optimizer.name = config.optimizer.name;
    let own = of_role(&default, Role::Method);
    own.into_iter().chain(usual.iter().filter(|(path, _)| !path.starts_with("optimizer.")).cloned()).collect()
}

/// `key=value` of the default config for these keys.
fn of_default(keys: &Values) -> Vec<String> {
    let usual = flat(&Config::default());
    let of = |path: &str| usual.iter().find(|(known, _)| *known == path).map(|(_, value)| unquoted(value));
    keys.iter().filter_map(|(path, _)| Some(format!("{}={}", short(path), of(path)?))).collect()
}

fn settings(runs: Vec<Run>, score: Metric) -> Vec<Setting> {
    let mut grouped: BTreeMap<(Horizon, Values), Vec<Run>> = BTreeMap::new();
    for run in runs {
        let key = (run.horizon, of_role(&run.config, Role::Tuned));
        grouped.entry(key).or_default().push(run);
    }
    let keys: Vec<Values> = grouped.keys().map(|(_, tuned)| tuned.clone()).collect();
    let keys: Vec<&[_]> = keys.iter().map(Vec::as_slice).collect();
    let mut settings: Vec<Setting> = grouped
        .into_iter()
        .map(|((horizon, tuned), mut runs)| {
            runs.sort_by_key(|run| run.config.seed);
            let lr = runs[0].config.optimizer.lr;
            let mut label = vec![format!("lr={lr}")];
            // what varies within the method, unless it is what everyone has
            let usual = of_default(&tuned);
            let told =
                varying(&tuned, &keys).into_iter().filter(|text| !text.starts_with("lr=") && !usual.contains(text));
            label.extend(told);
            let cost = median(runs.iter().filter_map(|run| run.cost(score)));
            Setting { label: label.join(" "), lr, horizon, runs, cost }
        })
        .collect();
    settings.sort_by(|a, b| a.horizon.cmp(&b.horizon).then(a.cost.total_cmp(&b.cost)));
    settings
}
