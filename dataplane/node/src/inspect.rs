//! `palisade inspect`: what lies on a device or file, with the verdict of every checksum.
//!
//! It opens read-only and takes no lock, so it may look at a device that a rack uses; what changes under
//! it may then show as damaged. The picture is one JSON value; the table for people is made from it.

use palisade_protocol::log::inspect as log;
use palisade_protocol::sled::column::Hold;
use palisade_protocol::sled::format::Verdict;
use palisade_protocol::sled::inspect as sled;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that tell a log from a sled device.
const START: usize = 128 << 10;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// What was to be read.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Neither a log nor a sled device.
    #[error("{path}: neither a head log nor a sled device of Palisade ({what})")]
    Foreign {
        /// What was read.
        path: String,
        /// What it is instead.
        what: String,
    },
}

/// A failed read inside an inspection.
enum ReadError {
    Io(std::io::Error),
    Verdict(Verdict),
}

impl From<Verdict> for ReadError {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// Looks at a device; with `data` every stripe unit is read and compared with its checksum.
pub fn inspect(path: &Path, data: bool) -> Result<Value, InspectError> {
    let name = path.display().to_string();
    let io = |source| InspectError::Io { path: name.clone(), source };
    let mut file = File::open(path).map_err(io)?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(io)?;
    let read = |offset: u64, len: usize| -> std::io::Result<Vec<u8>> {
        let mut buffer = vec![0; len];
        file.read_exact_at(&mut buffer, offset).map(|()| buffer)
    };
    let start = read(0, START.min(bytes as usize)).map_err(io)?;
    if log::is_log(&start) {
        let report = log::inspect(bytes, &mut |offset, len| read(offset, len).ok());
        let foreign = |verdict| InspectError::Foreign { path: name.clone(), what: format!("{verdict:?}") };
        return report.map(|report| log_value(&report)).map_err(foreign);
    }
    let report = sled::inspect(bytes, None, data, |offset, len| read(offset, len).map_err(ReadError::Io));
    match report {
        Ok(report) => Ok(sled_value(&report)),
        Err(ReadError::Io(error)) => Err(io(error)),
        Err(ReadError::Verdict(verdict)) => {
            Err(InspectError::Foreign { path: name, what: verdict.to_string() })
        }
    }
}

fn log_value(report: &log::LogReport) -> Value {
    let block = &report.superblock;
    let good = |soundness: &log::Soundness| *soundness == log::Soundness::Good;
    let segments = report.segments.iter().map(|segment| {
        json!({
            "place": segment.place,
            "sequence": segment.header.map(|header| header.seq),
            "epoch": segment.header.map(|header| header.epoch),
            "header_good": segment.header.is_some(),
            "live": segment.live,
            "records": segment.records,
            "entries": segment.entries,
            "first_lsn": segment.lsns.map(|(first, _)| first.0),
            "last_lsn": segment.lsns.map(|(_, last)| last.0),
            "payload_blocks": segment.payload,
            "bad_payload_blocks": segment.bad_payload,
            "bad_headers": segment.bad_headers,
        })
    });
    let checkpoint = report.checkpoint.as_ref().map(|checkpoint| {
        json!({
            "generation": checkpoint.generation,
            "pages": checkpoint.pages,
            "leaves": checkpoint.leaves,
            "rotten_pages": checkpoint.rotten,
            "whole": checkpoint.whole,
        })
    });
    json!({
        "kind": "log",
        "superblock": {
            "rack": block.rack.to_string(),
            "log": block.log.to_string(),
            "device_bytes": block.device_bytes,
            "segment_bytes": block.segment_bytes,
            "segments": block.segments,
            "copies_good": report.slots.iter().map(good).collect::<Vec<_>>(),
        },
        "segments": segments.collect::<Vec<_>>(),
        "checkpoint": checkpoint,
    })
}

fn sled_value(report: &sled::Inspection) -> Value {
    let block = &report.superblock;
    json!({
        "kind": "sled",
        "superblock": {
            "rack": block.rack.to_string(),
            "device": block.device.to_string(),
            "device_bytes": block.device_bytes,
            "column_bytes": block.column_bytes,
            "unit_bytes": block.unit_bytes,
            "columns": block.columns,
            "copies_good": !report.copy_bad,
        },
        "records": report.pages.iter().map(page_value).collect::<Vec<_>>(),
        "columns": report.columns.iter().map(column_value).collect::<Vec<_>>(),
    })
}

fn slots(verdicts: &sled::SlotVerdicts) -> Vec<String> {
    let text = |slot: &Result<u64, _>| match slot {
        Ok(sequence) => format!("good, sequence {sequence}"),
        Err(error) => format!("bad: {error:?}"),
    };
    verdicts.slots.iter().map(text).collect()
}

fn page_value(page: &sled::InspectedPage) -> Value {
    let records = page.records.iter().map(|record| {
        json!({
            "partition": record.partition.0,
            "number": record.number.to_string(),
            "grant": record.grant.0,
            "head": record.head.0,
            "doubtful": record.doubtful,
        })
    });
    json!({ "page": page.page, "slots": slots(&page.verdicts), "records": records.collect::<Vec<_>>() })
}

fn column_value(column: &sled::InspectedColumn) -> Value {
    let record = column.record.as_ref().map(|record| {
        json!({
            "state": if record.hold == Hold::Free { "free" } else { "owned" },
            "generation": record.generation,
            "partition": record.partition.0,
            "number": record.number.to_string(),
            "extent": record.extent.0,
            "position": record.position,
        })
    });
    json!({
        "column": column.column,
        "slots": slots(&column.verdicts),
        "record": record,
        "units": column.units,
        "corrupt_units": column.corrupt,
    })
}

/// The picture as indented lines, one line for each list element that has no lists of its own.
pub fn table(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, "", value, 0);
    out
}

