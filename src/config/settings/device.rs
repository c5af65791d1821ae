//! `device`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::forms::{self, TwoForms};

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum DeviceName {
    /// A GPU if there is one that this program can use.
    Auto,
    /// This machine's processor.
    Cpu,
    /// The GPU of this number, from 0.
    Cuda(u16),
}

impl fmt::Display for DeviceName {
    /// As in TOML.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DeviceName::Auto => f.write_str("auto"),
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(0) => f.write_str("cuda"),
            DeviceName::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TwoForms for DeviceName {
    const EXPECTED: &'static str = r#""cpu", "cuda", "cuda:N" with a whole number N, or "auto""#;

    fn of_number(_: u64) -> Option<Self> {
        None
    }

    fn of_text(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(DeviceName::Auto),
            "cpu" => Some(DeviceName::Cpu),
            "cuda" => Some(DeviceName::Cuda(0)),
            _ => name.strip_prefix("cuda:")?.parse().ok().map(DeviceName::Cuda),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        forms::read(deserializer)
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
