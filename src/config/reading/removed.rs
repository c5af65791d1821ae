//! Keys and values of earlier versions that are gone, and what to use instead.

use toml::de::DeValue;

/// Paths; what follows the key in a message.
const KEYS: &[(&str, &str)] = &[
    (
        "optimizer.hessian2.secant_freq",
        "was removed in 0.2 with the variants kbfgs and lm, the only ones that measured pairs; leave it out",
    ),
    (
        "optimizer.hessian2.history",
        "was removed in 0.2 with the variant lm, the only one that kept pairs; leave it out",
    ),
];

/// Paths and values; what follows both in a message.
const VALUES: &[(&str, &str, &str)] = &[
    (
        "optimizer.hessian2.variant",
        "rot",
        "was removed in 0.2: measured worse than white, at four times its cost; use \"white\"",
    ),
    (
        "optimizer.hessian2.variant",
        "kbfgs",
        "was removed in 0.2: kron with pairs that cost a gradient more, never measured; use \"white\" or \"kron\"",
    ),
    ("optimizer.hessian2.variant", "lm", "was removed in 0.2: measured worse than adam; use \"white\""),
];

/// What became of a key that once was.
pub(super) fn key(path: &str) -> Option<&'static str> {
    KEYS.iter().find(|(known, _)| *known == path).map(|(_, text)| *text)
}

/// What became of a value that a key once could have.
pub(super) fn value(path: &str, value: &DeValue) -> Option<&'static str> {
    let word = value.as_str()?;
    VALUES.iter().find(|(known, gone, _)| *known == path && *gone == word).map(|(.., text)| *text)
}
