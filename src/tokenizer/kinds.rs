//! Files that lie beside a `tokenizer.json` or are mistaken for one: what they are, and how to get one.

use std::path::Path;

use serde_json::Value;

/// Why a folder is no tokenizer.
pub(super) fn folder(path: &Path) -> String {
    let file = ["tokenizer.json", "tokenizer.spm", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"];
    match file.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        Some(file) => format!("it is a folder; name the file in it, {}", file.display()),
        None => "it is a folder without a tokenizer.json".to_string(),
    }
}

/// What a JSON file without a tokenizer's model is.
pub(super) fn json(json: &Value) -> String {
    let object = json.as_object().filter(|object| object.len() > 1);
    let is_vocabulary = object.is_some_and(|object| object.values().all(Value::is_u64));
    let has = |keys: &[&str]| keys.iter().any(|key| !json[*key].is_null());
    match () {
        () if is_vocabulary => format!("it has no \"model\": it is a list of pieces (vocab.json). {}", merges()),
        () if has(&["tokenizer_class", "model_max_length", "do_lower_case"]) => {
            "it has no \"model\": it holds settings (tokenizer_config.json); the tokenizer.json beside it is needed".to_string()
        }
        () if has(&["model_type", "architectures"]) => {
            "it has no \"model\" of pieces: it describes a network (config.json); the tokenizer.json beside it is needed".to_string()
        }
        () => "it has no \"model\"".to_string(),
    }
}

/// What a file that is no JSON is, if it is known.
pub(super) fn other(bytes: &[u8]) -> Option<String> {
    if bytes.starts_with(b"PK\x03\x04") {
        return Some("it is a zip archive; unpack it first".to_string());
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let lines: Vec<&str> = text.lines().take(2000).collect();
    let all = |holds: fn(&str) -> bool| lines.len() > 1 && lines.iter().all(|line| holds(line));
    let is_scored = |line: &str| line.split_once('\t').is_some_and(|(_, score)| score.parse::<f64>().is_ok());
    let is_merge = |line: &str| (2..=3).contains(&line.split(' ').count());
    match () {
        () if text.starts_with("#version") => Some(format!("it is a list of merges (merges.txt). {}", merges())),
        () if lines.iter().any(|line| ["[UNK]", "[CLS]"].contains(line)) => Some(
            "it is a list of WordPiece pieces (vocab.txt). `pip install tokenizers`, then `python3 -c \"from tokenizers \
             import BertWordPieceTokenizer as T; T('vocab.txt', lowercase=False).save('tokenizer.json')\"` (lowercase as \
             its model was trained) makes a tokenizer.json of it"
                .to_string(),
        ),
        () if all(is_scored) => {
            Some("it is the list of pieces beside a SentencePiece model; name the .model itself".to_string())
        }
        () if all(is_merge) => Some(format!("it looks like a list of merges. {}", merges())),
        () => None,
    }
}

fn merges() -> &'static str {
    "`pip install tokenizers`, then `python3 -c \"from tokenizers import ByteLevelBPETokenizer as T; \
     T('vocab.json', 'merges.txt').save('tokenizer.json')\"` makes a tokenizer.json of both files"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_named_with_a_cure() {
        let say = |bytes: &[u8]| other(bytes).unwrap_or_default();
        assert!(say(b"[PAD]\n[UNK]\nein\n##en\n").contains("BertWordPieceTokenizer"));
        assert!(say(b"#version: 0.2\ne n\n").contains("merges.txt"));
        assert!(say(b"e n\nen </w>\n").contains("looks like a list of merges"));
        assert!(say("<unk>\t0\n\u{2581}the\t-3.5\n".as_bytes()).contains("name the .model itself"));
        assert!(say(b"PK\x03\x04").contains("zip"));
        assert_eq!(say(b"not json"), "");
        assert!(json(&serde_json::json!({"ein": 0, "Hund": 1})).contains("vocab.json"));
        assert!(json(&serde_json::json!({"tokenizer_class": "T"})).contains("tokenizer_config.json"));
        assert!(json(&serde_json::json!({"model_type": "t5"})).contains("config.json"));
        let empty = tempfile::tempdir().unwrap();
        assert!(folder(empty.path()).contains("without a tokenizer.json"));
        crate::fsio::write_atomic(&empty.path().join("tokenizer.json"), b"{}").unwrap();
        assert!(folder(empty.path()).ends_with("/tokenizer.json"));
    }
}
