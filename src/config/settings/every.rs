//! How often something is done.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::forms::{self, TwoForms};

/// How often: TOML writes `1000` or "1000u" (updates), "2e" (epochs), or 0 (only at the end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Every {
    /// At the end alone.
    AtEnd,
    /// Each so many updates.
    Updates(u64),
    /// Each so many passes over the text.
    Epochs(u64),
}

impl TwoForms for Every {
    const EXPECTED: &'static str = r#"a number of updates, "500u", "1e" (every epoch) or 0 (only at the end)"#;

    fn of_number(n: u64) -> Option<Self> {
        Some(if n == 0 { Every::AtEnd } else { Every::Updates(n) })
    }

    fn of_text(text: &str) -> Option<Self> {
        match text.strip_suffix('e') {
            Some(digits) => digits.parse().ok().map(|n| if n == 0 { Every::AtEnd } else { Every::Epochs(n) }),
            None => Self::of_number(text.strip_suffix('u').unwrap_or(text).parse().ok()?),
        }
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        forms::read(deserializer)
    }
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Every::AtEnd => serializer.serialize_u64(0),
            Every::Updates(n) => serializer.serialize_u64(*n),
            Every::Epochs(n) => serializer.collect_str(&format_args!("{n}e")),
        }
    }
}
