//! How a section says what is wrong with it.

use serde_json::Value;

/// One thing wrong with a configuration whose types are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Keys that take part; the first one is at fault.
    pub keys: Vec<&'static str>,
    /// `key = value` of the first key.
    pub subject: String,
    /// What it must be.
    pub text: String,
}

/// Collects findings.
pub(in crate::config) struct Checks {
    /// The configuration, to show values in findings.
    values: Value,
    findings: Vec<Finding>,
}

impl Checks {
    /// `values`: the whole configuration as JSON.
    pub(in crate::config) fn of(values: Value) -> Self {
        Checks { values, findings: Vec::new() }
    }

    /// A rule; `keys[0]` is at fault when it does not hold.
    pub(in crate::config) fn rule(&mut self, holds: bool, keys: &[&'static str], text: impl Into<String>) {
        if holds {
            return;
        }
        let value = as_toml(value_at(&self.values, keys[0]));
        let subject = if value.is_empty() { keys[0].to_string() } else { format!("{} = {value}", keys[0]) };
        self.findings.push(Finding { keys: keys.to_vec(), subject, text: text.into() });
    }

    /// What is wrong inside the value of `keys[0]`; the text says where.
    pub(super) fn fault(&mut self, keys: Vec<&'static str>, text: String) {
        self.findings.push(Finding { keys, subject: String::new(), text });
    }

    /// All that was found.
    pub(in crate::config) fn findings(self) -> Vec<Finding> {
        self.findings
    }
}

/// The value at a dotted path of a serialized configuration; null for options that are not set.
pub(in crate::config) fn value_at<'a>(config: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(config, |value, name| &value[name])
}

/// A value as TOML writes it, on one line.
pub(in crate::config) fn as_toml(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // Debug keeps 1e-9 short; Display would write nine zeros
        Value::Number(n) if n.is_f64() => format!("{:?}", n.as_f64().unwrap_or(0.0)),
        Value::Array(items) => format!("[{}]", items.iter().map(as_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(key, value)| format!("{key} = {}", as_toml(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::String(text) => toml::Value::from(text.as_str()).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_toml() {
        let json = serde_json::json!([1e-9, 1.0, 3, true, "a\"b", { "files": ["x"] }]);
        assert_eq!(as_toml(&json), r#"[1e-9, 1.0, 3, true, 'a"b', { files = ["x"] }]"#);
    }
}
