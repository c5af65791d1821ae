//! How often something is done.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// How often: TOML writes `1000` or "1000u" (updates), "2e" (epochs), or 0 (only at the end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Every {
    AtEnd,
    Updates(u64),
    Epochs(u64),
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EveryVisitor;
        impl Visitor<'_> for EveryVisitor {
            type Value = Every;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number of updates, \"500u\", \"1e\" (every epoch) or 0 (only at the end)")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Every, E> {
                let n = u64::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
                self.visit_u64(n)
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Every, E> {
                Ok(if n == 0 { Every::AtEnd } else { Every::Updates(n) })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Every, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
                let (digits, epochs) = match text.strip_suffix('e') {
                    Some(digits) => (digits, true),
                    None => (text.strip_suffix('u').unwrap_or(text), false),
                };
                let n: u64 = digits.parse().map_err(|_| wrong())?;
                Ok(match (n, epochs) {
                    (0, _) => Every::AtEnd,
                    (n, true) => Every::Epochs(n),
                    (n, false) => Every::Updates(n),
                })
            }
        }
        deserializer.deserialize_any(EveryVisitor)
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
