//! Figures of all rounds as one table and one line of JSON.

use serde_json::{json, Value};

use crate::shape::Shape;

/// Name of the candidate that ratios refer to.
pub(crate) const EAGER: &str = "torch eager";

/// GFLOP/s of multiply-adds in one round.
pub(crate) struct Roof {
    pub(crate) one: f64,
    pub(crate) all: f64,
}

/// What was measured of one candidate.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Median step of each round.
    pub(crate) seconds: Vec<f64>,
    pub(crate) base_mib: f64,
    pub(crate) peak_mib: f64,
    /// After the last step, a token: shows that it learned.
    pub(crate) loss: f64,
}

/// Smallest, median and largest of the rounds.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let fold = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap_or(f64::NAN);
        Spread { low: fold(f64::min), median: median(&values), high: fold(f64::max) }
    }

    fn json(&self) -> Value {
        json!([rounded(self.low), rounded(self.median), rounded(self.high)])
    }
}

/// `others`: largest share of the machine that other processes took in a round.
pub(crate) fn print(shape: &Shape, threads: usize, roofs: &[Roof], rows: &[Row], others: f64) {
    let one = Spread::of(roofs.iter().map(|roof| roof.one));
    let all = Spread::of(roofs.iter().map(|roof| roof.all));
    let gflop = shape.gflop();
    println!("{shape:?}, {} target tokens a step, {} rounds", shape.tokens(), roofs.len());
    println!(
        "roof {:.0} GFLOP/s on 1 thread, {:.0} ({:.0}…{:.0}) on {threads}{}",
        one.median,
        all.median,
        all.low,
        all.high,
        gflop.map_or(String::new(), |gflop| format!("; {gflop:.1} GFLOP a step"))
    );
    let eager = rows.iter().find(|row| row.name == EAGER);
    println!(
        "{:<14} {:>8} {:>9} {:>9} {:>6} {:>9} {:>10}   times as fast as eager",
        "", "s/step", "tokens/s", "GFLOP/s", "roof", "peak MiB", "over base"
    );
    let mut json_rows = Vec::new();
    for row in rows {
        let seconds = median(&row.seconds);
        let tokens = shape.tokens() as f64 / seconds;
        let share = gflop.map(|g| Spread::of(row.seconds.iter().zip(roofs).map(|(s, roof)| g / s / roof.all)));
        let ratio = eager.map(|eager| Spread::of(row.seconds.iter().zip(&eager.seconds).map(|(own, e)| e / own)));
        let over = row.peak_mib - row.base_mib;
        println!(
            "{:<14} {:>8.4} {:>9.0} {:>9} {:>6} {:>9.0} {:>10.0}   {}",
            row.name,
            seconds,
            tokens,
            gflop.map_or("-".into(), |gflop| format!("{:.1}", gflop / seconds)),
            share.as_ref().map_or("-".into(), |share| format!("{:.0} %", 100.0 * share.median)),
            row.peak_mib,
            over,
            ratio.as_ref().map_or("-".into(), |r| format!("{:.2} ({:.2}…{:.2})", r.median, r.low, r.high)),
        );
        json_rows.push(json!({
            "name": row.name,
            "version": row.version,
            "seconds": rounded(seconds),
            "tokens_per_second": tokens.round(),
            "gflops": gflop.map(|gflop| rounded(gflop / seconds)),
            "share_of_roof": share.map(|share| share.json()),
            "times_eager": ratio.map(|ratio| ratio.json()),
            "peak_mib": row.peak_mib.round(),
            "over_base_mib": over.round(),
            "loss": rounded(row.loss),
            "rounds": row.seconds.iter().map(|&s| rounded(s)).collect::<Vec<_>>(),
        }));
    }
    let shape = json!({
        "model": format!("{:?}", shape.kind).to_lowercase(), "d": shape.d, "heads": shape.heads, "ff": shape.ff,
        "layers": shape.layers, "vocab": shape.vocab, "batch": shape.batch, "len": shape.len, "gflop": gflop.map(rounded),
    });
    println!(
        "{}",
        json!({
            "shape": shape, "threads": threads, "roof_one": one.json(), "roof": all.json(), "others": rounded(others),
            "candidates": json_rows,
        })
    );
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get((sorted.len().max(1) - 1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(below), Some(above)) => (below + above) / 2.0,
        _ => f64::NAN,
    }
}

/// Four decimals.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
