//! The report as one self-contained page: no script, no font, no picture from elsewhere; light, dark and paper.

use std::fmt::Write;

use super::batches::Family;
use super::chart::{classes, escaped};
use super::charts::{charts, Group, Styles};
use super::relative::{Comparison, Relative};
use super::task::Task;
use super::text::{known, rates, ratio, sentences, table};
use super::Report;
use crate::scores::Metric;
use crate::units;

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn html(report: &Report) -> String {
    let runs = report.tasks.iter().flat_map(|task| &task.methods).flat_map(|method| &method.settings);
    let runs: usize = runs.map(|setting| setting.runs.len()).sum();
    let plural = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let title = format!("{}, {}", plural(runs, "run"), plural(report.tasks.len(), "task"));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>nmt-train report: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n"
    );
    let mut next_id = 0;
    for found in &report.families {
        family(&mut out, found, &mut next_id);
    }
    for found in &report.tasks {
        task(&mut out, found, report.score, &mut next_id);
    }
    if !report.left_out.is_empty() {
        out.push_str("<section>\n<h2>Left out</h2>\n");
        list(&mut out, &report.left_out);
        out.push_str("</section>\n");
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(
        out,
        "<footer>Made by nmt-train {version}. Scores are of the validation set at the end of each run's own schedule; \
         seconds are training time, validation and saving not counted.</footer>\n</main>\n</body>\n</html>\n"
    );
    out
}

fn family(out: &mut String, family: &Family, next_id: &mut usize) {
    let _ = write!(out, "<section>\n<h2>{}</h2>\n", escaped(&family.label));
    let _ = writeln!(out, "<p class=\"lead\">{}.</p>", escaped(&family.lead()));
    rows(out, &family.table(), 2);
    let charts = family.charts();
    // bounds alone are no picture
    if !charts.charts.is_empty() {
        legend(out, &family.legend());
        group(out, &charts, next_id);
    }
    out.push_str("</section>\n");
}

fn group(out: &mut String, group: &Group, next_id: &mut usize) {
    let _ = write!(out, "<h3>{}</h3>\n<div class=\"charts\">\n", escaped(&group.heading));
    for chart in &group.charts {
        let svg = chart.svg(*next_id);
        let _ = writeln!(out, "<figure><figcaption>{}</figcaption>{svg}</figure>", escaped(&chart.title));
        *next_id += 1;
    }
    out.push_str("</div>\n");
}

fn task(out: &mut String, task: &Task, score: Metric, next_id: &mut usize) {
    let _ = write!(out, "<section>\n<h2>{}</h2>\n", escaped(&task.label));
    if let Some(comparison) = &task.comparison {
        relative_table(out, comparison, score);
    }
    if !task.notes.is_empty() {
        out.push_str("<aside>\n<h3>Mind</h3>\n");
        list(out, &task.notes);
        out.push_str("</aside>\n");
    }
    let styles = Styles::of(task);
    let groups = charts(task, score, &styles);
    legend(out, &styles.legend());
    groups.iter().for_each(|found| group(out, found, next_id));
    out.push_str("<h3>All settings, best first</h3>\n");
    rows(out, &table(task, score), 3);
    let rates = rates(task, score);
    if !rates.is_empty() {
        let _ = writeln!(out, "<h3>Final {} by learning rate</h3>", score.label());
        rows(out, &rates, 1);
    }
    out.push_str("</section>\n");
}

fn relative_table(out: &mut String, comparison: &Comparison, score: Metric) {
    let sentences = sentences(comparison, score);
    let target = sentences.first().map_or("", String::as_str);
    let _ = writeln!(out, "<p class=\"lead\">{}.</p>", escaped(target));
    let heading =
        ["method", "updates", "time", "time of an update", "at update", "after", "seeds", "tried", "horizons"];
    let mut found = vec![heading.map(String::from).to_vec()];
    for relative in &comparison.relatives {
        let Relative { method, updates, seconds, step_time, at, seeds, tried, horizons, .. } = relative;
        let never = matches!(updates.value, super::Reach::MoreThan(_));
        let horizons: Vec<String> = horizons.iter().map(u64::to_string).collect();
        found.push(vec![
            method.clone(),
            ratio(updates),
            ratio(seconds),
            known(*step_time, |ratio| format!("{ratio:.2}")),
            if never { "-".to_string() } else { format!("{:.0}", at[0]) },
            if never { "-".to_string() } else { units::duration(at[2]) },
            seeds.to_string(),
            tried.to_string(),
            horizons.join(" "),
        ]);
    }
    rows(out, &found, 1);
    let baseline = escaped(&comparison.baseline);
    let _ = writeln!(
        out,
        "<p class=\"small\">Updates and time to the target over those of {baseline}: value ± deviation over seeds \
         [95 % interval]. Between horizons the value is interpolated.</p>"
    );
}

