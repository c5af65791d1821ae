//! The forms in which TOML may write corpora and columns, without `untagged` (it loses the line of an error).

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use std::fmt;

use super::data::as_corpora;
use super::forms::{self, TwoForms};
use super::{Column, Corpora, Corpus};

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
        f.write_str("a file, a list of one or two files, or a list of { files = [...], weight = 1.0, columns = [...], tag = \"\" }")
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

impl TwoForms for Column {
    const EXPECTED: &'static str = "the number of a column, from 1, or its name in the first line";

    fn of_number(n: u64) -> Option<Self> {
        usize::try_from(n).ok().map(Column::Number)
    }

    fn of_text(name: &str) -> Option<Self> {
        Some(Column::Name(name.to_string()))
    }
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        forms::read(deserializer)
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
