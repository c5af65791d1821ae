//! A line chart as SVG: axes, ticks, lines. Colours are classes of the page's style sheet, so one drawing serves the
//! light page, the dark page and paper.

use std::fmt::Write;

use super::plane::{Axis, Scale};

/// What is drawn.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// A horizontal line at this height.
    pub(super) target: Option<f64>,
    /// Take the range of y from the better three quarters of the lines (the lower their ends), without their first fifths:
    /// one failure, or the height from which a loss falls, would flatten the rest.
    pub(super) from_the_better: bool,
}

/// Lines of one colour.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) label: String,
    /// Which colour and dash; `None` = the baseline's own.
    pub(super) style: Option<usize>,
    /// One line a seed.
    pub(super) lines: Vec<Vec<(f64, f64)>>,
    /// Dots at the points.
    pub(super) dots: bool,
}

/// Colours of the page; a further series takes the first colour again, with another dash.
pub(super) const COLORS: usize = 8;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 388.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 220.0;

/// Classes of a style: `c3 d1`.
pub(super) fn classes(style: Option<usize>) -> String {
    style.map_or("base".to_string(), |i| format!("c{} d{}", i % COLORS, (i / COLORS).min(3)))
}

/// `text` for HTML and SVG.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart {
    /// Whether there is a point to draw.
    pub(super) fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.lines.iter().all(Vec::is_empty))
    }

    /// The drawing; `id` must be unique on the page.
    pub(super) fn svg(&self, id: usize) -> String {
        let (x, y) = (self.x_scale(), self.y_scale());
        let mut out = String::new();
        let title = escaped(&self.title);
        let _ = write!(
            out,
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t{id}"><title id="t{id}">{title}</title>"#
        );
        let (width, height) = (RIGHT - LEFT, BOTTOM - TOP);
        let _ = write!(
            out,
            r#"<clipPath id="p{id}"><rect x="{LEFT}" y="{TOP}" width="{width}" height="{height}"/></clipPath>"#
        );
        self.axes(&mut out, &x, &y);
        let _ = write!(out, r#"<g clip-path="url(#p{id})">"#);
        if let Some(target) = self.target {
            let at = y.place(target);
            let _ = write!(out, r#"<line class="target" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}"/>"#);
        }
        for series in &self.series {
            self.lines(&mut out, series, &x, &y);
        }
        out.push_str("</g></svg>");
        out
    }

    fn points(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.series.iter().flat_map(|series| series.lines.iter().flatten())
    }

    fn x_scale(&self) -> Scale {
        Scale::over(self.points().map(|point| point.0), self.x.log, (LEFT, RIGHT))
    }

    fn y_scale(&self) -> Scale {
        let mut lines: Vec<&Vec<(f64, f64)>> =
            self.series.iter().flat_map(|series| &series.lines).filter(|line| !line.is_empty()).collect();
        if self.from_the_better {
            lines.sort_by(|a, b| a[a.len() - 1].1.total_cmp(&b[b.len() - 1].1));
            lines.truncate((lines.len() * 3).div_ceil(4));
        }
        let kept = lines.into_iter().flat_map(|line| {
            let start = if self.from_the_better && line.len() >= 5 { line.len() / 5 } else { 0 };
            &line[start..]
        });
        Scale::over(kept.map(|point| point.1).chain(self.target), self.y.log, (BOTTOM, TOP))
    }

    fn axes(&self, out: &mut String, x: &Scale, y: &Scale) {
        for value in y.ticks(&self.y, 26.0) {
            let at = y.place(value);
            let text = escaped(&(self.y.show)(value));
            let _ = write!(out, r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1}" y2="{at:.1}"/>"#);
            let _ = write!(out, r#"<text class="y" x="{}" y="{:.1}">{text}</text>"#, LEFT - 6.0, at + 3.5);
        }
        for value in x.ticks(&self.x, 52.0) {
            let at = x.place(value);
            let text = escaped(&(self.x.show)(value));
            let _ =
                write!(out, r#"<line class="tick" x1="{at:.1}" x2="{at:.1}" y1="{BOTTOM}" y2="{}"/>"#, BOTTOM + 4.0);
            let _ = write!(out, r#"<text class="x" x="{at:.1}" y="{}">{text}</text>"#, BOTTOM + 17.0);
        }
        let _ = write!(out, r#"<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>"#);
        let middle = (LEFT + RIGHT) / 2.0;
        let label = escaped(&self.x.label);
        let _ = write!(out, r#"<text class="x label" x="{middle}" y="{}">{label}</text>"#, HEIGHT - 6.0);
    }

    fn lines(&self, out: &mut String, series: &Series, x: &Scale, y: &Scale) {
        let thin = if series.lines.len() > 1 { " thin" } else { "" };
        let label = escaped(&series.label);
        let _ = write!(out, r#"<g class="{}{thin}"><title>{label}</title>"#, classes(series.style));
        for line in &series.lines {
            // A value that is not finite breaks the line.
            for piece in line.split(|point| !point.1.is_finite()) {
                let places: Vec<String> =
                    thinned(piece).map(|(a, b)| format!("{:.1},{:.1}", x.place(*a), y.place(*b))).collect();
                if places.len() > 1 {
                    let _ = write!(out, r#"<polyline points="{}"/>"#, places.join(" "));
                }
                if series.dots || places.len() == 1 {
                    for place in &places {
                        let (cx, cy) = place.split_once(',').unwrap_or_default();
                        let _ = write!(out, r#"<circle cx="{cx}" cy="{cy}" r="2.6"/>"#);
                    }
                }
            }
        }
        out.push_str("</g>");
    }
}

/// At most some 400 points of a line, the last among them: more than a chart can show.
fn thinned(line: &[(f64, f64)]) -> impl Iterator<Item = &(f64, f64)> {
    let stride = line.len().div_ceil(400).max(1);
    line.iter().enumerate().filter(move |(i, _)| i % stride == 0 || i + 1 == line.len()).map(|(_, point)| point)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: Vec<Vec<(f64, f64)>>) -> Chart {
        let axis = |label: &str| Axis { label: label.to_string(), log: false, at: Vec::new(), show: |v| v.to_string() };
        let series = vec![Series { label: "a <b>".to_string(), style: Some(9), lines, dots: false }];
        Chart {
            title: "Loss".to_string(),
            x: axis("updates"),
            y: axis("NLL"),
            series,
            target: Some(2.0),
            from_the_better: true,
        }
    }

    #[test]
    fn lines_lie_inside_and_labels_are_escaped() {
        let svg = chart(vec![(0..=10).map(|i| (i as f64, 10.0 - i as f64)).collect()]).svg(3);
        assert!(svg.starts_with(r#"<svg viewBox="0 0 400 260" role="img" aria-labelledby="t3"><title id="t3">Loss"#));
        assert!(svg.contains("<title>a &lt;b&gt;</title>") && svg.contains(r#"class="c1 d1""#), "{svg}");
        assert!(svg.contains("clip-path") && svg.ends_with("</g></svg>"));
        // the first fifth may lie above the plane, the rest not
        let points = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let heights: Vec<f64> = points.split(' ').filter_map(|p| p.split_once(',')?.1.parse().ok()).collect();
        assert_eq!(heights.len(), 11);
        assert!(heights[0] < TOP && heights[3..].iter().all(|y| (TOP..=BOTTOM).contains(y)), "{heights:?}");
    }

    #[test]
    fn what_is_not_finite_breaks_the_line_and_one_point_is_a_dot() {
        let svg = chart(vec![vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::INFINITY), (3.0, 1.0)]]).svg(0);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (1, 1), "{svg}");
        assert!(!svg.contains("inf") && !svg.contains("NaN"), "{svg}");
        assert!(chart(vec![Vec::new()]).is_empty());
        assert!(!chart(vec![Vec::new()]).svg(0).contains("NaN"));
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_end() {
        let line: Vec<(f64, f64)> = (0..5000).map(|i| (i as f64, 0.0)).collect();
        let kept: Vec<_> = thinned(&line).collect();
        assert!(kept.len() <= 402 && kept.last() == Some(&&(4999.0, 0.0)), "{}", kept.len());
    }
}
