//! Values that TOML writes as a number or as text, without `untagged` (it loses the line of an error).

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// A value of two forms.
pub(super) trait TwoForms: Sized {
    /// What may be written, as an error says it.
    const EXPECTED: &'static str;

    /// `None` for a number that it can not be.
    fn of_number(n: u64) -> Option<Self>;

    /// `None` for a fraction or a number below 0 that it can not be.
    fn of_fraction(_: f64) -> Option<Self> {
        None
    }

    /// `None` for a text that it can not be.
    fn of_text(text: &str) -> Option<Self>;
}

/// Reads either form.
pub(super) fn read<'de, T: TwoForms, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Either(PhantomData))
}

struct Either<T>(PhantomData<T>);

impl<T: TwoForms> Visitor<'_> for Either<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<T, E> {
        let found = u64::try_from(n).map_or_else(|_| T::of_fraction(n as f64), T::of_number);
        found.ok_or_else(|| E::invalid_value(Unexpected::Signed(n), &self))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<T, E> {
        T::of_number(n).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(n), &self))
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<T, E> {
        T::of_fraction(x).ok_or_else(|| E::invalid_value(Unexpected::Float(x), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::of_text(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}
