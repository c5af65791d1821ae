//! Which checkpoints stay, as a pure function.

use serde::{Deserialize, Serialize};

/// A checkpoint on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    pub step: u64,
    /// Its manifest is there and the sizes of its files agree.
    pub good: bool,
}

/// A validated step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub step: u64,
    pub score: f64,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Folders to delete, oldest first.
    pub delete: Vec<u64>,
    /// The best among those that stay, best first.
    pub best: Vec<Scored>,
}

/// Keeps the `keep_last` newest good checkpoints (at least one, whatever is asked) and the `keep_best` best of the
/// `scored` ones; of equals the earlier. Damaged ones never count as kept; they go once a newer good one exists.
pub fn plan(
    existing: &[Existing],
    scored: &[Scored],
    lower_is_better: bool,
    keep_last: usize,
    keep_best: usize,
) -> Plan {
    let mut good: Vec<u64> = existing.iter().filter(|c| c.good).map(|c| c.step).collect();
    good.sort_unstable();
    let newest = good.iter().rev().take(keep_last.max(1));
    let mut best: Vec<Scored> =
        scored.iter().copied().filter(|s| good.contains(&s.step) && !s.score.is_nan()).collect();
    best.sort_by(|a, b| {
        let order = if lower_is_better { a.score.total_cmp(&b.score) } else { b.score.total_cmp(&a.score) };
        order.then(a.step.cmp(&b.step))
    });
    best.dedup_by_key(|s| s.step);
    best.truncate(keep_best);
    let kept: Vec<u64> = newest.copied().chain(best.iter().map(|s| s.step)).collect();
    let newest_good = good.last().copied().unwrap_or(0);
    let goes = |c: &&Existing| if c.good { !kept.contains(&c.step) } else { c.step < newest_good };
    let mut delete: Vec<u64> = existing.iter().filter(goes).map(|c| c.step).collect();
    delete.sort_unstable();
    Plan { delete, best }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays() {
        let good = |steps: &[u64]| steps.iter().map(|&step| Existing { step, good: true }).collect::<Vec<_>>();
        let scores = |s: &[(u64, f64)]| s.iter().map(|&(step, score)| Scored { step, score }).collect::<Vec<_>>();
        // (existing, scored, lower is better, keep last, keep best, deleted, best)
        let nll = [(1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5)];
        type Case<'a> = (&'a [u64], &'a [(u64, f64)], bool, usize, usize, &'a [u64], &'a [u64]);
        let cases: &[Case] = &[
            (&[], &[], true, 1, 1, &[], &[]),
            (&[1], &[], true, 1, 0, &[], &[]),
            (&[1, 2, 3, 4], &nll, true, 1, 1, &[1, 3], &[2]),
            (&[4, 3, 2, 1], &nll, true, 1, 2, &[1], &[2, 3]),
            (&[1, 2, 3, 4], &nll, false, 1, 1, &[2, 3], &[1]),
            (&[1, 2, 3, 4], &nll, true, 3, 0, &[1], &[]),
            // never nothing
            (&[1, 2], &[], true, 0, 0, &[1], &[]),
            // scores of checkpoints that are gone do not count
            (&[3, 4], &nll, true, 1, 1, &[], &[3]),
            // of equals the earlier
            (&[1, 2, 3], &[(1, 5.0), (2, 5.0)], true, 1, 1, &[2], &[1]),
            // NaN is never best
            (&[1, 2], &[(1, f64::NAN)], true, 1, 1, &[1], &[]),
        ];
        for (existing, scored, lower, last, best, deleted, bests) in cases {
            let plan = plan(&good(existing), &scores(scored), *lower, *last, *best);
            assert_eq!(plan.delete, *deleted, "{existing:?} {scored:?}");
            assert_eq!(plan.best.iter().map(|s| s.step).collect::<Vec<_>>(), *bests);
        }
    }

    #[test]
    fn the_last_good_one_stays_whatever_lies_around_it() {
        let existing = [(1, true), (2, true), (3, false), (4, false)].map(|(step, good)| Existing { step, good });
        assert_eq!(plan(&existing, &[], true, 1, 0).delete, [1]);
        let existing = [(1, false), (2, true), (3, false)].map(|(step, good)| Existing { step, good });
        assert_eq!(plan(&existing, &[], true, 1, 0).delete, [1]);
        let existing = [(1, false), (2, false)].map(|(step, good)| Existing { step, good });
        assert_eq!(plan(&existing, &[], true, 1, 0).delete, Vec::<u64>::new());
    }
}
