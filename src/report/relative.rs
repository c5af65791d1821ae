//! How much sooner a method is where the baseline ends.
//!
//! *Iso-loss ratio* (`configs/sweeps/protocol.md`): each method is trained at several horizons, its schedule ending at
//! each. Between the horizons whose final scores lie on both sides of the target, the horizon that would end at the
//! target is interpolated, linear in the score and logarithmic in updates (tokens, seconds), and divided by the
//! baseline's. A run without a schedule is read along its one curve.

use super::method::{Method, Setting};
use super::numbers::{deviation, log_between, median, quantile, resamples};
use super::run::{Horizon, Run, ValidRow};
use super::Options;
use crate::scores::Metric;

/// Everything of a task against its baseline.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Label of the baseline's method.
    pub baseline: String,
    /// The baseline's setting, as its label.
    pub setting: String,
    pub horizon: Horizon,
    /// Seeds behind the baseline.
    pub seeds: Vec<u64>,
    /// The score to reach (not a cost).
    pub target: f64,
    /// Whether the user gave it.
    pub given: bool,
    /// Every method, soonest in updates first.
    pub relatives: Vec<Relative>,
}

/// A method against the baseline.
#[derive(Clone, Debug)]
pub struct Relative {
    pub method: String,
    pub updates: Ratio,
    pub tokens: Ratio,
    pub seconds: Ratio,
    /// Updates, tokens and training seconds at the target; bounds where the ratio is one.
    pub at: [f64; 3],
    /// Seconds of an update, over the baseline's, each of its least disturbed run.
    pub step_time: f64,
    /// Updates of the horizons it was trained at.
    pub horizons: Vec<u64>,
    /// Settings tried, over all horizons.
    pub tried: usize,
    /// Seeds of the setting at the horizon next to the target.
    pub seeds: usize,
}

/// A quotient of two crossings.
#[derive(Clone, Debug)]
pub struct Ratio {
    pub value: Reach,
    /// Standard deviation over seeds, paired with the baseline's; `None` below two seeds.
    pub spread: Option<f64>,
    /// 95 % interval of the paired bootstrap over seeds; `None` below two seeds.
    pub interval: Option<(f64, f64)>,
}

/// A value, or the side on which it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reach {
    At(f64),
    /// Its shortest horizon was there already.
    AtMost(f64),
    /// Its longest horizon was not there.
    MoreThan(f64),
}

impl Reach {
    /// The number; infinite when it was not reached.
    fn number(self) -> f64 {
        match self {
            Reach::At(value) | Reach::AtMost(value) => value,
            Reach::MoreThan(_) => f64::INFINITY,
        }
    }

    fn map(self, change: impl Fn(f64) -> f64) -> Self {
        match self {
            Reach::At(value) => Reach::At(change(value)),
            Reach::AtMost(value) => Reach::AtMost(change(value)),
            Reach::MoreThan(value) => Reach::MoreThan(change(value)),
        }
    }
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Reach::At(value) => write!(f, "{value:.2}"),
            Reach::AtMost(value) => write!(f, "≤ {value:.2}"),
            Reach::MoreThan(value) => write!(f, "> {value:.2}"),
        }
    }
}

/// Where a run or a horizon ends.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// Updates, tokens, seconds.
    spent: [f64; 3],
    cost: f64,
}

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// The baseline is the best finished method among those asked for (or the Adam family), at its own best horizon.
pub(super) fn compare(methods: &[Method], options: &Options) -> Option<Comparison> {
    if methods.len() < 2 && options.baseline.is_empty() && options.target.is_none() {
        // a method is not compared with itself unless the user asks for it
        return None;
    }
    let family = ["adam", "adamw", "clipped-adam"].map(String::from);
    let wanted = if options.baseline.is_empty() { &family[..] } else { &options.baseline };
    let named = methods.iter().filter(|m| wanted.contains(&m.label) || wanted.contains(&m.optimizer));
    let settings = named.filter_map(|method| Some((method, method.best_of_all()?)));
    let (baseline, setting) =
        settings.min_by(|a, b| a.1.cost.total_cmp(&b.1.cost)).filter(|(_, s)| s.cost.is_finite())?;

    let score = options.score;
    let given = options.target.map(|target| score.cost(target));
    let mut seeds: Vec<u64> = setting.runs.iter().filter(|r| r.cost(score).is_some()).map(|r| r.config.seed).collect();
    seeds.dedup();
    let race = Race { baseline, setting, score, given };
    let mut relatives: Vec<Relative> = methods.iter().filter_map(|method| race.relative(method, &seeds)).collect();
    relatives.sort_by(|a, b| a.updates.value.number().total_cmp(&b.updates.value.number()));
    Some(Comparison {
        baseline: baseline.label.clone(),
        setting: setting.label.clone(),
        horizon: setting.horizon,
        // a cost is its own inverse
        target: score.cost(given.unwrap_or(setting.cost)),
        given: given.is_some(),
        seeds,
        relatives,
    })
}

/// Baseline and target of a task.
struct Race<'a> {
    baseline: &'a Method,
    setting: &'a Setting,
    score: Metric,
    given: Option<f64>,
}

