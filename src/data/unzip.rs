//! Bytes of a text, gzip or not: the magic number decides, whatever the name says.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::GzDecoder;

/// Of each of the two buffers that a text passes; a larger one makes no file faster.
pub(super) const BUFFER: usize = 1 << 17;
/// First bytes of a member.
pub(super) const MAGIC: [u8; 2] = [0x1F, 0x8B];

/// Reads plain bytes as they are, gzip members one after the other, and zeros behind a member as the padding that tapes
/// and block devices leave, as zcat does. Nothing is read before the first call, and no call waits for more bytes than
/// it needs to give some: lines of a slow pipe come as they are written.
///
/// # Errors
/// `UnexpectedEof` where a member is cut, `InvalidInput` or `InvalidData` where it is damaged or followed by anything
/// else.
pub(super) struct Unzip<R: Read>(Stage<R>);

/// Bytes that were looked at already, then the rest.
type Raw<R> = io::Chain<Cursor<Vec<u8>>, Input<R>>;
type Input<R> = BufReader<Patient<R>>;

enum Stage<R: Read> {
    Start(Input<R>),
    Plain(Raw<R>),
    Member(Box<GzDecoder<Raw<R>>>),
    /// Also after an error.
    End,
}

impl<R: Read> Unzip<R> {
    pub(super) fn new(input: R) -> Self {
        Unzip(Stage::Start(BufReader::with_capacity(BUFFER, Patient(input))))
    }

    fn begin(mut input: Input<R>) -> io::Result<Stage<R>> {
        let first = peek(&mut input)?;
        if first.is_empty() {
            // a terminal would be asked again for its end
            return Ok(Stage::End);
        }
        let zipped = first == MAGIC;
        let raw = Cursor::new(first).chain(input);
        Ok(if zipped { Stage::Member(Box::new(GzDecoder::new(raw))) } else { Stage::Plain(raw) })
    }

    /// What comes behind a member.
    fn follow(raw: Raw<R>) -> io::Result<Stage<R>> {
        let (_, mut input) = raw.into_inner();
        loop {
            let bytes = input.fill_buf()?;
            if bytes.is_empty() {
                return Ok(Stage::End);
            }
            let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
            let padding = zeros == bytes.len();
            input.consume(zeros);
            if !padding {
                break;
            }
        }
        match Self::begin(input)? {
            Stage::Plain(_) => Err(io::Error::new(ErrorKind::InvalidData, "something else follows its end")),
            member => Ok(member),
        }
    }
}

/// A signal is no reason to stop; the decoder would lose its place.
struct Patient<R>(R);

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

/// The first two bytes; fewer at the end, and where the first says that they are not the magic number.
fn peek(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < MAGIC.len() && bytes[..] == MAGIC[..bytes.len()] {
        if input.by_ref().take(1).read_to_end(&mut bytes)? == 0 {
            break;
        }
    }
    Ok(bytes)
}

impl<R: Read> Read for Unzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (n, next) = match std::mem::replace(&mut self.0, Stage::End) {
                Stage::Start(input) => (None, Self::begin(input)?),
                Stage::Plain(mut raw) => (Some(raw.read(buffer)), Stage::Plain(raw)),
                Stage::Member(mut member) => match member.read(buffer)? {
                    0 if !buffer.is_empty() => (None, Self::follow(member.into_inner())?),
                    n => (Some(Ok(n)), Stage::Member(member)),
                },
                Stage::End => return Ok(0),
            };
            self.0 = next;
            if let Some(n) = n {
                return n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{write::GzEncoder, Compression};
    use std::io::Write;

    fn gz(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// Gives one byte a call, and a signal between any two.
    struct Drops<'a>(&'a [u8], bool);

    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let n = buffer.len().min(self.0.len()).min(1);
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn read(bytes: &[u8]) -> Result<String, ErrorKind> {
        let (mut at_once, mut slowly) = (Vec::new(), Vec::new());
        let found = Unzip::new(bytes).read_to_end(&mut at_once).map_err(|e| e.kind());
        assert_eq!(Unzip::new(Drops(bytes, false)).read_to_end(&mut slowly).map_err(|e| e.kind()), found);
        assert_eq!(at_once, slowly);
        found.map(|_| String::from_utf8(at_once).unwrap())
    }

    #[test]
    fn the_magic_number_decides() {
        for text in ["", "a", "\x1F", "\x1Fa", "a\x1F\nb", "some text\n"] {
            assert_eq!(read(text.as_bytes()).unwrap(), text);
            assert_eq!(read(&gz(text)).unwrap(), text);
        }
    }

    #[test]
    fn an_end_is_asked_for_once() {
        struct Terminal(bool);
        impl Read for Terminal {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                assert!(!std::mem::replace(&mut self.0, true), "Ctrl-D would have to be typed again");
                Ok(0)
            }
        }
        assert_eq!(Unzip::new(Terminal(false)).read(&mut [0; 9]).unwrap(), 0);
    }

    #[test]
    fn members_and_padding_are_read_to_the_end() {
        let padded = |zeros: usize| [gz("a\n"), vec![0; zeros]].concat();
        for zeros in [1, 2, 511, 3 * BUFFER] {
            assert_eq!(read(&padded(zeros)).unwrap(), "a\n");
            assert_eq!(read(&[padded(zeros), gz("b\n")].concat()).unwrap(), "a\nb\n");
        }
        assert_eq!(read(&[gz("a\n"), gz(""), gz("b\n")].concat()).unwrap(), "a\nb\n");
    }

    #[test]
    fn what_is_cut_or_followed_by_something_else_is_an_error() {
        let whole = gz(&"some words\n".repeat(100));
        for cut in 2..whole.len() {
            assert_eq!(read(&whole[..cut]), Err(ErrorKind::UnexpectedEof), "{cut} of {}", whole.len());
        }
        for tail in [&b"x"[..], b"\x1F", b"\0\0x", b"\x1Fx", b"text\n"] {
            assert_eq!(read(&[&whole[..], tail].concat()), Err(ErrorKind::InvalidData), "{tail:?}");
        }
        let mut damaged = whole.clone();
        damaged[whole.len() - 6] ^= 1;
        assert!(read(&damaged).is_err(), "a wrong checksum");
    }
}
