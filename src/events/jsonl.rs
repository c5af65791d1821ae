//! `metrics.jsonl`: one JSON object a line, `event` = `start | train | valid | checkpoint | average | end`.
//!
//! Numbers are written so that reading gives the same bits; what does not apply is left out; NaN and infinities, which
//! JSON does not have, are `null`. A run that goes on from a checkpoint, resumed or rolled back, first cuts the
//! file to the length stored there, so no update appears twice.

use serde_json::{Map, Value};
use std::path::Path;

use super::{AveragePoint, End, Event, Hypotheses, TrainPoint, ValidPoint};
use crate::fsio::{self, AppendLog};
use crate::scores::{Metric, Scores};

/// Writes `metrics.jsonl`; every line has reached the system when [`Jsonl::write`] returns.
pub struct Jsonl {
    log: AppendLog,
}

impl Jsonl {
    /// Opens the file, keeping its first `keep_bytes` bytes (a resumed run) or none of it (`None`, a new run).
    ///
    /// # Errors
    /// When the file can not be opened or cut.
    pub fn open(path: &Path, keep_bytes: Option<u64>) -> fsio::Result<Self> {
        Ok(Jsonl { log: AppendLog::open(path, keep_bytes.unwrap_or(0))? })
    }

    /// Adds the row of an event that has one.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn write(&mut self, event: &Event) -> fsio::Result<()> {
        let Some(row) = row(event) else { return Ok(()) };
        self.log.append(&Value::Object(row).to_string())
    }

    /// Forgets what came after the first `bytes`: the run returned to where it was then.
    ///
    /// # Errors
    /// When the file can not be cut.
    pub fn cut(&mut self, bytes: u64) -> fsio::Result<()> {
        self.log.cut(bytes)
    }

    /// Waits until all rows are on the disk.
    ///
    /// # Errors
    /// When the disk reports one.
    pub fn sync(&self) -> fsio::Result<()> {
        self.log.sync()
    }

    /// Length of the file so far, for the checkpoint.
    pub fn bytes_written(&self) -> u64 {
        self.log.len()
    }
}

/// The object that `--final-json` prints: the keys are always the same ones, `null` where there is no value.
pub fn final_json(end: &End) -> Map<String, Value> {
    let of_best = Metric::ALL.iter().map(|&metric| (format!("best_{}", metric.name()), end.best.get(metric).into()));
    let average = end.average.as_ref();
    let of_average = Metric::ALL.iter().map(|&metric| {
        (format!("average_{}", metric.name()), average.and_then(|average| average.scores.get(metric)).into())
    });
    let of_test = Metric::of_text().flat_map(|metric| {
        let found = end.test.iter().find(|(tested, ..)| *tested == metric);
        let (score, signature) = found.map(|(_, score, signature)| (*score, signature.as_str())).unzip();
        let name = format!("test_{}", metric.name());
        [(format!("{name}_signature"), signature.into()), (name, score.into())]
    });
    let fields: [(&str, Value); 14] = [
        ("run", end.run.to_string_lossy().into()),
        ("step", end.step.into()),
        ("stop_reason", end.stop_reason.as_str().into()),
        ("best_step", end.best_step.into()),
        ("average_steps", average.map(|average| average.steps.clone()).into()),
        ("average_is_best", average.map(|average| average.is_best).into()),
        ("seconds", end.seconds.into()),
        ("seconds_valid", end.seconds_valid.into()),
        ("seconds_save", end.seconds_save.into()),
        ("tokens", end.tokens.into()),
        ("tokens_per_second", end.tokens_per_second.into()),
        ("peak_memory_bytes", end.peak_memory_bytes.into()),
        ("resume_command", end.resume_command.clone().into()),
        ("next_commands", end.next_commands.clone().into()),
    ];
    let fields = fields.into_iter().map(|(key, value)| (key.to_string(), value));
    fields.chain(of_best).chain(of_average).chain(of_test).collect()
}

