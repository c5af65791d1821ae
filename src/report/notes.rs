//! What a reader must know before trusting a number: each fault of a comparison in a sentence.

use std::collections::{BTreeMap, BTreeSet};

use super::method::Method;
use super::numbers::shown;
use super::relative::Comparison;
use super::run::{Run, RunState};
use crate::scores::Metric;
use crate::symptoms::Symptom;

/// Seeds below which a spread says little.
const ENOUGH_SEEDS: usize = 5;
/// Gain of the baseline's second half below which "half the updates" is no feat (in nats; the protocol's).
const MINIMAL_GAIN: f64 = 0.02;
/// Spread of equal work beyond which seconds are not trusted.
const QUIET: f64 = 0.10;

/// Sentences about the runs of a task.
pub(super) fn notes(methods: &[Method], comparison: Option<&Comparison>, score: Metric) -> Vec<String> {
    let mut notes = Vec::new();
    let runs: Vec<&Run> = methods.iter().flat_map(Method::runs).collect();
    notes.extend(horizons(methods));
    notes.extend(unfinished(&runs, score));
    notes.extend(symptoms(&runs));
    notes.extend(machine(&runs));
    if let Some(comparison) = comparison {
        notes.extend(baseline(methods, comparison, score));
        notes.extend(effort(comparison));
    }
    notes.extend(passed_over(methods, score));
    notes.extend(edges(methods));
    notes
}

/// Scheduled runs of different lengths are only comparable through the time to a target.
fn horizons(methods: &[Method]) -> Option<String> {
    let found: BTreeSet<u64> =
        methods.iter().flat_map(Method::horizons).filter(|h| h.scheduled).map(|h| h.updates).collect();
    (found.len() > 1).then(|| {
        let list: Vec<String> = found.iter().map(u64::to_string).collect();
        format!(
            "the runs have horizons of {} updates: compare scores and curves within one horizon only (a schedule that \
             ends later is behind until its end); across horizons compare the time to a target",
            list.join(", ")
        )
    })
}

fn unfinished(runs: &[&Run], score: Metric) -> Vec<String> {
    let names = |wanted: &dyn Fn(&Run) -> bool| -> Option<String> {
        let found: Vec<String> = runs.iter().filter(|run| wanted(run)).map(|run| run.name()).collect();
        let more = found.len().saturating_sub(5);
        let shown = found[..found.len() - more].join(", ");
        (!found.is_empty()).then(|| if more > 0 { format!("{shown} and {more} more") } else { shown })
    };
    let left = names(&|run| run.state == RunState::Unfinished).map(|names| {
        format!("not at the end of their schedule, so in no comparison (running or interrupted): {names}")
    });
    let blind = names(&|run| run.state == RunState::Finished && run.cost(score).is_none())
        .map(|names| format!("without a final {}: {names}", score.label()));
    left.into_iter().chain(blind).collect()
}

/// Runs whose translations show that something went wrong, each symptom with the sentence of the first.
fn symptoms(runs: &[&Run]) -> Vec<String> {
    let mut found: BTreeMap<Symptom, (String, Vec<String>)> = BTreeMap::new();
    for run in runs {
        for (symptom, sentence) in run.faults() {
            found.entry(symptom).or_insert((sentence, Vec::new())).1.push(run.name());
        }
    }
    let told = |(sentence, names): (String, Vec<String>)| match names.as_slice() {
        [name] => format!("{name}: {sentence}"),
        [name, rest @ ..] => format!("{name}, and likewise {} more: {sentence}", rest.len()),
        [] => sentence,
    };
    found.into_values().map(told).collect()
}

