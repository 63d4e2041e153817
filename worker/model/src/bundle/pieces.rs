//! Hashes of a large file in pieces, so that every core checks some of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::FileBytes;

/// Bytes of a piece in bundles that this program writes.
const PIECE_BYTES: usize = 64 << 20;
/// Bytes hashed at a time; they do not stay resident afterwards.
const HASHED_AT_ONCE: usize = 16 << 20;
/// More cores than this wait for the disk.
const MOST_THREADS: usize = 8;

/// SHA-256 of a file, piece by piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Bytes of every piece but the last.
    bytes: usize,
    /// Of each piece, in order.
    sha256: Vec<String>,
}

impl Pieces {
    /// Hashes a file.
    pub(crate) fn of(file: &FileBytes) -> Self {
        Self { bytes: PIECE_BYTES, sha256: hashed(file, PIECE_BYTES) }
    }

    /// Whether these are the hashes of `file`, all of it.
    pub(super) fn are_of(&self, file: &FileBytes) -> bool {
        self.bytes > 0
            && self.sha256.len() == file.as_slice().len().div_ceil(self.bytes)
            && hashed(file, self.bytes) == self.sha256
    }
}

fn hashed(file: &FileBytes, bytes: usize) -> Vec<String> {
    let count = file.as_slice().len().div_ceil(bytes);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(count);
    let next = AtomicUsize::new(0);
    let hash_some = || {
        let mut hashed = Vec::new();
        loop {
            // The threads stay near each other, so that a disk is read from its beginning to its end.
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= count {
                return hashed;
            }
            let start = piece * bytes;
            let end = file.as_slice().len().min(start.saturating_add(bytes));
            hashed.push((piece, sha256_of(file, start, end)));
        }
    };
    let mut hashes = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(hash_some)).collect();
        let mut hashes = hash_some();
        for other in others {
            hashes.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        hashes
    });
    hashes.sort_unstable();
    hashes.into_iter().map(|(_, hash)| hash).collect()
}

/// SHA-256 of a whole file.
pub(super) fn sha256_of_whole(file: &FileBytes) -> String {
    sha256_of(file, 0, file.as_slice().len())
}

fn sha256_of(file: &FileBytes, mut start: usize, end: usize) -> String {
    let mut hash = Sha256::new();
    for piece in file.as_slice()[start..end].chunks(HASHED_AT_ONCE) {
        hash.update(piece);
        file.release(start..start + piece.len());
        start += piece.len();
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::io::Write as _;

    #[test]
    fn pieces_are_hashed_apart_and_a_change_of_any_byte_shows() {
        let content: Vec<u8> = (0..300_007_u32).map(|number| (number % 251) as u8).collect();
        for bytes in [1 << 12, 300_006, 300_007, 1 << 20] {
            let pieces = Pieces { bytes, sha256: hashed(&mapped(&content), bytes) };
            let alone: Vec<String> =
                content.chunks(bytes).map(|piece| hex::encode(Sha256::digest(piece))).collect();
            assert_eq!(pieces.sha256, alone);
            assert!(pieces.are_of(&mapped(&content)));
            for place in [0, 4096, 299_999, 300_006] {
                let mut other = content.clone();
                other[place] ^= 1;
                assert!(!pieces.are_of(&mapped(&other)), "{place}");
            }
            assert!(!pieces.are_of(&mapped(&content[..300_006])) && !pieces.are_of(&FileBytes::Static(&[])));
        }
        let none = Pieces { bytes: 0, sha256: Vec::new() };
        assert!(!none.are_of(&mapped(&content)) && !none.are_of(&FileBytes::Static(&[])));
    }

    fn mapped(content: &[u8]) -> FileBytes {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        FileBytes::map(file.path()).unwrap()
    }
}
