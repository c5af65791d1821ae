//! TensorBoard event files: `RUN/tensorboard/events.out.tfevents.<unix time>.<host>`.
//!
//! The format (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto): records of
//! `length u64 LE | masked crc32c of length | data | masked crc32c of data`, each holding one `Event` message:
//! `wall_time = 1: double, step = 2: int64, file_version = 3: string, summary = 5, session_log = 7`, where a
//! `Summary` has `value = 1 {tag = 1: string, simple_value = 2: float}`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Event, Sink, Start};
use crate::scores::Metric;

/// Writes scalars; one new file for each process of a run, as TensorBoard expects.
pub struct TensorBoard {
    file: File,
    path: PathBuf,
}

impl TensorBoard {
    /// Creates the folder (`RUN/tensorboard`) and a new file in it.
    ///
    /// # Errors
    /// When the folder or the file can not be created.
    pub fn create(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        let mut second = wall_time() as u64;
        let (file, path) = loop {
            let path = folder.join(format!("events.out.tfevents.{second}.{host}"));
            match OpenOptions::new().create_new(true).append(true).open(&path) {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => second += 1,
                Err(error) => return Err(error),
            }
        };
        let mut sink = TensorBoard { file, path };
        sink.write_event(0, |event| bytes_field(event, 3, b"brain.Event:2"))?;
        Ok(sink)
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One message with the time, the step and what `body` adds; one write, so a reader never waits for half a record.
    fn write_event(&mut self, step: u64, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut event = Vec::new();
        double_field(&mut event, 1, wall_time());
        varint_field(&mut event, 2, step);
        body(&mut event);
        self.file.write_all(&record(&event))
    }

    fn write_scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> io::Result<()> {
        if scalars.is_empty() {
            return Ok(());
        }
        let mut summary = Vec::new();
        for (tag, number) in scalars {
            let mut value = Vec::new();
            bytes_field(&mut value, 1, tag.as_bytes());
            float_field(&mut value, 2, *number as f32);
            bytes_field(&mut summary, 1, &value);
        }
        self.write_event(step, |event| bytes_field(event, 5, &summary))
    }
}

impl Sink for TensorBoard {
    fn emit(&mut self, event: &Event) -> io::Result<()> {
        match event {
            // A session that starts at a step tells TensorBoard to forget what was written from there on before.
            Event::Start(Start { step: step @ 1.., .. }) | Event::Returned { step } => {
                self.write_event(step + 1, |event| {
                    let mut session_log = Vec::new();
                    varint_field(&mut session_log, 1, 1);
                    bytes_field(event, 7, &session_log);
                })
            }
            Event::Train(point) => {
                let mut scalars = vec![
                    ("train/loss".to_string(), point.loss),
                    ("train/nll".to_string(), point.nll),
                    ("train/lr".to_string(), point.lr),
                    ("train/grad_norm".to_string(), point.grad_norm),
                    ("train/clipped".to_string(), point.clipped),
                    ("train/tokens_per_second".to_string(), point.tokens_per_second),
                ];
                scalars.extend(point.communication.map(|share| ("train/communication".to_string(), share)));
                scalars.extend(point.r_drop_kl.map(|kl| ("train/r_drop_kl".to_string(), kl)));
                scalars.extend(point.optimizer.iter().map(|(name, value)| (format!("optimizer/{name}"), *value)));
                scalars.extend(point.embedding.iter().map(|(name, value)| (format!("embedding/{name}"), *value)));
                self.write_scalars(point.step, &scalars)
            }
            Event::Valid(point) => {
                let scores = point.scores.iter().map(|(metric, score)| (format!("valid/{}", metric.name()), score));
                let ppl = point.scores.get(Metric::Nll).map(|nll| ("valid/ppl".to_string(), nll.exp()));
                let symptoms = point.hypotheses.symptoms.iter();
                let symptoms = symptoms.map(|(symptom, value)| (format!("hypotheses/{}", symptom.name()), value));
                let ranks = point.by_rank.iter().map(|(rank, nll)| (format!("nll_by_rank/{rank}"), nll));
                let scalars: Vec<_> = scores.chain(ppl).chain(symptoms).chain(ranks).collect();
                self.write_scalars(point.step, &scalars)
            }
            Event::Average(point) => {
                let scores = point.scores.iter().map(|(metric, score)| (format!("average/{}", metric.name()), score));
                let scalars: Vec<_> = scores.collect();
                self.write_scalars(point.step, &scalars)
            }
            Event::End(end) => {
                let scores = end.test.iter().map(|(metric, score, _)| (format!("test/{}", metric.name()), *score));
                let scalars: Vec<_> = scores.collect();
                self.write_scalars(end.step, &scalars)
            }
            _ => Ok(()),
        }
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked(crc32c(&length)).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked(crc32c(data)).to_le_bytes());
    record
}

/// The mask of TFRecord: checksums of data that contain checksums are weak, so they are rotated and moved.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82F63B78; a bit at a time, for records are short and rare.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn double_field(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes_field(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn float_field(out: &mut Vec<u8>, field: u64, value: f32) {
    varint(out, field << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{Start, TrainPoint, ValidPoint};
    use super::*;

    /// A field of a protobuf message, decoded without knowledge of the schema.
    #[derive(Debug, PartialEq)]
    enum Field {
        Varint(u64, u64),
        Fixed64(u64, [u8; 8]),
        Bytes(u64, Vec<u8>),
        Fixed32(u64, [u8; 4]),
    }

    fn take<'a>(data: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (head, tail) = data.split_at(n);
        *data = tail;
        head
    }