fn machine(runs: &[&Run]) -> Vec<String> {
    let mut notes = Vec::new();
    let threads: BTreeSet<u64> = runs.iter().map(|run| run.threads).collect();
    if threads.len() > 1 {
        notes.push(format!("runs used different numbers of threads ({threads:?}): their seconds are not comparable"));
    }
    let computed_by: BTreeSet<&str> = runs.iter().filter_map(|run| run.computed_by.as_deref()).collect();
    if computed_by.len() > 1 {
        let all = computed_by.into_iter().collect::<Vec<_>>().join("; ");
        notes.push(format!("runs were computed by different means ({all}): their seconds are not comparable"));
    }
    // Equal work: a run's updates differ in their batches only, and the median evens those out.
    let unquiet = runs.iter().filter(|run| {
        let usual = run.step_seconds();
        let rows = run.train.iter().zip(run.train.iter().skip(1));
        let off = rows.filter(|(a, b)| {
            let each = (b.seconds - a.seconds) / (b.step - a.step).max(1) as f64;
            (each / usual - 1.0).abs() > 2.0 * QUIET
        });
        usual.is_finite() && off.count() * 5 > run.train.len()
    });
    let unquiet = unquiet.count();
    if unquiet > 0 {
        notes.push(format!(
            "the machine was not quiet: in {unquiet} of {} runs more than a fifth of the intervals took over {:.0} % \
             more or less time an update than their median; ratios of seconds carry that",
            runs.len(),
            200.0 * QUIET
        ));
    }
    notes
}

fn baseline(methods: &[Method], comparison: &Comparison, score: Metric) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(baseline) = methods.iter().find(|method| method.label == comparison.baseline) else { return notes };
    if comparison.seeds.len() < ENOUGH_SEEDS {
        let n = comparison.seeds.len();
        let seeds = if n == 1 { "one seed".to_string() } else { format!("{n} seeds") };
        notes.push(format!("the baseline has {seeds}; the protocol asks for {ENOUGH_SEEDS}"));
    }
    let cost = |horizon| baseline.best(horizon).map(|setting| setting.cost);
    let end = cost(comparison.horizon);
    let half = baseline.horizons().into_iter().rfind(|h| 2 * h.updates <= comparison.horizon.updates);
    match (end, half.and_then(cost)) {
        (Some(end), Some(half)) if score == Metric::Nll && half - end < MINIMAL_GAIN => notes.push(format!(
            "the baseline gains only {:.3} from the second half of its updates: fewer updates are no feat here",
            half - end
        )),
        (_, None) if comparison.horizon.scheduled => {
            notes.push(
                "the baseline was not run at half its horizon or less: whether it needs all of it is not known"
                    .to_string(),
            );
        }
        _ => {}
    }
    notes
}

/// Unequal tuning is the commonest way to win.
fn effort(comparison: &Comparison) -> Option<String> {
    let own = comparison.relatives.iter().find(|relative| relative.method == comparison.baseline)?.tried;
    let more: Vec<String> = comparison
        .relatives
        .iter()
        .filter(|relative| relative.tried > own)
        .map(|relative| format!("{} ({})", relative.method, relative.tried))
        .collect();
    (!more.is_empty())
        .then(|| format!("the baseline was tried in {own} settings (rates, horizons); in more: {}", more.join(", ")))
}

/// Better settings that do not speak for their method, because another has more seeds.
fn passed_over(methods: &[Method], score: Metric) -> Option<String> {
    let mut found = Vec::new();
    for method in methods {
        for horizon in method.horizons() {
            let Some(best) = method.best(horizon) else { continue };
            let better = method.settings.iter().filter(|s| s.horizon == horizon && s.cost < best.cost);
            if let Some(better) = better.min_by(|a, b| a.cost.total_cmp(&b.cost)) {
                let (cost, label) = (shown(score, score.cost(better.cost)), &better.label);
                found.push(format!("{} at {} ({label}: {cost})", method.label, horizon.updates));
            }
        }
    }
    (!found.is_empty()).then(|| {
        format!(
            "a setting with more seeds speaks for these methods, though one with fewer was better: {}",
            found.join(", ")
        )
    })
}

