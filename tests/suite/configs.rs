//! The config files of the project.

use nmt_train::config::{self, Config, Source};
use std::path::PathBuf;

fn files() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder configs/")
        .map(|entry| entry.expect("an entry of configs/").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_config_of_the_project_loads_without_problems() {
    assert!(files().len() >= 9);
    for file in files() {
        if let Err(problems) = config::load(&Source::Path(file), &[]) {
            panic!("{problems}");
        }
    }
}

#[test]
fn a_resolved_config_reads_back_the_same() {
    for file in files() {
        let config = config::load(&Source::Path(file.clone()), &[]).expect("it loads").config;
        let text = config.to_toml().expect("it can be written");
        let again: Config = config::load(&Source::Text { name: "config.toml".to_string(), text }, &[])
            .unwrap_or_else(|problems| panic!("{}: {problems}", file.display()))
            .config;
        assert_eq!(again, config, "{}", file.display());
    }
}

#[test]
fn every_config_but_the_reference_is_a_preset_of_init() {
    for file in files() {
        let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let text = std::fs::read_to_string(&file).expect("the file");
        let preset = if name == "reference" { None } else { Some(name) };
        assert_eq!(config::init(preset).as_deref(), Ok(text.as_str()), "{name}");
    }
}

#[test]
fn keys_in_configs_carry_the_comment_that_leads_to_the_reference() {
    for file in files().into_iter().filter(|file| !file.ends_with("reference.toml")) {
        let text = std::fs::read_to_string(&file).expect("the file");
        let name = format!("--config configs/{}", file.file_name().and_then(|name| name.to_str()).expect("a name"));
        assert!(text.contains(&name) && text.contains("configs/reference.toml"), "{}", file.display());
    }
}
