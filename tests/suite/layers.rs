//! The layer table of src/lib.rs against what the files really use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layer of the sinks of `events`: every file of its folder but mod.rs and sinks.rs, which only hands events on.
const SINKS: u8 = 2;

/// The table in the documentation of src/lib.rs: layer of each module.
fn table() -> BTreeMap<String, u8> {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let mut layers = BTreeMap::new();
    for row in lib.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let Some((layer, modules)) = row.split_once('|') else { continue };
        let Ok(layer) = layer.trim().parse::<u8>() else { continue };
        let modules = modules.replace("sinks of `events`", "");
        for name in modules.split('`').skip(1).step_by(2) {
            assert!(layers.insert(name.to_owned(), layer).is_none(), "`{name}` stands in the table twice");
        }
    }
    layers
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file under a folder, sorted.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The paths of a use tree, `a::{b, c::d}` → `a::b`, `a::c::d`, and what follows the tree.
fn expand<'a>(tree: &'a str, prefix: &[&'a str], out: &mut Vec<Vec<&'a str>>) -> &'a str {
    let mut path = prefix.to_vec();
    let mut rest = tree.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            rest = group.trim_start();
            while !rest.is_empty() && !rest.starts_with('}') {
                rest = expand(rest, &path, out).trim_start();
                // an alias or a glob, up to the next branch
                rest = rest.trim_start_matches(|c: char| !matches!(c, ',' | '}'));
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            path.push(&rest[..end]);
        }
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(tail) => rest = tail.trim_start(),
            None => break,
        }
    }
    out.push(path);
    rest
}

/// Paths from the crate's root in `code`: `crate::…`, and `super::…` with `depth` steps or more.
fn root_paths(code: &str, depth: usize) -> Vec<Vec<&str>> {
    let mut out = Vec::new();
    for (start, _) in code.match_indices("crate::").filter(|(start, _)| starts_word(code, *start)) {
        expand(&code[start + "crate::".len()..], &[], &mut out);
    }
    for (start, _) in code.match_indices("super::").filter(|(start, _)| starts_word(code, *start)) {
        let tail = code[start..].trim_start_matches("super::");
        if (code.len() - start - tail.len()) / "super::".len() >= depth {
            expand(tail, &[], &mut out);
        }
    }
    out
}

/// Whether what begins here is no later part of a word or a path (`super::super::` counts once).
fn starts_word(code: &str, start: usize) -> bool {
    !code[..start].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'))
}

/// A file as the check sees it.
struct File {
    /// Path under src/, with `/`.
    name: String,
    /// The module of the table that it belongs to.
    module: String,
    layer: u8,
    code: String,
}

/// What a file uses though it may not, as lines for a person.
fn violations(file: &File, layers: &BTreeMap<String, u8>, sinks: &[String]) -> Vec<String> {
    let depth = file.name.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").count();
    // `super` inside a test module goes one step less far
    let (code, tests) = file.code.split_at(file.code.find("#[cfg(test)]").unwrap_or(file.code.len()));
    let mut found = Vec::new();
    for path in [root_paths(code, depth), root_paths(tests, depth + 1)].concat() {
        let Some(&module) = path.first().filter(|module| **module != file.module) else { continue };
        let layer = match layers.get(module) {
            Some(_) if module == "events" && path.get(1).is_some_and(|part| sinks.iter().any(|s| s == part)) => SINKS,
            Some(&layer) => layer,
            None => {
                found.push(format!(
                    "src/{}: crate::{} is in no layer; add it to src/lib.rs",
                    file.name,
                    path.join("::")
                ));
                continue;
            }
        };
        if layer >= file.layer {
            let (name, own) = (&file.name, file.layer);
            found.push(format!("src/{name} (layer {own}) uses crate::{} (layer {layer})", path.join("::")));
        }
    }
    found
}

/// Code without the `//` comments, so that links in documentation do not count.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code)).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_module_has_one_layer() {
    let lib = without_comments(&fs::read_to_string(source().join("lib.rs")).unwrap());
    let mut modules: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    modules.extend(["main", "launcher", "main_cuda"]);
    modules.sort_unstable();
    assert_eq!(
        modules,
        table().keys().map(String::as_str).collect::<Vec<_>>(),
        "src/lib.rs: modules and layer table differ"
    );
}

#[test]
fn files_use_only_lower_layers() {
    let layers = table();
    let mut sinks: Vec<String> = Vec::new();
    let mut files = Vec::new();
    for path in rust_files(&source()) {
        let name = path.strip_prefix(source()).unwrap().to_string_lossy().replace('\\', "/");
        if name == "lib.rs" {
            continue;
        }
        let module = name.trim_end_matches(".rs").split('/').next().unwrap().to_owned();
        let mut layer = *layers.get(&module).unwrap_or_else(|| panic!("src/{name} is in no layer"));
        if let Some(sink) = name.strip_prefix("events/").filter(|file| !["mod.rs", "sinks.rs"].contains(file)) {
            sinks.push(sink.trim_end_matches(".rs").split('/').next().unwrap().to_owned());
            layer = SINKS;
        }
        files.push(File { name, module, layer, code: without_comments(&fs::read_to_string(&path).unwrap()) });
    }
    assert!(files.len() > 20, "only {} files found", files.len());
    let found: Vec<String> = files.iter().flat_map(|file| violations(file, &layers, &sinks)).collect();
    assert!(found.is_empty(), "a file may use lower layers only (table in src/lib.rs):\n{}", found.join("\n"));
}

#[test]
fn use_trees_expand_to_all_their_paths() {
    let code = "use crate::{rng, ops::{self, linear as l}, data::*};\nlet x = crate::model::Model::new();";
    let paths: Vec<String> = root_paths(code, 9).iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["rng", "ops::self", "ops::linear", "data", "model::Model::new"]);
}

#[test]
fn siblings_higher_layers_and_sinks_are_found_out() {
    let file = |name: &str, code: &str| File {
        name: name.to_owned(),
        module: name.split('/').next().unwrap().to_owned(),
        layer: 2,
        code: code.to_owned(),
    };
    let (layers, sinks) = (table(), vec!["console".to_owned()]);
    let count = |name, code| violations(&file(name, code), &layers, &sinks).len();
    assert_eq!(count("data/cache.rs", "use crate::{rng::stream, data::Pair};\nuse super::Pair;"), 0);
    assert_eq!(count("data/cache.rs", "use crate::{tokenizer::T, rng};"), 1);
    assert_eq!(count("data/cache.rs", "fn f() { crate::train::run() }"), 1);
    assert_eq!(count("data/cache.rs", "use super::super::model::Model;"), 1);
    assert_eq!(count("data/mod.rs", "use super::model::Model;"), 1);
    assert_eq!(count("data/mod.rs", "#[cfg(test)]\nmod tests { use super::model; }"), 0);
    assert_eq!(count("data/cache.rs", "use crate::events::{Event, console::Console};"), 1);
    assert_eq!(count("data/cache.rs", "use crate::nowhere::X;"), 1);
}