fn legend(out: &mut String, entries: &[(String, Option<usize>)]) {
    out.push_str("<ul class=\"legend\">\n");
    for (label, style) in entries {
        let (classes, label) = (classes(*style), escaped(label));
        let _ = writeln!(
            out,
            r#"<li><svg viewBox="0 0 28 8" aria-hidden="true"><g class="{classes}"><polyline points="1,4 27,4"/></g></svg>{label}</li>"#
        );
    }
    out.push_str("</ul>\n");
}

fn list(out: &mut String, items: &[String]) {
    out.push_str("<ul>\n");
    for item in items {
        let _ = writeln!(out, "<li>{}</li>", escaped(item));
    }
    out.push_str("</ul>\n");
}

/// A table; the first `texts` columns are text, the others numbers.
fn rows(out: &mut String, rows: &[Vec<String>], texts: usize) {
    out.push_str("<div class=\"wide\"><table>\n");
    for (i, row) in rows.iter().enumerate() {
        out.push_str(if i == 0 { "<thead><tr>" } else { "<tr>" });
        let tag = if i == 0 { "th" } else { "td" };
        for (column, cell) in row.iter().enumerate() {
            let class = if column < texts { "" } else { " class=\"n\"" };
            let _ = write!(out, "<{tag}{class}>{}</{tag}>", escaped(cell));
        }
        out.push_str(if i == 0 { "</tr></thead>\n<tbody>\n" } else { "</tr>\n" });
    }
    out.push_str("</tbody>\n</table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::made;
    use super::super::task::{sort, tests::*};
    use super::super::Run;
    use super::*;

    fn page(runs: Vec<Run>) -> String {
        let tasks = sort(runs, &options()).unwrap_or_else(|e| panic!("{e}"));
        html(&Report::new(Metric::Nll, tasks, vec!["runs/<x>: damaged".to_string()]))
    }

    /// Every tag that is opened is closed, in order: what a browser would otherwise repair in silence.
    fn is_balanced(page: &str) -> bool {
        let mut open: Vec<&str> = Vec::new();
        for piece in page.split('<').skip(1) {
            let tag = piece.split('>').next().unwrap_or_default();
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
            if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
                continue;
            }
            match tag.starts_with('/') {
                true if open.pop() != Some(name) => return false,
                true => {}
                false => open.push(name),
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let page = page(sweep());
        assert!(is_balanced(&page));
        for foreign in ["<script", "http://", "https://", "<img", "<link", "NaN", "inf<"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("<h1>12 runs, 1 task</h1>") && page.contains("runs/&lt;x&gt;: damaged"));
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
        assert!(page.contains(r#"<td class="n">0.63 ± 0.00 [0.63, 0.63]</td>"#), "the ratio");
    }

    #[test]
    fn one_run_and_sixty_runs_make_whole_pages() {
        let one = page(sweep().into_iter().take(1).collect());
        assert!(is_balanced(&one) && one.contains("<h1>1 run, 1 task</h1>"));
        let sixty: Vec<Run> = (0..60u64)
            .map(|i| {
                let change = |config: &mut crate::config::Config| {
                    config.seed = i % 3;
                    config.train.ema_decay = (i / 3) as f64 / 100.0;
                };
                made(&format!("r{i}"), change, 2.0 + i as f64 / 100.0, 0.5)
            })
            .collect();
        let sixty = page(sixty);
        assert!(is_balanced(&sixty) && sixty.contains("<h1>60 runs, 1 task</h1>"));
        assert!(sixty.contains("the best 16 methods"));
    }
}