fn write_value(out: &mut String, name: &str, value: &Value, depth: usize) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(fields) if depth == 0 || !is_flat(value) => {
            if !name.is_empty() {
                out.push_str(&format!("{pad}{name}:\n"));
            }
            let inner = depth + usize::from(!name.is_empty());
            for (key, field) in fields {
                write_value(out, key, field, inner);
            }
        }
        Value::Array(items) if !is_flat(value) || items.iter().any(Value::is_object) => {
            out.push_str(&format!("{pad}{name}: {}\n", items.len()));
            for item in items {
                out.push_str(&format!("{pad}  - {}\n", flat(item)));
            }
        }
        _ => out.push_str(&format!("{pad}{name}: {}\n", flat(value))),
    }
}

fn is_flat(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().all(|field| !field.is_object() && !field.is_array()),
        Value::Array(items) => items.iter().all(|item| !item.is_object() && !item.is_array()),
        _ => true,
    }
}

fn flat(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let pairs: Vec<String> =
                fields.iter().map(|(key, field)| format!("{key} {}", flat(field))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_protocol::sled::format::{FormatSpec, Superblock, images};
    use palisade_protocol::wire::{DeviceId, RackId};

    fn sled_image(path: &Path) {
        let spec = FormatSpec {
            rack: RackId(1),
            device: DeviceId(2),
            device_bytes: 64 << 20,
            column_bytes: 8 << 20,
            unit_bytes: 64 << 10,
            record_pages: 4,
        };
        let plan = Superblock::plan(&spec).expect("fits");
        let file = File::create(path).expect("creates");
        file.set_len(spec.device_bytes).expect("sizes");
        for (offset, image) in images(plan) {
            file.write_all_at(&image, offset).expect("writes");
        }
    }

    #[test]
    fn a_sled_device_shows_its_superblock_and_a_flipped_bit_in_a_copy() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("sled");
        sled_image(&path);
        let value = inspect(&path, true).expect("ours");
        assert_eq!(value["kind"], "sled");
        assert_eq!(value["superblock"]["copies_good"], true);
        assert!(table(&value).contains("device: 00000000-0000-0000-0000-000000000002"), "{}", table(&value));
        let file = File::options().write(true).open(&path).expect("opens");
        file.write_all_at(&[0xff], 20).expect("damages one copy");
        let value = inspect(&path, false).expect("the other copy stands");
        assert_eq!(value["superblock"]["copies_good"], false);
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("x");
        std::fs::write(&path, vec![7u8; 200_000]).expect("writes");
        let error = inspect(&path, false).expect_err("foreign").to_string();
        assert!(error.contains("foreign data"), "{error}");
        let error = inspect(&dir.path().join("absent"), false).expect_err("absent").to_string();
        assert!(error.contains("absent"), "{error}");
        std::fs::write(&path, b"short").expect("writes");
        assert!(inspect(&path, false).is_err(), "a short file is no device");
    }
}
