//! A sweep file as runs: a line gives one, or several where its braces expand.

use std::collections::BTreeMap;
use std::path::Path;

use super::words;
use crate::config::{Place, Problem, Problems};
use crate::shell;

/// Names of folders may have 255 bytes, and the user may want to add to them.
const LONGEST_NAME: usize = 200;

/// In bytes. All that a line stands for lies in memory.
const LONGEST_LINE: usize = 8000;

/// A run that a sweep file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunLine {
    /// Line of the file, from 1.
    pub line: usize,
    /// Name of the run's folder.
    pub name: String,
    /// The config file.
    pub config: String,
    /// The texts after `--set`.
    pub sets: Vec<String>,
    /// Both as words of a command line, in the order of the file.
    pub words: Vec<String>,
}

impl RunLine {
    /// What `sweep.line` keeps.
    pub(super) fn text(&self) -> String {
        shell::command(&self.words)
    }
}

/// A problem of a line of `file`, unless it is told already: all runs of a line have the same mistakes.
pub(super) fn add(problems: &mut Problems, file: &str, line: usize, text: String) {
    problems.add(Problem { place: Place::Line(file.to_string(), line), subject: String::new(), text });
}

/// Reads the text of a sweep file; `file` is its name in messages.
///
/// # Errors
/// All problems found.
pub fn parse(file: &str, text: &str) -> Result<Vec<RunLine>, Problems> {
    let (mut runs, mut problems) = (Vec::new(), Problems::default());
    let mut all = Some(RunLine::default());
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim_end_matches('\r').trim_start_matches([' ', '\t']);
        let read = match line.strip_prefix("all:") {
            _ if line.is_empty() || line.starts_with('#') => continue,
            _ if line.len() > LONGEST_LINE => Err(format!("has {} bytes, {LONGEST_LINE} are the most", line.len())),
            Some(line) => {
                all = None;
                for_all(line).map(|given| all = Some(given))
            }
            None => runs_of(line, number, all.as_ref(), &mut runs),
        };
        if let Err(text) = read {
            add(&mut problems, file, number, text);
            if problems.are_enough() {
                break;
            }
        }
    }
    for (line, text) in name(&mut runs) {
        add(&mut problems, file, line, text);
    }
    if runs.is_empty() && problems.0.is_empty() {
        add(&mut problems, file, text.lines().count().max(1), "no run in this file".to_string());
    }
    problems.or(runs)
}

fn for_all(line: &str) -> Result<RunLine, String> {
    match words::expand(line)?.as_slice() {
        [words] => arguments(words, RunLine::default()),
        _ => Err("all: gives every run the same; what expands to several belongs into the lines".to_string()),
    }
}

/// Adds the runs of a line. Where `all:` above was wrong, the line is only looked at.
fn runs_of(text: &str, line: usize, all: Option<&RunLine>, runs: &mut Vec<RunLine>) -> Result<(), String> {
    for words in words::expand(text)? {
        if runs.len() == words::MOST {
            return Err(format!("begins run {} of this file, {} are the most", runs.len() + 1, words::MOST));
        }
        let run = arguments(&words, RunLine { line, ..all.cloned().unwrap_or_default() })?;
        match run.config.as_str() {
            _ if all.is_none() => {}
            "" => return Err("no config; give --config FILE, best in a line above that begins with all:".to_string()),
            config if !Path::new(config).is_file() => return Err(format!("there is no config {config}")),
            _ => runs.push(run),
        }
    }
    Ok(())
}

/// Adds the arguments of a line to what `all:` gave.
fn arguments(words: &[String], given: RunLine) -> Result<RunLine, String> {
    let mut run = RunLine { name: String::new(), ..given };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let (option, joined) = match word.split_once('=') {
            Some((option @ ("--set" | "--config"), value)) => (option, Some(value)),
            _ => (word, None),
        };
        let mut value = || joined.or_else(|| words.next()).ok_or_else(|| format!("{option} needs a value"));
        match option {
            "--set" | "-s" => set(&mut run, value()?)?,
            "--config" | "-c" => config(&mut run, value()?)?,
            _ if ["--resume", "--force", "-r", "-f"].iter().any(|own| option.starts_with(own)) => {
                return Err(format!("{option}: whether a run is new or goes on is for the sweep to say"));
            }
            _ if option.starts_with("--threads") => {
                return Err(format!("{option}: threads are given to the sweep: --threads N"));
            }
            _ => return Err(format!("`{option}`: a line has only --set KEY=VALUE and --config FILE")),
        }
    }
    Ok(run)
}

fn config(run: &mut RunLine, file: &str) -> Result<(), String> {
    if !run.config.is_empty() {
        return Err(format!("two configs: {} and {file}", run.config));
    }
    run.config = file.to_string();
    run.words.extend(["--config", file].map(String::from));
    Ok(())
}

