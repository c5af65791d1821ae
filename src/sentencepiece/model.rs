//! A model that was read and checked, and the pieces of a line.

use std::collections::HashSet;

use super::decode::byte;
use super::merging::Merging;
use super::normalize::{char_length, Normalizer};
use super::sampling::{self, Border};
use super::trie::Trie;
use super::{Kind, ModelType, Piece, Proto, Rules, SPACE};

/// What is wrong with the bytes of a model.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damage(String);

/// A SentencePiece model, ready for use.
pub struct SentencePiece {
    pub(super) pieces: Vec<Piece>,
    /// Pieces that text can become.
    pub(super) text: Trie,
    pub(super) unknown: u32,
    pub(super) normalizer: Normalizer,
    /// Applied to decoded text.
    pub(super) denormalizer: Option<Normalizer>,
    pub(super) unknown_surface: String,
    eos_name: String,
    model_type: ModelType,
    /// Ids of the pieces that spell bytes, by byte; empty without byte fallback.
    bytes: Vec<u32>,
    /// The worst score of normal pieces.
    pub(super) min_score: f32,
    /// Where words end, if no piece reaches over them.
    pub(super) border: Option<Border>,
}

/// Where a piece of normalized text ends, and its id. It begins where the one before ends.
pub type Cut = (usize, u32);

