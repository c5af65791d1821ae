//! Values that TOML may write in more than one form, without `untagged` (it loses the line of an error).

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use std::fmt;

use super::data::as_corpora;
use super::{BatchSize, Column, Corpora, Corpus, Every};

impl<'de> Deserialize<'de> for Corpora {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CorporaVisitor)
    }
}

impl Serialize for Corpora {
    /// The shortest form that reads back the same.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [only] if *only == Corpus::of(only.files.clone()) => only.files.serialize(serializer),
            all => {
                let mut seq = serializer.serialize_seq(Some(all.len()))?;
                for corpus in all {
                    seq.serialize_element(corpus)?;
                }
                seq.end()
            }
        }
    }
}

struct CorporaVisitor;

/// One element of the list: a file name, or a table.
enum Item {
    File(String),
    Corpus(Corpus),
}

impl<'de> Visitor<'de> for CorporaVisitor {
    type Value = Corpora;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a file, a list of one or two files, or a list of { files = [...], weight = 1.0, columns = [...] }")
    }

    fn visit_str<E: de::Error>(self, file: &str) -> Result<Corpora, E> {
        Ok(Corpora(vec![Corpus::of(vec![file.to_string()])]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Corpora, A::Error> {
        Corpus::deserialize(de::value::MapAccessDeserializer::new(map)).map(|corpus| Corpora(vec![corpus]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Corpora, A::Error> {
        let (mut files, mut corpora) = (Vec::new(), Vec::new());
        while let Some(item) = seq.next_element()? {
            match item {
                Item::File(file) => files.push(file),
                Item::Corpus(corpus) => corpora.push(corpus),
            }
        }
        match (files.len(), corpora.len()) {
            (0, _) => Ok(Corpora(corpora)),
            (1 | 2, 0) => Ok(Corpora(vec![Corpus::of(files)])),
            (n, 0) => Err(de::Error::custom(format!(
                "{n} files; a corpus is one file with both sides or two line-aligned files, \
                 several corpora are a list of {{ files = [...] }}; perhaps {}",
                as_corpora(&files)
            ))),
            _ => Err(de::Error::custom(format!(
                "file names and {{ files = [...] }} tables can not be mixed in one list; write the names as {}",
                as_corpora(&files).trim_matches(['[', ']'])
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a file name or { files = [...], weight = 1.0 }")
            }

            fn visit_str<E: de::Error>(self, file: &str) -> Result<Item, E> {
                Ok(Item::File(file.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Item, A::Error> {
                Corpus::deserialize(de::value::MapAccessDeserializer::new(map)).map(Item::Corpus)
            }
        }
        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ColumnVisitor;
        impl Visitor<'_> for ColumnVisitor {
            type Value = Column;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the number of a column, from 1, or its name in the first line")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Column, E> {
                let n = usize::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
                Ok(Column::Number(n))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Column, E> {
                let n = usize::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))?;
                Ok(Column::Number(n))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Column, E> {
                Ok(Column::Name(name.to_string()))
            }
        }
        deserializer.deserialize_any(ColumnVisitor)
    }
}

impl Serialize for Column {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Column::Number(n) => serializer.serialize_u64(*n as u64),
            Column::Name(name) => serializer.serialize_str(name),
        }
    }
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
