//! How the pieces of a tokenizer spell words, read off its rules: what marks the borders of words, and which decoder
//! therefore turns pieces into text again. Files of others often name none, or one that does not fit.

use serde_json::{json, Value};
use tokenizers::{DecoderWrapper, ModelWrapper, Tokenizer as Inner};

use super::load::Fault;
use super::round_trip::{decode, round_trips};

/// What rules and model say about pieces.
pub(super) struct Scheme {
    /// Pieces are spelled in ByteLevel's alphabet, a space as `Ġ`.
    is_byte_level: bool,
    /// A Metaspace rule, which serves as decoder too.
    metaspace: Option<Value>,
    /// What the normalizer writes for a space, and whether it puts one before the line.
    space: Option<(String, bool)>,
    /// Of pieces within words.
    prefix: Option<String>,
    /// Of pieces that end words.
    suffix: Option<String>,
    /// Unknown characters are spelled `<0xE4>`.
    has_byte_fallback: bool,
    /// No rule takes characters away, so spaces are in the pieces.
    keeps_spaces: bool,
    /// Punctuation and digits are words of their own, without the mark of words.
    isolates: [bool; 2],
}

impl Scheme {
    pub(super) fn of(inner: &Inner) -> Self {
        let cuts = steps(inner.get_pre_tokenizer().map(serde_json::to_value), "pretokenizers");
        let changes = steps(inner.get_normalizer().map(serde_json::to_value), "normalizers");
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (prefix, suffix, has_byte_fallback) = match inner.get_model() {
            ModelWrapper::BPE(bpe) => {
                (some(&bpe.continuing_subword_prefix), some(&bpe.end_of_word_suffix), bpe.byte_fallback)
            }
            ModelWrapper::WordPiece(model) => (some(&Some(model.continuing_subword_prefix.clone())), None, false),
            ModelWrapper::Unigram(model) => (None, None, model.byte_fallback()),
            ModelWrapper::WordLevel(_) => (None, None, false),
        };
        let replaced = changes.iter().find(|step| step["type"] == "Replace" && step["pattern"]["String"] == " ");
        let is_prepended = changes.iter().any(|step| step["type"] == "Prepend");
        let isolates = |rule: &str, how: &str, value: Value| cuts.iter().any(|c| c["type"] == rule && c[how] == value);
        Scheme {
            isolates: [
                isolates("Punctuation", "behavior", "Isolated".into()),
                isolates("Digits", "individual_digits", true.into()),
            ],
            is_byte_level: cuts.iter().chain(&changes).any(|step| step["type"] == "ByteLevel"),
            metaspace: cuts.iter().find(|step| step["type"] == "Metaspace").cloned(),
            space: replaced.and_then(|step| step["content"].as_str()).map(|text| (text.to_string(), is_prepended)),
            prefix,
            suffix,
            has_byte_fallback,
            keeps_spaces: cuts.iter().all(keeps_all),
        }
    }

    /// The decoder that belongs to these rules; `Null`, which joins pieces by spaces, where they are words or nothing
    /// says which pieces belong together.
    fn decoder(&self) -> Value {
        let replace = |what: &str, by: &str| json!({"type": "Replace", "pattern": {"String": what}, "content": by});
        let strip = |start: usize, stop: usize| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
        let bytes = self.has_byte_fallback.then(|| json!({"type": "ByteFallback"}));
        let fuse = json!({"type": "Fuse"});
        let no_suffix = self.suffix.as_deref().map(|suffix| replace(suffix, ""));
        let steps: Vec<Value> = match self {
            Scheme { is_byte_level: true, suffix, .. } => {
                let byte_level =
                    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
                let spaced = suffix.as_deref().map(|suffix| replace(suffix, "Ġ"));
                let end = spaced.is_some().then(|| strip(0, 1));
                spaced.into_iter().chain([byte_level]).chain(end).collect()
            }
            Scheme { metaspace: Some(metaspace), .. } => {
                [metaspace.clone()].into_iter().chain(bytes).chain(no_suffix).collect()
            }
            Scheme { space: Some((mark, is_prepended)), .. } => {
                let start = is_prepended.then(|| strip(1, 0));
                [replace(mark, " ")].into_iter().chain(bytes).chain([fuse]).chain(start).collect()
            }
            Scheme { prefix: Some(prefix), .. } => {
                let words = json!({"type": "WordPiece", "prefix": prefix, "cleanup": false});
                [words].into_iter().chain(no_suffix).collect()
            }
            Scheme { suffix: Some(suffix), .. } => vec![json!({"type": "BPEDecoder", "suffix": suffix})],
            Scheme { keeps_spaces: true, .. } => bytes.into_iter().chain([fuse]).collect(),
            _ => Vec::new(),
        };
        match steps.len() {
            0 => Value::Null,
            1 => steps[0].clone(),
            _ => json!({"type": "Sequence", "decoders": steps}),
        }
    }

