//! `train.batch_size`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::forms::{self, TwoForms};

/// Size of a batch: a number, or what the memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum BatchSize {
    /// What the memory of the GPU holds.
    Auto,
    /// So many.
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

impl TwoForms for BatchSize {
    const EXPECTED: &'static str = r#"a whole number of 1 or more, or "auto""#;

    // 0 is refused with the other problems of the file
    fn of_number(n: u64) -> Option<Self> {
        usize::try_from(n).ok().map(BatchSize::Of)
    }

    fn of_text(text: &str) -> Option<Self> {
        (text == "auto").then_some(BatchSize::Auto)
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        forms::read(deserializer)
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
