//! Medians, spreads, interpolation, resampling.

use crate::rng::{stream, Purpose};
use crate::scores::Metric;

/// The middle value, the mean of the two middle ones for an even number; NaN of nothing. Infinities sort last.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n if sorted[n / 2].is_finite() => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        n => sorted[n / 2],
    }
}

/// Standard deviation of a sample (n − 1); `None` below two values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() >= 2).then(|| (squares / (n - 1.0)).sqrt())
}

/// Value at share `p` of the sorted values, linear between neighbours.
pub(super) fn quantile(sorted: &[f64], p: f64) -> f64 {
    let place = p * (sorted.len().max(1) - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(&a), Some(&b)) if a != b => a + (b - a) * place.fract(),
        (Some(&a), _) => a,
        _ => f64::NAN,
    }
}

/// Between `a` and `b` at share `t`, linear in the logarithm.
pub(super) fn log_between(a: f64, b: f64, t: f64) -> f64 {
    (a.ln() + (b.ln() - a.ln()) * t).exp()
}

/// `count` resamples of `items` with replacement; the same for the same input.
pub(super) fn resamples<T: Copy>(items: &[T], count: usize) -> Vec<Vec<T>> {
    let mut random = stream(1, Purpose::Sample, 0);
    (0..count).map(|_| items.iter().map(|_| items[random.below(items.len())]).collect()).collect()
}

/// A score of a run, for people.
pub(super) fn shown(score: Metric, value: f64) -> String {
    if value.is_finite() {
        score.show(value)
    } else {
        "diverged".to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_hold_with_failures() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([1.0, f64::INFINITY]), f64::INFINITY);
        assert_eq!(median([1.0, f64::INFINITY, 2.0]), 2.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn deviation_quantile_and_interpolation() {
        assert_eq!(deviation(&[1.0]), None);
        assert!((deviation(&[1.0, 2.0, 3.0]).unwrap_or(0.0) - 1.0).abs() < 1e-12);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.25), 1.25);
        assert_eq!(quantile(&[1.0, f64::INFINITY, f64::INFINITY], 0.75), f64::INFINITY);
        assert!((log_between(100.0, 400.0, 0.5) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn resamples_are_drawn_from_the_items_and_repeat() {
        let found = resamples(&[1, 2, 3], 50);
        assert_eq!(found, resamples(&[1, 2, 3], 50));
        assert!(found.iter().all(|sample| sample.len() == 3 && sample.iter().all(|item| (1..=3).contains(item))));
        assert!(found.iter().any(|sample| sample != &found[0]));
    }
}
