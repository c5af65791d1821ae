//! Every key of the configuration, read off the structs themselves (their JSON schema): paths, doc comments, order.

use serde_json::Value;
use std::sync::LazyLock;

use crate::config::Config;

/// A table of the file; the root has an empty path.
#[derive(Debug)]
pub(super) struct Section {
    /// Dotted path, as `optimizer.adam`.
    pub(super) path: String,
    /// The struct's doc comment.
    pub(super) doc: String,
    /// Keys, in the order of the struct's fields.
    pub(super) keys: Vec<Key>,
    /// Sub-tables, in the order of the struct's fields.
    pub(super) sections: Vec<Section>,
}

/// A key that holds a value.
#[derive(Debug)]
pub(super) struct Key {
    /// Dotted path, as `optimizer.adam.beta1`.
    pub(super) path: String,
    /// The field's doc comment.
    pub(super) doc: String,
    /// Keys of the tables in its list, if it is a list of tables.
    pub(super) inner: Vec<String>,
}

/// What a path names.
#[derive(Clone, Copy)]
pub(super) enum Node {
    Section(&'static Section),
    Key(&'static Key),
}

/// The whole tree.
pub(super) fn root() -> &'static Section {
    static ROOT: LazyLock<Section> = LazyLock::new(|| {
        let schema = schemars::schema_for!(Config).to_value();
        section(String::new(), &schema, &schema)
    });
    &ROOT
}

impl Section {
    /// The child of this name; `-` counts as `_`, so that `[optimizer.clipped-adam]` is what `name` suggests it is.
    pub(super) fn child(&'static self, name: &str) -> Option<Node> {
        let path = join(&self.path, &name.replace('-', "_"));
        let section = self.sections.iter().find(|s| s.path == path).map(Node::Section);
        section.or_else(|| self.keys.iter().find(|k| k.path == path).map(Node::Key))
    }

    /// All keys below, depth first, in file order.
    pub(super) fn all_keys(&self) -> Vec<&Key> {
        let mut keys: Vec<&Key> = self.keys.iter().collect();
        for section in &self.sections {
            keys.extend(section.all_keys());
        }
        keys
    }

    /// All sections below, depth first.
    pub(super) fn all_sections(&self) -> Vec<&Section> {
        self.sections.iter().flat_map(|s| std::iter::once(s).chain(s.all_sections())).collect()
    }
}

/// What a dotted path names.
pub(super) fn find(path: &str) -> Option<Node> {
    let mut node = Node::Section(root());
    for name in path.split('.') {
        match node {
            Node::Section(section) => node = section.child(name)?,
            Node::Key(_) => return None,
        }
    }
    Some(node)
}

/// `section.name`, or `name` at the root.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_string()
    } else {
        format!("{section}.{name}")
    }
}

/// The last part of a dotted path.
pub(super) fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn section(path: String, schema: &Value, whole: &Value) -> Section {
    let mut out = Section { doc: doc(schema), keys: Vec::new(), sections: Vec::new(), path };
    for (name, property) in properties(schema) {
        let path = join(&out.path, name);
        let target = resolve(property, whole);
        if target.get("properties").is_some() {
            out.sections.push(section(path, target, whole));
        } else {
            let items = target.get("items").map(|items| resolve(items, whole));
            let inner = items.map_or(Vec::new(), |items| properties(items).map(|(name, _)| name.clone()).collect());
            out.keys.push(Key { doc: doc(property), inner, path });
        }
    }
    out
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

/// Follows a `$ref` into the definitions.
fn resolve<'a>(schema: &'a Value, whole: &'a Value) -> &'a Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
    pointer.and_then(|pointer| whole.pointer(pointer)).unwrap_or(schema)
}

fn doc(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_section_is_documented() {
        let undocumented: Vec<&str> =
            root().all_keys().into_iter().filter(|k| k.doc.is_empty()).map(|k| k.path.as_str()).collect();
        assert!(undocumented.is_empty(), "{undocumented:?}");
        assert!(root().all_sections().iter().all(|s| !s.doc.is_empty()));
        assert!(root().all_keys().len() > 70);
    }

    #[test]
    fn the_tree_has_optional_keys_and_the_order_of_the_structs() {
        let keys: Vec<&str> = root().all_keys().into_iter().map(|k| k.path.as_str()).collect();
        assert!(keys.contains(&"model.attention_dropout"));
        assert_eq!(keys[..4], ["seed", "run_dir", "device", "threads"]);
        let Some(Node::Key(train)) = find("data.train") else { panic!() };
        assert_eq!(train.inner, ["files", "columns", "weight", "tag"]);
        assert!(matches!(find("optimizer.clipped-adam"), Some(Node::Section(_))));
        assert!(find("train.batch_size.x").is_none());
    }
}