impl Race<'_> {
    fn relative(&self, method: &Method, seeds: &[u64]) -> Option<Relative> {
        let at = self.crossing(method, None)?;
        let whole = self.ratios(method, None)?;
        let (single, resampled) = match seeds.len() {
            0 | 1 => (Vec::new(), Vec::new()),
            _ => (
                seeds.iter().filter_map(|seed| self.ratios(method, Some(&[*seed]))).collect(),
                resamples(seeds, RESAMPLES).iter().filter_map(|s| self.ratios(method, Some(s))).collect::<Vec<_>>(),
            ),
        };
        let ratio = |i: usize| {
            let singles: Vec<f64> = single.iter().map(|found| found[i].number()).collect();
            let mut sorted: Vec<f64> = resampled.iter().map(|found| found[i].number()).collect();
            sorted.sort_by(f64::total_cmp);
            let interval = (!sorted.is_empty()).then(|| (quantile(&sorted, 0.025), quantile(&sorted, 0.975)));
            Ratio { value: whole[i], spread: deviation(&singles).filter(|d| d.is_finite()), interval }
        };
        let there = at[0].number();
        let mut horizons: Vec<u64> = method.horizons().iter().map(|horizon| horizon.updates).collect();
        horizons.dedup();
        let near = method.horizons().into_iter().filter_map(|horizon| method.best(horizon));
        let near = near.min_by(|a, b| {
            let distance = |s: &Setting| (s.horizon.updates as f64 - there).abs();
            distance(a).total_cmp(&distance(b))
        });
        Some(Relative {
            method: method.label.clone(),
            updates: ratio(0),
            tokens: ratio(1),
            seconds: ratio(2),
            at: at.map(|reach| match reach {
                Reach::At(value) | Reach::AtMost(value) | Reach::MoreThan(value) => value,
            }),
            step_time: undisturbed(method) / undisturbed(self.baseline),
            horizons,
            tried: method.settings.len(),
            seeds: near.map_or(0, Setting::seeds),
        })
    }

    /// Updates, tokens, seconds to the target over the baseline's, from runs with these seeds.
    fn ratios(&self, method: &Method, seeds: Option<&[u64]>) -> Option<[Reach; 3]> {
        let own = self.crossing(method, seeds)?;
        let base = self.crossing(self.baseline, seeds)?;
        Some(std::array::from_fn(|i| own[i].map(|value| value / base[i].number())))
    }

    fn crossing(&self, method: &Method, seeds: Option<&[u64]>) -> Option<[Reach; 3]> {
        let target = self.given.unwrap_or_else(|| {
            median(self.setting.with_seeds(seeds).into_iter().filter_map(|run| run.cost(self.score)))
        });
        let points = points(method, seeds, self.score);
        let Some(first) = points.iter().position(|point| point.cost <= target + 1e-12) else {
            return points.last().map(|last| last.spent.map(Reach::MoreThan));
        };
        let point = points[first];
        let Some(before) = first.checked_sub(1).map(|i| points[i]) else {
            let exact = (point.cost - target).abs() < 1e-12;
            return Some(point.spent.map(if exact { Reach::At } else { Reach::AtMost }));
        };
        // A horizon that diverged says nothing about where between the two the target lies.
        let share = if before.cost.is_finite() { (before.cost - target) / (before.cost - point.cost) } else { 1.0 };
        Some(std::array::from_fn(|i| Reach::At(log_between(before.spent[i], point.spent[i], share))))
    }
}

/// Least median seconds of an update among a method's runs: what else the machine does can only add to it.
fn undisturbed(method: &Method) -> f64 {
    method.runs().map(Run::step_seconds).filter(|seconds| seconds.is_finite()).fold(f64::INFINITY, f64::min)
}

/// What a method reaches for each amount of updates: the ends of its best settings by horizon, and all validations of
/// one without a schedule. Rising in updates, falling in cost: what was reached with less is reached with more.
fn points(method: &Method, seeds: Option<&[u64]>, score: Metric) -> Vec<Point> {
    let best = method.horizons().into_iter().filter_map(|horizon| method.best(horizon));
    let mut found: Vec<Point> = best
        .flat_map(|setting| {
            let runs = setting.with_seeds(seeds);
            if setting.horizon.scheduled {
                return vec![ends(&runs, score)];
            }
            let steps = runs.first().map_or(Vec::new(), |run| run.valid.iter().map(|row| row.step).collect());
            steps.into_iter().map(|step| at(&runs, step, score)).collect()
        })
        .filter(|point| !point.cost.is_nan() && point.spent[0] > 0.0)
        .collect();
    found.sort_by(|a, b| a.spent[0].total_cmp(&b.spent[0]).then(a.cost.total_cmp(&b.cost)));
    let mut least = f64::INFINITY;
    found.retain(|point| {
        let better = point.cost < least || least.is_infinite();
        least = least.min(point.cost);
        better
    });
    found
}

/// The median end of some runs; of those that have one: what an unfinished run has spent so far is no end.
fn ends(runs: &[&Run], score: Metric) -> Point {
    let rows = runs.iter().filter(|run| run.cost(score).is_some()).filter_map(|run| run.valid.last());
    Point { spent: spent(rows), cost: median(runs.iter().filter_map(|run| run.cost(score))) }
}

