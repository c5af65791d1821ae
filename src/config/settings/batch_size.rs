//! `train.batch_size`.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// Size of a batch: a number, or what the memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum BatchSize {
    Auto,
    Of(usize),
}

impl BatchSize {
    /// The number; `otherwise` where it is still to be found.
    pub fn or(self, otherwise: usize) -> usize {
        match self {
            BatchSize::Of(size) => size,
            BatchSize::Auto => otherwise,
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BatchSizeVisitor;
        impl Visitor<'_> for BatchSizeVisitor {
            type Value = BatchSize;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a whole number of 1 or more, or \"auto\"")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<BatchSize, E> {
                let n = u64::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
                self.visit_u64(n)
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<BatchSize, E> {
                // 0 is refused with the other problems of the file
                usize::try_from(n).map(BatchSize::Of).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BatchSize, E> {
                match text {
                    "auto" => Ok(BatchSize::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(BatchSizeVisitor)
    }
}

impl Serialize for BatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            BatchSize::Auto => serializer.serialize_str("auto"),
            BatchSize::Of(n) => serializer.serialize_u64(*n as u64),
        }
    }
}
