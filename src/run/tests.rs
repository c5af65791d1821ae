//! A model of whole runs: random sequences of updates, validations that give numbers or none, gradients that are not
//! finite, signals, SIGKILL, resumes with other limits and other metrics, phases. The loop and the ledger are the real
//! ones; weights are a hash of all that made them, the disk is a few vectors.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::*;
use crate::checkpoint::{plan, Existing};
use crate::config::{Config, Every, OptimizerName, PhaseConfig, ScheduleKind};
use crate::rng::{stream, Purpose, Stream};
use crate::scores::Metric;

/// What the process finds when it comes up.
#[derive(Clone, Default)]
struct Disk {
    checkpoints: BTreeMap<u64, (Ledger, Weights)>,
    /// What validations scored, as far as it is kept for a mean.
    validated: BTreeMap<u64, u64>,
    latest: Option<u64>,
    best: Option<u64>,
    rows: Vec<(&'static str, u64)>,
}

/// Hash of everything that trained them, and what trains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weights {
    hash: u64,
    phase: usize,
}

/// A process: the hands of one run until it ends or dies.
struct Process<'a> {
    disk: &'a mut Disk,
    config: &'a Config,
    rules: Rules,
    faults: &'a Faults,
    weights: Weights,
    /// Calls of the hands until SIGKILL.
    dies_after: Option<u64>,
    /// Updates until a signal.
    signal_after: Option<u64>,
    told: Option<u64>,
}

/// What goes wrong, a pure function of where the run is, as in a real one.
struct Faults {
    seed: u64,
    /// One of so many micro-batches begins a row of bad gradients; 0 = none.
    bad_gradients: u64,
    /// One of so many validations gives no number; 0 = none.
    bad_scores: u64,
}

#[derive(Debug)]
struct Killed;

const BATCHES: u64 = 7;
const MOST_AVERAGED: usize = 3;

/// SplitMix64's finalizer over both.
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ b.wrapping_add(0xD1B5_4A32_D192_ED03);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn pick(rng: &mut Stream, n: u64) -> u64 {
    rng.below(n as usize) as u64
}

impl Faults {
    fn gradient(&self, micro_batch: u64) -> bool {
        // rows of three, so that some lead to a roll-back
        self.bad_gradients > 0 && mix(self.seed, micro_batch / 4).is_multiple_of(self.bad_gradients)
    }

    fn score(&self, hash: u64) -> f64 {
        let bad = self.bad_scores > 0 && mix(hash, 1).is_multiple_of(self.bad_scores);
        match (bad, hash % 3) {
            (true, 0) => f64::NAN,
            (true, 1) => f64::INFINITY,
            (true, _) => f64::NEG_INFINITY,
            // few values, so that equal ones occur
            (false, _) => (mix(hash, 2) % 8) as f64,
        }
    }
}