/// The name gets the last part of the key, and the value: "name=adam,lr=2e-3".
fn set(run: &mut RunLine, set: &str) -> Result<(), String> {
    let (key, value) = set.split_once('=').ok_or_else(|| format!("--set {set}: expected KEY=VALUE"))?;
    let key: String = key.split_whitespace().collect();
    match key.as_str() {
        "run_dir" => Err(format!("--set {set}: the sweep names the run folders; --out chooses where they are")),
        "threads" => Err(format!("--set {set}: threads are given to the sweep: --threads N")),
        _ => {
            let comma = if run.name.is_empty() { "" } else { "," };
            run.name += &format!("{comma}{}={value}", key.rsplit('.').next().unwrap_or(&key));
            run.words.extend(["--set", set].map(String::from));
            run.sets.push(set.to_string());
            Ok(())
        }
    }
}

/// Completes the names, the config first where there are several; returns lines and problems of those that can not be.
fn name(runs: &mut [RunLine]) -> Vec<(usize, String)> {
    let several_configs = runs.iter().any(|run| run.config != runs[0].config);
    let (mut lines, mut problems) = (BTreeMap::new(), Vec::new());
    for RunLine { line, name, config, .. } in runs {
        if several_configs || name.is_empty() {
            let file = Path::new(config).file_name().unwrap_or_default().to_string_lossy();
            let comma = if name.is_empty() { "" } else { "," };
            *name = format!("{}{comma}{name}", file.strip_suffix(".toml").unwrap_or(&file));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._=,+@%-".contains(c);
        *name = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
        if name.len() > LONGEST_NAME {
            problems.push((*line, format!("the name of the run is too long for a folder: {name}")));
        }
        match lines.get(name) {
            Some(other) => problems.push((*line, format!("names its run {name}, as line {other} does"))),
            None => _ = lines.insert(name.clone(), *line),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        parse("s.txt", text).map_or_else(|e| e.to_string(), |runs| format!("{runs:?}"))
    }

    #[test]
    fn runs_are_named_by_their_own_keys_and_keep_the_order_of_the_file() -> Result<(), Problems> {
        let text = "all: --set seed=1 -c Cargo.toml\n  -s optimizer.lr={1e-3,2e-3} --set=data.test=[]\r\n\t--set ' a.b =c d'\n";
        let runs = parse("s.txt", text)?;
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["lr=1e-3,test=__", "lr=2e-3,test=__", "b=c_d"]);
        assert_eq!(runs[1].text(), "--set seed=1 --config Cargo.toml --set optimizer.lr=2e-3 --set 'data.test=[]'");
        assert_eq!(runs[2].sets, ["seed=1", " a.b =c d"]);
        let several = parse("s.txt", "-c Cargo.toml\n-c deny.toml -s seed=1\n-c clippy.toml")?;
        let names: Vec<&str> = several.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["Cargo", "deny,seed=1", "clippy"]);
        Ok(())
    }

    #[test]
    fn a_fault_of_all_is_told_at_its_own_line_once() {
        let text = "all: --quiet\n--set seed=1\n--set seed\n--set seed={3,4}\n";
        let expected = "s.txt:1: `--quiet`: a line has only --set KEY=VALUE and --config FILE\n\
                        s.txt:3: --set seed: expected KEY=VALUE\n2 problems in the configuration; nothing was started.";
        assert_eq!(told(text), expected);
    }

    #[test]
    fn what_nobody_wrote_is_a_fault_of_few_lines() {
        let zeros = format!("-c Cargo.toml -s seed={{{}1..2}}", "0".repeat(70_000));
        for long in [zeros.clone(), format!("all: {zeros}"), format!("-s a={} b={{1..9999}}", "b".repeat(1 << 20))] {
            let told = told(&long);
            assert!(told.contains(" bytes, 8000 are the most\n") && told.len() < 200, "{told}");
        }
        let padded = told(&format!("-c Cargo.toml -s seed={{{}1..2}}", "0".repeat(7000)));
        assert!(padded.starts_with("s.txt:1: the name of the run is too long"), "{padded}");
        let many = told("all: -c Cargo.toml\n-s seed={1..9999}\n-s a.seed={10000..10002}\n");
        assert!(many.starts_with("s.txt:3: begins run 10001 of this file, 10000 are the most\n"), "{many}");
        assert!(
            told(&"x\n".repeat(500_000)).ends_with("at least 100 problems in the configuration; nothing was started.")
        );
    }

    #[test]
    fn a_name_fits_a_folder_and_is_given_once() {
        let long = format!("-c Cargo.toml -s a={}", "b".repeat(300));
        assert!(told(&long).starts_with("s.txt:1: the name of the run is too long for a folder: a=bbb"));
        assert!(
            told("all: -c Cargo.toml\n-s a=b\n-s c.a=b").starts_with("s.txt:3: names its run a=b, as line 2 does\n")
        );
        assert!(told("-c absent.toml").starts_with("s.txt:1: there is no config absent.toml\n"));
    }
}