    /// The word that `token` stands for by itself or begins; `text`: what it is decoded to. `None` for parts of words.
    pub(super) fn word(&self, token: &str, text: &str) -> Option<String> {
        let is_isolated = match token.as_bytes() {
            [byte] => self.isolates[0] && byte.is_ascii_punctuation() || self.isolates[1] && byte.is_ascii_digit(),
            _ => false,
        };
        let begins = match self {
            _ if is_isolated => true,
            // an end is the only mark there is
            Scheme { suffix: Some(suffix), .. } => token.ends_with(suffix),
            Scheme { is_byte_level: true, .. } => token.starts_with('Ġ'),
            Scheme { metaspace: Some(metaspace), .. } => token.starts_with(metaspace["replacement"].as_str()?),
            Scheme { space: Some((mark, _)), .. } => token.starts_with(mark),
            Scheme { prefix: Some(prefix), .. } => !token.starts_with(prefix),
            _ => true,
        };
        let word = text.trim();
        (begins && !word.is_empty() && !word.contains('\u{FFFD}')).then(|| word.to_string())
    }
}

/// Gives `inner` the decoder of its rules where it names none, or one that hardly ever gives back text which this one
/// gives back. Returns what was replaced.
pub(super) fn settle_decoder(inner: &mut Inner) -> Result<Option<String>, Fault> {
    let scheme = Scheme::of(inner);
    let wanted = scheme.decoder();
    let broken = |e: serde_json::Error| Fault::Library(e.to_string());
    let named = inner.get_decoder().cloned();
    let value = named.as_ref().map_or(Ok(Value::Null), serde_json::to_value).map_err(broken)?;
    if wanted.is_null() || wanted == value {
        return Ok(None);
    }
    let fitting: DecoderWrapper = serde_json::from_value(wanted.clone()).map_err(broken)?;
    let Some(named) = named else {
        inner.with_decoder(Some(fitting));
        return Ok(None);
    };
    inner.with_decoder(Some(fitting));
    let lines = probes(inner, &scheme);
    let with_fitting = round_trips(inner, &lines);
    let fitting = inner.get_decoder().cloned();
    inner.with_decoder(Some(named));
    if with_fitting <= FEW * round_trips(inner, &lines) {
        return Ok(None);
    }
    inner.with_decoder(fitting);
    let name = |decoder: &Value| decoder["type"].as_str().unwrap_or("none").to_string();
    Ok(Some(format!(
        "its decoder ({}) does not give back the text of its own pieces; the one that fits ({}) is used",
        name(&value),
        name(&wanted)
    )))
}

/// A decoder is replaced by one that gives back more than so many times as many lines.
const FEW: usize = 4;
/// Lines to try decoders on.
const PROBES: usize = 50;

/// Short lines of pieces from all over the vocabulary, each of a word, a part of a word behind it, and a word.
fn probes(inner: &Inner, scheme: &Scheme) -> Vec<String> {
    let (mut words, mut parts) = (Vec::new(), Vec::new());
    for id in 0..inner.get_vocab_size(true) as u32 {
        let (Some(token), Ok(text)) = (inner.id_to_token(id), decode(inner, &[id])) else { continue };
        match scheme.word(&token, &text) {
            Some(_) => words.push(id),
            None if !text.trim().is_empty() && !text.contains('\u{FFFD}') => parts.push(id),
            None => (),
        }
    }
    let spread = |ids: Vec<u32>| ids.iter().copied().step_by((ids.len() / PROBES).max(1)).collect::<Vec<u32>>();
    let (words, parts) = (spread(words), spread(parts));
    let line = |i: usize| {
        let part = parts.get(i % parts.len().max(1)).copied();
        let ids: Vec<u32> = [words[i]].into_iter().chain(part).chain([words[(i + 1) % words.len()]]).collect();
        decode(inner, &ids).ok()
    };
    (0..words.len()).filter_map(line).collect()
}

/// The rules of a part, those of sequences one by one.
fn steps(part: Option<serde_json::Result<Value>>, list: &str) -> Vec<Value> {
    fn flatten(part: Value, list: &str, all: &mut Vec<Value>) {
        match part[list].as_array() {
            Some(parts) => parts.iter().for_each(|part| flatten(part.clone(), list, all)),
            None => all.push(part),
        }
    }
    let mut all = Vec::new();
    if let Some(Ok(part)) = part {
        flatten(part, list, &mut all);
    }
    all
}

/// Whether a rule cuts without taking characters away.
fn keeps_all(rule: &Value) -> bool {
    match rule["type"].as_str() {
        Some("Digits" | "UnicodeScripts" | "FixedLength") => true,
        Some("Punctuation" | "Split") => rule["behavior"] != "Removed",
        _ => false,
    }
}
