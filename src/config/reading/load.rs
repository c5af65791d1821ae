//! Reads a configuration: file, `--set` arguments, types, ranges; every problem at once, each with its line.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::Spanned;

use super::keys::{self, Key, Node, Section};
use super::problems::{Place, Problem, Problems};
use super::removed;
use super::suggest;
use super::wording;
use super::{home, validate};
use crate::config::settings::Config;
use crate::fsio;

/// Where the text of a configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    Path(PathBuf),
    /// Text at hand.
    Text {
        /// As it is called in messages.
        name: String,
        /// TOML.
        text: String,
    },
}

/// A configuration without known problems.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// All keys.
    pub config: Config,
    /// The file as it was named, for messages.
    pub name: String,
    /// Keys that the file or a `--set` gives, sorted.
    pub given: Vec<&'static str>,
    /// What a recorded configuration says that this version knows no more; the default stands in its place.
    pub removed: Vec<Problem>,
}

impl Loaded {
    /// Folder of the run: `run_dir`, or `runs/` and the name of the config file without its ending.
    pub fn run_dir(&self) -> PathBuf {
        if self.config.run_dir.is_empty() {
            Path::new("runs").join(Path::new(&self.name).file_stem().unwrap_or("run".as_ref()))
        } else {
            PathBuf::from(&self.config.run_dir)
        }
    }
}

/// Reads a configuration. `sets` are the texts after `--set`, as `optimizer.name=adamw`; the last of several for one key
/// holds, and it holds over the file.
///
/// # Errors
/// All problems found: unreadable file, syntax, unknown keys, wrong types, values out of range, keys that contradict
/// each other.
pub fn load(source: &Source, sets: &[String]) -> Result<Loaded, Problems> {
    read(source, sets, false)
}

/// Reads the configuration that a run recorded, perhaps an earlier version's. Keys that are gone did nothing in it or belong
/// to a value that is gone; such values are in [`Loaded::removed`]: the run can be used, but not continued.
///
/// # Errors
/// As [`load`].
pub fn load_recorded(path: &Path, sets: &[String]) -> Result<Loaded, Problems> {
    read(&Source::Path(path.to_path_buf()), sets, true)
}

fn read(source: &Source, sets: &[String], recorded: bool) -> Result<Loaded, Problems> {
    let (name, text) = match source {
        Source::Text { name, text } => (name.clone(), text.clone()),
        Source::Path(path) => {
            let name = path.display().to_string();
            let text = fsio::read_written(path).map_err(|error| {
                let place = Place::File(name.clone());
                let text = format!("can not read the configuration: {}", wording::unreadable(&error));
                Problems(vec![Problem { place, subject: String::new(), text }])
            })?;
            (name, text)
        }
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        return Err(wording::syntax(&name, &text, &errors));
    }
    let mut reader = Reader { name: &name, text: &text, sets, recorded, ..Reader::default() };
    reader.flatten(keys::root(), table.into_inner());
    reader.before();
    for (index, set) in sets.iter().enumerate() {
        reader.set(index, set);
    }
    reader.expand_home();
    let config = reader.config();
    reader.ranges(&config);
    let (given, removed) = (reader.leaves.into_keys().collect(), reader.removed);
    reader.problems.or(Loaded { config, name, given, removed })
}

/// Keys whose rules only hold for a run that trains.
const OF_TRAINING: [&str; 2] = ["data.train", "train.max_updates"];

/// A value that was given, under the path of a known key.
#[derive(Clone)]
struct Leaf<'a> {
    value: Spanned<DeValue<'a>>,
    origin: Origin,
}

#[derive(Clone)]
enum Origin {
    /// Where the key stands in the text.
    File(Range<usize>),
    /// The n-th `--set`.
    Set(usize),
}

