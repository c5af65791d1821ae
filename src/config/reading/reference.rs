//! The text of `configs/reference.toml`: every key with meaning, range and default; and the presets of `init`.

use super::keys::{root, Key, Section};
use super::suggest;
use crate::config::settings::{as_toml, value_at, Config};

/// Longest line of a comment.
const WIDTH: usize = 100;

/// Values shown in place of a default with which nothing could be trained.
const EXAMPLES: &[(&str, &str)] = &[
    ("data.train", r#"["data/quickstart/train.en", "data/quickstart/train.de"]"#),
    ("data.valid", r#"["data/quickstart/valid.en", "data/quickstart/valid.de"]"#),
    ("train.max_updates", "100000"),
];

/// Configurations that come with the program: name, text.
const PRESETS: &[(&str, &str)] = &[
    ("quickstart", include_str!("../../../configs/quickstart.toml")),
    ("quickstart-rnn", include_str!("../../../configs/quickstart-rnn.toml")),
    ("quickstart-en-zh", include_str!("../../../configs/quickstart-en-zh.toml")),
    ("fine-tune", include_str!("../../../configs/fine-tune.toml")),
    ("multi30k-en-de", include_str!("../../../configs/multi30k-en-de.toml")),
    ("multi30k-en-fr", include_str!("../../../configs/multi30k-en-fr.toml")),
    ("tatoeba-de-en", include_str!("../../../configs/tatoeba-de-en.toml")),
    ("tatoeba-zh-en", include_str!("../../../configs/tatoeba-zh-en.toml")),
    ("multi30k-en-de-rnn", include_str!("../../../configs/multi30k-en-de-rnn.toml")),
    ("transformer-base", include_str!("../../../configs/transformer-base.toml")),
    ("multi30k-optimizers", include_str!("../../../configs/multi30k-optimizers.toml")),
    ("tatoeba-optimizers", include_str!("../../../configs/tatoeba-optimizers.toml")),
    ("summarisation", include_str!("../../../configs/summarisation.toml")),
    ("tagging", include_str!("../../../configs/tagging.toml")),
    ("two-phase", include_str!("../../../configs/two-phase.toml")),
];

/// What `nmt-train init` prints: the reference, or a preset by name.
///
/// # Errors
/// Names all presets when there is none of this name.
pub fn init(preset: Option<&str>) -> Result<String, String> {
    let Some(name) = preset else { return Ok(reference()) };
    if let Some((_, text)) = PRESETS.iter().find(|(preset, _)| *preset == name) {
        return Ok((*text).to_string());
    }
    let names: Vec<&str> = PRESETS.iter().map(|(preset, _)| *preset).collect();
    let hint = suggest::nearest(name, &names).map_or(String::new(), |near| format!("; did you mean {near}?"));
    Err(format!("unknown preset {name}{hint} (there are {})", names.join(", ")))
}

/// The text of `configs/reference.toml`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Every setting of nmt-train with its meaning, range and default. A config file needs only what differs;\n\
         # lists and names are explained where they stand. Made by `nmt-train init > configs/reference.toml`.\n",
    );
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    write_section(&mut out, root(), &defaults);
    out
}

fn write_section(out: &mut String, section: &Section, defaults: &serde_json::Value) {
    if !section.path.is_empty() {
        out.push('\n');
        comment(out, &section.doc);
        out.push_str(&format!("[{}]\n", section.path));
    }
    for key in &section.keys {
        if section.path.is_empty() {
            out.push('\n');
        }
        write_key(out, key, &as_toml(value_at(defaults, &key.path)));
    }
    for inner in &section.sections {
        write_section(out, inner, defaults);
    }
}

fn write_key(out: &mut String, key: &Key, default: &str) {
    let name = super::keys::last(&key.path);
    match EXAMPLES.iter().find(|(path, _)| *path == key.path) {
        Some((_, example)) => {
            comment(out, &format!("{} Default: {default}.", key.doc));
            out.push_str(&format!("{name} = {example}\n"));
        }
        None => {
            comment(out, &key.doc);
            let line = if default.is_empty() { format!("# {name} =\n") } else { format!("{name} = {default}\n") };
            out.push_str(&line);
        }
    }
}

/// A doc comment, filled to [`WIDTH`] columns; what stands in backticks is not broken.
fn comment(out: &mut String, doc: &str) {
    let mut line = String::from("#");
    let mut quoted = false;
    let breaks = |c: char| {
        quoted ^= c == '`';
        c.is_whitespace() && !quoted
    };
    let doc = doc.replace('\n', " ");
    for word in doc.split(breaks).filter(|word| !word.is_empty()) {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, Source};

    #[test]
    fn the_committed_reference_is_the_one_generated() {
        let committed = include_str!("../../../configs/reference.toml");
        assert!(
            committed == reference(),
            "configs/reference.toml is stale; run: cargo run --release -- init > configs/reference.toml"
        );
    }

    #[test]
    fn the_reference_loads_and_equals_the_defaults_but_for_its_examples() {
        let source = Source::Text { name: "reference.toml".to_string(), text: reference() };
        let config = load(&source, &[]).unwrap_or_else(|e| panic!("{e}")).config;
        let changed: Vec<&str> =
            crate::config::differences(&Config::default(), &config).iter().map(|d| d.path).collect();
        assert_eq!(changed, EXAMPLES.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    }

    #[test]
    fn the_reference_names_every_key_once_within_the_width() {
        let text = reference();
        for key in root().all_keys() {
            let name = crate::config::reading::keys::last(&key.path);
            assert!(text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{name} ="))), "{name}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH + 10));
    }

    #[test]
    fn an_unknown_preset_names_the_known_ones() {
        let error = init(Some("quickstrat")).expect_err("no such preset");
        assert!(error.starts_with("unknown preset quickstrat; did you mean quickstart? (there are quickstart, "));
        assert!(init(Some("transformer-base")).expect("a preset").contains("d_model = 512"));
    }
}
