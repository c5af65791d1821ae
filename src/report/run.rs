//! One run, read from its folder.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{self, Config, ScheduleKind};

use crate::ranks;
use crate::run::rows::{self, Row};
use crate::run::Paths;
use crate::scores::{Metric, Scores};
use crate::symptoms::{Progress, Symptom, Symptoms};

/// A run as its config.toml and metrics.jsonl tell it.
#[derive(Clone, Debug)]
pub struct Run {
    pub folder: PathBuf,
    pub config: Config,
    pub horizon: Horizon,
    pub state: RunState,
    /// Trainable numbers of the model.
    pub parameters: u64,
    /// Threads it ran with.
    pub threads: u64,
    /// Precision and instructions, or the GPU, that it began with; runs of before 0.2 do not say.
    pub computed_by: Option<String>,
    pub train: Vec<TrainRow>,
    pub valid: Vec<ValidRow>,
    /// Updates whose gradient was not finite.
    pub skipped_updates: u64,
    pub peak_memory_bytes: u64,
    /// Of the test set.
    pub test: Scores,
    /// The mean of the last validations' weights, where one was made.
    pub average: Option<Average>,
    /// What the references of the validation set look like, and how many there are; runs of before 0.2 do not say.
    pub references: (Symptoms, usize),
}

/// A row `event = "average"`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Average {
    /// The updates whose weights it is of.
    pub steps: Vec<u64>,
    /// Whether it was better than every checkpoint.
    pub is_best: bool,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Average {
    /// The value of a score, if it was measured.
    pub fn score(&self, score: Metric) -> Option<f64> {
        self.others.get(score.name())?.as_f64()
    }
}

/// How far a run was meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Horizon {
    /// Updates at which the schedule, or else the run, ends.
    pub updates: u64,
    /// Whether the learning rate depends on the horizon: then no value before the end is comparable.
    pub scheduled: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// At its horizon, or by early stopping.
    Finished,
    /// Training was given up; counts as an infinite loss.
    Diverged,
    /// Running, interrupted, or ended before its schedule did: in no comparison.
    Unfinished,
}

/// A row `event = "train"`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TrainRow {
    pub step: u64,
    pub tokens: u64,
    pub seconds: f64,
    pub nll: Option<f64>,
    #[serde(default)]
    pub skipped_updates: u64,
    #[serde(default)]
    pub peak_memory_bytes: u64,
    /// The other columns, `embedding.*` and `optimizer.*` among them.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A row `event = "valid"`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ValidRow {
    pub step: u64,
    pub tokens: u64,
    pub seconds: f64,
    /// The other columns, a score under the name of each metric among them.
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl ValidRow {
    /// The value of a score here, if it was measured.
    pub fn score(&self, score: Metric) -> Option<f64> {
        self.others.get(score.name())?.as_f64()
    }

    /// The NLL by frequency of the token: name and value of each bin.
    pub fn by_rank(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let value = |rank: &str| self.others.get(&format!("nll_by_rank.{rank}"))?.as_f64();
        ranks::NAMES.into_iter().filter_map(move |rank| Some((rank, value(rank)?)))
    }

    /// What the translations looked like.
    pub fn symptoms(&self) -> Symptoms {
        symptoms(&self.others, "hypotheses")
    }
}