    fn read_varint(data: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = take(data, 1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    fn fields(mut data: &[u8]) -> Vec<Field> {
        let mut fields = Vec::new();
        while !data.is_empty() {
            let key = read_varint(&mut data);
            fields.push(match key & 7 {
                0 => Field::Varint(key >> 3, read_varint(&mut data)),
                1 => Field::Fixed64(key >> 3, take(&mut data, 8).try_into().unwrap()),
                2 => {
                    let n = read_varint(&mut data) as usize;
                    Field::Bytes(key >> 3, take(&mut data, n).to_vec())
                }
                5 => Field::Fixed32(key >> 3, take(&mut data, 4).try_into().unwrap()),
                wire => panic!("wire type {wire}"),
            });
        }
        fields
    }

    /// CRC-32C by a table, unlike the writer's.
    fn crc_by_table(data: &[u8]) -> u32 {
        let table: Vec<u32> = (0..256u32)
            .map(|i| (0..8).fold(i, |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82F6_3B78 } else { c >> 1 }))
            .collect();
        data.iter().fold(u32::MAX, |crc, &b| table[((crc ^ u32::from(b)) & 0xff) as usize] ^ (crc >> 8)) ^ u32::MAX
    }

    fn unmask(crc: u32) -> u32 {
        crc.wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    fn records(mut file: &[u8]) -> Vec<Vec<Field>> {
        let mut out = Vec::new();
        while !file.is_empty() {
            let length = take(&mut file, 8);
            let crc = u32::from_le_bytes(take(&mut file, 4).try_into().unwrap());
            assert_eq!(unmask(crc), crc_by_table(length));
            let data = take(&mut file, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let crc = u32::from_le_bytes(take(&mut file, 4).try_into().unwrap());
            assert_eq!(unmask(crc), crc_by_table(data));
            out.push(fields(data));
        }
        out
    }

    fn scalars(event: &[Field]) -> Vec<(String, f32)> {
        let Some(Field::Bytes(5, summary)) = event.get(2) else { panic!("no summary in {event:?}") };
        fields(summary)
            .into_iter()
            .map(|field| {
                let Field::Bytes(1, value) = field else { panic!("{field:?}") };
                match fields(&value).as_slice() {
                    [Field::Bytes(1, tag), Field::Fixed32(2, number)] => {
                        (String::from_utf8(tag.clone()).unwrap(), f32::from_le_bytes(*number))
                    }
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn an_independent_reader_finds_every_scalar() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let mut sink = TensorBoard::create(&folder.path().join("tensorboard"))?;
        sink.emit(&Event::Start(Start { step: 299, ..Start::default() }))?;
        let optimizer = vec![("pairs".to_string(), 3.0)];
        sink.emit(&Event::Train(TrainPoint { step: 300, loss: 2.5, lr: 1e-3, optimizer, ..Default::default() }))?;
        sink.emit(&Event::Note("not a scalar".into()))?;
        sink.emit(&Event::Valid(ValidPoint {
            step: 301,
            scores: [(Metric::Bleu, 12.25)].into_iter().collect(),
            ..Default::default()
        }))?;

        let events = records(&std::fs::read(sink.path())?);
        assert_eq!(events.len(), 4);
        assert_eq!(events[0][2], Field::Bytes(3, b"brain.Event:2".to_vec()));
        let Field::Fixed64(1, time) = &events[0][0] else { panic!("no wall time") };
        assert!(f64::from_le_bytes(*time) > 1.7e9);
        assert_eq!(events[1][1..], [Field::Varint(2, 300), Field::Bytes(7, vec![8, 1])]);
        assert_eq!(events[2][1], Field::Varint(2, 300));
        let train = scalars(&events[2]);
        assert!(train.contains(&("train/loss".into(), 2.5)) && train.contains(&("train/lr".into(), 1e-3)));
        assert!(train.contains(&("optimizer/pairs".into(), 3.0)));
        assert_eq!(scalars(&events[3]), [("valid/bleu".to_string(), 12.25)]);
        Ok(())
    }

    #[test]
    fn two_processes_in_one_second_write_two_files() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (a, b) = (TensorBoard::create(folder.path())?, TensorBoard::create(folder.path())?);
        assert_ne!(a.path(), b.path());
        Ok(())
    }
}
