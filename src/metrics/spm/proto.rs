//! The parts of a SentencePiece model's protocol buffer that encoding needs.

/// A model as it stands in the file.
#[derive(Default)]
pub(super) struct Proto {
    pub(super) pieces: Vec<ProtoPiece>,
    pub(super) model_type: ModelType,
    pub(super) byte_fallback: bool,
    pub(super) normalizer: NormalizerSpec,
}

pub(super) struct ProtoPiece {
    pub(super) text: Vec<u8>,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ModelType {
    #[default]
    Unigram,
    Bpe,
    Other,
}

pub(super) struct NormalizerSpec {
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
    pub(super) whitespace_as_suffix: bool,
}

impl Default for NormalizerSpec {
    fn default() -> Self {
        NormalizerSpec {
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
        }
    }
}

impl Proto {
    /// `None` when it is no such file.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut proto = Proto::default();
        for (number, value) in Fields::of(bytes)? {
            match (number, value) {
                (1, Value::Bytes(piece)) => proto.pieces.push(ProtoPiece::parse(piece)?),
                (2, Value::Bytes(trainer)) => proto.trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => proto.normalizer(normalizer)?,
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
                (3, Value::Number(_)) => self.model_type = ModelType::Other,
                (24, Value::Number(flag)) => self.normalizer.whitespace_as_suffix = flag != 0,
                (35, Value::Number(flag)) => self.byte_fallback = flag != 0,
                _ => (),
            }
        }
        Some(())
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Option<()> {
        for (number, value) in Fields::of(bytes)? {
            let spec = &mut self.normalizer;
            match (number, value) {
                (2, Value::Bytes(charsmap)) => spec.charsmap = charsmap.to_vec(),
                (3, Value::Number(flag)) => spec.add_dummy_prefix = flag != 0,
                (4, Value::Number(flag)) => spec.remove_extra_whitespaces = flag != 0,
                (5, Value::Number(flag)) => spec.escape_whitespaces = flag != 0,
                _ => (),
            }
        }
        Some(())
    }
}

impl ProtoPiece {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut piece = ProtoPiece { text: Vec::new(), score: 0.0, kind: Kind::Normal };
        for (number, value) in Fields::of(bytes)? {
            match (number, value) {
                (1, Value::Bytes(text)) => piece.text = text.to_vec(),
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