fn row(event: &Event) -> Option<Map<String, Value>> {
    let mut row = Map::new();
    match event {
        Event::Start(start) => {
            put(&mut row, "event", "start");
            put(&mut row, "step", start.step);
            row.extend(start.facts.clone());
        }
        Event::Train(point) => train_row(&mut row, point),
        Event::Valid(point) => valid_row(&mut row, point),
        Event::Average(point) => average_row(&mut row, point),
        Event::Checkpoint { step, path, seconds_save } => {
            put(&mut row, "event", "checkpoint");
            put(&mut row, "step", *step);
            put(&mut row, "path", path.to_string_lossy());
            put(&mut row, "seconds_save", *seconds_save);
        }
        Event::End(end) => {
            put(&mut row, "event", "end");
            let optional = ["best_", "average_", "test_", "resume_"];
            row.extend(final_json(end).into_iter().filter(|(key, value)| {
                key != "next_commands" && !(value.is_null() && optional.iter().any(|prefix| key.starts_with(prefix)))
            }));
        }
        Event::Progress(_) | Event::Phase { .. } | Event::Returned { .. } | Event::Warning { .. } | Event::Note(_) => {
            return None
        }
    }
    Some(row)
}

fn train_row(row: &mut Map<String, Value>, point: &TrainPoint) {
    put(row, "event", "train");
    put(row, "step", point.step);
    put(row, "epoch", point.epoch);
    put(row, "tokens", point.tokens);
    put(row, "seconds", point.seconds);
    put(row, "loss", point.loss);
    put(row, "nll", point.nll);
    put(row, "ppl", point.nll.exp());
    if let Some(kl) = point.r_drop_kl {
        put(row, "r_drop_kl", kl);
    }
    put(row, "lr", point.lr);
    put(row, "grad_norm", point.grad_norm);
    put(row, "clipped", point.clipped);
    put(row, "skipped_updates", point.skipped_updates);
    put(row, "tokens_per_second", point.tokens_per_second);
    put(row, "source_tokens_per_second", point.source_tokens_per_second);
    if let Some(share) = point.communication {
        put(row, "communication", share);
    }
    put(row, "peak_memory_bytes", point.peak_memory_bytes);
    for (name, value) in &point.optimizer {
        put(row, &format!("optimizer.{name}"), *value);
    }
    for (name, value) in &point.embedding {
        put(row, &format!("embedding.{name}"), *value);
    }
}

fn valid_row(row: &mut Map<String, Value>, point: &ValidPoint) {
    put(row, "event", "valid");
    put(row, "step", point.step);
    put(row, "epoch", point.epoch);
    put(row, "tokens", point.tokens);
    put(row, "seconds", point.seconds);
    put(row, "seconds_valid", point.seconds_valid);
    judged(row, &point.scores, point.improvement, point.is_best, point.early_stopping_metric);
    hypotheses(row, &point.hypotheses);
    for (rank, nll) in point.by_rank.iter() {
        put(row, &format!("nll_by_rank.{rank}"), nll);
    }
}

fn average_row(row: &mut Map<String, Value>, point: &AveragePoint) {
    put(row, "event", "average");
    put(row, "step", point.step);
    put(row, "steps", point.steps.clone());
    put(row, "seconds_valid", point.seconds_valid);
    judged(row, &point.scores, point.improvement, point.is_best, point.early_stopping_metric);
    hypotheses(row, &point.hypotheses);
}

fn hypotheses(row: &mut Map<String, Value>, found: &Hypotheses) {
    for (symptom, value) in found.symptoms.iter() {
        put(row, &format!("hypotheses.{}", symptom.name()), value);
    }
}

/// What a validation found and what that means.
fn judged(
    row: &mut Map<String, Value>,
    scores: &Scores,
    improvement: Option<f64>,
    is_best: bool,
    early_stopping_metric: Option<Metric>,
) {
    for (metric, score) in scores.iter() {
        put(row, metric.name(), score);
        if metric == Metric::Nll {
            put(row, "ppl", score.exp());
        }
    }
    if let Some(improvement) = improvement {
        put(row, "improvement", improvement);
    }
    put(row, "is_best", is_best);
    put(row, "early_stopping_metric", early_stopping_metric.map(Metric::name));
}

