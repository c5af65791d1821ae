//! Which checkpoints stay, as a pure function.

/// A checkpoint on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    pub step: u64,
    /// Its manifest is there and the sizes of its files agree.
    pub good: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Folders to delete, oldest first.
    pub delete: Vec<u64>,
    /// The best among those that stay.
    pub best: Option<u64>,
}

/// Keeps the `keep_last` newest good checkpoints (at least one, whatever is asked) and the `keep_best` first of the
/// `ranked` ones, which are validated steps, best first. Damaged ones never count as kept; they go once a newer good one
/// exists.
pub fn plan(existing: &[Existing], ranked: &[u64], keep_last: usize, keep_best: usize) -> Plan {
    let mut good: Vec<u64> = existing.iter().filter(|c| c.good).map(|c| c.step).collect();
    good.sort_unstable();
    let newest = good.iter().rev().take(keep_last.max(1)).copied();
    let there: Vec<u64> = ranked.iter().copied().filter(|step| good.contains(step)).collect();
    let kept: Vec<u64> = newest.chain(there.iter().copied().take(keep_best)).collect();
    let newest_good = good.last().copied().unwrap_or(0);
    let goes = |c: &&Existing| if c.good { !kept.contains(&c.step) } else { c.step < newest_good };
    let mut delete: Vec<u64> = existing.iter().filter(goes).map(|c| c.step).collect();
    delete.sort_unstable();
    Plan { delete, best: there.into_iter().find(|step| kept.contains(step)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays() {
        let good = |steps: &[u64]| steps.iter().map(|&step| Existing { step, good: true }).collect::<Vec<_>>();
        // (existing, ranked, keep last, keep best, deleted, best)
        type Case<'a> = (&'a [u64], &'a [u64], usize, usize, &'a [u64], Option<u64>);
        let cases: &[Case] = &[
            (&[], &[], 1, 1, &[], None),
            (&[1], &[], 1, 0, &[], None),
            (&[1, 2, 3, 4], &[2, 3, 4, 1], 1, 1, &[1, 3], Some(2)),
            (&[4, 3, 2, 1], &[2, 3, 4, 1], 1, 2, &[1], Some(2)),
            // the best of what stays is known even if none is kept for being the best
            (&[1, 2, 3, 4], &[1, 3, 4, 2], 3, 0, &[1], Some(3)),
            // never nothing
            (&[1, 2], &[], 0, 0, &[1], None),
            // scores of checkpoints that are gone do not count
            (&[3, 4], &[2, 3, 4, 1], 1, 1, &[], Some(3)),
        ];
        for (existing, ranked, last, best, deleted, pointed) in cases {
            let plan = plan(&good(existing), ranked, *last, *best);
            assert_eq!((plan.delete.as_slice(), plan.best), (*deleted, *pointed), "{existing:?} {ranked:?}");
        }
    }

    #[test]
    fn the_last_good_one_stays_whatever_lies_around_it() {
        let existing = [(1, true), (2, true), (3, false), (4, false)].map(|(step, good)| Existing { step, good });
        assert_eq!(plan(&existing, &[], 1, 0).delete, [1]);
        let existing = [(1, false), (2, true), (3, false)].map(|(step, good)| Existing { step, good });
        assert_eq!(plan(&existing, &[], 1, 0).delete, [1]);
        let existing = [(1, false), (2, false)].map(|(step, good)| Existing { step, good });
        assert_eq!(plan(&existing, &[], 1, 0).delete, Vec::<u64>::new());
    }
}
