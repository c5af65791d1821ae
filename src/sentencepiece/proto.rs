//! What a SentencePiece model (`.model`, a protocol buffer) holds, as far as text and pieces need it.

/// A model as it stands in the file.
#[derive(Debug)]
pub struct Proto {
    /// By id.
    pub pieces: Vec<Piece>,
    pub model_type: ModelType,
    /// Unknown characters are spelled in bytes.
    pub byte_fallback: bool,
    pub normalizer: Rules,
    /// What becomes of decoded text.
    pub denormalizer: Option<Rules>,
    /// What the unknown piece is decoded to.
    pub unknown_surface: String,
    /// Name of the piece that ends a sentence.
    pub eos_name: String,
}

/// A piece of the vocabulary.
#[derive(Debug)]
pub struct Piece {
    pub text: String,
    /// Log-probability (unigram), or the order of merges (BPE).
    pub score: f32,
    pub kind: Kind,
}

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// How text is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelType {
    #[default]
    Unigram,
    Bpe,
    /// Whole words.
    Word,
    /// Single characters.
    Char,
}

/// What becomes of text before it is cut.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Replacements: the size of a double-array trie (darts-clone), the trie, the texts.
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
    pub whitespace_as_suffix: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
        }
    }
}

impl Proto {
    /// Reads a file's bytes; `None` when they are no such model.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut proto = Proto {
            pieces: Vec::new(),
            model_type: ModelType::default(),
            byte_fallback: false,
            normalizer: Rules::default(),
            denormalizer: None,
            unknown_surface: " \u{2047} ".to_string(),
            eos_name: "</s>".to_string(),
        };
        for (number, value) in Fields::of(bytes)? {
            match (number, value) {
                (1, Value::Bytes(piece)) => proto.pieces.push(Piece::parse(piece)?),
                (2, Value::Bytes(trainer)) => proto.trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => proto.normalizer.merge(normalizer)?,
                (5, Value::Bytes(rules)) => proto.denormalizer.get_or_insert_default().merge(rules)?,
                _ => (),
            }
        }
        (!proto.pieces.is_empty()).then_some(proto)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Option<()> {
        for (number, value) in Fields::of(bytes)? {
            match (number, value) {
                (3, Value::Number(1)) => self.model_type = ModelType::Unigram,
                (3, Value::Number(2)) => self.model_type = ModelType::Bpe,
                (3, Value::Number(3)) => self.model_type = ModelType::Word,
                (3, Value::Number(4)) => self.model_type = ModelType::Char,
                (24, Value::Number(flag)) => self.normalizer.whitespace_as_suffix = flag != 0,
                (35, Value::Number(flag)) => self.byte_fallback = flag != 0,
                (44, Value::Bytes(text)) => self.unknown_surface = std::str::from_utf8(text).ok()?.to_string(),
                (47, Value::Bytes(name)) if !name.is_empty() => {
                    self.eos_name = std::str::from_utf8(name).ok()?.to_string();
                }
                _ => (),
            }
        }
        Some(())
    }
}

impl Rules {
    fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        for (number, value) in Fields::of(bytes)? {
            match (number, value) {
                (2, Value::Bytes(charsmap)) => self.charsmap = charsmap.to_vec(),
                (3, Value::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Value::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Value::Number(flag)) => self.escape_whitespaces = flag != 0,
                _ => (),
            }
        }
        Some(())
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
        for (number, value) in Fields::of(bytes)? {
            match (number, value) {
                (1, Value::Bytes(text)) => piece.text = std::str::from_utf8(text).ok()?.to_string(),
                (2, Value::Four(score)) => piece.score = f32::from_le_bytes(score),
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => return None,
                    }
                }
                _ => (),
            }
        }
        Some(piece)
    }
}

/// The value of a field, by its wire type.
enum Value<'a> {
    Number(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// The fields of a message.
struct Fields;

impl Fields {
    /// Numbers and values in the order of the file; `None` when the bytes are no message.
    fn of(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = number(&mut bytes)?;
            let value = match key & 7 {
                0 => Value::Number(number(&mut bytes)?),
                1 => take(&mut bytes, 8).map(|_| Value::Eight)?,
                2 => {
                    let length = usize::try_from(number(&mut bytes)?).ok()?;
                    Value::Bytes(take(&mut bytes, length)?)
                }
                5 => Value::Four(take(&mut bytes, 4)?.try_into().ok()?),
                _ => return None,
            };
            fields.push((key >> 3, value));
        }
        Some(fields)
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// A varint.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
