//! Keys and values of earlier versions that are gone, and what to use instead; what went without a key before there was one.

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

/// What was done before there was a key, where its default is something else.
pub(super) const BEFORE: &[(&str, &str)] =
    &[("optimizer.embedding_weight_decay", "0.0"), ("optimizer.embedding_lr_scale", "1.0")];

/// What became of a key that once was.
pub(super) fn key(path: &str) -> Option<&'static str> {
    KEYS.iter().find(|(known, _)| *known == path).map(|(_, text)| *text)
}

/// What became of a value that a key once could have.
pub(super) fn value(path: &str, value: &DeValue) -> Option<&'static str> {
    let word = value.as_str()?;
    VALUES.iter().find(|(known, gone, _)| *known == path && *gone == word).map(|(.., text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reading::keys::find;
    use crate::config::{load, load_recorded, Hessian2Variant, Source};

    const OLD: &str = "data.train = ['a.tsv']\ndata.valid = ['b.tsv']\ntrain.max_updates = 10000\n\
                       [optimizer.hessian2]\nvariant = 'lm'\nhistory = 7\n";

    #[test]
    fn what_is_gone_is_told_with_what_takes_its_place() {
        let source = Source::Text { name: "old.toml".to_string(), text: OLD.to_string() };
        let told = load(&source, &["optimizer.hessian2.secant_freq=3".to_string()]).unwrap_err().to_string();
        for part in [
            "old.toml:5: optimizer.hessian2.variant = 'lm': was removed in 0.2: measured worse than adam; use \"white\"",
            "old.toml:6: `optimizer.hessian2.history` was removed in 0.2 with the variant lm",
            "--set optimizer.hessian2.secant_freq=3: `optimizer.hessian2.secant_freq` was removed in 0.2",
            "3 problems",
        ] {
            assert!(told.contains(part), "{part}\nis not in\n{told}");
        }
        for (path, ..) in KEYS {
            assert!(find(path).is_none(), "{path} is a key");
        }
    }

    #[test]
    fn a_recorded_config_is_read_and_names_the_values_that_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        crate::fsio::write_atomic(&path, OLD.as_bytes()).unwrap();
        let loaded = load_recorded(&path, &[]).unwrap();
        assert_eq!(loaded.config.optimizer.hessian2.variant, Hessian2Variant::White);
        assert_eq!(loaded.removed.len(), 1);
        let optimizer = |sets: &[String]| load_recorded(&path, sets).unwrap().config.optimizer;
        let set = ["optimizer.name=hessian2".to_string(), "optimizer.embedding_weight_decay=0.1".to_string()];
        assert_eq!(optimizer(&set[..1]).embedding_weight_decay(), 0.0, "there was none when this was recorded");
        assert_eq!(optimizer(&set).embedding_weight_decay(), 0.1);
        assert!(loaded.removed[0].to_string().contains("variant = 'lm': was removed in 0.2"), "{}", loaded.removed[0]);
        let set = ["optimizer.hessian2.variant=kron".to_string()];
        assert!(load_recorded(&path, &set).unwrap().removed.is_empty());
        assert!(load_recorded(&path, &["optimizer.hessian2.variant=rot".to_string()]).is_err());
    }
}