impl SentencePiece {
    /// Reads the bytes of a `.model` file.
    ///
    /// # Errors
    /// What is no such model, or one that the library refuses: without pieces or unknown piece, with a piece twice, with
    /// byte fallback but not all bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let damage = |what: &str| Damage(what.to_string());
        let proto = Proto::parse(bytes).ok_or_else(|| damage("it is cut, damaged or something else"))?;
        let unknown = check(&proto.pieces).map_err(Damage)?;
        let of_kind = |wanted: Kind| {
            let all = proto.pieces.iter().zip(0..).filter(move |(piece, _)| piece.kind == wanted);
            all.map(|(piece, id)| (piece.text.as_bytes(), id)).collect::<Vec<_>>()
        };
        let text = [Kind::Normal, Kind::UserDefined, Kind::Unused].map(of_kind).concat();
        let scores = proto.pieces.iter().filter(|piece| piece.kind == Kind::Normal).map(|piece| piece.score);
        let min_score = scores.fold(f32::MAX, f32::min);
        let spelled = byte_ids(&proto).map_err(Damage)?;
        let normalizer = Normalizer::new(proto.normalizer, of_kind(Kind::UserDefined));
        let denormalizer = proto.denormalizer.filter(|rules| !rules.charsmap.is_empty());
        let denormalizer = denormalizer.map(|rules| Normalizer::new(rules, Vec::new()).ok_or(()));
        Ok(SentencePiece {
            text: Trie::new(text),
            unknown,
            normalizer: normalizer.ok_or_else(|| damage("its rules are damaged"))?,
            denormalizer: denormalizer.transpose().map_err(|()| damage("its rules are damaged"))?,
            unknown_surface: proto.unknown_surface,
            eos_name: proto.eos_name,
            model_type: proto.model_type,
            bytes: spelled,
            min_score,
            border: sampling::border(&proto.pieces),
            pieces: proto.pieces,
        })
    }

    /// All pieces by id.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The piece of this id.
    pub fn piece(&self, id: u32) -> &Piece {
        &self.pieces[id as usize]
    }

    /// The id of unknown text.
    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// What the model calls the end of a sentence; it need not have such a piece.
    pub fn eos_name(&self) -> &str {
        &self.eos_name
    }

    pub fn model_type(&self) -> ModelType {
        self.model_type
    }

    /// How text is normalized.
    pub fn rules(&self) -> &Rules {
        &self.normalizer.rules
    }

    /// Whether unknown characters are spelled in bytes.
    pub fn has_byte_fallback(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// A line as it is before it is cut.
    pub fn normalize(&self, line: &str) -> String {
        String::from_utf8_lossy(&self.normalized(line)).into_owned()
    }

    /// The same in bytes, which the rules of a model need not make UTF-8.
    pub fn normalized(&self, line: &str) -> Vec<u8> {
        self.normalizer.normalize(line.as_bytes())
    }

    /// Gives the pieces of a line with their ids one by one. What is unknown in a row is one piece.
    pub fn encode(&self, line: &str, give: impl FnMut(&[u8], u32)) {
        let text = self.normalized(line);
        let cuts = match self.model_type {
            ModelType::Unigram => self.unigram(&text),
            ModelType::Bpe => {
                let mut cuts = Vec::new();
                self.bpe(&text, (0, text.len()), &mut Merging::default(), || false, &mut cuts);
                cuts
            }
            ModelType::Word => self.words(&text),
            ModelType::Char => self.characters(&text),
        };
        self.give(&text, &cuts, give);
    }

    /// Gives what lies between cuts.
    pub(super) fn give(&self, text: &[u8], cuts: &[Cut], mut give: impl FnMut(&[u8], u32)) {
        let (mut start, mut unknown_from) = (0, None);
        for &(end, id) in cuts {
            if id == self.unknown && self.bytes.is_empty() {
                unknown_from.get_or_insert(start);
            } else if id == self.unknown {
                for &byte in &text[start..end] {
                    let id = self.bytes[usize::from(byte)];
                    give(self.piece(id).text.as_bytes(), id);
                }
            } else {
                if let Some(from) = unknown_from.take() {
                    give(&text[from..start], self.unknown);
                }
                give(&text[start..end], id);
            }
            start = end;
        }
        if let Some(from) = unknown_from {
            give(&text[from..], self.unknown);
        }
    }

    /// The piece that these bytes are; the unknown one for want of it, and for one that is not given out.
    pub(super) fn id(&self, bytes: &[u8]) -> u32 {
        self.text.get(bytes).filter(|&id| self.piece(id).kind != Kind::Unused).unwrap_or(self.unknown)
    }

    /// Bytes of the character or user-defined piece at the beginning of the text, 0 at its end, and whether it is the latter.
    pub(super) fn symbol(&self, text: &[u8]) -> (usize, bool) {
        match (self.normalizer.as_it_is(text), text.first()) {
            (0, first) => (first.map_or(0, |&first| char_length(first).min(text.len())), false),
            (length, _) => (length, true),
        }
    }

    fn characters(&self, text: &[u8]) -> Vec<Cut> {
        let (mut cuts, mut start) = (Vec::new(), 0);
        while start < text.len() {
            let end = start + self.symbol(&text[start..]).0;
            cuts.push((end, self.id(&text[start..end])));
            start = end;
        }
        cuts
    }

    /// A word begins with each space.
    fn words(&self, text: &[u8]) -> Vec<Cut> {
        let (mut cuts, mut start) = (Vec::new(), 0);
        while start < text.len() {
            let next = (start + 1..text.len()).find(|&at| text[at..].starts_with(SPACE.as_bytes()));
            let end = next.unwrap_or(text.len());
            cuts.push((end, self.id(&text[start..end])));
            start = end;
        }
        cuts
    }
}

