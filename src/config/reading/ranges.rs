//! The range of a number, as its doc comment says it: "In [0, 1)", "Above 0", "2 or more", "1000 at most". What a user
//! reads is what is checked.

use std::fmt;

/// Numbers that a key may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Range {
    /// Between two numbers; whether each end belongs to it.
    Between {
        low: f64,
        high: f64,
        closed: (bool, bool),
    },
    Above(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Range {
    /// The ranges that a doc comment names; all must hold. Of several lower ends the most exact word counts.
    pub(super) fn all_in(doc: &str) -> Vec<Self> {
        if doc.contains("0 = off, else ") {
            return Vec::new(); // a rule of its section
        }
        let off = || (doc.contains("0 = off") || doc.contains("0 = no limit")).then_some(Range::AtLeast(0.0));
        let above = || number_after(doc, "Above ").map(Range::Above);
        let least = || number_before(doc, " or more").map(Range::AtLeast);
        let lower = between(doc).or_else(above).or_else(least).or_else(off);
        lower.into_iter().chain(number_before(doc, " at most").map(Range::AtMost)).collect()
    }

    /// Whether a number lies in it.
    pub(super) fn holds(self, x: f64) -> bool {
        match self {
            Range::Between { low, high, closed } => {
                (x > low || closed.0 && x == low) && (x < high || closed.1 && x == high)
            }
            Range::Above(low) => x > low && x.is_finite(),
            Range::AtLeast(low) => x >= low && x.is_finite(),
            Range::AtMost(high) => x <= high,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Range::Between { low, high, closed } => {
                let (open, close) = (if closed.0 { '[' } else { '(' }, if closed.1 { ']' } else { ')' });
                write!(f, "must be in {open}{low}, {high}{close}")
            }
            Range::Above(low) => write!(f, "must be above {low}"),
            Range::AtLeast(low) => write!(f, "must be {low} or more"),
            Range::AtMost(high) => write!(f, "must be {high} at most"),
        }
    }
}

/// "In [0, 1)".
fn between(doc: &str) -> Option<Range> {
    let (_, rest) = doc.split_once("In [").or_else(|| doc.split_once("In ("))?;
    let open = doc[..doc.len() - rest.len()].chars().next_back()?;
    let (low, rest) = rest.split_once(", ")?;
    let end = rest.find([')', ']'])?;
    let closed = (open == '[', rest[end..].starts_with(']'));
    Some(Range::Between { low: low.parse().ok()?, high: rest[..end].parse().ok()?, closed })
}

fn number_after(doc: &str, word: &str) -> Option<f64> {
    let (_, rest) = doc.split_once(word)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// Where the word has a number before it for the first time.
fn number_before(doc: &str, word: &str) -> Option<f64> {
    doc.match_indices(word).find_map(|(at, _)| {
        let start = doc[..at].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |end| end + 1);
        doc[start..at].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_written() {
        let told = |doc: &str| Range::all_in(doc).iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        for (doc, range) in [
            ("Decay of the model; 0 = off.\nIn [0, 1); 0.999 is usual.", "must be in [0, 1)"),
            ("Share. In (0, 1].", "must be in (0, 1]"),
            ("Above 0, 1000 at most.", "must be above 0 and must be 1000 at most"),
            ("The window. 1 or more, for isqrt and inv 2 or more.", "must be 1 or more"),
            ("Sentences of two or more words. 8 or more; fewer are made.", "must be 8 or more"),
            ("Hours; 0 = no limit.", "must be 0 or more"),
            ("Ratio; 0 = off, else 1 or more.", ""),
            ("Below (0, 1) nothing is meant.", ""),
        ] {
            assert_eq!(told(doc), range, "{doc}");
        }
    }

    #[test]
    fn ends_and_infinities_lie_where_they_should() {
        let holds = |doc: &str, x: f64| Range::all_in(doc).iter().all(|range| range.holds(x));
        assert!(holds("In [0, 1).", 0.0) && !holds("In [0, 1).", 1.0) && !holds("In (0, 1].", 0.0));
        assert!(holds("In (0, 1].", 1.0) && !holds("In [0, 1].", f64::NAN));
        assert!(!holds("Above 0.", f64::INFINITY) && !holds("0 or more.", f64::INFINITY) && !holds("Above 0.", 0.0));
    }
}
