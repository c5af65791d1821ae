//! The text of the console: what each event looks like, as strings. Knows no terminal.

use std::path::Path;
use unicode_width::UnicodeWidthStr;

use super::{AveragePoint, End, Progress, Sample, Start, TrainPoint, ValidPoint};
use crate::scores::{Metric, Scores};
use crate::units;

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) color: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }
}

/// The pre-flight table: a heading a section, values in one column for the whole table.
pub(super) fn preflight(start: &Start, style: Style) -> Vec<String> {
    let labels = start.table.iter().flat_map(|(_, rows)| rows).map(|(label, _)| label.as_str());
    let column = labels.map(UnicodeWidthStr::width).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (section, rows) in &start.table {
        lines.push(style.bold(section));
        for (label, value) in rows {
            lines.extend(labelled(label, column, value, style));
        }
    }
    lines.push(String::new());
    lines
}

/// State of a run on one line; `share` of the way is drawn elsewhere.
pub(super) fn progress(p: &Progress, style: Style) -> String {
    let mut parts = vec![
        position(p.step, p.max_updates, p.epoch, style),
        format!("loss {}", number(p.loss)),
        speed(p.tokens_per_second) + &by(p.ranks),
        format!("lr {:.2e}", p.lr),
        format!("grad {}", number(p.grad_norm)),
    ];
    parts.extend(p.eta.map(|eta| format!("ETA {}", units::duration(eta))));
    parts.join("  ")
}

/// The plain line for logs, at each training point.
pub(super) fn train(t: &TrainPoint, max_updates: u64, eta: Option<f64>, style: Style) -> String {
    let mut parts = vec![
        position(t.step, max_updates, t.epoch, style),
        format!("loss {}", number(t.loss)),
        format!("nll {}", number(t.nll)),
        speed(t.tokens_per_second),
        format!("lr {:.2e}", t.lr),
        format!("grad {}", number(t.grad_norm)),
    ];
    if t.skipped_updates > 0 {
        parts.push(style.yellow(&format!("skipped {}", t.skipped_updates)));
    }
    parts.extend(eta.map(|eta| format!("ETA {}", units::duration(eta))));
    parts.join("  ")
}

fn position(step: u64, max_updates: u64, epoch: u64, style: Style) -> String {
    let of = if max_updates > 0 { format!("/{max_updates}") } else { String::new() };
    format!("{}  epoch {epoch}", style.bold(&format!("step {step}{of}")))
}

/// " by 4 ranks", where there are several.
fn by(ranks: usize) -> String {
    if ranks > 1 {
        format!(" by {ranks} ranks")
    } else {
        String::new()
    }
}

fn speed(tokens_per_second: f64) -> String {
    format!("{} tok/s", units::count(tokens_per_second.round() as u64))
}

/// About four significant digits of a loss or norm.
fn number(x: f64) -> String {
    let size = x.abs();
    if !x.is_finite() || (0.01..100.0).contains(&size) || size == 0.0 {
        format!("{x:.3}")
    } else if (100.0..10_000.0).contains(&size) {
        format!("{x:.1}")
    } else {
        format!("{x:.2e}")
    }
}

/// The lasting line of a validation and its sample translations. `best`: the best of each metric so far, to show how this
/// one compares.
pub(super) fn valid(v: &ValidPoint, best: &mut Scores, style: Style) -> Vec<String> {
    // The trainer knows the best of earlier processes; where it says so, its word counts.
    let from_trainer = |metric| v.improvement.filter(|_| v.early_stopping_metric == Some(metric));
    let mut parts = vec![style.bold(&format!("valid  step {}", v.step))];
    for (metric, value) in v.scores.iter() {
        let old = best.get(metric);
        let improvement = from_trainer(metric).or_else(|| old.map(|old| metric.gain(old, value)));
        parts.push(format!("{}{}", scored(metric, value), arrow(improvement, metric, style)));
        if metric == Metric::Nll {
            parts.push(format!("ppl {}", number(value.exp())));
        }
        if value.is_finite() && old.is_none_or(|old| metric.gain(old, value) > 0.0) {
            best.set(metric, value);
        }
    }
    parts.push(style.dim(&units::duration(v.seconds_valid)));
    if v.is_best {
        parts.push(style.green("best"));
    }
    let mut lines = vec![parts.join("  ")];
    let notable = v.hypotheses.symptoms.told(&v.hypotheses.of_references);
    if !notable.is_empty() {
        lines.push(format!("    {} {notable}", style.dim("hypotheses")));
    }
    for sample in &v.samples {
        lines.extend(sample_lines(sample, style));
    }
    lines
}

