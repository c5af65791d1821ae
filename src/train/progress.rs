//! What the run tells while it goes: the pre-flight table, the live line, rows of metrics, warnings, the last screen.

use std::time::Instant;

use crate::events::{End, Event, Progress, TrainPoint};

use super::evaluate::Scores;
use super::finished;
use super::machine::peak_memory_bytes_of;
use super::preflight::{self, Facts};
use super::session::Session;
use super::state::Sums;
use super::step::UpdateStats;
use super::stop::StopReason;
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
    pub(super) fn new(first_step: u64) -> Self {
        Pace { total_updates: 0, started: Instant::now(), first_step, loss: None, tokens_per_second: None }
    }

    fn smooth(old: Option<f64>, new: f64) -> Option<f64> {
        Some(old.map_or(new, |old| old + SMOOTHING * (new - old)))
    }
}

impl Session {
    /// The pre-flight table, and what seems wrong.
    pub(super) fn announce(&mut self) {
        let accumulation = self.config.train.gradient_accumulation_steps as u64;
        let batches = self.resources.epoch(self.state.epoch).len() as u64;
        let updates_per_epoch = batches.div_ceil(accumulation);
        self.pace.total_updates = self.limits.total_updates(updates_per_epoch);
        let start = preflight::start(&Facts {
            config: &self.config,
            resources: &self.resources,
            model: self.model.as_ref(),
            optimizer: self.optimizer.describe(),
            pretrained: &self.pretrained,
            updates_per_epoch,
            total_updates: self.pace.total_updates,
            threads: self.threads,
            run: self.folder.root(),
            step: self.state.step,
        });
        self.sinks.emit(&Event::Start(start));
        // a resumed run told them when it began
        if self.state.step == 0 {
            for warning in warnings(&self.config, &self.resources, &self.pretrained, self.pace.total_updates) {
                self.warn(warning);
            }
        }
    }

    pub(super) fn warn(&mut self, message: String) {
        self.sinks.emit(&Event::Warning { step: self.state.step, message });
    }

    /// Counts an update that was done; tells the live line, and metrics.jsonl every `train.log_freq` updates.
    pub(super) fn account(&mut self, stats: &UpdateStats, lr: f64, seconds: f64) {
        let state = &mut self.state;
        state.tokens += stats.tokens;
        state.seconds += seconds;
        let sums = &mut state.since_log;
        sums.updates += 1;
        sums.loss += stats.loss;
        sums.nll += stats.nll;
        sums.tokens += stats.tokens;
        sums.source_tokens += stats.source_tokens;
        sums.grad_norm += stats.grad_norm;
        sums.clipped += u64::from(stats.clipped);
        if let Some(found) = &stats.distance {
            sums.distance_updates += 1;
            sums.distance += found.distance;
            sums.guard += found.guard;
            sums.distance_pairs += found.pairs as u64;
            sums.distance_weight = found.weight;
        }
        sums.seconds += seconds;
        self.emit_progress(stats, lr, seconds);
        if self.state.step.is_multiple_of(self.config.train.log_freq) {
            self.emit_train_point(lr);
        }
    }

    fn emit_progress(&mut self, stats: &UpdateStats, lr: f64, seconds: f64) {
        let loss = stats.loss / stats.tokens as f64;
        self.pace.loss = Pace::smooth(self.pace.loss, loss);
        self.pace.tokens_per_second = Pace::smooth(self.pace.tokens_per_second, stats.tokens as f64 / seconds);
        let total = self.pace.total_updates;
        let done = self.state.step - self.pace.first_step;
        let each = self.pace.started.elapsed().as_secs_f64() / done.max(1) as f64;
        self.sinks.emit(&Event::Progress(Progress {
            step: self.state.step,
            max_updates: total,
            epoch: self.state.epoch,
            loss: self.pace.loss.unwrap_or(loss),
            lr,
            grad_norm: stats.grad_norm,
            tokens_per_second: self.pace.tokens_per_second.unwrap_or(0.0),
            eta: (total > 0).then(|| each * total.saturating_sub(self.state.step) as f64),
        }));
    }

    fn emit_train_point(&mut self, lr: f64) {
        let embedding = self.distance_columns();
        let sums = std::mem::take(&mut self.state.since_log);
        let Sums { updates, tokens, .. } = sums;
        let (updates, target_tokens) = (updates.max(1) as f64, tokens.max(1) as f64);
        self.sinks.emit(&Event::Train(TrainPoint {
            step: self.state.step,
            epoch: self.state.epoch,
            tokens: self.state.tokens,
            seconds: self.state.seconds,
            loss: sums.loss / target_tokens,
            nll: sums.nll / target_tokens,
            lr,
            grad_norm: sums.grad_norm / updates,
            clipped: sums.clipped as f64 / updates,
            skipped_updates: self.state.skipped_updates,
            tokens_per_second: target_tokens / sums.seconds.max(1e-9),
            source_tokens_per_second: sums.source_tokens as f64 / sums.seconds.max(1e-9),
            peak_memory_bytes: peak_memory_bytes_of(self.params.device()),
            optimizer: self.optimizer.health(),
            embedding,
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
    pub(super) fn last_screen(&self, stop: StopReason, test: Option<&Scores>) -> End {
        let run = self.folder.root();
        let state = &self.state;
        let best = state.best.as_ref();
        let bleu = test.and_then(|scores| scores.bleu.as_ref());
        let chrf = test.and_then(|scores| scores.chrf.as_ref());
        let (resume_command, next_commands) = self.commands(stop);
        let mut files = vec![
            ("metrics".to_string(), self.folder.metrics()),
            ("checkpoints".to_string(), self.folder.checkpoints()),
        ];
        if test.is_some() {
            files.push(("test translations".to_string(), self.folder.translations("test")));
        }
        End {
            run: run.to_path_buf(),
            step: state.step,
            stop_reason: stop.name().to_string(),
            best_step: best.map(|best| best.step),
            best_nll: best.and_then(|best| best.nll),
            best_bleu: best.and_then(|best| best.bleu),
            test_bleu: bleu.map(|bleu| bleu.score),
            test_bleu_signature: bleu.map(|bleu| bleu.signature()).unwrap_or_default(),
            test_chrf: chrf.map(|chrf| chrf.score),
            test_chrf_signature: chrf.map(|chrf| chrf.signature()).unwrap_or_default(),
            seconds: state.seconds,
            seconds_valid: state.seconds_valid,
            seconds_save: state.seconds_save,
            tokens: state.tokens,
            tokens_per_second: state.tokens as f64 / state.seconds.max(1e-9),
            peak_memory_bytes: peak_memory_bytes_of(self.params.device()),
            resume_command,
            next_commands,
            files,
        }
    }

    /// What goes on with the run if it is not finished, and what else is worth typing.
    fn commands(&self, stop: StopReason) -> (Option<String>, Vec<String>) {
        let run = self.folder.root().display();
        // What diverged once diverges again at the same rate.
        let calmer = format!("--set optimizer.lr={:.1e}", self.config.optimizer.lr / 10.0);
        let translate = format!("nmt-train translate {run}");
        match stop {
            stop if stop.is_finished() => {
                (None, finished::next_commands(&self.folder, stop, &self.config, &self.state))
            }
            StopReason::Diverged if self.saved_at.is_some() => {
                (Some(format!("nmt-train --resume {run} {calmer}")), vec![translate])
            }
            StopReason::Diverged => (None, vec![format!("nmt-train --config {run}/config.toml --force {calmer}")]),
            _ => (Some(format!("nmt-train --resume {run}")), vec![translate]),
        }
    }
}
