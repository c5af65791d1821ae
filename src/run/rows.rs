//! metrics.jsonl as it is read: whole lines in order, and what of them still holds.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::{Map, Value};

use crate::fsio;

/// A line of metrics.jsonl.
pub type Row = Map<String, Value>;

/// The kind of a row: "start", "train", "valid", "checkpoint", "end".
pub fn event(row: &Row) -> &str {
    row.get("event").and_then(Value::as_str).unwrap_or_default()
}

/// The update a row belongs to.
pub fn step(row: &Row) -> Option<u64> {
    row.get("step").and_then(Value::as_u64)
}

/// All rows of a file; none when there is no file. The last line may be cut off: its run is writing, or was killed.
///
/// # Errors
/// An unreadable file; a damaged line, by its number.
pub fn read(path: &Path) -> Result<Vec<Row>, String> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    parse(&fsio::read_to_string(path).map_err(|e| e.to_string())?)
}

/// As [`read`].
///
/// # Errors
/// A damaged line, by its number.
pub fn parse(text: &str) -> Result<Vec<Row>, String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(_) if index + 1 == lines.len() => break,
            Err(e) => return Err(format!("metrics.jsonl:{}: {e}", index + 1)),
        }
    }
    Ok(rows)
}

/// The update that a run is at and the one at which it ends (0 = not known), from both ends of its metrics.jsonl.
pub fn progress(path: &Path) -> Option<(u64, u64)> {
    const LAST: u64 = 1 << 13;
    let mut file = BufReader::new(File::open(path).ok()?);
    let mut first = Vec::new();
    file.read_until(b'\n', &mut first).ok()?;
    let total = serde_json::from_slice::<Row>(&first).ok()?.get("total_updates").and_then(Value::as_u64);
    let from = file.seek(SeekFrom::End(0)).ok()?.saturating_sub(LAST);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut last = Vec::new();
    file.read_to_end(&mut last).ok()?;
    let at = last.rsplit(|&byte| byte == b'\n').find_map(|line| step(&serde_json::from_slice(line).ok()?));
    Some((at.unwrap_or(0), total.unwrap_or(0)))
}

/// The rows that still hold. Files of before 0.2 tell an update again after a roll-back: what was told of it and of
/// later ones before is gone. An end holds when nothing came after it.
pub fn that_hold(rows: Vec<Row>) -> Vec<Row> {
    let mut held: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        let (now, kind) = (step(&row).unwrap_or(0), event(&row));
        if ["train", "valid"].contains(&kind) {
            let is_past = |old: &Row| match event(old) {
                old_kind @ ("train" | "valid" | "checkpoint") => {
                    let old_step = step(old).unwrap_or(0);
                    old_step < now || (old_step == now && old_kind != kind)
                }
                _ => true,
            };
            held.retain(is_past);
        }
        if kind != "checkpoint" {
            held.retain(|old| event(old) != "end");
        }
        held.push(row);
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[&str]) -> Vec<String> {
        let text: Vec<String> = lines
            .iter()
            .map(|line| {
                let (event, step) = line.split_once(' ').unwrap();
                format!(r#"{{"event":"{event}","step":{step}}}"#)
            })
            .collect();
        let rows = that_hold(parse(&text.join("\n")).unwrap());
        rows.iter().map(|row| format!("{} {}", event(row), step(row).unwrap())).collect()
    }

    #[test]
    fn what_was_rolled_back_and_ends_that_were_not_the_end_do_not_hold() {
        let plain = ["start 0", "train 10", "valid 10", "checkpoint 10", "train 20", "end 20"];
        assert_eq!(shown(&plain), plain);
        let rolled = ["start 0", "train 10", "valid 10", "train 20", "valid 20", "train 10", "train 20", "end 15"];
        assert_eq!(shown(&rolled), ["start 0", "valid 10", "train 10", "train 20", "end 15"]);
        assert_eq!(shown(&["start 0", "end 0", "start 0", "train 10"]), ["start 0", "start 0", "train 10"]);
    }

    #[test]
    fn a_cut_last_line_is_forgiven_and_a_damaged_one_is_named() {
        assert_eq!(parse("{\"event\":\"start\"}\n{\"event\":\"tra").map(|rows| rows.len()), Ok(1));
        let error = parse("{}\n{\"event\":\"tra\n{}").unwrap_err();
        assert!(error.starts_with("metrics.jsonl:2: "), "{error}");
    }

    #[test]
    fn progress_is_read_from_both_ends() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        assert_eq!(progress(&path), None);
        let start = r#"{"event":"start","step":0,"total_updates":90}"#;
        let long = " ".repeat(5000) + "\n";
        for (rows, at) in [("", 0), (r#"{"step":10}"#, 10), ("{\"step\":10}\n{\"step\":20}\n{\"st", 20)] {
            fsio::write_atomic(&path, format!("{start}\n{long}{long}{rows}").as_bytes())?;
            assert_eq!(progress(&path), Some((at, 90)));
        }
        Ok(())
    }
}
