//! Text that is not where a run was started with it, and how to name it anew.

use std::path::Path;

use super::Error;
use crate::config::{Config, Corpora};
use crate::shell;

/// Whether the text that a resumed run names is there; files on the Hub are, as far as this can tell.
///
/// # Errors
/// Names every file that is gone, and the arguments that would name them anew.
pub fn all_there(config: &Config) -> Result<(), Error> {
    let Config { data, validation, .. } = config;
    let (mut files, mut cures): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for (key, corpora) in [("data.train", &data.train), ("data.valid", &data.valid), ("data.test", &data.test)] {
        let gone: Vec<&String> = corpora.0.iter().flat_map(|c| &c.files).filter(|file| is_gone(file)).collect();
        for file in &gone {
            if !files.contains(&file.as_str()) {
                files.push(file);
            }
        }
        if !gone.is_empty() {
            cures.push(format!("--set {}", shell::quoted(&format!("{key}={}", elsewhere(corpora)))));
        }
    }
    let further = [
        ("validation.references", &validation.references),
        ("validation.test_references", &validation.test_references),
    ];
    for (key, references) in further {
        let gone: Vec<&str> = references.iter().map(String::as_str).filter(|file| is_gone(file)).collect();
        if !gone.is_empty() {
            files.extend(gone);
            let value = toml::Value::from(references.iter().map(|file| moved(file)).collect::<Vec<_>>());
            cures.push(format!("--set {}", shell::quoted(&format!("{key}={value}"))));
        }
    }
    if files.is_empty() {
        return Ok(());
    }
    let relative = files.iter().any(|file| Path::new(file).is_relative());
    let place = match std::env::current_dir() {
        Ok(folder) if relative => format!(" (looked for in {})", folder.display()),
        _ => String::new(),
    };
    Err(Error::Moved { files: files.join(", "), place, cure: cures.join(" ") })
}

fn is_gone(file: &str) -> bool {
    !file.starts_with("hf://") && !Path::new(file).exists()
}

/// The value of the key, in TOML, with the files that are gone in a folder FOLDER.
fn elsewhere(corpora: &Corpora) -> String {
    let mut corpora = corpora.clone();
    for file in corpora.0.iter_mut().flat_map(|corpus| &mut corpus.files) {
        *file = moved(file);
    }
    toml::Value::try_from(&corpora).map_or(String::new(), |value| value.to_string())
}

/// A file, in FOLDER if it is gone.
fn moved(file: &str) -> String {
    match is_gone(file) {
        true => format!("FOLDER/{}", file.rsplit('/').next().unwrap_or(file)),
        false => file.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Corpus, DataConfig, ValidationConfig};

    #[test]
    fn files_that_are_gone_are_named_with_the_cure() {
        let corpus = |files: &[&str]| Corpus::of(files.iter().map(|file| file.to_string()).collect());
        let data = DataConfig {
            train: Corpora(vec![Corpus { weight: 2.0, ..corpus(&["/gone/a.en", "Cargo.toml"]) }, corpus(&["b.tsv"])]),
            valid: Corpora(vec![corpus(&["it's.tsv"])]),
            test: Corpora(vec![corpus(&["Cargo.toml"])]),
            ..DataConfig::default()
        };
        let references = vec!["Cargo.toml".to_string(), "/gone/b.de".to_string()];
        let validation = ValidationConfig { references, ..ValidationConfig::default() };
        let gone = Config { data, validation, ..Config::default() };
        let error = all_there(&gone).unwrap_err().to_string();
        for part in [
            "is not where it was: /gone/a.en, b.tsv, it's.tsv, /gone/b.de (looked for in ",
            r#"'data.train=[{ files = ["FOLDER/a.en", "Cargo.toml"], weight = 2.0 }, { files = ["FOLDER/b.tsv"], weight = 1.0 }]'"#,
            r#"'data.valid=["FOLDER/it'\''s.tsv"]'"#,
            r#"'validation.references=["Cargo.toml", "FOLDER/b.de"]'"#,
        ] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        assert!(!error.contains("data.test"));
        let data = DataConfig { train: gone.data.test, ..DataConfig::default() };
        assert!(all_there(&Config { data, ..Config::default() }).is_ok());
    }
}
