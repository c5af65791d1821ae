//! What was found, as a table with a recommendation and as JSON.

use serde_json::{json, Map, Value};

use crate::cli::args::TuneArgs;
use crate::config::DecodeConfig;
use crate::decode::Penalty;
use crate::run::Usable;
use crate::scores::{Metric, Scores};
use crate::shell;

/// A setting, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) beam_size: usize,
    pub(super) penalty: Penalty,
    /// Of the search with this beam, which served all penalties.
    pub(super) seconds: f64,
    /// Of [`shown`].
    pub(super) scores: Scores,
    /// Words of BLEU in the translations over those in the references.
    pub(super) length: f64,
    pub(super) brevity_penalty: f64,
    /// Of the metric that decides.
    pub(super) signature: String,
}

impl Tried {
    /// A setting that was not judged yet.
    pub(super) fn new(beam_size: usize, penalty: Penalty, seconds: f64) -> Self {
        let (scores, length, brevity_penalty, signature) = (Scores::default(), 0.0, 0.0, String::new());
        Tried { beam_size, penalty, seconds, scores, length, brevity_penalty, signature }
    }

    fn json(&self) -> Value {
        let mut object = Map::from_iter([
            ("beam_size".to_string(), json!(self.beam_size)),
            ("length_penalty".to_string(), json!(self.penalty.exponent)),
            ("length_penalty_type".to_string(), json!(self.penalty.kind.name())),
        ]);
        object.extend(self.scores.iter().map(|(metric, score)| (metric.name().to_string(), json!(score))));
        object.insert("length_ratio".to_string(), json!(self.length));
        object.insert("brevity_penalty".to_string(), json!(self.brevity_penalty));
        object.insert("seconds".to_string(), json!(self.seconds));
        Value::Object(object)
    }
}

/// The metrics that are measured where `metric` decides.
pub(super) fn shown(metric: Metric) -> impl Iterator<Item = Metric> {
    let usual = [Metric::Bleu, Metric::Chrf];
    usual.into_iter().chain((!usual.contains(&metric)).then_some(metric))
}

/// All that was tried, at least one setting.
pub(super) struct Outcome<'a> {
    args: &'a TuneArgs,
    run: &'a Usable,
    pairs: usize,
    tried: Vec<Tried>,
    /// Place of the best; of equally good ones the first.
    best: usize,
}

impl<'a> Outcome<'a> {
    /// `pairs`: lines that were translated.
    pub(super) fn new(args: &'a TuneArgs, run: &'a Usable, pairs: usize, tried: Vec<Tried>) -> Self {
        let cost = |tried: &Tried| tried.scores.get(args.metric).map_or(f64::INFINITY, |score| args.metric.cost(score));
        let best = (0..tried.len()).min_by(|&a, &b| cost(&tried[a]).total_cmp(&cost(&tried[b]))).unwrap_or(0);
        Outcome { args, run, pairs, tried, best }
    }

    pub(super) fn best(&self) -> &Tried {
        &self.tried[self.best]
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let metrics: Vec<Metric> = shown(self.args.metric).collect();
        let names: String = metrics.iter().map(|metric| format!("{:>8}", metric.label())).collect();
        let mut text = format!("  beam  penalty       {names}  length     BP  seconds\n");
        for (i, tried) in self.tried.iter().enumerate() {
            let Tried { beam_size, penalty, scores, length, brevity_penalty, seconds, .. } = tried;
            let score = |&metric: &Metric| scores.get(metric).map_or(String::new(), |score| metric.show(score));
            let scores: String = metrics.iter().map(|metric| format!("{:>8}", score(metric))).collect();
            let first = i == 0 || self.tried[i - 1].beam_size != *beam_size;
            let seconds = if first { format!("{seconds:>9.1}") } else { String::new() };
            let mark = if i == self.best { "*" } else { " " };
            text.push_str(&format!(
                "{mark} {beam_size:>4}  {:<6} {:>6} {scores}  {length:>6.3}  {brevity_penalty:>5.3}{seconds}\n",
                penalty.kind.name(),
                penalty.exponent,
            ));
        }
        let (best, metric) = (self.best(), self.args.metric);
        let score = best.scores.get(metric).map_or(String::new(), |score| metric.show(score));
        text.push_str(&format!("\nbest of {} lines: {} {score}  {}\n", self.pairs, metric.label(), best.signature));
        text.push_str(&self.own().map_or(String::new(), |own| format!("  the run has  {own}\n")));
        text.push_str(&self.at_the_edge().map_or(String::new(), |told| format!("  mind         {told}\n")));
        text.push_str(&format!("  to use it    {}\n", self.command()));
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        let runs: Vec<String> = self.args.runs.iter().map(|run| run.display().to_string()).collect();
        let object = json!({
            "runs": runs,
            "step": self.run.step,
            "pairs": self.pairs,
            "metric": self.args.metric.name(),
            "signature": self.best().signature,
            "settings": self.tried.iter().map(Tried::json).collect::<Vec<_>>(),
            "best": self.best().json(),
            "command": self.command(),
        });
        format!("{object:#}\n")
    }

    /// The setting that the run has now, and its score where it was tried.
    fn own(&self) -> Option<String> {
        let DecodeConfig { beam_size, length_penalty, length_penalty_type, .. } = self.run.config.decode;
        let is_own = |tried: &&Tried| {
            let Penalty { kind, exponent } = tried.penalty;
            tried.beam_size == beam_size
                && exponent == length_penalty
                && (kind == length_penalty_type || exponent == 0.0)
        };
        let metric = self.args.metric;
        let tried = self.tried.iter().find(is_own)?;
        let score = tried.scores.get(metric)?;
        let kind = length_penalty_type.name();
        Some(format!("beam {beam_size}, penalty {kind} {length_penalty}: {} {}", metric.label(), metric.show(score)))
    }

    /// A best that is the last of its list says that the list is too short.
    fn at_the_edge(&self) -> Option<String> {
        let Penalty { kind, exponent } = self.best().penalty;
        let tried = &self.args.length_penalty;
        let largest = tried.iter().all(|&other| other <= exponent);
        (largest && tried.len() > 1 && exponent > 0.0).then(|| {
            let more: Vec<String> =
                [1.0, 1.25, 1.5, 2.0].map(|times| ((exponent * times * 100.0).round() / 100.0).to_string()).to_vec();
            format!("{} {exponent} is the largest penalty tried; try --length-penalty {}", kind.name(), more.join(","))
        })
    }

    /// The command that translates so.
    fn command(&self) -> String {
        let Tried { beam_size, penalty, .. } = self.best();
        let runs = self.args.runs.iter().map(|run| shell::path(run));
        let mut words: Vec<String> = ["nmt-train", "translate"].map(String::from).into_iter().chain(runs).collect();
        if self.args.weights.checkpoint != "best" {
            words.extend(["--checkpoint".to_string(), shell::quoted(&self.args.weights.checkpoint)]);
        }
        words.extend(["--beam".to_string(), beam_size.to_string()]);
        words.extend(["--length-penalty".to_string(), penalty.exponent.to_string()]);
        if penalty.kind != self.run.config.decode.length_penalty_type && penalty.exponent > 0.0 {
            words.extend(["--length-penalty-type".to_string(), penalty.kind.name().to_string()]);
        }
        words.join(" ")
    }
}
