//! Tensors of a `pytorch_model.bin`, which is a pickle: a program for a stack machine that may call anything. Here it may
//! name and call what tensors are made of, and nothing else; whatever else it asks for is an error before it is done.
//!
//! Both forms that `torch.save` has had: a zip archive (PyTorch 1.6 and newer) and pickles with the numbers behind them
//! (older; most opus-mt models of 2020). Candle's own reader passes over what it does not know in silence, panics at short
//! tuples and does not read the older form.
//!
//! | file | owns |
//! |---|---|
//! | `machine` | the stack machine |
//! | `storage` | where the numbers lie, and tensors from them |

mod machine;
mod storage;

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use zip::ZipArchive;

use crate::fsio;
use machine::{Machine, Node};
use storage::{Numbers, Wanted};

/// Why a file of weights can not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] fsio::Error),
    #[error("{path}: {what}", path = path.display())]
    Refused { path: PathBuf, what: String },
}

/// What is wrong, without the file's name.
type Fault = String;

/// All tensors of a state dict by name, in the file's order; those that share their numbers there share them here.
///
/// # Errors
/// A file that can not be read, is damaged or cut off, or holds anything but tensors.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>, Error> {
    let bytes = fsio::read(path)?;
    let found = match bytes.starts_with(b"PK\x03\x04") {
        true => zipped(&bytes),
        false => plain(&bytes),
    };
    found.map_err(|what| Error::Refused { path: path.to_path_buf(), what })
}