impl Process<'_> {
    fn lives(&mut self) -> Result<(), Killed> {
        match &mut self.dies_after {
            Some(0) => Err(Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn forget_weights(&mut self, ledger: &Ledger) {
        let kept = ledger.weights_kept();
        self.disk.validated.retain(|step, _| kept.contains(step));
    }

    fn at_checkpoint(&mut self, ledger: &Ledger) {
        self.forget_weights(ledger);
        self.told = self.disk.rows.iter().rev().find(|row| row.0 == "checkpoint").map(|row| row.1);
        self.tell(ledger.step);
        self.disk.latest = Some(ledger.step);
        self.disk.best = self.plan(ledger, usize::MAX, usize::MAX).best;
    }

    fn tell(&mut self, step: u64) {
        if self.told != Some(step) {
            self.disk.rows.push(("checkpoint", step));
            self.told = Some(step);
        }
    }

    fn plan(&self, ledger: &Ledger, keep_last: usize, keep_best: usize) -> crate::checkpoint::Plan {
        let existing: Vec<Existing> = self.disk.checkpoints.keys().map(|&step| Existing { step, good: true }).collect();
        plan(&existing, &ledger.ranked(self.rules.metric), keep_last, keep_best)
    }
}

impl Work for Process<'_> {
    type Error = Killed;
    type Translations = ();

    fn batches(&mut self, _: u64) -> u64 {
        BATCHES
    }

    fn interrupted(&self) -> Option<StopReason> {
        (self.signal_after == Some(0)).then_some(StopReason::Signal)
    }

    fn validate(&mut self, ledger: &Ledger) -> Result<Option<Validation<()>>, Killed> {
        self.lives()?;
        if self.signal_after == Some(0) {
            return Ok(None);
        }
        let hash = self.weights.hash;
        let scored = Scored::new(ledger.step, |metric| match metric {
            Metric::Nll => Some(self.faults.score(hash)),
            Metric::Bleu => Some(self.faults.score(mix(hash, 9))),
            _ => None,
        });
        if self.rules.average_last > 0 {
            self.disk.validated.insert(ledger.step, hash);
        }
        self.lives()?;
        Ok(Some(Validation { scored, seconds: 0.0, translations: () }))
    }

    fn tell(&mut self, ledger: &Ledger, _: Validation<()>, _: Judged) -> Result<(), Killed> {
        self.forget_weights(ledger);
        self.disk.rows.push(("valid", ledger.step));
        Ok(())
    }

    fn save(&mut self, ledger: &mut Ledger) -> Result<(), Killed> {
        self.lives()?;
        let now = ledger.in_force(self.config);
        assert_eq!(now.phase, self.weights.phase, "a checkpoint of weights of another phase");
        ledger.saving(self.disk.rows.len() as u64, Trained::of(&now), String::new());
        self.disk.checkpoints.insert(ledger.step, (ledger.clone(), self.weights));
        self.disk.latest = Some(ledger.step);
        ledger.saved(0.0);
        self.lives()?;
        let plan = self.plan(ledger, self.rules.keep_last, self.rules.keep_best);
        self.disk.best = plan.best;
        self.lives()?;
        plan.delete.iter().for_each(|step| drop(self.disk.checkpoints.remove(step)));
        Process::tell(self, ledger.step);
        Ok(())
    }

    fn enter(&mut self, ledger: &mut Ledger) -> Result<(), Killed> {
        let next = self.config.in_force(ledger.step);
        if next.phase != self.weights.phase {
            self.weights = Weights { hash: mix(self.weights.hash, 1 << 40), phase: next.phase };
        }
        Ok(())
    }

    fn update(&mut self, ledger: &mut Ledger, taken: Taken) -> Result<Updated, Killed> {
        self.lives()?;
        if self.faults.gradient(taken.first_micro_batch) {
            return Ok(Updated::NonFinite { seconds: 0.0 });
        }
        let position = [taken.first_micro_batch, ledger.epoch, taken.batches.start, taken.batches.end];
        let made_by = position.into_iter().chain([ledger.schedule.scale.to_bits(), self.weights.phase as u64]);
        self.weights.hash = made_by.fold(self.weights.hash, mix);
        if let Some(left) = &mut self.signal_after {
            *left = left.saturating_sub(1);
        }
        Ok(Updated::Done(UpdateStats { loss: self.faults.score(self.weights.hash), ..UpdateStats::default() }))
    }

    fn account(&mut self, ledger: &mut Ledger, _: &UpdateStats, log: bool) -> Result<(), Killed> {
        if log {
            ledger.logged();
            self.disk.rows.push(("train", ledger.step));
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<Ledger, Killed> {
        self.lives()?;
        let (ledger, weights) = newest(self.disk);
        self.weights = Weights { hash: mix(weights.hash, 1 << 41), ..weights };
        Ok(ledger)
    }

    fn returned(&mut self, ledger: &Ledger) -> Result<(), Killed> {
        self.disk.rows.truncate(ledger.metrics_bytes as usize);
        self.at_checkpoint(ledger);
        Ok(())
    }
}

fn newest(disk: &Disk) -> (Ledger, Weights) {
    let (ledger, weights) = disk.checkpoints.values().next_back().expect("something was saved");
    (Ledger::read(&ledger.to_json().unwrap()).unwrap(), *weights)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ended {
    Stopped(StopReason),
    Killed,
}

fn process(
    disk: &mut Disk,
    config: &Config,
    faults: &Faults,
    dies_after: Option<u64>,
    signal_after: Option<u64>,
) -> (Ended, Option<(Ledger, Weights)>) {
    let rules = Rules::of(config);
    let unit = |metric| Unit { metric, text: "text".to_string(), translation: "greedy".to_string() };
    let fresh = disk.checkpoints.is_empty();
    let (mut ledger, weights) = match fresh {
        true => (Ledger::new("data".to_string(), "tokenizer".to_string()), Weights { hash: 1, phase: 0 }),
        false => newest(disk),
    };
    ledger.measured_by(unit(rules.metric), &unit(rules.metric));
    let now = ledger.in_force(config);
    assert!(ledger.trained.is_none_or(|saved| saved == Trained::of(&now) || ledger.begins_fresh(&now)));
    disk.rows.truncate(if fresh { 0 } else { ledger.metrics_bytes as usize });
    let mut work =
        Process { disk, config, rules: rules.clone(), faults, weights, dies_after, signal_after, told: None };
    if !fresh {
        work.at_checkpoint(&ledger);
    }
    let ended = drive(&mut ledger, &rules, &mut work);
    let weights = work.weights;
    match ended {
        Ok(reason) => (Ended::Stopped(reason), Some((ledger, weights))),
        Err(Killed) => (Ended::Killed, None),
    }
}

/// Everything that must hold of a folder at any moment a process is gone.
fn check_disk(disk: &Disk, config: &Config, case: &str) {
    assert!(disk.checkpoints.iter().all(|(step, (ledger, _))| ledger.step == *step), "{case}");
    let mut steps = BTreeMap::new();
    for (event, step) in &disk.rows {
        let last = steps.insert(event, *step);
        assert!(last.is_none_or(|last| last < *step), "{case}: {event} {step} after {last:?} in {:?}", disk.rows);
    }
    assert!(disk.rows.windows(2).all(|two| two[0].1 <= two[1].1), "{case}: out of order: {:?}", disk.rows);
    let Some((newest_step, (ledger, _))) = disk.checkpoints.iter().next_back() else { return };
    assert_eq!(disk.latest, Some(*newest_step), "{case}");
    assert!(disk.validated.len() <= 1 + 2 * MOST_AVERAGED, "{case}");
    let kept = ledger.to_average(&Rules::of(config));
    assert!(kept.iter().all(|step| disk.validated.contains_key(step)), "{case}: {kept:?} {:?}", disk.validated);
    let Some(unit) = ledger.unit.as_ref().filter(|unit| unit.metric == config.validation.early_stopping_metric) else {
        return;
    };
    if let Some(best) = ledger.best().filter(|_| config.checkpoint.keep_best > 0) {
        let better = ledger.scored.iter().filter_map(|scored| scored.value(unit.metric));
        let value = best.value(unit.metric).unwrap();
        assert!(better.into_iter().all(|other| !((other < value) == unit.metric.lower_is_better() && other != value)));
    }
}

/// The pointer of a run that ended in order points at the best validation. That one is there unless another metric chose
/// what to keep at its time.
fn check_best(disk: &Disk, ledger: &Ledger, metric: Metric, one_metric: bool, case: &str) {
    let there = ledger.ranked(metric).into_iter().find(|step| disk.checkpoints.contains_key(step));
    assert_eq!(there, disk.best, "{case}: {:?}", ledger.scored);
    if one_metric {
        assert_eq!(ledger.best().map(|best| best.step), disk.best, "{case}: {:?}", ledger.scored);
    }
}

fn random_config(rng: &mut Stream) -> Config {
    let mut pick = |n: u64| pick(rng, n);
    let mut config = Config::default();
    config.train.max_updates = 6 + pick(20);
    config.train.log_freq = 1 + pick(4);
    config.train.gradient_accumulation_steps = 1 + pick(3) as usize;
    config.data.valid = crate::config::Corpora::default();
    if pick(8) > 0 {
        config.data.valid.0.push(crate::config::Corpus {
            files: vec!["v.tsv".to_string()],
            weight: 1.0,
            columns: Default::default(),
            tag: String::new(),
        });
    }
    let every = |n: u64| match n {
        0 => Every::AtEnd,
        1 => Every::Epochs(1),
        n => Every::Updates(n),
    };
    config.validation.valid_freq = every(pick(6));
    config.checkpoint.save_freq = every(pick(6));
    config.checkpoint.keep_last = 1 + pick(3) as usize;
    config.checkpoint.keep_best = 1 + pick(2) as usize;
    config.checkpoint.average_last = pick(1 + MOST_AVERAGED as u64) as usize;
    config.validation.early_stopping = [0, 0, 3, 5][pick(4) as usize];
    config.validation.early_stopping_metric = [Metric::Nll, Metric::Bleu][pick(2) as usize];
    if pick(3) == 0 {
        config.schedule.kind = ScheduleKind::Plateau;
        config.schedule.plateau_patience = pick(2) as u32;
    }
    if pick(2) == 0 {
        let first = 1 + pick(10);
        let phase =
            |from_update, optimizer| PhaseConfig { from_update, optimizer: Some(optimizer), ..Default::default() };
        config.phase = vec![
            phase(first, OptimizerName::ScheduleFree),
            phase(first + 1 + pick(6), [OptimizerName::Adam, OptimizerName::ScheduleFree][pick(2) as usize]),
        ];
    }
    config
}

/// Without what no two runs need to share: how often a checkpoint was written.
fn comparable(ledger: &Ledger) -> serde_json::Value {
    let mut value = ledger.to_json().unwrap();
    value.as_object_mut().unwrap().remove("metrics_bytes");
    value
}

/// What the mean at the end is of.
fn averaged(disk: &Disk, ledger: &Ledger, config: &Config) -> Vec<(u64, u64)> {
    ledger.to_average(&Rules::of(config)).iter().map(|step| (*step, disk.validated[step])).collect()
}

fn told(disk: &Disk) -> Vec<(&'static str, u64)> {
    disk.rows.iter().copied().filter(|row| row.0 != "checkpoint").collect()
}

/// How often what the cases are for occurred in them.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    kills: u64,
    rolled_back: u64,
    diverged: u64,
    stopped_early: u64,
    no_number: u64,
    compared: u64,
}

impl Counts {
    fn add(self, other: Counts) -> Counts {
        Counts {
            kills: self.kills + other.kills,
            rolled_back: self.rolled_back + other.rolled_back,
            diverged: self.diverged + other.diverged,
            stopped_early: self.stopped_early + other.stopped_early,
            no_number: self.no_number + other.no_number,
            compared: self.compared + other.compared,
        }
    }
}

#[test]
fn any_sequence_of_kills_signals_and_resumes_ends_as_the_run_that_was_left_alone() {
    let counts = (0..100_000).into_par_iter().map(one_run).reduce(Counts::default, Counts::add);
    let Counts { kills, rolled_back, diverged, stopped_early, no_number, compared } = counts;
    assert!([kills, rolled_back, diverged, stopped_early, no_number].iter().all(|&n| n > 1_000), "{counts:?}");
    assert!(compared > 50_000, "{counts:?}");
}

/// A run that is left alone, and the same with interruptions.
fn one_run(case: u64) -> Counts {
    let mut rng = stream(case, Purpose::Probe, 0);
    let config = random_config(&mut rng);
    let faults =
        Faults { seed: case, bad_gradients: [0, 6, 12][pick(&mut rng, 3) as usize], bad_scores: pick(&mut rng, 4) };
    let label = format!("case {case}");

    let mut alone = Disk::default();
    let (whole, left) = process(&mut alone, &config, &faults, None, None);
    let (ledger, weights) = left.unwrap();
    check_disk(&alone, &config, &label);
    let diverged = whole == Ended::Stopped(StopReason::Diverged);
    let mut counts = Counts {
        rolled_back: u64::from(ledger.rollbacks > 0),
        diverged: u64::from(diverged),
        stopped_early: u64::from(whole == Ended::Stopped(StopReason::EarlyStopping)),
        no_number: u64::from(ledger.scored.iter().any(|scored| scored.value(Metric::Nll).is_none())),
        ..Counts::default()
    };
    if !diverged {
        check_best(&alone, &ledger, config.validation.early_stopping_metric, true, &label);
    }

    let mut disk = Disk::default();
    let (mut shorter, mut other_metric, mut signalled) = (false, false, false);
    for _ in 0..pick(&mut rng, 5) {
        let (dies, signal) = match pick(&mut rng, 2) {
            0 => (Some(pick(&mut rng, 40)), None),
            _ => (None, Some(pick(&mut rng, 12))),
        };
        signalled |= signal.is_some();
        let mut now = config.clone();
        match pick(&mut rng, 8) {
            0 => {
                now.train.max_updates = 1 + pick(&mut rng, config.train.max_updates);
                shorter = true;
            }
            1 => {
                now.validation.early_stopping_metric = Metric::Chrf;
                other_metric = true;
            }
            2 => {
                now.validation.early_stopping_metric = Metric::Bleu;
                other_metric = true;
            }
            _ => {}
        }
        let (ended, _) = process(&mut disk, &now, &faults, dies, signal);
        counts.kills += u64::from(ended == Ended::Killed);
        check_disk(&disk, &now, &label);
        if disk.checkpoints.is_empty() {
            // Nothing to resume: the user starts over.
            disk = Disk::default();
        }
        if ended == Ended::Stopped(StopReason::Diverged) {
            break;
        }
    }
    let (ended, left) = process(&mut disk, &config, &faults, None, None);
    check_disk(&disk, &config, &label);
    let (resumed, resumed_weights) = left.unwrap();
    // A roll-back goes to the newest checkpoint, and a stop makes one more of them.
    let other_checkpoints = signalled || shorter || other_metric;
    if other_checkpoints && (resumed.rollbacks > 0 || ledger.rollbacks > 0) {
        return counts;
    }
    if !diverged {
        check_best(&disk, &resumed, config.validation.early_stopping_metric, !other_metric, &label);
    }
    // The end of a shorter run is validated, where the whole run validates nothing: more patience is used up.
    let waits = config.validation.early_stopping > 0 || config.schedule.kind == ScheduleKind::Plateau;
    if (shorter || other_metric) && waits && !config.data.valid.0.is_empty() {
        return counts;
    }
    assert_eq!((ended, resumed_weights), (whole, weights), "{label}");
    if !shorter {
        assert_eq!(comparable(&resumed), comparable(&ledger), "{label}");
        assert_eq!(told(&disk), told(&alone), "{label}");
        assert_eq!(averaged(&disk, &resumed, &config), averaged(&alone, &ledger, &config), "{label}");
    }
    counts.compared = 1;
    counts
}
