//! The same for numbers that may be absent.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Written;

pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => super::serialize(value, serializer),
        None => ().serialize(serializer),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Written::deserialize(deserializer)? {
        Written::Nothing(()) => Ok(None),
        Written::Number(value) => Ok(Some(value)),
        Written::Word(word) => word.parse().map(Some).map_err(serde::de::Error::custom),
    }
}
