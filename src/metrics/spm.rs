//! The pieces of a SentencePiece model as words of BLEU (spBLEU: Goyal et al. 2022), the same as the sentencepiece library
//! gives: unigram and BPE models, read from their `.model` file.

mod bpe;
mod normalize;
mod unigram;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::fsio;
use crate::sentencepiece::{Kind, ModelType, Piece, Proto};
use normalize::Normalizer;

/// Why a model can not be used.
#[derive(Debug, thiserror::Error)]
pub enum SpmError {
    #[error(transparent)]
    File(#[from] fsio::Error),
    #[error("{path}: not a SentencePiece model: {what}", path = path.display())]
    NotAModel { path: PathBuf, what: String },
}

/// A SentencePiece model.
pub struct SentencePiece {
    /// As it stands in signatures: `spm-` and the name of the file.
    name: String,
    normalizer: Normalizer,
    pieces: Vec<Piece>,
    /// Pieces that text can become, by their bytes.
    text: HashMap<Vec<u8>, u32>,
    /// Control and unknown pieces, and bytes: no text becomes them, but a merge may spell one.
    reserved: HashMap<Vec<u8>, u32>,
    unknown: u32,
    model_type: ModelType,
    byte_fallback: bool,
    /// Bytes of the longest piece.
    longest: usize,
    /// Score of the worst normal piece.
    min_score: f32,
}

impl SentencePiece {
    /// Reads a `.model` file.
    ///
    /// # Errors
    /// When it can not be read, is no such model, or of a type other than unigram and BPE.
    pub fn load(path: &Path) -> Result<Self, SpmError> {
        let wrong = |what: &str| SpmError::NotAModel { path: path.to_path_buf(), what: what.to_string() };
        let bytes = fsio::read(path)?;
        let proto = Proto::parse(&bytes).ok_or_else(|| wrong("it does not have that format"))?;
        let unknown = proto.pieces.iter().position(|piece| piece.kind == Kind::Unknown);
        let unknown = unknown.ok_or_else(|| wrong("it has no unknown piece"))? as u32;
        if proto.model_type == ModelType::Other {
            return Err(wrong("it is neither a unigram nor a BPE model"));
        }
        let (mut text, mut reserved, mut user_defined) = (HashMap::new(), HashMap::new(), Vec::new());
        for (piece, id) in proto.pieces.iter().zip(0..) {
            if piece.kind == Kind::UserDefined {
                user_defined.push(piece.text.clone().into_bytes());
            }
            let is_text = matches!(piece.kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
            let map = if is_text { &mut text } else { &mut reserved };
            map.insert(piece.text.clone().into_bytes(), id);
        }
        let normal = proto.pieces.iter().filter(|piece| piece.kind == Kind::Normal);
        let min_score = normal.map(|piece| piece.score).fold(f32::MAX, f32::min);
        let longest = proto.pieces.iter().map(|piece| piece.text.len()).max().unwrap_or(0);
        let normalizer =
            Normalizer::new(proto.normalizer, user_defined).ok_or_else(|| wrong("its rules are damaged"))?;
        let name = format!("spm-{}", path.file_stem().unwrap_or_default().to_string_lossy());
        let (model_type, byte_fallback) = (proto.model_type, proto.byte_fallback);
        Ok(SentencePiece {
            name,
            normalizer,
            pieces: proto.pieces,
            text,
            reserved,
            unknown,
            model_type,
            byte_fallback,
            longest,
            min_score,
        })
    }

    /// Its name in signatures.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pieces of a line, with a space between each two.
    pub fn tokens(&self, line: &str) -> String {
        let normalized = self.normalizer.normalize(line);
        let found = match self.model_type {
            ModelType::Bpe => self.bpe(&normalized),
            _ => self.unigram(&normalized),
        };
        let mut out: Vec<u8> = Vec::with_capacity(2 * normalized.len());
        let mut after_unknown = false;
        for (piece, id) in found {
            let is_unknown = id == self.unknown;
            if is_unknown && self.byte_fallback {
                for byte in piece {
                    separate(&mut out);
                    out.extend_from_slice(format!("<0x{byte:02X}>").as_bytes());
                }
            } else {
                // the library joins what it does not know
                if !(is_unknown && after_unknown) {
                    separate(&mut out);
                }
                out.extend_from_slice(piece);
            }
            after_unknown = is_unknown;
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The id that spells these bytes, that of the unknown piece for want of one.
    fn id(&self, bytes: &[u8]) -> u32 {
        self.reserved.get(bytes).or_else(|| self.text.get(bytes)).copied().unwrap_or(self.unknown)
    }

    fn piece(&self, id: u32) -> &Piece {
        &self.pieces[id as usize]
    }
}

impl std::fmt::Debug for SentencePiece {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} ({} pieces)", self.name, self.pieces.len())
    }
}

impl PartialEq for SentencePiece {
    /// Models are compared by name: that is what a signature tells.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for SentencePiece {}

fn separate(out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b' ');
    }
}

/// Bytes of the character that begins with this one.
fn char_length(first: u8) -> usize {
    match first {
        0..=0xBF => 1,
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        _ => 4,
    }
}
