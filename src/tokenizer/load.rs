//! Reads a `tokenizer.json`, ours or of others, and gives it the shape that training and export need.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use tokenizers::{PostProcessorWrapper, Tokenizer as Inner};
use xxhash_rust::xxh3::xxh3_128;

use super::scheme::settle_decoder;
use super::{kinds, library, special, spm_files, template, Engine, Error, Json, Result, Tokenizer};
use crate::fsio;

/// Names under which others know our special tokens, in order of preference.
const UNK_NAMES: [&str; 4] = ["<unk>", "[UNK]", "<|unk|>", "<UNK>"];
pub(super) const EOS_NAMES: [&str; 9] =
    ["</s>", "<eos>", "[EOS]", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<EOT>", "<EOS>", "[SEP]"];
pub(super) const PAD_NAMES: [&str; 6] = ["<pad>", "[PAD]", "<|pad|>", "<PAD>", "<|padding|>", OWN_PAD];
/// Our padding token when the usual name is taken by another id than the last.
pub(super) const OWN_PAD: &str = "<nmt_pad>";

/// Whose file a `tokenizer.json` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Anybody's, for a new run.
    Foreign,
    /// A run's, which knows it by its fingerprint: that of the file as it is.
    Run,
}

pub(super) fn load(path: &Path, origin: Origin) -> Result<Tokenizer> {
    let refused = |reason: String| Error::NotATokenizer { path: path.to_path_buf(), reason };
    if path.is_dir() {
        return Err(refused(kinds::folder(path)));
    }
    let bytes = unpacked(path)?;
    let json: Value = match serde_json::from_slice(&bytes) {
        Ok(json) => json,
        Err(_) if spm_files::is_model(&bytes) => return spm_files::of_model(path, bytes, origin),
        Err(e) => {
            let not_json = Error::NotJson { path: path.to_path_buf(), reason: e.to_string() };
            return Err(kinds::other(&bytes).map_or(not_json, refused));
        }
    };
    if !json["model"].is_object() {
        return Err(refused(kinds::json(&json)));
    }
    finish(json, origin).map_err(|fault| match fault {
        Fault::Holes { count, largest, hole } => Error::Holes { path: path.to_path_buf(), count, largest, hole },
        Fault::Library(reason) => refused(reason),
    })
}

/// The bytes of a file, of a gzipped one unpacked.
pub(super) fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let bytes = fsio::read(path)?;
    if !bytes.starts_with(&[0x1F, 0x8B]) {
        return Ok(bytes);
    }
    let mut text = Vec::new();
    let broken = |e: std::io::Error| fsio::Error::io("decompress", path, e);
    MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text).map_err(broken)?;
    Ok(text)
}

/// What [`finish`] can meet.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{count} tokens, largest id {largest}, no token {hole}")]
    Holes { count: usize, largest: u32, hole: u32 },
    #[error("{0}")]
    Library(String),
}

impl From<tokenizers::Error> for Fault {
    fn from(error: tokenizers::Error) -> Self {
        Fault::Library(library(error).to_string())
    }
}

