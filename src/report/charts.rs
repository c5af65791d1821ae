//! Which charts a task gets.

use crate::units;

use super::chart::{Chart, Series};
use super::method::{Method, Setting};
use super::numbers::median;
use super::plane::Axis;
use super::run::{Horizon, Run, ValidRow};
use super::task::Task;
use super::text::by_rate;
use crate::ranks;
use crate::scores::Metric;
use crate::symptoms::Symptom;

/// Charts under a heading.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) heading: String,
    pub(super) charts: Vec<Chart>,
}

/// Colours of a task: the baseline has its own, the others theirs by rank; the same in every chart.
#[derive(Clone, Debug)]
pub(super) struct Styles {
    baseline: Option<String>,
    labels: Vec<String>,
    /// One method only: its settings are the lines.
    by_setting: bool,
}

/// Lines beyond which a chart is a tangle.
const MANY: usize = 16;

impl Styles {
    pub(super) fn of(task: &Task) -> Self {
        let by_setting = task.methods.len() == 1;
        let baseline = task.comparison.as_ref().map(|found| found.baseline.clone()).filter(|_| !by_setting);
        let mut labels: Vec<String> = Vec::new();
        for (method, setting) in task.settings() {
            let label = if by_setting { &setting.label } else { &method.label };
            if !labels.contains(label) && baseline.as_ref() != Some(label) {
                labels.push(label.clone());
            }
        }
        Styles { baseline, labels, by_setting }
    }

    /// Every label with its style, as the legend shows it.
    pub(super) fn legend(&self) -> Vec<(String, Option<usize>)> {
        let others = self.labels.iter().enumerate().map(|(i, label)| (label.clone(), Some(i)));
        self.baseline.iter().map(|label| (label.clone(), None)).chain(others).collect()
    }

    fn label(&self, method: &Method, setting: &Setting) -> String {
        if self.by_setting {
            setting.label.clone()
        } else {
            method.label.clone()
        }
    }

    fn style(&self, label: &str) -> Option<usize> {
        self.labels.iter().position(|known| known == label)
    }
}

/// All charts of a task.
pub(super) fn charts(task: &Task, score: Metric, styles: &Styles) -> Vec<Group> {
    let target = task.target;
    let mut groups = vec![by_horizon(task, score, styles, target)];
    let mut horizons = task.horizons();
    horizons.reverse();
    for horizon in &horizons {
        groups.push(curves(task, score, styles, *horizon, target));
    }
    groups.push(sensitivity(task, score, styles, &horizons));
    groups.push(by_rank(task, styles, &horizons));
    groups.push(hypotheses(task, styles, &horizons));
    groups.push(health(task, styles, &horizons));
    for group in &mut groups {
        group.charts.retain(|chart| !chart.is_empty());
    }
    groups.retain(|group| !group.charts.is_empty());
    groups
}

pub(super) fn axis(label: &str, show: fn(f64) -> String) -> Axis {
    Axis { label: label.to_string(), log: false, at: Vec::new(), show }
}

