//! The report as text for a terminal.

use unicode_width::UnicodeWidthStr;

use crate::units;

use super::method::{Method, Setting};
use super::numbers::shown;
use super::relative::{Comparison, Ratio, Relative};
use super::run::{Run, RunState};
use super::task::Task;
use super::{Reach, Report};
use crate::scores::Metric;

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for family in &report.families {
        out.push_str(&format!("{}\n{}\n\n{}\n", family.label, family.lead(), columns(&family.table())));
    }
    for task in &report.tasks {
        out.push_str(&format!("{}\n\n", task.label));
        // a terminal has no room for the tokens; the page and the files have them
        let mut rows = table(task, report.score);
        rows.iter_mut().for_each(|row| drop(row.remove(TOKENS)));
        out.push_str(&columns(&rows));
        if let Some(comparison) = &task.comparison {
            out.push('\n');
            for line in sentences(comparison, report.score) {
                out.push_str(&format!("{line}\n"));
            }
        }
        let rates = rates(task, report.score);
        if !rates.is_empty() {
            out.push_str(&format!("\nFinal {} by learning rate\n\n", report.score.label()));
            out.push_str(&columns(&rates));
        }
        if !task.notes.is_empty() {
            out.push_str("\nMind\n");
            out.extend(task.notes.iter().map(|note| format!("  - {note}\n")));
        }
        out.push('\n');
    }
    if !report.left_out.is_empty() {
        out.push_str("Left out\n");
        out.extend(report.left_out.iter().map(|reason| format!("  - {reason}\n")));
        out.push('\n');
    }
    out
}

/// Column of the target's tokens in [`table`].
const TOKENS: usize = 6;

/// Rows of the table of settings, the heading first.
pub(super) fn table(task: &Task, score: Metric) -> Vec<Vec<String>> {
    let heading = [
        score.label(),
        "method",
        "setting",
        "horizon",
        "seeds",
        "to target",
        "tokens",
        "time",
        "s/update",
        "memory",
        "remarks",
    ];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for (method, setting) in task.settings() {
        let first = |value: fn(&Run) -> f64| super::numbers::median(setting.runs.iter().map(value));
        let goal = task.target.map(|target| score.cost(target));
        let [updates, tokens, time] = to_target(setting, score, goal);
        rows.push(vec![
            final_score(setting, score),
            method.label.clone(),
            setting.label.clone(),
            setting.horizon.updates.to_string(),
            setting.seeds().to_string(),
            updates,
            tokens,
            time,
            known(setting.step_seconds(), |seconds| format!("{seconds:.3}")),
            known(first(|run| run.peak_memory_bytes as f64), |bytes| units::bytes(bytes as u64)),
            remarks(setting, score),
        ]);
    }
    rows
}

/// A number that was measured, or "-".
pub(super) fn known(value: f64, show: impl Fn(f64) -> String) -> String {
    if value.is_finite() && value > 0.0 {
        show(value)
    } else {
        "-".to_string()
    }
}

fn final_score(setting: &Setting, score: Metric) -> String {
    let costs: Vec<f64> = setting.runs.iter().filter_map(|run| run.cost(score)).collect();
    match super::numbers::deviation(&costs) {
        _ if setting.cost.is_nan() => "-".to_string(),
        Some(spread) if spread.is_finite() => format!("{} ± {spread:.3}", shown(score, score.cost(setting.cost))),
        _ => shown(score, score.cost(setting.cost)),
    }
}

/// Updates, tokens, seconds at which the median run of the setting was at the target; "-" when most never were.
fn to_target(setting: &Setting, score: Metric, goal: Option<f64>) -> [String; 3] {
    let never = || ["-", "-", "-"].map(String::from);
    let Some(goal) = goal else { return never() };
    let reached: Vec<_> = setting.runs.iter().filter_map(|run| run.reached(score, goal)).collect();
    if reached.len() * 2 <= setting.runs.len() {
        return never();
    }
    let middle =
        |value: &dyn Fn(&super::run::ValidRow) -> f64| super::numbers::median(reached.iter().map(|row| value(row)));
    [
        format!("{:.0}", middle(&|row| row.step as f64)),
        units::count(middle(&|row| row.tokens as f64) as u64),
        units::duration(middle(&|row| row.seconds)),
    ]
}