/// Adds what a `tokenizer.json` lacks.
///
/// # Errors
/// When the library does not take it, or its ids have holes.
pub(super) fn finish(mut json: Value, origin: Origin) -> std::result::Result<Tokenizer, Fault> {
    let randomized = settle(&mut json);
    let supplied = supply_unk(&mut json);
    let unk_name = unk_name(&json["model"]);
    let is_byte_level =
        [&json["pre_tokenizer"], &json["normalizer"]].iter().any(|r| r.to_string().contains("ByteLevel"));
    let text = json.to_string();
    let mut inner = Inner::from_bytes(text.as_bytes())?;
    dense(&inner)?;
    let mut added: Vec<String> =
        supplied.iter().map(|(name, id)| format!("no unknown token; added {name} as id {id}")).collect();
    added.extend(randomized);
    let missing = |inner: &mut Inner, added: &mut Vec<String>, name: &str, what: &str| {
        inner.add_special_tokens([special(name)])?;
        let id = inner.token_to_id(name).unwrap_or_default();
        added.push(format!("no {what}; added {name} as id {id}"));
        Ok::<u32, Fault>(id)
    };
    let unk_name = unk_name.or_else(|| find(&inner, &UNK_NAMES).map(str::to_string));
    let unk = match unk_name.as_deref().and_then(|name| inner.token_to_id(name)) {
        Some(id) => id,
        None => {
            let what =
                if is_byte_level { "unknown token (none is needed: all bytes are known)" } else { "unknown token" };
            missing(&mut inner, &mut added, unk_name.as_deref().unwrap_or(UNK_NAMES[0]), what)?
        }
    };
    let eos_name = find(&inner, &EOS_NAMES).unwrap_or(EOS_NAMES[0]);
    let eos = match inner.token_to_id(eos_name) {
        Some(id) => id,
        None => missing(&mut inner, &mut added, eos_name, "token for the end of a sentence")?,
    };
    // files made from SentencePiece models by others list them as pieces only
    for id in [unk, eos] {
        let name = inner.id_to_token(id).unwrap_or_default();
        inner.add_special_tokens([special(&name)])?;
    }
    let last = inner.get_vocab_size(true) as u32 - 1;
    let last_name = inner.id_to_token(last).unwrap_or_default();
    let pad = match PAD_NAMES.contains(&last_name.as_str()) {
        true => {
            inner.add_special_tokens([special(&last_name)])?;
            last
        }
        false => match inner.token_to_id(template::PAD) {
            None => missing(&mut inner, &mut added, template::PAD, "padding token as the last id")?,
            Some(_) => missing(&mut inner, &mut added, OWN_PAD, "padding token as the last id")?,
        },
    };
    let template: PostProcessorWrapper =
        serde_json::from_value(template::post_processor(eos_name, eos)).map_err(|e| Fault::Library(e.to_string()))?;
    inner.with_post_processor(Some(template));
    inner.set_encode_special_tokens(true);
    if origin == Origin::Foreign {
        added.extend(settle_decoder(&mut inner)?);
    }
    let fingerprint = format!("{:032x}", xxh3_128(inner.to_string(false)?.as_bytes()));
    if origin == Origin::Run {
        // only now: the folder of an older run may hold a file whose decoder was not looked at
        settle_decoder(&mut inner)?;
    }
    Ok(Tokenizer { engine: Engine::Json(Box::new(Json::new(inner))), unk, eos, pad, added, fingerprint })
}

/// Takes out what would cut, fill or randomize ids. The last of these is told.
fn settle(json: &mut Value) -> Option<String> {
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    let dropout = json["model"].get_mut("dropout")?.take().as_f64().filter(|&dropout| dropout > 0.0)?;
    Some(format!(
        "its model leaves out merges (dropout {dropout}), here none: tokenizer.bpe_dropout = {dropout} would do so with \
         training text"
    ))
}

/// Puts the unknown token that a model names into the model's own vocabulary, for want of which it would fail at the
/// first unknown word. Name and id if the file has no such token at all.
fn supply_unk(json: &mut Value) -> Option<(String, u64)> {
    let name = json["model"]["unk_token"].as_str().filter(|name| !name.is_empty())?.to_string();
    let vocab = json["model"]["vocab"].as_object().filter(|vocab| !vocab.contains_key(&name))?;
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let known = added.iter().find(|token| token["content"] == name.as_str()).and_then(|token| token["id"].as_u64());
    let ids = vocab.values().chain(added.iter().map(|token| &token["id"])).filter_map(Value::as_u64);
    let ids: BTreeSet<u64> = ids.collect();
    let next = ids.last().map_or(0, |largest| largest + 1);
    if next != ids.len() as u64 {
        return None; // the file has holes, which is what its error should be about
    }
    let id = known.unwrap_or(next);
    json["model"]["vocab"][name.as_str()] = id.into();
    known.is_none().then_some((name, id))
}

/// The token that the model itself gives to unknown text.
fn unk_name(model: &Value) -> Option<String> {
    let by_index = || model["vocab"].get(model["unk_id"].as_u64()? as usize)?.get(0)?.as_str();
    model["unk_token"].as_str().or_else(by_index).map(str::to_string)
}

/// The first of the names in the vocabulary. All but the first of them must be special tokens of the file: "[SEP]" may
/// be ordinary text.
fn find<'a>(inner: &Inner, names: &[&'a str]) -> Option<&'a str> {
    let is_special = |name: &str| inner.get_added_vocabulary().is_special_token(name);
    let (first, others) = names.split_first()?;
    if inner.token_to_id(first).is_some() {
        return Some(first);
    }
    others.iter().find(|name| is_special(name)).copied()
}

/// # Errors
/// When an id below the largest has no token.
fn dense(inner: &Inner) -> std::result::Result<(), Fault> {
    let mut ids: Vec<u32> = inner.get_vocab(true).into_values().collect();
    ids.sort_unstable();
    ids.dedup();
    let hole = ids.iter().zip(0..).find(|(id, expected)| *id != expected).map(|(_, expected)| expected);
    match (hole, ids.last()) {
        (Some(hole), Some(&largest)) => Err(Fault::Holes { count: ids.len(), largest, hole }),
        (_, None) => Err(Fault::Library("the vocabulary is empty".to_string())),
        _ => Ok(()),
    }
}