/// The median of some runs at an update.
fn at(runs: &[&Run], step: u64, score: Metric) -> Point {
    let rows: Vec<&ValidRow> = runs.iter().filter_map(|run| run.valid.iter().find(|row| row.step == step)).collect();
    let costs = rows.iter().filter_map(|row| row.score(score)).map(|value| score.cost(value));
    Point { spent: spent(rows.iter().copied()), cost: median(costs) }
}

fn spent<'a>(rows: impl Iterator<Item = &'a ValidRow> + Clone) -> [f64; 3] {
    [
        median(rows.clone().map(|row| row.step as f64)),
        median(rows.clone().map(|row| row.tokens as f64)),
        median(rows.map(|row| row.seconds)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::made;
    use super::super::task::{sort, tests::*};
    use super::*;
    use crate::config::{OptimizerName, ScheduleKind};

    fn of(options: &Options, more: Vec<Run>) -> Comparison {
        let runs = sweep().into_iter().chain(more).collect();
        let tasks = sort(runs, options).unwrap_or_else(|e| panic!("{e}"));
        tasks[0].comparison.clone().unwrap_or_else(|| panic!("no comparison"))
    }

    fn hessian2(comparison: &Comparison) -> &Relative {
        comparison.relatives.iter().find(|r| r.method == "hessian2").unwrap_or_else(|| panic!("{comparison:?}"))
    }

    #[test]
    fn the_ratio_is_interpolated_between_horizons() {
        let found = of(&options(), Vec::new());
        assert_eq!((found.baseline.as_str(), found.horizon.updates, found.seeds.len()), ("adam", 1000, 2));
        assert!((found.target - 2.53).abs() < 1e-9);
        let relative = hessian2(&found);
        // 2.63 at 500 and 2.33 at 1000: a third of the way to 2.53, in the logarithm
        let updates = 500.0 * 2f64.powf(1.0 / 3.0);
        assert!((relative.at[0] - updates).abs() < 1e-6, "{relative:?}");
        let Reach::At(ratio) = relative.updates.value else { panic!("{relative:?}") };
        assert!((ratio - updates / 1000.0).abs() < 1e-9);
        let Reach::At(seconds) = relative.seconds.value else { panic!("{relative:?}") };
        assert!((seconds - 1.1 * updates / 1000.0).abs() < 1e-9);
        assert!((relative.step_time - 1.1).abs() < 1e-9);
        // seeds shift both methods alike, so the paired ratio does not move
        assert!(relative.updates.spread.is_some_and(|spread| spread < 1e-9));
        let interval = relative.updates.interval.unwrap_or((0.0, 0.0));
        assert!((interval.0 - ratio).abs() < 1e-6 && (interval.1 - ratio).abs() < 1e-6, "{interval:?}");
        let adam = found.relatives.iter().find(|r| r.method == "adam").map(|r| r.updates.value);
        assert_eq!(adam, Some(Reach::At(1.0)));
    }

    #[test]
    fn a_run_that_is_under_way_moves_nothing() {
        let mut running: Vec<Run> = sweep().into_iter().filter(|run| run.horizon.updates == 500).collect();
        for run in &mut running {
            (run.state, run.config.seed) = (super::super::RunState::Unfinished, 9);
            run.valid.truncate(2);
        }
        let (found, alone) = (of(&options(), running), of(&options(), Vec::new()));
        assert_eq!(hessian2(&found).at, hessian2(&alone).at);
    }

    #[test]
    fn outside_the_horizons_there_are_only_bounds() {
        let at = |target: f64| {
            let found = of(&Options { target: Some(target), ..options() }, Vec::new());
            (found.given, hessian2(&found).at[0], hessian2(&found).updates.value)
        };
        let (given, updates, ratio) = at(3.3);
        assert!(given && updates == 250.0 && matches!(ratio, Reach::AtMost(_)), "{ratio:?}");
        assert!(matches!(at(1.0).2, Reach::MoreThan(_)));
    }

    #[test]
    fn a_method_without_a_schedule_is_read_along_its_curve() {
        let constant = |config: &mut crate::config::Config| {
            config.optimizer.name = OptimizerName::ScheduleFree;
            config.schedule.kind = ScheduleKind::Constant;
        };
        let found = of(&options(), vec![made("free", constant, 1.5, 0.5)]);
        // 2.5 at 800 and 3.0 at 700; the target is 2.53
        let free = found.relatives.iter().find(|r| r.method == "schedule-free").map(|r| r.at[0]).unwrap_or(0.0);
        assert!(free > 700.0 && free < 800.0, "{free}");
    }

    #[test]
    fn a_method_that_diverges_never_arrives() {
        let diverged = |config: &mut crate::config::Config| config.optimizer.name = OptimizerName::Sgd;
        let found = of(&options(), vec![made("sgd", diverged, f64::INFINITY, 0.5)]);
        assert!(found.relatives.iter().all(|r| r.method != "sgd" || matches!(r.updates.value, Reach::MoreThan(_))));
    }
}
