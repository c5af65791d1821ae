//! What the run tells while it goes: the pre-flight table, the live line, rows of metrics, the last screen.

use std::time::Instant;

use anyhow::Result;

use crate::events::{AveragePoint, End, Event, Progress, TrainPoint};
use crate::machine::peak_memory_bytes_of;
use crate::run::{Ledger, StopReason, Sums, UpdateStats};
use crate::shell;

use super::distance;
use super::finished;
use super::preflight::{self, Facts};
use super::ranks;
use super::trainer::Trainer;
use super::trial;
use super::validator::Evaluation;
use super::warnings::warnings;

/// The live line's own memory; not part of the state of training.
pub(super) struct Pace {
    /// Updates in the whole run as far as limits tell; 0 = unknown.
    pub(super) total_updates: u64,
    started: Instant,
    first_step: u64,
    loss: Option<f64>,
    tokens_per_second: Option<f64>,
}

/// Weight of the newest update in the smoothed numbers of the live line.
const SMOOTHING: f64 = 0.05;

impl Pace {
    pub(super) fn new(first_step: u64, total_updates: u64) -> Self {
        Pace { total_updates, started: Instant::now(), first_step, loss: None, tokens_per_second: None }
    }

    fn smooth(old: Option<f64>, new: f64) -> Option<f64> {
        Some(old.map_or(new, |old| old + SMOOTHING * (new - old)))
    }
}

impl Trainer {
    /// The pre-flight table, and what seems wrong.
    pub(super) fn announce(&mut self, ledger: &Ledger) -> Result<()> {
        let epoch = self.resources.epoch(ledger.epoch);
        let batches = epoch.len() as u64;
        let updates_per_epoch = batches.div_ceil(self.rules.accumulation);
        self.pace.total_updates = self.rules.total_updates(updates_per_epoch);
        let start = preflight::start(&Facts {
            config: &self.config,
            resources: &self.resources,
            model: self.model.as_ref(),
            optimizer: self.optimizer.describe(),
            begins: self.begins.as_deref(),
            pretrained: &self.pretrained,
            updates_per_epoch,
            total_updates: self.pace.total_updates,
            speed_of_bf16: trial::speed_of_bf16(&self.config, &self.resources, self.model.as_ref(), &epoch)?,
            threads: self.threads,
            world: &self.world,
            mates: &self.mates,
            run: self.record.paths().root(),
            step: ledger.step,
        });
        self.record.emit(&Event::Start(start));
        for warning in ranks::warnings(&self.world, &self.mates) {
            self.record.warn(ledger.step, warning);
        }
        // a resumed run told them when it began
        if ledger.step == 0 {
            for warning in warnings(&self.config, &self.resources, &self.pretrained, self.pace.total_updates) {
                self.record.warn(0, warning);
            }
        }
        Ok(())
    }

    /// The live line.
    pub(super) fn emit_progress(&mut self, ledger: &Ledger, stats: &UpdateStats) {
        let loss = stats.loss / stats.tokens as f64;
        self.pace.loss = Pace::smooth(self.pace.loss, loss);
        let tokens_per_second = stats.tokens as f64 / stats.seconds;
        self.pace.tokens_per_second = Pace::smooth(self.pace.tokens_per_second, tokens_per_second);
        let total = self.pace.total_updates;
        let done = ledger.step.saturating_sub(self.pace.first_step);
        let each = self.pace.started.elapsed().as_secs_f64() / done.max(1) as f64;
        self.record.emit(&Event::Progress(Progress {
            step: ledger.step,
            max_updates: total,
            epoch: ledger.epoch,
            loss: self.pace.loss.unwrap_or(loss),
            lr: stats.lr,
            grad_norm: stats.grad_norm,
            tokens_per_second: self.pace.tokens_per_second.unwrap_or(0.0),
            ranks: self.world.size(),
            eta: (total > 0).then(|| each * total.saturating_sub(ledger.step) as f64),
        }));
    }