fn best_or_not(times: usize) -> String {
    if times > 0 { "the best" } else { "not the best" }.to_string()
}

fn remarks(setting: &Setting, score: Metric) -> String {
    let count = |state| setting.runs.iter().filter(|run| run.state == state).count();
    let skipped: u64 = setting.runs.iter().map(|run| run.skipped_updates).sum();
    let mut remarks = Vec::new();
    if count(RunState::Diverged) > 0 {
        remarks.push(format!("{} diverged", count(RunState::Diverged)));
    }
    if count(RunState::Unfinished) > 0 {
        remarks.push(format!("{} not finished", count(RunState::Unfinished)));
    }
    if skipped > 0 {
        remarks.push(format!("{skipped} updates skipped"));
    }
    let averages: Vec<_> = setting.runs.iter().filter_map(|run| run.average.as_ref()).collect();
    if let Some(average) = averages.first().filter(|average| average.score(score).is_some()) {
        let middle = super::numbers::median(averages.iter().filter_map(|average| average.score(score)));
        let better = averages.iter().filter(|average| average.is_best).count();
        let of =
            if averages.len() > 1 { format!("best in {better} of {}", averages.len()) } else { best_or_not(better) };
        remarks.push(format!("average of {}: {} {} ({of})", average.steps.len(), score.label(), shown(score, middle)));
    }
    let bleu: Vec<f64> = setting.runs.iter().filter_map(|run| run.test.get(Metric::Bleu)).collect();
    if !bleu.is_empty() {
        remarks.push(format!("test BLEU {:.2}", super::numbers::median(bleu)));
    }
    remarks.join(", ")
}

/// The comparison in sentences, the target first.
pub(super) fn sentences(comparison: &Comparison, score: Metric) -> Vec<String> {
    let Comparison { baseline, setting, horizon, target, given, .. } = comparison;
    let shown = format!("{} {}", score.label(), shown(score, *target));
    let seeds = comparison.seeds.len();
    let seeds = if seeds == 1 { "one seed".to_string() } else { format!("median of {seeds} seeds") };
    let mut lines = vec![match given {
        true => format!("Target: {shown}, as given; ratios are to {baseline}"),
        false => format!(
            "Target: {shown}, where {baseline} ({setting}) ends at its best horizon, {} updates ({seeds})",
            horizon.updates
        ),
    }];
    lines.extend(comparison.relatives.iter().filter(|r| r.method != *baseline).map(|r| sentence(r, comparison)));
    lines
}

fn sentence(relative: &Relative, comparison: &Comparison) -> String {
    let Relative { method, updates, seconds, step_time, horizons, tried, seeds, .. } = relative;
    let baseline = &comparison.baseline;
    let goal = if comparison.given { "the target".to_string() } else { format!("{baseline}'s final score") };
    let list: Vec<String> = horizons.iter().map(u64::to_string).collect();
    let (reached, within) = match updates.value {
        Reach::MoreThan(_) => ("did not reach", "within"),
        _ => ("reached", "in"),
    };
    let share = |found: &Ratio| match found.value {
        Reach::MoreThan(most) => format!("{most:.2}"),
        _ => ratio(found),
    };
    let step_time = match step_time.is_finite() {
        true => format!("; an update takes {step_time:.2} of the time"),
        false => String::new(),
    };
    let plural = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    format!(
        "  {method} {reached} {goal} {within} {} of its updates and {} of its time{step_time} ({}, horizons {}, {} tried)",
        share(updates),
        share(seconds),
        plural(*seeds, "seed"),
        list.join(" "),
        plural(*tried, "setting")
    )
}

/// "0.56 ± 0.02 [0.53, 0.58]"; the end is open where some seed had not arrived at its longest horizon.
pub(super) fn ratio(ratio: &Ratio) -> String {
    let spread = ratio.spread.map_or(String::new(), |spread| format!(" ± {spread:.2}"));
    let bound = |value: f64| if value.is_finite() { format!("{value:.2}") } else { "open".to_string() };
    let known = ratio.interval.filter(|(low, _)| low.is_finite());
    let interval = known.map_or(String::new(), |(low, high)| format!(" [{}, {}]", bound(low), bound(high)));
    format!("{}{spread}{interval}", ratio.value)
}

