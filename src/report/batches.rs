//! The same comparison at several sizes of the batch: how the ratios move with it.

use std::collections::{BTreeMap, BTreeSet};

use super::chart::{Chart, Series};
use super::charts::{axis, plain, thousands, Group};
use super::method::Values;
use super::numbers::median;
use super::plane::Axis;
use super::relative::{Ratio, Reach};
use super::task::Task;
use super::text::ratio;
use crate::units;

/// Tasks that differ in the batch alone, each compared with its own baseline.
#[derive(Clone, Debug)]
pub struct Family {
    /// What they have in common.
    pub label: String,
    /// By the size of the batch.
    pub sizes: Vec<Size>,
}

/// One size.
#[derive(Clone, Debug)]
pub struct Size {
    /// Target tokens of an update, in the mean over the baseline's runs.
    pub tokens: f64,
    pub baseline: String,
    /// Method, ratio of updates, ratio of time; without the baseline.
    pub ratios: Vec<(String, Ratio, Ratio)>,
}

/// Families of two and more sizes.
pub(super) fn families(tasks: &[Task]) -> Vec<Family> {
    let mut groups: BTreeMap<Values, Vec<&Task>> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.comparison.is_some()) {
        let rest = task.key.iter().filter(|(path, _)| !is_of_batch(path)).cloned().collect();
        groups.entry(rest).or_default().push(task);
    }
    let several = groups.into_values().filter(|tasks| tasks.len() > 1);
    several.map(|tasks| Family { label: common(&tasks), sizes: sizes(&tasks) }).collect()
}

fn is_of_batch(path: &str) -> bool {
    path.starts_with("train.batch_") || path == "train.gradient_accumulation_steps"
}

/// The part of the labels before the batch.
fn common(tasks: &[&Task]) -> String {
    let label = tasks.first().map_or("", |task| task.label.as_str());
    label.split(", batches of").next().unwrap_or_default().to_string()
}

fn sizes(tasks: &[&Task]) -> Vec<Size> {
    let mut sizes: Vec<Size> = tasks.iter().filter_map(|task| size(task)).collect();
    sizes.sort_by(|a, b| a.tokens.total_cmp(&b.tokens));
    sizes
}

fn size(task: &Task) -> Option<Size> {
    let found = task.comparison.as_ref()?;
    let baseline = task.methods.iter().find(|method| method.label == found.baseline)?;
    let last = baseline.runs().filter_map(|run| run.valid.last()).filter(|row| row.step > 0);
    let tokens = median(last.map(|row| row.tokens as f64 / row.step as f64));
    let others = found.relatives.iter().filter(|relative| relative.method != found.baseline);
    let ratios = others.map(|own| (own.method.clone(), own.updates.clone(), own.seconds.clone())).collect();
    Some(Size { tokens, baseline: found.baseline.clone(), ratios })
}

impl Family {
    /// All methods but baselines.
    fn methods(&self) -> Vec<&str> {
        let all: BTreeSet<&str> =
            self.sizes.iter().flat_map(|size| &size.ratios).map(|(method, ..)| method.as_str()).collect();
        all.into_iter().collect()
    }

    /// One sentence: what the ratios are.
    pub(super) fn lead(&self) -> String {
        let baselines: BTreeSet<&str> = self.sizes.iter().map(|size| size.baseline.as_str()).collect();
        let baselines: Vec<&str> = baselines.into_iter().collect();
        format!(
            "Updates and time to the final score of {}, over its own, by the size of the batch",
            baselines.join(", ")
        )
    }

    /// Rows of a table, the heading first: a line for each method and measure, a column for each size.
    pub(super) fn table(&self) -> Vec<Vec<String>> {
        let sizes = self.sizes.iter().map(|size| format!("{} tokens", units::count(size.tokens.round() as u64)));
        let mut rows = vec![["method", "of"].map(String::from).into_iter().chain(sizes).collect::<Vec<_>>()];
        for method in self.methods() {
            for (name, measure) in MEASURES {
                let cell = |size: &Size| size.of(method).map_or(String::new(), |found| ratio(measure(found)));
                let cells = self.sizes.iter().map(cell);
                rows.push([method, name].map(String::from).into_iter().chain(cells).collect());
            }
        }
        rows
    }