/// The columns of a row behind a prefix.
fn symptoms(row: &Row, prefix: &str) -> Symptoms {
    let value = |symptom: Symptom| row.get(&format!("{prefix}.{}", symptom.name()))?.as_f64();
    Symptom::ALL.into_iter().filter_map(|symptom| Some((symptom, value(symptom)?))).collect()
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// What is wrong with config.toml or metrics.jsonl, naming the line; a method that this version does not know.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let paths = Paths::of(folder);
        if !paths.config().exists() {
            return Err("no config.toml: it failed before it began; see its sweep.log".to_string());
        }
        let loaded = config::load_recorded(&paths.config(), &[]).map_err(|e| e.to_string())?;
        if let Some(gone) = loaded.removed.first() {
            return Err(gone.to_string());
        }
        if loaded.config.is_imported() {
            return Err("it holds a model that was imported, not a training".to_string());
        }
        if !paths.metrics().exists() {
            return Err("no metrics.jsonl: it never started".to_string());
        }
        Self::from_rows(folder, loaded.config, rows::read(&paths.metrics())?)
    }

    fn from_rows(folder: &Path, config: Config, all: Vec<Row>) -> Result<Self, String> {
        let (mut start, mut end, mut average) = (None, None, None);
        let (mut train, mut valid) = (Vec::<TrainRow>::new(), Vec::<ValidRow>::new());
        for row in rows::that_hold(all) {
            let (kind, step) = (rows::event(&row).to_string(), rows::step(&row).unwrap_or(0));
            let damaged = |e: serde_json::Error| format!("metrics.jsonl: the row {kind} of update {step}: {e}");
            match kind.as_str() {
                "start" => start = Some(row),
                "train" => train.push(serde_json::from_value(row.into()).map_err(damaged)?),
                "valid" => valid.push(serde_json::from_value(row.into()).map_err(damaged)?),
                "average" => average = Some(serde_json::from_value(row.into()).map_err(damaged)?),
                "end" => end = Some(row),
                _ => {}
            }
        }
        let start = start.ok_or("metrics.jsonl has no row \"start\": it never started")?;
        let step = train.iter().map(|row| row.step).chain(valid.iter().map(|row| row.step)).max().unwrap_or(0);
        let number = |row: &Row, key: &str| row.get(key).and_then(Value::as_u64);
        let total = number(&start, "total_updates").unwrap_or(0);
        let horizon = Horizon::of(&config, total, step);
        let last = train.last();
        let ended = |key: &str| end.as_ref().and_then(|end| end.get(key)?.as_f64());
        Ok(Run {
            folder: folder.to_path_buf(),
            state: RunState::of(end.as_ref().and_then(|end| end.get("stop_reason")?.as_str()), horizon, step),
            horizon,
            parameters: number(&start, "parameters").unwrap_or(0),
            threads: number(&start, "threads").unwrap_or(0),
            computed_by: start.get("computed_by").and_then(Value::as_str).map(str::to_string),
            skipped_updates: last.map_or(0, |row| row.skipped_updates),
            peak_memory_bytes: last.map_or(0, |row| row.peak_memory_bytes),
            test: Metric::of_text()
                .filter_map(|metric| Some((metric, ended(&format!("test_{}", metric.name()))?)))
                .collect(),
            // of the last end; a run that went on since has none
            average: average.filter(|_| end.is_some()),
            references: (symptoms(&start, "references"), number(&start, "references").unwrap_or(0) as usize),
            config,
            train,
            valid,
        })
    }

    /// The folder's own name.
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or(self.folder.as_os_str()).to_string_lossy().into_owned()
    }

    /// What says that the translations of the last validation went wrong, each with a sentence.
    pub fn faults(&self) -> Vec<(Symptom, String)> {
        let (of_references, sentences) = &self.references;
        let warmup_updates = self.config.schedule.warmup_updates;
        let Some(last) = self.valid.last() else { return Vec::new() };
        let at = Progress { step: last.step, warmup_updates, has_ended: self.state != RunState::Unfinished };
        last.symptoms().faults(of_references, *sentences, at)
    }

    /// The score at the end as a cost (lower is better); infinite when the run diverged, `None` when it is not finished
    /// or was not measured.
    pub fn cost(&self, score: Metric) -> Option<f64> {
        match self.state {
            RunState::Diverged => Some(f64::INFINITY),
            RunState::Unfinished => None,
            RunState::Finished => self.valid.last().and_then(|row| row.score(score)).map(|value| score.cost(value)),
        }
    }

    /// Median seconds of an update over the run's rows: robust against a disturbance that passes; the mean of a run too
    /// short for that, NaN of one without rows. Validation and saving are not in it.
    pub fn step_seconds(&self) -> f64 {
        let rows = self.train.iter().zip(self.train.iter().skip(1));
        let median =
            super::numbers::median(rows.map(|(a, b)| (b.seconds - a.seconds) / (b.step - a.step).max(1) as f64));
        match self.valid.last() {
            Some(last) if median.is_nan() => last.seconds / last.step.max(1) as f64,
            _ => median,
        }
    }

    /// First row at which the score has reached `cost` and has it at the next validation too (or is the last).
    pub fn reached(&self, score: Metric, cost: f64) -> Option<&ValidRow> {
        let there = |row: &ValidRow| row.score(score).is_some_and(|value| score.cost(value) <= cost);
        (0..self.valid.len())
            .find(|&i| there(&self.valid[i]) && self.valid.get(i + 1).is_none_or(there))
            .map(|i| &self.valid[i])
    }
}

impl Horizon {
    fn of(config: &Config, total: u64, step: u64) -> Self {
        let scheduled = matches!(config.schedule.kind, ScheduleKind::Cosine | ScheduleKind::Linear);
        let of_schedule = if scheduled { config.schedule.total_updates } else { 0 };
        let updates = [of_schedule, total, step].into_iter().find(|&updates| updates > 0).unwrap_or(0);
        Horizon { updates, scheduled }
    }
}

