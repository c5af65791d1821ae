//! Floats in JSON that may not be finite, for `#[serde(with = "crate::exact")]`: JSON has no word for them, and `null`
//! would make the whole file unreadable. They are written as "NaN", "inf" and "-inf"; `null`, which older files have, reads
//! as NaN.

pub(crate) mod option;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Word(String),
    Nothing(()),
}

pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value.is_finite() {
        true => serializer.serialize_f64(*value),
        false => serializer.collect_str(value),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Written::deserialize(deserializer)? {
        Written::Number(value) => Ok(value),
        Written::Word(word) => word.parse().map_err(serde::de::Error::custom),
        Written::Nothing(()) => Ok(f64::NAN),
    }
}
