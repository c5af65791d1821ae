//! The report as JSON: everything the page shows, for programs.

use serde_json::{json, Value};

use super::batches::{Family, Size};
use super::csv::state;
use super::method::{Method, Setting};
use super::relative::{Comparison, Ratio, Relative};
use super::run::Run;
use super::task::Task;
use super::{Reach, Report};
use crate::scores::Metric;

/// One object; costs are given as scores, what is not known is `null`.
pub fn json(report: &Report) -> Value {
    json!({
        "score": report.score.name(),
        "tasks": report.tasks.iter().map(|found| task(found, report.score)).collect::<Vec<_>>(),
        "by_batch": report.families.iter().map(family).collect::<Vec<_>>(),
        "left_out": report.left_out,
    })
}

fn task(task: &Task, score: Metric) -> Value {
    json!({
        "label": task.label,
        "target": task.target,
        "notes": task.notes,
        "comparison": task.comparison.as_ref().map(comparison),
        "methods": task.methods.iter().map(|found| method(found, score)).collect::<Vec<_>>(),
    })
}

fn comparison(found: &Comparison) -> Value {
    json!({
        "baseline": found.baseline,
        "setting": found.setting,
        "horizon": found.horizon.updates,
        "seeds": found.seeds,
        "target": found.target,
        "target_given": found.given,
        "methods": found.relatives.iter().map(relative).collect::<Vec<_>>(),
    })
}

fn family(found: &Family) -> Value {
    let one = |size: &Size| {
        let method = |(method, updates, seconds): &(String, Ratio, Ratio)| json!({ "method": method, "updates": ratio(updates), "seconds": ratio(seconds) });
        let methods = size.ratios.iter().map(method).collect::<Vec<_>>();
        json!({ "tokens": size.tokens, "baseline": size.baseline, "methods": methods })
    };
    json!({ "label": found.label, "sizes": found.sizes.iter().map(one).collect::<Vec<_>>() })
}

fn relative(found: &Relative) -> Value {
    json!({
        "method": found.method,
        "updates": ratio(&found.updates),
        "tokens": ratio(&found.tokens),
        "seconds": ratio(&found.seconds),
        "at_updates": found.at[0],
        "at_tokens": found.at[1],
        "at_seconds": found.at[2],
        "step_time": found.step_time,
        "horizons": found.horizons,
        "settings_tried": found.tried,
        "seeds": found.seeds,
    })
}

fn ratio(ratio: &Ratio) -> Value {
    let (kind, value) = match ratio.value {
        Reach::At(value) => ("at", value),
        Reach::AtMost(value) => ("at most", value),
        Reach::MoreThan(value) => ("more than", value),
    };
    json!({ "is": kind, "value": value, "spread": ratio.spread, "interval": ratio.interval })
}

fn method(method: &Method, score: Metric) -> Value {
    json!({
        "method": method.label,
        "optimizer": method.optimizer,
        "settings": method.settings.iter().map(|found| setting(found, score)).collect::<Vec<_>>(),
    })
}

fn setting(setting: &Setting, score: Metric) -> Value {
    json!({
        "setting": setting.label,
        "lr": setting.lr,
        "horizon": setting.horizon.updates,
        "scheduled": setting.horizon.scheduled,
        "median": score.cost(setting.cost),
        "seconds_per_update": setting.step_seconds(),
        "runs": setting.runs.iter().map(|found| run(found, score)).collect::<Vec<_>>(),
    })
}

fn run(run: &Run, score: Metric) -> Value {
    let last = run.valid.last();
    let mut found = json!({
        "run": run.folder.display().to_string(),
        "seed": run.config.seed,
        "state": state(run),
        "final": run.cost(score).map(|cost| score.cost(cost)),
        "step": last.map(|row| row.step),
        "tokens": last.map(|row| row.tokens),
        "seconds": last.map(|row| row.seconds),
        "peak_memory_bytes": run.peak_memory_bytes,
        "skipped_updates": run.skipped_updates,
    });
    for &metric in Metric::ALL {
        found[metric.name()] = last.and_then(|row| row.score(metric)).into();
    }
    for (symptom, value) in last.map(|row| row.symptoms()).unwrap_or_default().iter() {
        found[format!("hypotheses.{}", symptom.name())] = value.into();
    }
    for (rank, nll) in last.iter().flat_map(|row| row.by_rank()) {
        found[format!("nll_by_rank.{rank}")] = nll.into();
    }
    if let Some(average) = &run.average {
        found["average_steps"] = average.steps.clone().into();
        found["average_is_best"] = average.is_best.into();
        for &metric in Metric::ALL {
            found[format!("average_{}", metric.name())] = average.score(metric).into();
        }
    }
    for metric in Metric::of_text() {
        found[format!("test_{}", metric.name())] = run.test.get(metric).into();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::task::{sort, tests::*};
    use super::*;

    #[test]
    fn programs_find_the_ratio_and_every_run() {
        let tasks = sort(sweep(), &options()).unwrap_or_else(|e| panic!("{e}"));
        let value = json(&Report::new(Metric::Nll, tasks, Vec::new()));
        let comparison = &value["tasks"][0]["comparison"];
        assert_eq!((&comparison["baseline"], &comparison["horizon"]), (&"adam".into(), &1000.into()));
        assert_eq!(comparison["methods"][0]["method"], "hessian2");
        assert!(comparison["methods"][0]["updates"]["value"].as_f64().is_some_and(|ratio| (ratio - 0.63).abs() < 0.01));
        let runs = value["tasks"][0]["methods"].as_array().into_iter().flatten();
        let runs: usize = runs
            .flat_map(|method| method["settings"].as_array().into_iter().flatten())
            .map(|setting| setting["runs"].as_array().map_or(0, Vec::len))
            .sum();
        assert_eq!(runs, 12);
    }
}
