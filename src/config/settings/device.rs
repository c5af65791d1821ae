//! `device`.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum DeviceName {
    /// A GPU if there is one that this program can use.
    Auto,
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

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = DeviceName;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(r#""cpu", "cuda", "cuda:N" with a whole number N, or "auto""#)
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<DeviceName, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(name), &self);
                match name {
                    "auto" => Ok(DeviceName::Auto),
                    "cpu" => Ok(DeviceName::Cpu),
                    "cuda" => Ok(DeviceName::Cuda(0)),
                    _ => {
                        let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                        index.map(DeviceName::Cuda).ok_or_else(wrong)
                    }
                }
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