/// An archive: `NAME/data.pkl`, and `NAME/data/KEY` for each storage.
fn zipped(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, Fault> {
    let broken = |e: zip::result::ZipError| format!("a damaged or cut off archive of PyTorch: {e}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(broken)?;
    let programs: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("/data.pkl")).collect();
    let [root] = programs[..] else {
        let count = programs.len();
        return Err(format!("not a file of torch.save: the archive has {count} data.pkl where one is expected"));
    };
    let mut entry = |name: &str, most: u64| -> Result<Vec<u8>, Fault> {
        let file = archive.by_name(&format!("{root}/{name}")).map_err(|e| format!("{name}: {}", broken(e)))?;
        if file.size() > most {
            return Err(format!("{name} has {} bytes where {most} are expected", file.size()));
        }
        let mut content = Vec::new();
        // the size that an archive states need not be that of what comes out
        file.take(most + 1).read_to_end(&mut content).map_err(|e| format!("{name}: damaged or cut off: {e}"))?;
        Ok(content)
    };
    if names.contains(&format!("{root}/byteorder")) && entry("byteorder", 16)? != b"little" {
        return Err("its numbers are in the byte order of another kind of machine".to_string());
    }
    let program = entry("data.pkl", bytes.len() as u64)?;
    let mut machine = Machine::default();
    let (end, _) = machine.run(&program)?;
    let wanted = state_dict(&machine, end)?;
    let mut numbers = Numbers::default();
    for want in &wanted {
        numbers.put(&machine, want.storage, |key, size| entry(&format!("data/{key}"), size as u64))?;
    }
    wanted.into_iter().map(|want| numbers.tensor(&machine, want)).collect()
}

/// First in a file of the older form.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Second.
const PROTOCOL: i64 = 1001;

/// Five pickles, the last a list of keys, and behind them for each key the count of its numbers (8 bytes) and these.
fn plain(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, Fault> {
    let mut rest = bytes;
    let mut machine = Machine::default();
    let mut next = |machine: &mut Machine| -> Result<usize, Fault> {
        let (end, used) = machine.run(rest)?;
        rest = &rest[used..];
        Ok(end)
    };
    let magic = next(&mut machine).ok().filter(|&end| matches!(machine.node(end), Node::Large(n) if *n == MAGIC));
    if magic.is_none() {
        return Err("not a file of torch.save".to_string());
    }
    let protocol = next(&mut machine)?;
    if !matches!(machine.node(protocol), Node::Number(PROTOCOL)) {
        return Err("written by an unknown version of torch.save".to_string());
    }
    next(&mut machine)?;
    let end = next(&mut machine)?;
    let wanted = state_dict(&machine, end)?;
    let keys = next(&mut machine)?;
    let Node::List(keys) = machine.node(keys) else { return Err("it has no list of its storages".to_string()) };
    let mut numbers = Numbers::default();
    for &key in keys {
        let key = machine.text(key)?;
        let Some(storage) = machine.storage_of(key) else { return Err(format!("nothing uses its storage {key}")) };
        let (count, after) = rest.split_at_checked(8).ok_or("cut off before the end of its numbers")?;
        let size = storage.bytes()?;
        if u64::from_le_bytes(count.try_into().unwrap_or_default()) != storage.count as u64 {
            return Err(format!("its storage {key} has another size than its tensors say"));
        }
        let (content, after) = after.split_at_checked(size).ok_or("cut off before the end of its numbers")?;
        numbers.put(&machine, machine.storage_id(key), |_, _| Ok(content.to_vec()))?;
        rest = after;
    }
    wanted.into_iter().map(|want| numbers.tensor(&machine, want)).collect()
}

/// The tensors of a dict.
fn state_dict(machine: &Machine, end: usize) -> Result<Vec<Wanted>, Fault> {
    let Node::Dict(items) = machine.node(end) else {
        return Err("not a state dict: its outermost value is no dict of tensors".to_string());
    };
    let tensor = |&(key, value): &(usize, usize)| {
        let name = machine.text(key)?.to_string();
        match machine.node(value) {
            Node::Tensor(tensor) => Ok(Wanted { name, ..tensor.clone() }),
            _ => Err(format!("`{name}` in it is no tensor; a state dict of a model alone is needed")),
        }
    };
    items.iter().map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::SimpleFileOptions;
    use zip::ZipWriter;

    /// `{"w": tensor}` as torch.save writes it: float numbers of storage "0", two rows of two, the columns swapped.
    fn program(global: &str) -> Vec<u8> {
        let text = |t: &str| [&[b'X'][..], &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat();
        let call = b"ctorch._utils\n_rebuild_tensor_v2\n(";
        let storage = [&b"("[..], &text("storage"), global.as_bytes(), &text("0"), &text("cpu"), b"K\x05tQ"].concat();
        let shape = b"K\x01K\x02K\x02\x86K\x01K\x02\x86\x89ccollections\nOrderedDict\n)RtR";
        [&b"\x80\x02ccollections\nOrderedDict\n)Rq\x00("[..], &text("w"), call, &storage, shape, b"u."].concat()
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored))
                .unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn floats() -> Vec<u8> {
        [9f32, 1.0, 2.0, 3.0, 4.0].into_iter().flat_map(f32::to_le_bytes).collect()
    }

    const FLOAT: &str = "ctorch\nFloatStorage\n";

    #[test]
    fn tensors_of_an_archive_have_their_values_whatever_the_order_in_memory() {
        let bytes = archive(&[("m/data.pkl", &program(FLOAT)), ("m/data/0", &floats())]);
        let tensors = zipped(&bytes).unwrap();
        assert_eq!((tensors.len(), tensors[0].0.as_str()), (1, "w"));
        assert_eq!(tensors[0].1.to_vec2::<f32>().unwrap(), [[1.0, 3.0], [2.0, 4.0]]);
        for cut in 0..bytes.len() {
            assert!(zipped(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn the_older_form_reads_the_same() {
        let magic = [&b"\x80\x02\x8a\x0a"[..], &MAGIC, b"."].concat();
        let old = |program: &[u8], numbers: &[u8]| {
            [&magic[..], b"\x80\x02M\xe9\x03.", b"\x80\x02}.", program, b"\x80\x02]q\x01X\x01\0\0\x000a.", numbers]
                .concat()
        };
        // its storages name a view too, which is nothing
        let program = program(FLOAT);
        let at = program.windows(3).position(|three| three == b"\x05tQ").unwrap() + 1;
        let program = [&program[..at], b"N", &program[at..]].concat();
        let bytes = old(&program, &[&5u64.to_le_bytes()[..], &floats()].concat());
        assert_eq!(plain(&bytes).unwrap()[0].1.to_vec2::<f32>().unwrap(), [[1.0, 3.0], [2.0, 4.0]]);
        for cut in 0..bytes.len() {
            assert!(plain(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn whatever_is_more_than_tensors_is_refused_by_name() {
        let told = |program: &[u8]| zipped(&archive(&[("m/data.pkl", program), ("m/data/0", &floats())])).unwrap_err();
        let call = told(b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.");
        assert!(call.contains("`posix.system`"), "{call}");
        assert!(told(&program("cos\nFloatStorage\n")).contains("`os.FloatStorage`"));
        assert!(told(b"\x80\x02}X\x01\0\0\0aK\x01s.").contains("`a` in it is no tensor"));
        assert!(told(b"\x80\x02K\x01.").contains("not a state dict"));
        assert!(told(b"\x80\x02\x92.").contains("operation 0x92"));
        for wrong in [&b"R."[..], b"t.", b"(", b"", b".", b"X\xff\xff\xff\xff", b"h\x07.", b"]s.", b"\x85\x85\x85."] {
            told(wrong);
        }
    }

    #[test]
    fn a_tensor_outside_its_storage_is_refused() {
        let short = archive(&[("m/data.pkl", &program(FLOAT)), ("m/data/0", &floats()[..16])]);
        assert!(zipped(&short).is_err());
        let program = program(FLOAT);
        let shape = program.windows(4).position(|four| four == b"K\x02K\x02").unwrap();
        let wider = [&program[..shape], b"J\xff\xff\xff\x7fK\x02", &program[shape + 4..]].concat();
        let told = zipped(&archive(&[("m/data.pkl", &wider), ("m/data/0", &floats())])).unwrap_err();
        assert!(told.contains("outside its storage"), "{told}");
    }

    #[test]
    fn nesting_does_not_exhaust_the_stack() {
        let deep = [b"\x80\x02)".to_vec(), vec![0x85; 2_000_000], b".".to_vec()].concat();
        assert!(zipped(&archive(&[("m/data.pkl", &deep)])).unwrap_err().contains("not a state dict"));
    }
}
