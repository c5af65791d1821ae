//! The learning rate of a run that goes on under another config than before: never another one without a word, never
//! zero.
//!
//! A schedule that decays was made for a length. What becomes of the rate when the run is made longer is the user's
//! decision: the longer curve from where it stands, a new curve over what was added, or a constant.

use crate::config::{differences, Config, Effect, ScheduleKind};
use crate::exit::InputError;
use crate::optim::Schedule;
use crate::run::{Ledger, Rules};
use crate::shell;
use crate::units;

use super::distance;

/// Looks at the rates of a run that was made with `old` and goes on with `new`; a sentence for the user if they change.
///
/// # Errors
/// A longer run of a schedule that decays, without a decision; a schedule that is over. Both with the ways out.
pub(super) fn check(
    old: &Config,
    new: &Config,
    ledger: &Ledger,
    run: &std::path::Path,
) -> Result<Option<String>, InputError> {
    let step = ledger.step;
    let (Ok(before), Ok(now)) = (Schedule::of(old), Schedule::of(new)) else { return Ok(None) };
    if step == 0 || ledger.finished(&Rules::of(new)).is_some() {
        return Ok(None);
    }
    let Some(end) = now.end() else { return Ok(changed(old, new, ledger)) };
    let is_decided = old.schedule != new.schedule;
    let is_stretched = before.end().is_some_and(|was| end > was) && !is_decided;
    let is_over = step >= end && (new.schedule.min_lr == 0.0 || !is_decided);
    if !(is_stretched || is_over) {
        return Ok(changed(old, new, ledger));
    }
    let kind = super::preflight::name(new.schedule.kind);
    let made_for = units::count(before.end().unwrap_or(end));
    let ways: Vec<String> = ways(old, new, step)
        .into_iter()
        .map(|(config, what)| {
            let rate = rate_text(&config, ledger, step);
            format!(
                "  nmt-train --resume {} {}\n    {what}; the next update has the rate {rate}",
                shell::path(run),
                changes(old, &config)
            )
        })
        .collect();
    Err(InputError(format!(
        "{} was made for a {kind} schedule of {made_for} updates, and {} are done: a longer run needs a decision about the \
         rate. One of\n{}\nThe numbers can be others.",
        run.display(),
        units::count(step),
        ways.join("\n")
    )))
}

/// A sentence when the next update has another rate, or another weight of the embedding distance, than it would have had.
fn changed(old: &Config, new: &Config, ledger: &Ledger) -> Option<String> {
    let step = ledger.step;
    let differs = |(was, now): &(f64, f64)| (was - now).abs() > 1e-9 * was.abs().max(now.abs());
    let rates = rate(old, ledger, step).zip(rate(new, ledger, step)).filter(differs);
    let rates = rates.map(|(was, now)| format!("the learning rate {now:.3e}; before these changes it had {was:.3e}"));
    let weight = |config: &Config| distance::weight(config, &config.in_force(step), step);
    let weights = Some((weight(old), weight(new))).filter(differs);
    let weights =
        weights.map(|(was, now)| format!("the weight {now:.3e} of the embedding distance; before it had {was:.3e}"));
    let told: Vec<String> =
        rates.into_iter().chain(weights).map(|what| format!("the next update has {what}")).collect();
    (!told.is_empty()).then(|| told.join("\n"))
}

fn rate(config: &Config, ledger: &Ledger, step: u64) -> Option<f64> {
    Some(Schedule::of(config).ok()?.rate(step, config.in_force(step).optimizer.lr, ledger.schedule.scale))
}

fn rate_text(config: &Config, ledger: &Ledger, step: u64) -> String {
    rate(config, ledger, step).map_or_else(String::new, |rate| format!("{rate:.2e}"))
}

/// The configs that decide, each with a word.
fn ways(old: &Config, new: &Config, step: u64) -> Vec<(Config, String)> {
    let added = new.train.max_updates.saturating_sub(step);
    let mut ways = Vec::new();
    let longer = Config { schedule: longer(new), ..new.clone() };
    if new.train.max_updates > step {
        ways.push((longer, format!("follows the curve of {} updates from here", units::count(new.train.max_updates))));
        let anew = with_rates(old, new.clone(), step);
        let warmup = units::count(anew.schedule.warmup_updates);
        let what =
            format!("a new curve over the {} updates to come, the first {warmup} of them warm-up", units::count(added));
        ways.push((anew, what));
    }
    let mut constant = new.clone();
    constant.schedule.kind = ScheduleKind::Constant;
    // Rounded, to be typed.
    constant.optimizer.lr = format!("{:.2e}", new.optimizer.lr / 10.0).parse().unwrap_or(new.optimizer.lr);
    let rate = constant.in_force(step).optimizer.lr;
    ways.push((constant, format!("goes on at the constant rate {rate:.2e}")));
    ways
}

fn longer(config: &Config) -> crate::config::ScheduleConfig {
    crate::config::ScheduleConfig { total_updates: config.train.max_updates, ..config.schedule.clone() }
}

/// `longer` with a schedule that gives rates above zero to what comes after `step`: where the old one decays and would
/// be stretched or is over, a new curve begins.
pub(super) fn with_rates(old: &Config, mut longer: Config, step: u64) -> Config {
    let ends = |config: &Config| Schedule::of(config).ok().and_then(|schedule| schedule.end());
    let (Some(was), Some(end)) = (ends(old), ends(&longer)) else { return longer };
    if end <= was && step < end {
        return longer;
    }
    let schedule = &mut longer.schedule;
    schedule.start_update = step;
    if schedule.total_updates > 0 || longer.train.max_updates <= step {
        // As many updates again, where nothing else says how many.
        let wanted = if longer.train.max_updates > step { longer.train.max_updates } else { 2 * step };
        schedule.total_updates = wanted;
    }
    let total = if schedule.total_updates > 0 { schedule.total_updates } else { longer.train.max_updates };
    schedule.warmup_updates = schedule.warmup_updates.min(total.saturating_sub(step) / 10);
    longer
}