impl RunState {
    fn of(stop_reason: Option<&str>, horizon: Horizon, step: u64) -> Self {
        match stop_reason {
            Some("diverged") => RunState::Diverged,
            // ended by a limit before its learning rate did
            Some("max_updates" | "max_epochs") if horizon.scheduled && step < horizon.updates => RunState::Unfinished,
            Some("max_updates" | "max_epochs" | "early_stopping") => RunState::Finished,
            _ => RunState::Unfinished,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of `horizon` updates whose validation NLL falls linearly to `last`, `seconds` an update.
    pub(in crate::report) fn made(name: &str, change: impl FnOnce(&mut Config), last: f64, seconds: f64) -> Run {
        let mut config = Config { seed: 1, ..Config::default() };
        config.schedule.kind = ScheduleKind::Cosine;
        config.train.max_updates = 1000;
        change(&mut config);
        let horizon = config.train.max_updates;
        let rows = (1..=10).flat_map(|i| {
            let (step, nll) = (horizon * i / 10, last + 0.5 * (10 - i) as f64);
            let common = format!(r#""step":{step},"tokens":{},"seconds":{}"#, step * 2000, step as f64 * seconds);
            [
                format!(
                    r#"{{"event":"train",{common},"nll":{nll},"peak_memory_bytes":1048576,"optimizer.resets":0.0}}"#
                ),
                format!(
                    r#"{{"event":"valid",{common},"nll":{nll},"bleu":{},"nll_by_rank.30":{},"nll_by_rank.more":{}}}"#,
                    40.0 - nll,
                    nll / 2.0,
                    2.0 * nll
                ),
            ]
        });
        let machine = r#""threads":1,"computed_by":"cpu, f32, AVX-512""#;
        let start = format!(r#"{{"event":"start","step":0,"parameters":1437696,"total_updates":{horizon},{machine}}}"#);
        let reason = if last.is_finite() { "max_updates" } else { "diverged" };
        let end = format!(r#"{{"event":"end","step":{horizon},"stop_reason":"{reason}"}}"#);
        let text: Vec<String> = match last.is_finite() {
            true => std::iter::once(start).chain(rows).chain([end]).collect(),
            false => vec![start, end],
        };
        rows::parse(&text.join("\n"))
            .and_then(|rows| Run::from_rows(Path::new(name), config, rows))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_run_is_read_with_its_horizon_and_its_end() {
        let run = made("runs/a", |_| {}, 2.0, 0.5);
        assert_eq!((run.name(), run.state), ("a".to_string(), RunState::Finished));
        assert_eq!(run.horizon, Horizon { updates: 1000, scheduled: true });
        assert_eq!(run.cost(Metric::Nll), Some(2.0));
        assert_eq!(run.cost(Metric::Bleu), Some(-38.0));
        assert_eq!(run.cost(Metric::Chrf), None);
        assert!((run.step_seconds() - 0.5).abs() < 1e-9);
        assert_eq!(run.peak_memory_bytes, 1 << 20);
        let short = Run { train: Vec::new(), ..run.clone() };
        assert!((short.step_seconds() - 0.5).abs() < 1e-9);
        assert_eq!(run.reached(Metric::Nll, 2.6).map(|row| row.step), Some(900));
        assert!(run.reached(Metric::Nll, 1.9).is_none());
        assert_eq!(made("d", |_| {}, f64::INFINITY, 0.5).cost(Metric::Nll), Some(f64::INFINITY));
    }

    #[test]
    fn a_run_that_ends_before_its_schedule_is_in_no_comparison() {
        let run = made("a", |config| config.schedule.total_updates = 4000, 2.0, 0.5);
        assert_eq!((run.state, run.horizon.updates, run.cost(Metric::Nll)), (RunState::Unfinished, 4000, None));
        let run = made("a", |config| config.schedule.kind = ScheduleKind::Constant, 2.0, 0.5);
        assert_eq!((run.state, run.horizon.scheduled), (RunState::Finished, false));
    }

    #[test]
    fn a_run_that_diverged_after_roll_backs_counts_as_infinite_and_no_step_is_told_twice() {
        let lines = [
            r#"{"event":"start","step":0,"total_updates":90}"#,
            r#"{"event":"train","step":10,"tokens":1,"seconds":1.0}"#,
            r#"{"event":"train","step":20,"tokens":2,"seconds":2.0}"#,
            r#"{"event":"train","step":10,"tokens":1,"seconds":3.0}"#,
            r#"{"event":"end","step":15,"stop_reason":"diverged"}"#,
        ];
        let read = |lines: &[&str]| {
            let rows = rows::parse(&lines.join("\n")).unwrap();
            Run::from_rows(Path::new("a"), Config::default(), rows)
        };
        let run = read(&lines).unwrap();
        assert_eq!((run.state, run.train.len(), run.cost(Metric::Nll)), (RunState::Diverged, 1, Some(f64::INFINITY)));
        assert!(run.step_seconds().is_nan());
        assert_eq!(read(&lines[..3]).unwrap().state, RunState::Unfinished);
        assert!(read(&[]).is_err_and(|e| e.contains("never started")));
    }
}