pub(super) fn plain(value: f64) -> String {
    // enough digits for ticks of any step, without the noise of binary fractions
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

pub(super) fn thousands(value: f64) -> String {
    match value {
        v if v.abs() >= 1e6 => format!("{} M", plain(v / 1e6)),
        v if v.abs() >= 1e4 => format!("{} k", plain(v / 1e3)),
        v => plain(v),
    }
}

fn rate(value: f64) -> String {
    format!("{value:e}")
}

/// Final score against horizon: the picture behind the ratio.
fn by_horizon(task: &Task, score: Metric, styles: &Styles, target: Option<f64>) -> Group {
    let ends = |method: &Method| -> Vec<(f64, f64)> {
        let best = method.horizons().into_iter().filter(|h| h.scheduled).filter_map(|horizon| method.best(horizon));
        best.map(|setting| (setting.horizon.updates as f64, score.cost(setting.cost))).collect()
    };
    let several = task.methods.iter().any(|method| ends(method).len() > 1);
    let lines = task.methods.iter().filter(|_| several && !styles.by_setting).map(|method| Series {
        label: method.label.clone(),
        style: styles.style(&method.label),
        lines: vec![ends(method)],
        dots: true,
    });
    let at = task.horizons().iter().map(|horizon| horizon.updates as f64).collect();
    let x = Axis { log: true, at, ..axis("horizon, updates (logarithmic)", thousands) };
    let title = format!("Final validation {} by horizon", score.label());
    let series = lines.collect();
    Group {
        heading: "Where each schedule ends".to_string(),
        charts: vec![Chart {
            title,
            x,
            y: axis(score.label(), plain),
            series,
            target,
            from_the_better: score.lower_is_better(),
        }],
    }
}

/// The best setting of each method at a horizon (or each setting of a lone method).
fn chosen(task: &Task, styles: &Styles, horizon: Horizon) -> Vec<(String, Setting)> {
    let mut found: Vec<(String, Setting)> = match styles.by_setting {
        true => task
            .settings()
            .into_iter()
            .filter(|(_, s)| s.horizon == horizon)
            .map(|(m, s)| (styles.label(m, s), s.clone()))
            .collect(),
        false => task
            .methods
            .iter()
            .filter_map(|method| {
                // without a finished run: what there is so far
                let any = || method.settings.iter().find(|setting| setting.horizon == horizon);
                let setting = method.best(horizon).or_else(any)?;
                Some((styles.label(method, setting), setting.clone()))
            })
            .collect(),
    };
    found.truncate(MANY);
    found
}

/// Validation score against updates, tokens and seconds, and the other scores against updates.
fn curves(task: &Task, score: Metric, styles: &Styles, horizon: Horizon, target: Option<f64>) -> Group {
    let chosen = chosen(task, styles, horizon);
    let line = |of: &dyn Fn(&Run) -> Vec<(f64, f64)>| -> Vec<Series> {
        let one = |(label, setting): &(String, Setting)| Series {
            label: format!("{label} {}", if styles.by_setting { "" } else { &setting.label }).trim_end().to_string(),
            style: styles.style(label),
            lines: setting.runs.iter().map(of).collect(),
            dots: false,
        };
        chosen.iter().map(one).collect()
    };
    type Spent = fn(&super::run::ValidRow) -> f64;
    let axes: [(&str, Spent); 3] = [
        ("updates", |row| row.step as f64),
        ("target tokens", |row| row.tokens as f64),
        ("seconds of training", |row| row.seconds),
    ];
    let valid = |shown: Metric, spent: Spent| {
        line(&|run| run.valid.iter().filter_map(|row| Some((spent(row), row.score(shown)?))).collect())
    };
    let mut charts: Vec<Chart> = axes
        .iter()
        .map(|(name, spent)| Chart {
            title: format!("Validation {}", score.label()),
            x: axis(name, thousands),
            y: axis(score.label(), plain),
            series: valid(score, *spent),
            target,
            from_the_better: score.lower_is_better(),
        })
        .collect();
    for other in [Metric::Nll, Metric::Bleu].into_iter().filter(|other| *other != score) {
        charts.push(Chart {
            title: format!("Validation {}", other.label()),
            x: axis("updates", thousands),
            y: axis(other.label(), plain),
            series: valid(other, |row| row.step as f64),
            target: None,
            from_the_better: other.lower_is_better(),
        });
    }
    if styles.by_setting {
        let train = line(&|run| run.train.iter().filter_map(|row| Some((row.step as f64, row.nll?))).collect());
        charts.push(Chart {
            title: "Training NLL".to_string(),
            x: axis("updates", thousands),
            y: axis("NLL", plain),
            series: train,
            target: None,
            from_the_better: true,
        });
    }
    let kind = if horizon.scheduled { "horizon" } else { "no horizon, ended at" };
    let updates = units::count(horizon.updates);
    let many = if task.methods.len() > MANY { format!(", the best {MANY} methods") } else { String::new() };
    Group { heading: format!("Curves, {kind} {updates} updates{many}"), charts }
}

/// Final score against learning rate, a chart a horizon.
fn sensitivity(task: &Task, score: Metric, styles: &Styles, horizons: &[Horizon]) -> Group {
    let charts = horizons.iter().map(|horizon| {
        let of = |method: &Method| {
            by_rate(method, *horizon).into_iter().map(|(lr, cost)| (lr, score.cost(cost))).collect::<Vec<_>>()
        };
        let swept: Vec<&Method> = task.methods.iter().filter(|method| of(method).len() > 1).collect();
        let mut at: Vec<f64> = swept.iter().flat_map(|method| of(method)).map(|(lr, _)| lr).collect();
        at.sort_by(f64::total_cmp);
        at.dedup();
        let series = swept.iter().map(|method| Series {
            label: method.label.clone(),
            style: styles.style(&method.label),
            lines: vec![of(method)],
            dots: true,
        });
        Chart {
            title: format!("Final {}, horizon {} updates", score.label(), units::count(horizon.updates)),
            x: Axis { log: true, at, ..axis("learning rate (logarithmic)", rate) },
            y: axis(score.label(), plain),
            series: series.collect(),
            target: None,
            from_the_better: false,
        }
    });
    Group { heading: "Sensitivity to the learning rate".to_string(), charts: charts.collect() }
}

/// Where the bin of all the other ranks is drawn.
const MORE: f64 = 5000.0;

/// The last NLL by frequency of the token; where there is a baseline, what runs differ from the median of its own by.
fn by_rank(task: &Task, styles: &Styles, horizons: &[Horizon]) -> Group {
    let place = |name: &str| name.parse().unwrap_or(MORE);
    let points = |run: &Run| -> Vec<(f64, f64)> {
        let last = run.valid.last().into_iter();
        last.flat_map(|row| row.by_rank().map(|(name, nll)| (place(name), nll)).collect::<Vec<_>>()).collect()
    };
    let charts = horizons.iter().map(|horizon| {
        let chosen = chosen(task, styles, *horizon);
        let baseline = chosen.iter().find(|(label, _)| styles.baseline.as_ref() == Some(label));
        let own: Vec<(f64, f64)> = baseline.iter().flat_map(|(_, setting)| &setting.runs).flat_map(points).collect();
        let level = |at: f64| match baseline {
            Some(_) => median(own.iter().filter(|(x, _)| *x == at).map(|(_, nll)| *nll)),
            None => 0.0,
        };
        let of = |run: &Run| -> Vec<(f64, f64)> {
            let all = points(run).into_iter().map(|(at, nll)| (at, nll - level(at)));
            all.filter(|(_, nll)| nll.is_finite()).collect()
        };
        let series = chosen.iter().map(|(label, setting)| Series {
            label: label.clone(),
            style: styles.style(label),
            lines: setting.runs.iter().map(of).collect(),
            dots: true,
        });
        let (minus, y) = match baseline {
            Some((label, _)) => (format!(" minus {label}'s"), "difference of NLL"),
            None => (String::new(), "NLL"),
        };
        let show = |at: f64| if at == MORE { "more".to_string() } else { plain(at) };
        let at = ranks::NAMES.map(place).to_vec();
        Chart {
            title: format!("NLL by rank{minus}, horizon {} updates", units::count(horizon.updates)),
            x: Axis { log: true, at, ..axis("rank in the training text, up to", show) },
            y: axis(y, plain),
            series: series.collect(),
            target: None,
            from_the_better: false,
        }
    });
    Group { heading: "Loss by frequency of the token".to_string(), charts: charts.collect() }
}

/// What translations look like beside their references, where they show anything.
fn hypotheses(task: &Task, styles: &Styles, horizons: &[Horizon]) -> Group {
    let title = |symptom| match symptom {
        Symptom::Identical => "Identical to the translation of another source, %",
        Symptom::Copied => "Copies of the source, %",
        Symptom::Repeated => "Say the same words over and over, %",
        Symptom::Empty => "Empty, %",
        Symptom::LengthRatio => "Length, of the references'",
    };
    let charts = horizons.iter().flat_map(|horizon| {
        let chosen = chosen(task, styles, *horizon);
        let is_odd = |run: &Run, symptom: Symptom| {
            let odd = |row: &ValidRow| row.symptoms().notable(&run.references.0).any(|(odd, _)| odd == symptom);
            run.valid.iter().any(odd)
        };
        let odd = Symptom::ALL.into_iter().filter(move |&symptom| {
            chosen.iter().any(|(_, setting)| setting.runs.iter().any(|run| is_odd(run, symptom)))
        });
        odd.map(|symptom| {
            let scale = if symptom == Symptom::LengthRatio { 1.0 } else { 100.0 };
            let of = |run: &Run| -> Vec<(f64, f64)> {
                let rows = run.valid.iter();
                rows.filter_map(|row| Some((row.step as f64, scale * row.symptoms().get(symptom)?))).collect()
            };
            by_update(&self::chosen(task, styles, *horizon), styles, *horizon, title(symptom), symptom.name(), &of)
        })
        .collect::<Vec<_>>()
    });
    Group { heading: "Translations of the validation set".to_string(), charts: charts.collect() }
}

/// A chart of what each run of the `chosen` settings has by its updates.
fn by_update(
    chosen: &[(String, Setting)],
    styles: &Styles,
    horizon: Horizon,
    title: &str,
    y: &str,
    of: &dyn Fn(&Run) -> Vec<(f64, f64)>,
) -> Chart {
    let series = chosen.iter().map(|(label, setting)| Series {
        label: label.clone(),
        style: styles.style(label),
        lines: setting.runs.iter().map(of).collect(),
        dots: false,
    });
    Chart {
        title: format!("{title}, horizon {} updates", units::count(horizon.updates)),
        x: axis("updates", thousands),
        y: axis(y, plain),
        series: series.collect(),
        target: None,
        from_the_better: false,
    }
}

/// Health of the embedding tables, where the embedding distance measures it.
fn health(task: &Task, styles: &Styles, horizons: &[Horizon]) -> Group {
    let columns = [
        ("embedding.effective_rank", "Effective rank of the embeddings"),
        ("embedding.mean_cosine", "Mean cosine of the embeddings"),
    ];
    let charts = horizons.iter().flat_map(|horizon| {
        let chosen = chosen(task, styles, *horizon);
        columns.map(|(column, title)| {
            let of = |run: &Run| -> Vec<(f64, f64)> {
                run.train.iter().filter_map(|row| Some((row.step as f64, row.others.get(column)?.as_f64()?))).collect()
            };
            by_update(&chosen, styles, *horizon, title, title, &of)
        })
    });
    Group { heading: "Embedding health".to_string(), charts: charts.collect() }
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::made;
    use super::super::task::{sort, tests::*};
    use super::*;

    fn groups(runs: Vec<Run>) -> Vec<Group> {
        let tasks = sort(runs, &options()).unwrap_or_else(|e| panic!("{e}"));
        charts(&tasks[0], Metric::Nll, &Styles::of(&tasks[0]))
    }

    #[test]
    fn unlike_horizons_never_share_curves() {
        let groups = groups(sweep());
        let headings: Vec<&str> = groups.iter().map(|group| group.heading.as_str()).collect();
        let expected = [
            "Where each schedule ends",
            "Curves, horizon 1 000 updates",
            "Curves, horizon 500 updates",
            "Curves, horizon 250 updates",
            "Sensitivity to the learning rate",
            "Loss by frequency of the token",
        ];
        assert_eq!(headings, expected);
        let titles: Vec<&str> = groups[1].charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["Validation NLL", "Validation NLL", "Validation NLL", "Validation BLEU"]);
        // the best setting of each method, a line a seed; the baseline has a style of its own
        let series = &groups[1].charts[0].series;
        assert_eq!(series.iter().map(|s| (s.style, s.lines.len())).collect::<Vec<_>>(), [(Some(0), 2), (None, 2)]);
    }

    #[test]
    fn losses_by_rank_are_beside_those_of_the_baseline() {
        let groups = groups(sweep());
        let charts = &groups.last().unwrap().charts;
        // adam ends at 2.52 and 2.54, hessian2 at 2.32 and 2.34; half of it up to rank 30, twice of it beyond 2000
        let expected =
            [(Some(0), [-0.105, -0.42]), (Some(0), [-0.095, -0.38]), (None, [-0.005, -0.02]), (None, [0.005, 0.02])];
        let lines = charts[0].series.iter().flat_map(|series| series.lines.iter().map(|line| (series.style, line)));
        for ((style, line), (wanted, heights)) in lines.zip(expected) {
            assert_eq!(style, wanted);
            assert_eq!(line.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [30.0, MORE]);
            assert!(line.iter().zip(heights).all(|((_, found), height)| (found - height).abs() < 1e-9), "{line:?}");
        }
        assert_eq!(charts[0].title, "NLL by rank minus adam's, horizon 1 000 updates");
        // alone, it is the loss itself
        let alone = self::groups(vec![made("a", |_| {}, 2.0, 0.5)]);
        let chart = &alone.last().unwrap().charts[0];
        assert_eq!(chart.series[0].lines[0], [(30.0, 1.0), (MORE, 4.0)]);
    }

    #[test]
    fn a_lone_method_shows_its_settings() {
        let rates = [1e-3, 2e-3].map(|lr| made("a", |config| config.optimizer.lr = lr, 2.0 + lr, 0.5));
        let groups = groups(rates.to_vec());
        let labels: Vec<&str> = groups[0].charts[0].series.iter().map(|s| s.label.as_str()).collect();
        assert_eq!(labels, ["lr=0.001", "lr=0.002"]);
        assert!(groups[0].charts.iter().any(|chart| chart.title == "Training NLL"));
    }
}