/// What leads from one config to the other, as it is typed.
pub(super) fn changes(old: &Config, new: &Config) -> String {
    let changed = differences(old, new).into_iter().filter(|change| change.effect != Effect::Refused);
    let sets = changed.filter(|change| change.path != "run_dir").map(|change| {
        let value = change.new.trim_matches('"');
        format!("--set {}", shell::quoted(&format!("{}={value}", change.path)))
    });
    sets.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Ledger;

    fn config(kind: ScheduleKind, max_updates: u64) -> Config {
        let mut config = Config::default();
        config.schedule.kind = kind;
        config.schedule.warmup_updates = 300;
        config.train.max_updates = max_updates;
        config.optimizer.lr = 3e-3;
        config
    }

    fn at(step: u64) -> Ledger {
        Ledger::read(&serde_json::json!({
            "step": step, "micro_batches": 0, "epoch": 0, "batch": 0, "tokens": 0, "seconds": 0.0, "seconds_valid": 0.0,
            "seconds_save": 0.0, "skipped_updates": 0, "skipped_in_a_row": 0, "rollbacks": 0, "scored": [],
            "validated_at": null, "schedule": {"scale": 1.0, "best": null, "without_improvement": 0},
            "since_log": crate::run::Sums::default(), "metrics_bytes": 0, "data_fingerprint": "", "tokenizer_fingerprint": ""
        }))
        .unwrap()
    }

    fn checked(old: &Config, new: &Config, step: u64) -> Result<Option<String>, String> {
        check(old, new, &at(step), std::path::Path::new("runs/my run")).map_err(|e| e.0)
    }

    #[test]
    fn a_longer_run_of_a_schedule_that_decays_needs_a_decision() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            let old = config(kind, 4000);
            let new = Config { train: config(kind, 6000).train, ..old.clone() };
            for step in [4000, 2000] {
                let message = checked(&old, &new, step).unwrap_err();
                let command = "nmt-train --resume 'runs/my run' --set train.max_updates=6000";
                for way in [
                    format!("{command} --set schedule.total_updates=6000\n"),
                    format!("--set schedule.start_update={step}\n"),
                    format!("{command} --set optimizer.lr=0.0003 --set schedule.kind=constant\n"),
                ] {
                    assert!(message.contains(&way), "{way} is missing in {message}");
                }
            }
        }
    }

    #[test]
    fn a_decision_is_taken_if_it_trains() {
        let old = config(ScheduleKind::Cosine, 4000);
        let mut new = config(ScheduleKind::Cosine, 6000);
        for (way, _) in ways(&old, &new, 4000) {
            let told = checked(&old, &way, 4000).unwrap().unwrap_or_default();
            assert!(told.contains("the next update has the learning rate"), "{told}");
            assert!(rate(&way, &at(4000), 4000).unwrap() > 1e-5 && rate(&way, &at(4000), 5999).unwrap() > 0.0);
        }
        // the end of the curve written down, and nothing else
        new.schedule.total_updates = 4000;
        assert!(checked(&old, &new, 4000).is_err());
        new.schedule.min_lr = 1e-4;
        assert!(checked(&old, &new, 4000).is_ok());
        // a curve that was stretched before and is over now
        let longer =
            Config { schedule: longer(&config(ScheduleKind::Cosine, 6000)), ..config(ScheduleKind::Cosine, 6000) };
        let again = Config { train: config(ScheduleKind::Cosine, 8000).train, ..longer.clone() };
        assert!(checked(&longer, &again, 6000).is_err());
    }

    #[test]
    fn schedules_without_an_end_and_shorter_runs_need_none() {
        for kind in [ScheduleKind::Constant, ScheduleKind::InverseSqrt, ScheduleKind::Noam] {
            assert_eq!(checked(&config(kind, 4000), &config(kind, 6000), 4000), Ok(None));
        }
        let cosine = |updates| config(ScheduleKind::Cosine, updates);
        assert_eq!(checked(&cosine(4000), &cosine(4000), 2000), Ok(None));
        assert_eq!(checked(&cosine(4000), &cosine(2000), 2000), Ok(None), "it is at its end");
        let told = checked(&cosine(4000), &cosine(3000), 2000).unwrap().unwrap();
        assert!(told.contains("before these changes it had"), "{told}");
        // what fades out with the run
        let fading = |updates| {
            let mut config = config(ScheduleKind::Constant, updates);
            config.embedding_distance.form = crate::config::DistanceForm::Bridge;
            config
        };
        let told = checked(&fading(4000), &fading(6000), 3900).unwrap().unwrap();
        assert!(told.contains("of the embedding distance; before it had"), "{told}");
    }

    #[test]
    fn what_is_proposed_trains_whatever_ended_the_run() {
        let old = config(ScheduleKind::Cosine, 4000);
        let mut longer = old.clone();
        longer.train.max_updates = 8000;
        let proposed = with_rates(&old, longer, 4000);
        assert_eq!(changes(&old, &proposed), "--set train.max_updates=8000 --set schedule.start_update=4000");
        assert!(checked(&old, &proposed, 4000).is_ok());
        // stopped early in the middle of its curve: the curve goes on
        let mut patient = old.clone();
        patient.validation.early_stopping = 6;
        assert_eq!(with_rates(&old, patient.clone(), 2000), patient);
    }
}