/// Final score by method and learning rate, a column a rate, for each horizon at which some method has several.
pub(super) fn rates(task: &Task, score: Metric) -> Vec<Vec<String>> {
    let swept = |method: &&Method| task.horizons().into_iter().any(|horizon| by_rate(method, horizon).len() > 1);
    let methods: Vec<&Method> = task.methods.iter().filter(swept).collect();
    let mut all: Vec<f64> = methods.iter().flat_map(|m| m.settings.iter().map(|s| s.lr)).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    if methods.is_empty() {
        return Vec::new();
    }
    let mut rows =
        vec![["method", "horizon"].map(String::from).into_iter().chain(all.iter().map(f64::to_string)).collect()];
    for method in methods {
        for horizon in method.horizons() {
            let found = by_rate(method, horizon);
            if found.len() < 2 {
                continue;
            }
            let cell = |rate: &f64| {
                let cost = found.iter().find(|(lr, _)| lr == rate).map(|(_, cost)| *cost);
                cost.map_or(String::new(), |cost| shown(score, score.cost(cost)))
            };
            rows.push(
                [method.label.clone(), horizon.updates.to_string()].into_iter().chain(all.iter().map(cell)).collect(),
            );
        }
    }
    rows
}

/// Learning rates of a method at a horizon, rising, each with the best final cost over its other numbers.
pub(super) fn by_rate(method: &Method, horizon: super::Horizon) -> Vec<(f64, f64)> {
    let mut found: Vec<(f64, f64)> = Vec::new();
    for setting in method.settings.iter().filter(|s| s.horizon == horizon && !s.cost.is_nan()) {
        match found.iter_mut().find(|(lr, _)| *lr == setting.lr) {
            Some((_, cost)) => *cost = cost.min(setting.cost),
            None => found.push((setting.lr, setting.cost)),
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found
}

/// Rows in columns; columns that are empty below the heading are dropped.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
    let kept: Vec<usize> = (0..count).filter(|&i| rows.iter().skip(1).any(|row| !cell(row, i).is_empty())).collect();
    let width = |i: usize| rows.iter().map(|row| cell(row, i).width()).max().unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        let cells = kept.iter().map(|&i| {
            let text = cell(row, i);
            let pad = " ".repeat(width(i) - text.width());
            format!("{text}{pad}")
        });
        let line: Vec<String> = cells.collect();
        out.push_str(&format!("  {}\n", line.join("  ").trim_end()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::task::{sort, tests::*};
    use super::*;

    fn report() -> Report {
        let tasks = sort(sweep(), &options()).unwrap_or_else(|e| panic!("{e}"));
        Report::new(Metric::Nll, tasks, vec!["runs/x: damaged".to_string()])
    }

    #[test]
    fn the_text_says_who_wins_and_what_to_mind() {
        let text = text(&report());
        for expected in [
            "NLL            method    setting   horizon  seeds  to target",
            "2.330 ± 0.014  hessian2  lr=0.006  1000     2      1000",
            "Target: NLL 2.530, where adam (lr=0.004) ends at its best horizon, 1000 updates (median of 2 seeds)",
            "hessian2 reached adam's final score in 0.63 ± 0.00 [0.63, 0.63] of its updates and 0.69 ± 0.00 [0.69, 0.69] of \
             its time; an update takes 1.10 of the time (2 seeds, horizons 250 500 1000, 3 settings tried)",
            "method  horizon  0.002  0.004\n",
            "adam    1000     2.730  2.530",
            "  - the runs have horizons of 250, 500, 1000 updates",
            "Left out\n  - runs/x: damaged",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
    }

    #[test]
    fn a_single_run_is_a_table_of_one_row() {
        let runs = sweep().into_iter().take(1).collect();
        let options = super::super::Options { baseline: Vec::new(), ..options() };
        let tasks = sort(runs, &options).unwrap_or_else(|e| panic!("{e}"));
        let text = text(&Report::new(Metric::Nll, tasks, Vec::new()));
        assert!(text.contains("3.020  adam    lr=0.004  500      1"), "{text}");
        assert!(!text.contains("by learning rate") && !text.contains("Target") && !text.contains("Mind"), "{text}");
    }
}