/// A best rate at the edge of those tried may not be the best.
fn edges(methods: &[Method]) -> Option<String> {
    let mut found = Vec::new();
    for method in methods {
        for horizon in method.horizons() {
            let rates: BTreeSet<u64> = method
                .settings
                .iter()
                .filter(|s| s.horizon == horizon && !s.cost.is_nan())
                .map(|s| s.lr.to_bits())
                .collect();
            let Some(best) = method.best(horizon).filter(|_| rates.len() > 1).map(|setting| setting.lr) else {
                continue;
            };
            // rates are positive, so their bits are ordered as they are
            let edge = [rates.first(), rates.last()].into_iter().flatten().any(|bits| *bits == best.to_bits());
            if edge {
                found.push(format!("{} at {}", method.label, horizon.updates));
            }
        }
    }
    (!found.is_empty()).then(|| {
        format!(
            "the best learning rate is the smallest or largest tried, so not known to be the best: {}",
            found.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::made;
    use super::super::task::{sort, tests::*};
    use super::super::{Options, Run};

    fn of(more: Vec<Run>, options: &Options) -> String {
        let tasks = sort(sweep().into_iter().chain(more).collect(), options).unwrap_or_else(|e| panic!("{e}"));
        tasks[0].notes.join("\n")
    }

    #[test]
    fn unlike_horizons_are_told() {
        let notes = of(Vec::new(), &options());
        assert!(notes.contains("horizons of 250, 500, 1000 updates"), "{notes}");
        assert!(notes.contains("the baseline has 2 seeds; the protocol asks for 5"), "{notes}");
        assert!(notes.contains("largest tried, so not known to be the best: adam at 1000"), "{notes}");
        assert!(!notes.contains("not run at half its horizon") && !notes.contains("not quiet"), "{notes}");
        assert!(!notes.contains("more seeds speaks"), "{notes}");
        let lucky = made("lucky", |config| config.optimizer.lr = 5e-3, 1.0, 0.5);
        let notes = of(vec![lucky], &options());
        assert!(notes.contains("one with fewer was better: adam at 1000 (lr=0.005: 1.000)"), "{notes}");
    }

    #[test]
    fn faults_of_single_runs_are_told() {
        let cut = made("cut", |config| config.schedule.total_updates = 4000, 2.0, 0.5);
        let mut threads = made("threads", |config| config.optimizer.lr = 3e-3, 2.6, 0.5);
        threads.threads = 2;
        threads.computed_by = Some("cpu, bf16, AMX tiles".to_string());
        for (i, row) in threads.train.iter_mut().enumerate() {
            row.seconds *= if i % 2 == 0 { 1.0 } else { 1.3 };
        }
        let notes = of(vec![cut, threads], &options());
        assert!(
            notes.contains("not at the end of their schedule, so in no comparison (running or interrupted): cut"),
            "{notes}"
        );
        assert!(notes.contains("different numbers of threads"), "{notes}");
        assert!(notes.contains("computed by different means (cpu, bf16, AMX tiles; cpu, f32, AVX-512)"), "{notes}");
        assert!(notes.contains("the machine was not quiet: in 1 of"), "{notes}");
    }

    #[test]
    fn a_baseline_that_stands_still_and_unequal_effort_are_told() {
        let notes = of(Vec::new(), &Options { baseline: vec!["hessian2".to_string()], ..options() });
        assert!(!notes.contains("are no feat"), "{notes}");
        let flat = made("flat", |config| config.train.max_updates = 2000, 2.3, 0.5);
        let half = made("half", |config| (config.train.max_updates, config.seed) = (1000, 3), 2.31, 0.5);
        let tasks = sort(vec![flat, half], &options()).unwrap_or_else(|e| panic!("{e}"));
        assert!(tasks[0].notes.iter().any(|note| note.contains("gains only 0.010")), "{:?}", tasks[0].notes);
        let more = [1e-3, 2e-3, 3e-3].map(|lr| {
            made(
                "more",
                |config| {
                    (config.optimizer.name, config.optimizer.lr) = (crate::config::OptimizerName::Hessian2, lr);
                },
                2.4,
                0.5,
            )
        });
        assert!(of(more.to_vec(), &options()).contains("in 3 settings (rates, horizons); in more: hessian2 (6)"));
    }
}