/// The lasting line of the mean of the last validations' weights: as that of a validation, against the best checkpoint.
pub(super) fn average(a: &AveragePoint, style: Style) -> String {
    let mut parts = vec![style.bold(&format!("average  {}", of_steps(&a.steps)))];
    for (metric, value) in a.scores.iter() {
        let improvement = a.improvement.filter(|_| a.early_stopping_metric == Some(metric));
        parts.push(format!("{}{}", scored(metric, value), arrow(improvement, metric, style)));
    }
    parts.push(style.dim(&units::duration(a.seconds_valid)));
    parts.push(if a.is_best { style.green("best") } else { style.dim("not better") });
    parts.join("  ")
}

/// "of 5, steps 600 to 1000".
fn of_steps(steps: &[u64]) -> String {
    match steps {
        [first, .., last] => format!("of {}, steps {first} to {last}", steps.len()),
        _ => format!("of {}", steps.len()),
    }
}

/// "nll 2.0700", "BLEU 27.90": the loss as its column is called.
fn scored(metric: Metric, value: f64) -> String {
    let name = if metric == Metric::Nll { metric.name() } else { metric.label() };
    format!("{name} {}", score(metric, value))
}

/// A loss with a digit more than a report has.
fn score(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Nll => format!("{value:.4}"),
        _ => metric.show(value),
    }
}

/// " ↑0.31": how the number moved against the best; green when that is better.
fn arrow(improvement: Option<f64>, metric: Metric, style: Style) -> String {
    let Some(improvement) = improvement else { return String::new() };
    let amount = score(metric, improvement.abs());
    if amount.bytes().all(|b| matches!(b, b'0' | b'.')) {
        return style.dim(" =");
    }
    let better = improvement > 0.0;
    let mark = if better != metric.lower_is_better() { '↑' } else { '↓' };
    let text = format!(" {mark}{amount}");
    if better {
        style.green(&text)
    } else {
        style.red(&text)
    }
}

fn sample_lines(sample: &Sample, style: Style) -> [String; 3] {
    [("src", &sample.source), ("ref", &sample.reference), ("hyp", &sample.hypothesis)]
        .map(|(label, text)| format!("    {} {}", style.dim(label), printable(text)))
}

/// Text of corpora without control characters, which could move the cursor or recolour the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// "saved  step 1000  checkpoints/step-00001000  0.4 s".
pub(super) fn checkpoint(step: u64, path: &Path, seconds: f64, style: Style) -> String {
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    let short = parts[parts.len().saturating_sub(2)..].join("/");
    style.dim(&format!("saved  step {step}  {short}  {seconds:.1} s"))
}

/// The last screen.
pub(super) fn end(e: &End, style: Style) -> Vec<String> {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let average = e.average.as_ref();
    let average_is_best = average.is_some_and(|average| average.is_best);
    let best = |row: String, is_best: bool| if is_best { style.green(&row) } else { row };
    if let Some(step) = e.best_step {
        rows.push(("best", best(all_scored(&e.best, &format!("at step {step}")), !average_is_best)));
    }
    if let Some(average) = average {
        rows.push(("latest", all_scored(&e.latest, &format!("at step {}", e.step))));
        let mut what = of_steps(&average.steps);
        what.push_str(if average_is_best { "; the best of all, which is used from here on" } else { "; not better" });
        rows.push(("average", best(all_scored(&average.scores, &what), average_is_best)));
    }
    for (metric, score, signature) in &e.test {
        rows.push(("test", format!("{} {}", style.bold(&scored(*metric, *score)), style.dim(signature))));
    }
    let (train, valid, save) =
        (units::duration(e.seconds), units::duration(e.seconds_valid), units::duration(e.seconds_save));
    rows.push(("time", format!("training {train}, validation {valid}, saving {save}")));
    let per_second = units::count(e.tokens_per_second.round() as u64);
    rows.push(("speed", format!("{per_second} tok/s, {} target tokens", units::count(e.tokens))));
    rows.push(("memory", format!("{} at most", units::bytes(e.peak_memory_bytes))));
    let name_width = e.files.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    rows.push(("run", e.run.display().to_string()));
    rows.extend(e.files.iter().map(|(name, path)| ("files", format!("{} {}", pad(name, name_width), path.display()))));
    rows.extend(e.next_commands.iter().map(|command| ("next", style.bold(command))));
    rows.extend(e.resume_command.iter().map(|command| ("resume", style.bold(command))));

    let column = rows.iter().map(|(label, _)| label.width()).max().unwrap_or(0);
    let mut lines = vec![String::new(), style.bold(&format!("stopped at step {}: {}", e.step, e.stop_reason))];
    let mut previous = "";
    for (label, value) in &rows {
        lines.extend(labelled(if *label == previous { "" } else { label }, column, value, style));
        previous = label;
    }
    lines
}