/// The id of the unknown piece.
fn check(pieces: &[Piece]) -> Result<u32, String> {
    let mut seen = [HashSet::new(), HashSet::new()];
    for piece in pieces {
        let is_text = matches!(piece.kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
        if piece.text.is_empty() || piece.text.contains('\0') {
            return Err("it has a piece without text".to_string());
        }
        if !seen[usize::from(is_text)].insert(piece.text.as_str()) {
            return Err(format!("it has the piece {} twice", piece.text));
        }
    }
    let mut unknown = pieces.iter().zip(0..).filter(|(piece, _)| piece.kind == Kind::Unknown).map(|(_, id)| id);
    match (unknown.next(), unknown.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err("it has two unknown pieces".to_string()),
        (None, _) => Err("it has no unknown piece".to_string()),
    }
}

fn byte_ids(proto: &Proto) -> Result<Vec<u32>, String> {
    let mut ids = vec![None; 256];
    for (piece, id) in proto.pieces.iter().zip(0..).filter(|(piece, _)| piece.kind == Kind::Byte) {
        let byte = byte(&piece.text).ok_or_else(|| format!("its piece {} is to be a byte and is none", piece.text))?;
        ids[usize::from(byte)] = Some(id);
    }
    match (proto.byte_fallback, ids.iter().all(Option::is_some), ids.iter().any(Option::is_some)) {
        (true, true, _) => Ok(ids.into_iter().flatten().collect()),
        (true, false, _) => Err("it spells unknown characters in bytes, but has not all 256".to_string()),
        (false, _, true) => Err("it has pieces for bytes, but does not spell unknown characters in bytes".to_string()),
        (false, _, false) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(model: &SentencePiece, line: &str) -> Vec<String> {
        let mut found = Vec::new();
        model.encode(line, |piece, _| found.push(String::from_utf8_lossy(piece).into_owned()));
        found
    }

    /// Field `number` of a message, as bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        field(1, &[field(1, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec(), vec![0x18, kind]].concat())
    }

    fn model(pieces: &[(&str, f32, u8)], kind: u8) -> Result<SentencePiece, String> {
        let pieces = pieces.iter().map(|(text, score, kind)| piece(text, *score, *kind)).collect::<Vec<_>>().concat();
        SentencePiece::parse(&[pieces, field(2, &[0x18, kind])].concat()).map_err(|damage| damage.to_string())
    }

    const UNK: (&str, f32, u8) = ("<unk>", 0.0, 2);

    #[test]
    fn a_piece_that_is_not_given_out_is_cut_again_or_unknown() {
        let texts = [UNK, ("▁", -1.0, 1), ("a", -2.0, 1), ("b", -3.0, 1), ("c", -4.0, 5), ("ab", -1.5, 5)];
        for kind in [1, 2] {
            assert_eq!(pieces(&model(&texts, kind).unwrap(), "abca"), ["▁", "a", "b", "c", "a"]);
            let mut ids = Vec::new();
            model(&texts, kind).unwrap().encode("abca", |_, id| ids.push(id));
            assert_eq!(ids, [1, 2, 3, 0, 2]);
        }
    }

    #[test]
    fn what_the_library_refuses_is_refused() {
        let told = |texts: &[(&str, f32, u8)]| model(texts, 1).err().unwrap();
        assert_eq!(told(&[("a", 0.0, 1)]), "it has no unknown piece");
        assert_eq!(told(&[UNK, ("⁇", 0.0, 2)]), "it has two unknown pieces");
        assert_eq!(told(&[UNK, ("a", 0.0, 1), ("a", 0.0, 4)]), "it has the piece a twice");
        assert_eq!(told(&[UNK, ("", 0.0, 1)]), "it has a piece without text");
        assert!(told(&[UNK, ("<0x41>", 0.0, 6)]).starts_with("it has pieces for bytes, but"));
        assert!(told(&[UNK, ("<0x4>", 0.0, 6)]).starts_with("its piece <0x4> is to be a byte"));
    }

    /// No file makes the program panic, and none that was cut is taken for a model of other text.
    #[test]
    fn damaged_files_are_refused_or_harmless() {
        let line = "Ärger ... <user> 中 \u{3000} e\u{301}";
        let models: [&[u8]; 2] = [
            include_bytes!("../../tests/fixtures/sentencepiece/unigram.model"),
            include_bytes!("../../tests/fixtures/sentencepiece/bytes.model"),
        ];
        for bytes in models {
            for at in (0..bytes.len()).step_by(7) {
                if let Ok(model) = SentencePiece::parse(&bytes[..at]) {
                    pieces(&model, line);
                }
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << (at % 8);
                if let Ok(model) = SentencePiece::parse(&flipped) {
                    let found = pieces(&model, line);
                    model.decode(found.iter().map(|piece| (piece.as_str(), model.unknown())));
                }
            }
        }
    }
}
