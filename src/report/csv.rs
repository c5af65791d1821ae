//! The report as CSV: one row a run, one column a fact.

use super::method::{Method, Setting};
use super::run::{Run, RunState};
use super::task::Task;
use super::Report;
use crate::ranks;
use crate::scores::Metric;
use crate::symptoms::Symptom;

/// Columns before the scores.
const COLUMNS: [&str; 11] = [
    "run",
    "task",
    "method",
    "setting",
    "optimizer.name",
    "optimizer.lr",
    "schedule.warmup_updates",
    "horizon",
    "scheduled",
    "seed",
    "state",
];

/// Columns after the scores.
const MORE_COLUMNS: [&str; 8] = [
    "step",
    "tokens",
    "seconds",
    "seconds_per_update",
    "target_step",
    "target_seconds",
    "peak_memory_bytes",
    "skipped_updates",
];

/// Header and rows, quoted as RFC 4180 says.
pub fn csv(report: &Report) -> String {
    let scores = Metric::ALL.iter().map(|metric| metric.name());
    let symptoms = Symptom::ALL.map(|symptom| format!("hypotheses.{}", symptom.name()));
    let ranks = ranks::NAMES.map(|rank| format!("nll_by_rank.{rank}"));
    let columns = COLUMNS.into_iter().chain(scores).chain(MORE_COLUMNS).map(String::from);
    let mut out = line(columns.chain(symptoms).chain(ranks));
    for task in &report.tasks {
        for (method, setting) in task.settings() {
            for run in &setting.runs {
                out.push_str(&line(row(report.score, task, method, setting, run)));
            }
        }
    }
    out
}

/// Word for the state of a run.
pub(super) fn state(run: &Run) -> &'static str {
    match run.state {
        RunState::Finished => "finished",
        RunState::Diverged => "diverged",
        RunState::Unfinished => "unfinished",
    }
}

fn row(score: Metric, task: &Task, method: &Method, setting: &Setting, run: &Run) -> impl Iterator<Item = String> {
    let last = run.valid.last().cloned().unwrap_or_default();
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let goal = task.target.map(|target| score.cost(target));
    let reached = goal.and_then(|goal| run.reached(score, goal));
    let (name, lr) = (&method.optimizer, run.config.optimizer.lr);
    let first = [
        run.folder.display().to_string(),
        task.label.clone(),
        method.label.clone(),
        setting.label.clone(),
        name.clone(),
        lr.to_string(),
        run.config.schedule.warmup_updates.to_string(),
        run.horizon.updates.to_string(),
        run.horizon.scheduled.to_string(),
        run.config.seed.to_string(),
        state(run).to_string(),
    ];
    let scores: Vec<String> = Metric::ALL.iter().map(|&metric| number(last.score(metric))).collect();
    let more = [
        last.step.to_string(),
        last.tokens.to_string(),
        last.seconds.to_string(),
        number(Some(run.step_seconds()).filter(|s| s.is_finite())),
        number(reached.map(|row| row.step as f64)),
        number(reached.map(|row| row.seconds)),
        run.peak_memory_bytes.to_string(),
        run.skipped_updates.to_string(),
    ];
    let symptoms = Symptom::ALL.map(|symptom| number(last.symptoms().get(symptom)));
    let ranks = ranks::NAMES.map(|rank| number(last.by_rank().find(|&(name, _)| name == rank).map(|(_, nll)| nll)));
    first.into_iter().chain(scores).chain(more).chain(symptoms).chain(ranks)
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let quoted = cells.map(|cell| match cell.contains(['"', ',', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    });
    quoted.collect::<Vec<_>>().join(",") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::super::task::{sort, tests::*};
    use super::*;

    #[test]
    fn one_row_a_run_with_every_column() {
        let tasks = sort(sweep(), &options()).unwrap_or_else(|e| panic!("{e}"));
        let text = csv(&Report::new(Metric::Nll, tasks, Vec::new()));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 12);
        assert!(lines[0].starts_with("run,task,method,setting,optimizer.name,optimizer.lr"));
        // the label has a comma, so it is quoted
        assert!(lines[1].starts_with("Hessian2-1000-0.006-1,\"transformer 6+6, d_model"), "{}", lines[1]);
        assert!(lines[1].contains(",hessian2,lr=0.006,hessian2,0.006,4000,1000,true,1,finished,2.32,"), "{}", lines[1]);
    }
}