#[derive(Default)]
struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    sets: &'a [String],
    /// Whether it is the configuration that a run recorded.
    recorded: bool,
    leaves: BTreeMap<&'static str, Leaf<'a>>,
    /// Keys whose value is not known: mistyped, or perhaps meant by an unknown key. No rule is checked against them.
    doubtful: BTreeSet<&'static str>,
    problems: Problems,
    /// As in [`Loaded`].
    removed: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Sorts the file's values under the known keys; reports all unknown ones.
    fn flatten(&mut self, section: &'static Section, table: DeTable<'a>) {
        for (key, value) in table {
            let span = key.span();
            let name = key.into_inner();
            match (section.child(&name), value.get_ref()) {
                (Some(Node::Section(inner)), DeValue::Table(_)) => self.descend(inner, value),
                (Some(Node::Section(inner)), _) => {
                    self.report(&Origin::File(span), "", wording::is_a_section(inner));
                }
                (Some(Node::Key(key)), _) => {
                    if self.leaves.insert(&key.path, Leaf { value, origin: Origin::File(span.clone()) }).is_some() {
                        self.report(
                            &Origin::File(span),
                            "",
                            format!("`{}` is given twice, with - and with _", key.path),
                        );
                    }
                }
                (None, DeValue::Table(_)) => self.unknown_section(&keys::join(&section.path, &name), span, value),
                (None, _) => self.unknown_key(&keys::join(&section.path, &name), &Origin::File(span)),
            }
        }
    }

    /// Gives keys that a recorded configuration is too old to have the value that they had then.
    fn before(&mut self) {
        for (path, value) in removed::BEFORE.iter().filter(|_| self.recorded) {
            if let (Some(Node::Key(key)), Ok(value)) = (keys::find(path), DeValue::parse(value)) {
                self.leaves.entry(&key.path).or_insert(Leaf { value, origin: Origin::File(0..0) });
            }
        }
    }

    fn descend(&mut self, section: &'static Section, value: Spanned<DeValue<'a>>) {
        if let DeValue::Table(table) = value.into_inner() {
            self.flatten(section, table);
        }
    }

    /// Reports the table once and reads on in the section it was meant to be.
    fn unknown_section(&mut self, path: &str, span: Range<usize>, value: Spanned<DeValue<'a>>) {
        let Some(meant) = suggest::section_like(path) else {
            return self.unknown_key(path, &Origin::File(span));
        };
        let text = format!("unknown section `[{path}]`; did you mean `[{}]`?", meant.path);
        self.report(&Origin::File(span), "", text);
        self.doubtful.extend(meant.all_keys().into_iter().map(|k| k.path.as_str()));
        self.descend(meant, value);
    }

    fn unknown_key(&mut self, path: &str, origin: &Origin) {
        if let Some(text) = removed::key(path) {
            return match (self.recorded, origin) {
                (true, Origin::File(_)) => {}
                _ => self.report(origin, "", format!("`{path}` {text}")),
            };
        }
        if self.problems.are_enough() {
            return;
        }
        let meant = suggest::keys_like(path);
        self.doubtful.extend(&meant);
        let hint =
            if meant.is_empty() { String::new() } else { format!("; did you mean {}?", suggest::any_of(&meant)) };
        self.report(origin, "", format!("unknown key `{path}`{hint}"));
    }

    /// Applies one `--set path=value`.
    fn set(&mut self, index: usize, set: &'a str) {
        let origin = Origin::Set(index);
        let Some((path, raw)) = set.split_once('=') else {
            return self.report(&origin, "", "expected PATH=VALUE, as train.max_updates=1000".to_string());
        };
        let (path, raw) = (path.trim(), raw.trim());
        let key: &'static Key = match keys::find(path) {
            None => return self.unknown_key(path, &origin),
            Some(Node::Section(section)) => return self.report(&origin, "", wording::is_a_section(section)),
            Some(Node::Key(key)) => key,
        };
        let text = Spanned::new(0..raw.len(), DeValue::String(raw.into()));
        let value = match DeValue::parse(raw) {
            // a name such as 2024-01-01 or inf may be meant as text, a list of four files may not
            Ok(value)
                if !matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_))
                    && deserialize(key, &value).is_err()
                    && deserialize(key, &text).is_ok() =>
            {
                text
            }
            Ok(value) => value,
            Err(e) if raw.starts_with(['[', '{', '"', '\'']) => {
                self.doubtful.insert(&key.path);
                return self.report(&origin, "", format!("not a TOML value: {}", e.message()));
            }
            Err(_) => text,
        };
        self.leaves.insert(&key.path, Leaf { value, origin });
    }

    /// Puts the home folder in the place of `~`, in whatever key.
    fn expand_home(&mut self) {
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let mut wrong = Vec::new();
        for (path, leaf) in &mut self.leaves {
            if let Err(text) = home::expand(leaf.value.get_mut(), home.as_deref()) {
                wrong.push((*path, leaf.origin.clone(), text));
            }
        }
        for (path, origin, text) in wrong {
            self.doubtful.insert(path);
            self.report(&origin, path, text);
        }
    }

    /// The configuration of all leaves that have the right type; reports the others.
    fn config(&mut self) -> Config {
        for (path, leaf) in self.leaves.clone() {
            let Some(Node::Key(key)) = keys::find(path) else { continue };
            match deserialize(key, &leaf.value) {
                Ok((_, ignored)) => {
                    for inner in ignored {
                        self.unknown_inner(key, &leaf, &inner);
                    }
                }
                Err(error) => {
                    self.leaves.remove(path);
                    if let Some(text) = removed::value(path, leaf.value.get_ref()) {
                        self.gone(path, &leaf, text);
                        continue;
                    }
                    self.doubtful.insert(path);
                    let text = wording::wrong_type(&error, || {
                        // an enum refuses numbers without naming its choices; a word makes it tell
                        let word = Spanned::new(0..0, DeValue::String("".into()));
                        deserialize(key, &word).err()
                    });
                    let origin = match (&leaf.origin, error.span()) {
                        (Origin::File(_), Some(span)) if !span.is_empty() => Origin::File(span),
                        _ => leaf.origin.clone(),
                    };
                    let subject = self.subject(path, &leaf);
                    self.report(&origin, &subject, text);
                }
            }
        }
        let leaves = std::mem::take(&mut self.leaves);
        let result = Config::deserialize(deserializer(keys::root(), &leaves));
        self.leaves = leaves;
        // each leaf was read alone above, so the whole can be read
        result.unwrap_or_else(|e| {
            let place = Place::File(self.name.to_string());
            self.problems.add(Problem { place, subject: String::new(), text: e.message().to_string() });
            Config::default()
        })
    }

    /// A value of an earlier version.
    fn gone(&mut self, path: &'static str, leaf: &Leaf, text: &str) {
        let problem =
            Problem { place: self.place(&leaf.origin), subject: self.subject(path, leaf), text: text.to_string() };
        match (self.recorded, &leaf.origin) {
            (true, Origin::File(_)) => self.removed.push(problem),
            _ => {
                self.doubtful.insert(path);
                self.problems.add(problem);
            }
        }
    }

    /// A key inside a list of tables that does not exist, as `data.train.0.wieght`.
    fn unknown_inner(&mut self, key: &Key, leaf: &Leaf, path: &str) {
        let mut origin = leaf.origin.clone();
        let mut value = leaf.value.get_ref();
        for name in path.strip_prefix(&key.path).unwrap_or_default().split('.').skip(1) {
            let next = match value {
                DeValue::Array(items) => name.parse::<usize>().ok().and_then(|n| items.get(n)),
                DeValue::Table(table) => table.iter().find(|(k, _)| k.get_ref() == name).map(|(k, v)| {
                    if matches!(origin, Origin::File(_)) {
                        origin = Origin::File(k.span());
                    }
                    v
                }),
                _ => None,
            };
            let Some(next) = next else { break };
            value = next.get_ref();
        }
        let inner: Vec<&str> = key.inner.iter().map(String::as_str).collect();
        let hint = match suggest::nearest(keys::last(path), &inner) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("expected {}", suggest::any_of(&inner)),
        };
        self.report(&origin, "", format!("unknown key `{path}`; {hint}"));
    }

    /// Checks ranges and rules between keys.
    fn ranges(&mut self, config: &Config) {
        let findings = validate::validate(config);
        let alone: Vec<&str> = findings.iter().filter(|f| f.keys.len() == 1).map(|f| f.keys[0]).collect();
        for finding in findings {
            // an imported model was trained elsewhere
            if self.recorded && config.is_imported() && OF_TRAINING.contains(&finding.keys[0]) {
                continue;
            }
            // a rule says nothing new about a key that is wrong by itself
            let known = finding.keys.len() > 1 && finding.keys.iter().any(|key| alone.contains(key));
            if known || finding.keys.iter().any(|key| self.doubtful.contains(key)) {
                continue;
            }
            // what was set on the command line came last, so it broke the rule
            let given: Vec<&Origin> =
                finding.keys.iter().filter_map(|key| Some(&self.leaves.get(key)?.origin)).collect();
            let set = given.iter().find(|origin| matches!(origin, Origin::Set(_)));
            let place = match set.or(given.first()) {
                Some(origin) => self.place(origin),
                None => Place::File(self.name.to_string()),
            };
            // an argument names its own key only
            let text = match (&place, self.leaves.get(finding.keys[0]).map(|leaf| &leaf.origin)) {
                (Place::Set(..), Some(Origin::Set(_))) | (Place::Line(..) | Place::File(_), _) => finding.text,
                (Place::Set(..), _) => format!("{} {}", finding.subject, finding.text),
            };
            self.problems.add(Problem { place, subject: finding.subject, text });
        }
    }

    fn report(&mut self, origin: &Origin, subject: &str, text: String) {
        // to find the line of each of a million would take hours
        if self.problems.are_enough() {
            return;
        }
        let place = self.place(origin);
        self.problems.add(Problem { place, subject: subject.to_string(), text });
    }

    fn place(&self, origin: &Origin) -> Place {
        match origin {
            Origin::File(span) => Place::Line(self.name.to_string(), wording::line_of(self.text, span.start)),
            Origin::Set(index) => Place::Set(*index, self.sets[*index].clone()),
        }
    }

    /// `key = value` as written; the key alone when the value is long.
    fn subject(&self, path: &str, leaf: &Leaf) -> String {
        let written = self.text.get(leaf.value.span()).filter(|_| matches!(leaf.origin, Origin::File(_)));
        // the span of a table is that of its header, also that of the first of several
        let written = written.filter(|text| !leaf.value.get_ref().is_table() && !text.starts_with("[["));
        match written.filter(|written| written.len() <= 60 && !written.contains('\n')) {
            Some(written) => format!("{path} = {written}"),
            None => path.to_string(),
        }
    }
}