/// "nll 2.0700 (ppl 7.92)  BLEU 27.90  at step 900".
fn all_scored(scores: &Scores, of_what: &str) -> String {
    let each = scores.iter().map(|(metric, value)| match metric {
        Metric::Nll => format!("{} (ppl {})", scored(metric, value), number(value.exp())),
        _ => scored(metric, value),
    });
    each.chain([of_what.to_string()]).collect::<Vec<_>>().join("  ")
}

/// "  label  value"; further lines of the value go under its first.
fn labelled(label: &str, column: usize, value: &str, style: Style) -> Vec<String> {
    let mut values = value.lines();
    let mut lines = vec![format!("  {}  {}", style.dim(&pad(label, column)), values.next().unwrap_or(""))];
    lines.extend(values.map(|line| format!("  {}  {line}", pad("", column))));
    lines.iter().map(|line| line.trim_end().to_string()).collect()
}

/// `text` and spaces up to `width` terminal columns.
fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { color: false };

    #[test]
    fn the_table_aligns_wide_characters_by_columns() {
        let row = |label: &str, value: &str| (label.to_string(), value.to_string());
        let table = vec![
            ("data".to_string(), vec![row("pairs", "10 000"), row("词汇表", "8 000\njoint")]),
            ("model".to_string(), vec![row("tête", "x")]),
        ];
        let lines = preflight(&Start { table, ..Start::default() }, PLAIN);
        let expected = ["data", "  pairs   10 000", "  词汇表  8 000", "          joint", "model", "  tête    x", ""];
        assert_eq!(lines, expected);
    }

    #[test]
    fn arrows_show_the_move_and_colours_show_whether_it_is_good() {
        let mut best = Scores::default();
        let mut line = |step, nll, bleu, style| {
            let scores = [(Metric::Nll, nll), (Metric::Bleu, bleu)].into_iter().collect();
            let point = ValidPoint { step, scores, early_stopping_metric: Some(Metric::Nll), ..ValidPoint::default() };
            valid(&point, &mut best, style)[0].clone()
        };
        assert_eq!(line(1, 3.0, 10.0, PLAIN), "valid  step 1  nll 3.0000  ppl 20.086  BLEU 10.00  0 s");
        assert_eq!(line(2, 2.5, 9.0, PLAIN), "valid  step 2  nll 2.5000 ↓0.5000  ppl 12.182  BLEU 9.00 ↓1.00  0 s");
        assert_eq!(line(3, 2.5, 11.0, PLAIN), "valid  step 3  nll 2.5000 =  ppl 12.182  BLEU 11.00 ↑1.00  0 s");
        let colored = line(4, 2.0, 8.0, Style { color: true });
        assert!(colored.contains("\x1b[32m ↓0.5000") && colored.contains("\x1b[31m ↓3.00"), "{colored:?}");
    }

    #[test]
    fn the_trainers_improvement_counts_after_a_resume() {
        let point = ValidPoint {
            scores: [(Metric::Bleu, 20.0)].into_iter().collect(),
            improvement: Some(-1.5),
            early_stopping_metric: Some(Metric::Bleu),
            ..ValidPoint::default()
        };
        assert!(valid(&point, &mut Scores::default(), PLAIN)[0].contains("BLEU 20.00 ↓1.50"));
    }

    #[test]
    fn control_characters_of_a_corpus_do_not_reach_the_terminal() {
        let sample = Sample { source: "a\x1b[31mb\rc".into(), ..Sample::default() };
        assert_eq!(sample_lines(&sample, PLAIN)[0], "    src a [31mb c");
    }

    #[test]
    fn numbers_keep_about_four_digits() {
        let shown = [0.0, 4.56789, 0.000123, 250.04, 123_456.0, f64::NAN].map(number);
        assert_eq!(shown, ["0.000", "4.568", "1.23e-4", "250.0", "1.23e5", "NaN"]);
    }

    #[test]
    fn the_last_screen_names_what_there_is_and_nothing_else() {
        let end_of = |e: &End| end(e, PLAIN).join("\n");
        let bare = end_of(&End { stop_reason: "max_updates".into(), step: 10, ..End::default() });
        assert!(bare.contains("stopped at step 10: max_updates") && !bare.contains("test") && !bare.contains("resume"));
        let full = end_of(&End {
            best_step: Some(8),
            best: [(Metric::Nll, 1.0)].into_iter().collect(),
            test: vec![(Metric::Bleu, 31.256, "nrefs:1|tok:13a".into())],
            resume_command: Some("nmt-train --resume runs/a".into()),
            ..End::default()
        });
        for part in ["nll 1.0000 (ppl 2.718)  at step 8", "BLEU 31.26 nrefs:1|tok:13a", "resume  nmt-train --resume"] {
            assert!(full.contains(part), "{full}");
        }
    }
}