fn put(row: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    row.insert(key.to_string(), value.into());
}

#[cfg(test)]
mod tests {
    use super::super::Start;
    use super::*;
    use std::path::PathBuf;

    fn train(step: u64) -> Event {
        let optimizer = vec![("pairs".to_string(), 2.0)];
        let embedding = vec![("distance".to_string(), 0.5)];
        Event::Train(TrainPoint { step, loss: 0.1 + 0.2, lr: 5e-324, optimizer, embedding, ..TrainPoint::default() })
    }

    fn rows(path: &Path) -> std::io::Result<Vec<Value>> {
        std::fs::read_to_string(path)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    #[test]
    fn numbers_come_back_with_the_same_bits() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        Jsonl::open(&path, None)?.write(&train(3))?;
        let row = &rows(&path)?[0];
        assert_eq!(row["event"], "train");
        assert_eq!(row["loss"].as_f64(), Some(0.1 + 0.2));
        assert_eq!(row["lr"].as_f64(), Some(5e-324));
        assert_eq!((&row["optimizer.pairs"], &row["embedding.distance"]), (&2.0.into(), &0.5.into()));
        Ok(())
    }

    #[test]
    fn a_resumed_run_continues_at_the_checkpoints_length() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        let mut sink = Jsonl::open(&path, None)?;
        sink.write(&train(1))?;
        let at_checkpoint = sink.bytes_written();
        sink.write(&train(2))?;
        assert_eq!(sink.bytes_written(), std::fs::metadata(&path)?.len());
        drop(sink);
        let mut sink = Jsonl::open(&path, Some(at_checkpoint))?;
        sink.write(&train(9))?;
        assert_eq!(sink.bytes_written(), std::fs::metadata(&path)?.len());
        let steps: Vec<_> = rows(&path)?.iter().map(|row| row["step"].as_u64()).collect();
        assert_eq!(steps, [Some(1), Some(9)]);
        drop(sink);
        assert_eq!(Jsonl::open(&path, Some(1 << 40))?.bytes_written(), std::fs::metadata(&path)?.len());
        assert_eq!(Jsonl::open(&path, None)?.bytes_written(), 0);
        Ok(())
    }

    #[test]
    fn what_does_not_apply_is_left_out_and_progress_is_not_written() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        let mut sink = Jsonl::open(&path, None)?;
        let mut facts = Map::new();
        put(&mut facts, "parameters", 10);
        sink.write(&Event::Start(Start { facts, step: 4, ..Start::default() }))?;
        sink.write(&Event::Note("for people".into()))?;
        sink.write(&Event::Valid(ValidPoint {
            scores: [(Metric::Bleu, 1.5)].into_iter().collect(),
            early_stopping_metric: Some(Metric::Bleu),
            ..Default::default()
        }))?;
        sink.write(&Event::Checkpoint { step: 5, path: PathBuf::from("runs/a"), seconds_save: 0.5 })?;
        let end =
            End { best: [(Metric::Nll, 2.0)].into_iter().collect(), tokens_per_second: f64::NAN, ..End::default() };
        sink.write(&Event::End(end.clone()))?;
        let rows = rows(&path)?;
        let events: Vec<_> = rows.iter().map(|row| row["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["start", "valid", "checkpoint", "end"]);
        assert_eq!((&rows[0]["parameters"], &rows[0]["step"]), (&10.into(), &4.into()));
        assert_eq!((rows[1].get("nll"), rows[1].get("bleu")), (None, Some(&1.5.into())));
        assert_eq!((rows[3].get("best_step"), rows[3].get("best_nll")), (None, Some(&2.0.into())));
        assert_eq!(rows[3]["tokens_per_second"], Value::Null);
        assert!(final_json(&end).contains_key("resume_command"));
        Ok(())
    }
}