/// Reads one value under its key, everything else at its default; also the unknown keys inside the value.
fn deserialize(key: &'static Key, value: &Spanned<DeValue>) -> Result<(Config, Vec<String>), toml::de::Error> {
    let leaf = Leaf { value: value.clone(), origin: Origin::Set(0) };
    let leaves = BTreeMap::from([(key.path.as_str(), leaf)]);
    let mut ignored = Vec::new();
    let config =
        serde_ignored::deserialize(deserializer(keys::root(), &leaves), |path| ignored.push(path.to_string()))?;
    Ok((config, ignored))
}

fn deserializer<'a>(root: &Section, leaves: &BTreeMap<&str, Leaf<'a>>) -> ValueDeserializer<'a> {
    ValueDeserializer::from(Spanned::new(0..0, DeValue::Table(nest(root, leaves))))
}

/// The leaves as nested tables.
fn nest<'a>(section: &Section, leaves: &BTreeMap<&str, Leaf<'a>>) -> DeTable<'a> {
    let name = |path: &str| Spanned::new(0..0, keys::last(path).to_string().into());
    let mut table = DeTable::new();
    for key in &section.keys {
        if let Some(leaf) = leaves.get(key.path.as_str()) {
            table.insert(name(&key.path), leaf.value.clone());
        }
    }
    for inner in &section.sections {
        let nested = nest(inner, leaves);
        if !nested.is_empty() {
            table.insert(name(&inner.path), Spanned::new(0..0, DeValue::Table(nested)));
        }
    }
    table
}