    /// A `train` row: means since the last one.
    pub(super) fn emit_train_point(&mut self, ledger: &mut Ledger, lr: f64) {
        let sums = ledger.logged();
        let Sums { updates, tokens, .. } = sums;
        let exchanging = std::mem::take(&mut self.exchanging);
        let communication = (!self.world.is_alone()).then(|| exchanging / sums.seconds.max(1e-9));
        let (updates, target_tokens) = (updates.max(1) as f64, tokens.max(1) as f64);
        self.record.emit(&Event::Train(TrainPoint {
            step: ledger.step,
            epoch: ledger.epoch,
            tokens: ledger.tokens,
            seconds: ledger.seconds,
            loss: sums.loss / target_tokens,
            nll: sums.nll / target_tokens,
            r_drop_kl: (sums.r_drop_tokens > 0).then(|| sums.r_drop_kl / sums.r_drop_tokens as f64),
            lr,
            grad_norm: sums.grad_norm / updates,
            clipped: sums.clipped as f64 / updates,
            skipped_updates: ledger.skipped_updates,
            tokens_per_second: target_tokens / sums.seconds.max(1e-9),
            source_tokens_per_second: sums.source_tokens as f64 / sums.seconds.max(1e-9),
            communication,
            peak_memory_bytes: peak_memory_bytes_of(self.params.device()),
            optimizer: self.optimizer.health(),
            embedding: distance::columns(&sums, &ledger.distance.latest),
        }));
    }

    /// The health of the optimizer for warnings: " (optimizer: update_rms 0.98, resets 0)", or nothing.
    pub(super) fn health(&self) -> String {
        let numbers: Vec<String> =
            self.optimizer.health().into_iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        if numbers.is_empty() {
            return String::new();
        }
        format!(" (optimizer: {})", numbers.join(", "))
    }

    /// The last screen.
    pub(super) fn last_screen(
        &self,
        ledger: &Ledger,
        stop: StopReason,
        average: Option<Box<AveragePoint>>,
        test: Option<&Evaluation>,
    ) -> End {
        let paths = self.record.paths();
        let best = ledger.best();
        let signed = |(metric, signature): &(_, String)| {
            test.and_then(|test| test.scores.get(*metric)).map(|score| (*metric, score, signature.clone()))
        };
        let signatures = test.map_or(&[][..], |test| &test.signatures);
        let (resume_command, next_commands) = self.commands(ledger, stop);
        let mut files =
            vec![("metrics".to_string(), paths.metrics()), ("checkpoints".to_string(), paths.checkpoints())];
        if test.is_some() {
            files.push(("test translations".to_string(), paths.translations("test")));
        }
        End {
            run: paths.root().to_path_buf(),
            step: ledger.step,
            stop_reason: stop.name().to_string(),
            best_step: best.map(|best| best.step),
            best: best.map(|best| *best.scores()).unwrap_or_default(),
            latest: ledger.scored.last().map(|latest| *latest.scores()).unwrap_or_default(),
            average,
            test: signatures.iter().filter_map(signed).collect(),
            seconds: ledger.seconds,
            seconds_valid: ledger.seconds_valid,
            seconds_save: ledger.seconds_save,
            tokens: ledger.tokens,
            tokens_per_second: ledger.tokens as f64 / ledger.seconds.max(1e-9),
            peak_memory_bytes: peak_memory_bytes_of(self.params.device()),
            resume_command,
            next_commands,
            files,
        }
    }

    /// What goes on with the run if it is not finished, and what else is worth typing.
    fn commands(&self, ledger: &Ledger, stop: StopReason) -> (Option<String>, Vec<String>) {
        let run = shell::path(self.record.paths().root());
        // What diverged once diverges again at the same rate.
        let calmer = format!("--set optimizer.lr={:.1e}", self.config.optimizer.lr / 10.0);
        let translate = format!("nmt-train translate {run}");
        match stop {
            stop if stop.is_finished() => {
                (None, finished::next_commands(self.record.paths(), stop, &self.config, ledger))
            }
            StopReason::Diverged if ledger.saved_at().is_some() => {
                (Some(format!("nmt-train --resume {run} {calmer}")), vec![translate])
            }
            StopReason::Diverged => {
                let config = shell::path(&self.record.paths().config());
                (None, vec![format!("nmt-train --config {config} --force {calmer}")])
            }
            _ => (Some(format!("nmt-train --resume {run}")), vec![translate]),
        }
    }
}
