//! Turns what the parser and serde say into sentences for the person who wrote the file.

use super::keys::{self, Section};
use super::problems::{Place, Problem, Problems};
use super::suggest;
use crate::fsio;

/// Line of a byte offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

/// Syntax errors, the first of each line, with the line and a caret under the place.
pub(super) fn syntax(name: &str, text: &str, errors: &[toml::de::Error]) -> Problems {
    let mut problems = Problems::default();
    for error in errors {
        if problems.are_enough() {
            break;
        }
        let mut offset = error.span().map_or(0, |span| span.start).min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let (line, column) = excerpt(text[start..].lines().next().unwrap_or_default(), offset - start);
        let number = line_of(text, offset);
        let place = Place::Line(name.to_string(), number);
        if problems.0.iter().any(|problem| problem.place == place) {
            continue;
        }
        let gutter = number.to_string().len();
        let text =
            format!("{}\n{number} | {line}\n{:gutter$} | {:column$}^", error.message().replace('\n', ", "), "", "");
        problems.add(Problem { place, subject: String::new(), text });
    }
    problems.0.sort_by(|a, b| a.place.cmp(&b.place));
    problems
}

/// What is shown of a line, and the column in it of the byte at `offset`: all of most lines, of a long one what is around.
fn excerpt(line: &str, offset: usize) -> (String, usize) {
    const AROUND: usize = 100;
    let (before, behind) = line.split_at(offset.min(line.len()));
    let cut = before.chars().count().saturating_sub(AROUND);
    let mut shown = if cut > 0 { "… ".to_string() } else { String::new() };
    shown.extend(before.chars().skip(cut));
    let column = shown.chars().count();
    shown.extend(behind.chars().take(AROUND));
    if behind.chars().nth(AROUND).is_some() {
        shown.push_str(" …");
    }
    (shown, column)
}

/// What a value of the wrong type should have been. `ask` reads a word that no choice is called.
pub(super) fn wrong_type(error: &toml::de::Error, ask: impl FnOnce() -> Option<toml::de::Error>) -> String {
    let message = error.message().trim();
    if let Some((_, choices)) = message.strip_prefix("unknown variant ").and_then(|m| m.split_once(", expected")) {
        return choice(message.split('`').nth(1).unwrap_or_default(), choices);
    }
    if message.starts_with("wanted string or table") {
        let error = ask();
        let choices = error.as_ref().and_then(|e| e.message().split_once(", expected"));
        return choice("", choices.map_or("", |(_, choices)| choices));
    }
    for (prefix, low) in [("invalid type: ", false), ("invalid value: ", true)] {
        if let Some((_, wanted)) = message.strip_prefix(prefix).and_then(|m| m.split_once(", expected ")) {
            return format!("expected {}", type_name(wanted, low));
        }
    }
    message.to_string()
}

/// "expected `a` or `b`; did you mean `a`?"
fn choice(given: &str, choices: &str) -> String {
    let names: Vec<&str> = choices.split('`').skip(1).step_by(2).collect();
    let hint = match suggest::nearest(&given.to_lowercase().replace('_', "-"), &names) {
        Some(name) if names.len() > 1 => format!("; did you mean \"{name}\"?"),
        _ => String::new(),
    };
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, front)) if !front.is_empty() => format!("expected {} or {last}{hint}", front.join(", ")),
        _ => format!("expected {}{hint}", quoted.concat()),
    }
}

/// A serde type in words; `low` when a number was given but did not fit.
fn type_name(wanted: &str, low: bool) -> &str {
    match wanted {
        "usize" | "u64" | "u32" if low => "a whole number of 0 or more",
        "usize" | "u64" | "u32" | "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text in quotes",
        "a sequence" => "a list in [ ]",
        other => other,
    }
}

/// A value was given where a table belongs.
pub(super) fn is_a_section(section: &Section) -> String {
    match section.keys.iter().find(|key| ["name", "kind"].contains(&keys::last(&key.path))).or(section.keys.first()) {
        Some(key) => format!("`{}` is a section; give one of its keys, as `{}`", section.path, key.path),
        None => format!("`{}` is a section", section.path),
    }
}

/// Why there is no text; the file is named before it.
pub(super) fn unreadable(error: &fsio::Error) -> String {
    match error {
        fsio::Error::Io { source, .. } => source.to_string(),
        fsio::Error::Utf8 { line, .. } => format!("line {line} is not UTF-8 text"),
        fsio::Error::TooLarge { most, .. } => format!("it has more than {} MiB, or no end", most >> 20),
        _ => error.to_string(),
    }
}
