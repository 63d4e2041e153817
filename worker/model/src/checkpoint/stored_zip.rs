//! The zip container of `torch.save`: entries lie uncompressed in the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

/// Largest directory accepted (a full training checkpoint has about 100 kB of it).
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;

/// What is wrong with the container.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZipError {
    #[error("it cannot be read ({0})")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("its entry `{0}` is compressed, which torch never does")]
    Compressed(String),
    #[error("its entry `{0}` does not match its checksum: the file is damaged")]
    Checksum(String),
    #[error("it has no entry `{0}`")]
    NoEntry(String),
}

/// An open container.
pub(super) struct StoredZip {
    file: Mutex<File>,
    length: u64,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    header_offset: u64,
    size: u64,
    checksum: u32,
    stored: bool,
}

impl StoredZip {
    pub(super) fn open(mut file: File) -> Result<Self, ZipError> {
        let length = file.seek(SeekFrom::End(0))?;
        let (offset, size) = find_directory(&mut file, length)?;
        if size > MAX_DIRECTORY_BYTES || offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(ZipError::Malformed("its directory lies outside the file"));
        }
        let directory = read_at(&mut file, offset, size)?;
        let entries = parse_directory(&directory)?;
        Ok(Self { file: Mutex::new(file), length, entries })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Size of an entry in bytes.
    pub(super) fn size(&self, name: &str) -> Result<u64, ZipError> {
        Ok(self.entry(name)?.size)
    }

    /// All bytes of an entry, checked against its checksum.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, ZipError> {
        let entry = self.entry(name)?;
        if !entry.stored {
            return Err(ZipError::Compressed(name.to_owned()));
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let header = read_at(&mut file, entry.header_offset, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(ZipError::Malformed("an entry is not where the directory says"));
        }
        // name and extra field of the local header may differ in length from the directory's
        let start =
            entry.header_offset + 30 + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        if start.checked_add(entry.size).is_none_or(|end| end > self.length) {
            return Err(ZipError::Malformed("an entry lies outside the file; it is probably cut short"));
        }
        let bytes = read_at(&mut file, start, entry.size)?;
        drop(file);
        if crc32fast::hash(&bytes) != entry.checksum {
            return Err(ZipError::Checksum(name.to_owned()));
        }
        Ok(bytes)
    }

    fn entry(&self, name: &str) -> Result<Entry, ZipError> {
        self.entries.get(name).copied().ok_or_else(|| ZipError::NoEntry(name.to_owned()))
    }
}

/// Offset and size of the central directory.
fn find_directory(file: &mut File, length: u64) -> Result<(u64, u64), ZipError> {
    const CUT: ZipError =
        ZipError::Malformed("its directory at the end is missing; it is probably cut short");
    let tail_length = length.min(22 + 65_535);
    let tail_start = length - tail_length;
    let tail = read_at(file, tail_start, tail_length)?;
    let end = tail.windows(22).rposition(|window| window.starts_with(b"PK\x05\x06")).ok_or(CUT)?;
    let record = &tail[end..];
    let (size, offset) = (u32_at(record, 12), u32_at(record, 16));
    if size != u32::MAX && offset != u32::MAX && u16_at(record, 10) != u16::MAX {
        return Ok((u64::from(offset), u64::from(size)));
    }
    // zip64: a locator right before the record points to the long form
    let locator_start = (tail_start + end as u64).checked_sub(20).ok_or(CUT)?;
    let locator = read_at(file, locator_start, 20)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Err(CUT);
    }
    let long_start = u64_at(&locator, 8);
    if long_start.checked_add(56).is_none_or(|end| end > length) {
        return Err(CUT);
    }
    let long = read_at(file, long_start, 56)?;
    if !long.starts_with(b"PK\x06\x06") {
        return Err(CUT);
    }
    Ok((u64_at(&long, 48), u64_at(&long, 40)))
}

fn parse_directory(mut rest: &[u8]) -> Result<HashMap<String, Entry>, ZipError> {
    const BAD: ZipError = ZipError::Malformed("its directory is damaged");
    let mut entries = HashMap::new();
    while rest.starts_with(b"PK\x01\x02") {
        let (fixed, tail) = rest.split_at_checked(46).ok_or(BAD)?;
        let (name, tail) = tail.split_at_checked(usize::from(u16_at(fixed, 28))).ok_or(BAD)?;
        let (extra, tail) = tail.split_at_checked(usize::from(u16_at(fixed, 30))).ok_or(BAD)?;
        let (_comment, tail) = tail.split_at_checked(usize::from(u16_at(fixed, 32))).ok_or(BAD)?;
        rest = tail;
        let (packed, size, offset) = (u32_at(fixed, 20), u32_at(fixed, 24), u32_at(fixed, 42));
        // the zip64 field holds, in this order, only those values that did not fit
        let mut long = zip64_field(extra);
        let mut widened = |value: u32| match value {
            u32::MAX => long.next().ok_or(BAD),
            value => Ok(u64::from(value)),
        };
        let (size, packed, offset) = (widened(size)?, widened(packed)?, widened(offset)?);
        let entry = Entry {
            header_offset: offset,
            size,
            checksum: u32_at(fixed, 16),
            stored: u16_at(fixed, 10) == 0 && packed == size,
        };
        entries.insert(String::from_utf8_lossy(name).into_owned(), entry);
    }
    Ok(entries)
}

fn zip64_field(mut extra: &[u8]) -> std::vec::IntoIter<u64> {
    while extra.len() >= 4 {
        let length = usize::from(u16_at(extra, 2));
        let Some(data) = extra.get(4..4 + length) else { break };
        if u16_at(extra, 0) == 1 {
            let values: Vec<u64> =
                data.as_chunks().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect();
            return values.into_iter();
        }
        extra = &extra[4 + length..];
    }
    Vec::new().into_iter()
}

fn read_at(file: &mut File, offset: u64, length: u64) -> Result<Vec<u8>, ZipError> {
    file.seek(SeekFrom::Start(offset))?;
    // callers have checked `length` against the file's, so this allocates nothing that is not there
    let mut bytes = Vec::with_capacity(length as usize);
    file.by_ref().take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(ZipError::Malformed("it ends too early"));
    }
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
