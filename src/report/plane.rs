//! A plane to draw on: where a value lies, and which values get a tick.

/// One axis of a chart.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) label: String,
    /// Logarithmic instead of linear.
    pub(super) log: bool,
    /// Values that get a tick; empty = round ones.
    pub(super) at: Vec<f64>,
    /// How a value is written.
    pub(super) show: fn(f64) -> String,
}

/// An axis laid over pixels.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Pixels of `low` and `high`.
    pixels: (f64, f64),
}

impl Scale {
    /// Over `values`, with a margin so that no point lies on the edge; a single value gets a range around it.
    pub(super) fn over(values: impl Iterator<Item = f64>, log: bool, pixels: (f64, f64)) -> Self {
        let map = |value: f64| if log { value.ln() } else { value };
        let found = values.filter(|value| value.is_finite() && (!log || *value > 0.0)).map(map);
        let (low, high) = found.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = match high - low {
            span if span > 0.0 => (low - 0.03 * span, high + 0.03 * span),
            _ if low.is_finite() => (low - 0.5 * low.abs().max(0.1), high + 0.5 * high.abs().max(0.1)),
            _ => (0.0, 1.0),
        };
        Scale { low, high, log, pixels }
    }

    /// Pixel of a value; outside the range it lies outside the pixels.
    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let (from, to) = self.pixels;
        from + (value - self.low) / (self.high - self.low) * (to - from)
    }

    /// Values for ticks: those of the axis if it names some, else round ones; never so many that labels would touch.
    pub(super) fn ticks(&self, axis: &Axis, spacing: f64) -> Vec<f64> {
        let candidates = match (axis.at.is_empty(), self.log) {
            (false, _) => axis.at.clone(),
            (true, false) => {
                round_ticks(self.low, self.high, ((self.pixels.1 - self.pixels.0).abs() / spacing).max(2.0))
            }
            (true, true) => (-12..12).flat_map(|power| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(power))).collect(),
        };
        let mut kept: Vec<f64> = Vec::new();
        for value in candidates {
            let mapped = if self.log { value.ln() } else { value };
            let inside = mapped >= self.low - 1e-9 && mapped <= self.high + 1e-9;
            let apart = kept.last().is_none_or(|last| (self.place(*last) - self.place(value)).abs() >= spacing);
            if inside && apart {
                kept.push(value);
            }
        }
        kept
    }
}

/// Multiples of 1, 2 or 5 × 10ⁿ between `low` and `high`, about `count` of them at most.
fn round_ticks(low: f64, high: f64, count: f64) -> Vec<f64> {
    let rough = (high - low) / count;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    // A product keeps 0.3 from being 0.30000000000000004 longer than need be.
    (first..=last).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(at: Vec<f64>, log: bool) -> Axis {
        Axis { label: String::new(), log, at, show: |value| value.to_string() }
    }

    #[test]
    fn linear_ticks_are_round_and_inside() {
        let scale = Scale::over([0.0, 1000.0].into_iter(), false, (0.0, 300.0));
        assert_eq!(scale.ticks(&axis(Vec::new(), false), 50.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert!((scale.place(500.0) - 150.0).abs() < 1e-9);
    }

    #[test]
    fn a_logarithmic_axis_spaces_ratios_evenly() {
        let scale = Scale::over([1e-3, 4e-3].into_iter(), true, (0.0, 300.0));
        let [a, b, c] = [1e-3, 2e-3, 4e-3].map(|value| scale.place(value));
        assert!(((b - a) - (c - b)).abs() < 1e-9);
        assert_eq!(scale.ticks(&axis(vec![1e-3, 1.01e-3, 2e-3, 4e-3], true), 30.0), [1e-3, 2e-3, 4e-3]);
    }

    #[test]
    fn nothing_and_one_value_have_a_range() {
        for values in [Vec::new(), vec![3.0], vec![0.0], vec![f64::INFINITY, 2.0]] {
            let scale = Scale::over(values.into_iter(), false, (0.0, 100.0));
            assert!(scale.place(1.0).is_finite());
            assert!(!scale.ticks(&axis(Vec::new(), false), 20.0).is_empty());
        }
    }
}