    /// The ratios as pictures: updates, and time beside it; upright lines are 95 % intervals over seeds.
    pub(super) fn charts(&self) -> Group {
        let charts = MEASURES.map(|(name, measure)| {
            let one = |(i, method): (usize, &&str)| {
                let found = || self.sizes.iter().filter_map(|size| Some((size.tokens, measure(size.of(method)?))));
                let middle = vec![found().filter_map(|(tokens, ratio)| Some((tokens, shown(ratio)?))).collect()];
                let upright = |(tokens, ratio): (f64, &Ratio)| {
                    let (low, high) = ratio.interval.filter(|(_, high)| high.is_finite())?;
                    Some(vec![(tokens, low), (tokens, high)])
                };
                let series = |lines, dots| Series { label: method.to_string(), style: Some(i), lines, dots };
                [series(middle, true), series(found().filter_map(upright).collect(), false)]
            };
            Chart {
                title: format!("Ratio of {name}"),
                x: Axis {
                    log: true,
                    at: self.sizes.iter().map(|size| size.tokens.round()).collect(),
                    ..axis("target tokens of an update (logarithmic)", thousands)
                },
                y: axis("ratio", plain),
                series: self.methods().iter().enumerate().flat_map(one).collect(),
                target: Some(1.0),
                from_the_better: false,
            }
        });
        let charts = charts.into_iter().filter(|chart| !chart.is_empty()).collect();
        Group { heading: "Ratio by the size of the batch".to_string(), charts }
    }

    /// Methods in the order of their colours in [`Family::charts`].
    pub(super) fn legend(&self) -> Vec<(String, Option<usize>)> {
        self.methods().iter().enumerate().map(|(i, method)| (method.to_string(), Some(i))).collect()
    }
}

type Found = (String, Ratio, Ratio);
type Measure = fn(&Found) -> &Ratio;

const MEASURES: [(&str, Measure); 2] = [("updates", |found| &found.1), ("time", |found| &found.2)];

impl Size {
    fn of(&self, method: &str) -> Option<&Found> {
        self.ratios.iter().find(|(own, ..)| own == method)
    }
}

/// A number to draw: bounds are none.
fn shown(ratio: &Ratio) -> Option<f64> {
    match ratio.value {
        Reach::At(value) => Some(value),
        Reach::AtMost(_) | Reach::MoreThan(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::{tests::made, Run};
    use super::super::task::{sort, tests::*};
    use super::*;
    use crate::config::{Config, OptimizerName};

    /// The sweep at its own batch, and at four times as much with a faster hessian2.
    fn two_sizes() -> Vec<Family> {
        let mut runs: Vec<Run> = sweep();
        for (name, updates, loss) in
            [(OptimizerName::Adam, 1000, 2.5), (OptimizerName::Hessian2, 250, 3.0), (OptimizerName::Hessian2, 500, 2.5)]
        {
            for seed in [1, 2] {
                let change = |config: &mut Config| {
                    (config.seed, config.optimizer.name, config.train.max_updates) = (seed, name, updates);
                    config.train.gradient_accumulation_steps = 4;
                };
                let mut run = made(&format!("{name:?}-{updates}-{seed}"), change, loss, 2.0);
                run.valid.iter_mut().for_each(|row| row.tokens *= 4);
                runs.push(run);
            }
        }
        families(&sort(runs, &options()).unwrap_or_else(|e| panic!("{e}")))
    }

    #[test]
    fn sizes_of_one_task_are_a_family_with_a_ratio_each() {
        let families = two_sizes();
        let [family] = &families[..] else { panic!("{families:?}") };
        let sizes: Vec<(f64, f64)> = family
            .sizes
            .iter()
            .map(|size| (size.tokens, size.of("hessian2").and_then(|found| shown(&found.1)).unwrap_or_default()))
            .collect();
        assert_eq!(sizes.len(), 2, "{sizes:?}");
        assert!((sizes[1].0 / sizes[0].0 - 4.0).abs() < 1e-9, "{sizes:?}");
        assert!(sizes[1].1 < sizes[0].1, "{sizes:?}");
        let table = family.table();
        assert_eq!((table.len(), table[0].len()), (3, 4), "{table:?}");
        assert!(!family.label.contains("batches"), "{}", family.label);
        assert_eq!(family.charts().charts.len(), 2);
    }

    #[test]
    fn one_size_is_no_family() {
        let tasks = sort(sweep(), &options()).unwrap_or_else(|e| panic!("{e}"));
        assert!(families(&tasks).is_empty());
    }
}
