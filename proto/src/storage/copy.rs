//! Objects of any size to local files: several pieces at a time, digested on the way, never in memory as a whole.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{ObjectMeta, Storage, StorageError, StorageErrorKind};

/// Bytes of a piece.
const PIECE: u64 = 8 << 20;
/// Pieces asked for at a time: one connection seldom fills a network.
const AT_ONCE: usize = 8;
/// Pieces that wait to be written.
const WAITING: usize = 2;

/// Why an object could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It could not be read, or changed meanwhile.
    #[error(transparent)]
    Read(#[from] StorageError),
    /// The local file could not be written.
    #[error("the copy cannot be written")]
    Write(#[from] std::io::Error),
}

/// Copies `object`, as [`Storage::head`] described it, to the end of `file`. Returns the SHA-256 of its bytes, in hexadecimal.
///
/// # Errors
/// [`CopyError`]; then `file` holds a part of the object.
pub async fn copy_to_file(
    store: &dyn Storage,
    object: &ObjectMeta,
    mut file: File,
) -> Result<String, CopyError> {
    let (pieces, mut waiting) = mpsc::channel::<Bytes>(WAITING);
    let writing = tokio::task::spawn_blocking(move || {
        let mut digest = Sha256::new();
        while let Some(piece) = waiting.blocking_recv() {
            file.write_all(&piece)?;
            digest.update(&piece);
        }
        Ok::<_, std::io::Error>(hex::encode(digest.finalize()))
    });
    // Owns the sender: when it ends, so does the writer.
    let reading = async move {
        let offsets = stream::iter((0..object.size).step_by(PIECE as usize));
        let mut arriving = offsets.map(|offset| read_piece(store, object, offset)).buffered(AT_ONCE);
        while let Some(piece) = arriving.try_next().await? {
            if pieces.send(piece).await.is_err() {
                break;
            }
        }
        Ok::<_, StorageError>(())
    };
    let (read, written) = tokio::join!(reading, writing);
    let digest = written.map_err(std::io::Error::other)??;
    read?;
    Ok(digest)
}

async fn read_piece(store: &dyn Storage, object: &ObjectMeta, offset: u64) -> Result<Bytes, StorageError> {
    let length = PIECE.min(object.size - offset);
    let piece = store.get_range(&object.key, offset, length).await?;
    if piece.etag != object.etag || piece.bytes.len() as u64 != length {
        let problem = "the object changed while it was being copied";
        let name = format!("{}/{}", store.location().trim_end_matches('/'), object.key);
        return Err(StorageError::new(StorageErrorKind::Unavailable, "reading", name, problem));
    }
    Ok(piece.bytes)
}
