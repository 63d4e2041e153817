//! Files of any size, sent piece by piece.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::connect::Connection;
use super::fault;
use crate::storage::{StorageError, StorageErrorKind as Kind};
use crate::uri::ItemUri;

/// Bytes of a piece: 10,000 of them, as many as S3 takes, make 168 GB.
const PIECE: u64 = 16 << 20;
/// Longest that one piece may take, at 128 KiB a second.
const PIECE_TIME: Duration = Duration::from_secs(160);
const WRITING: &str = "writing";

/// A file to send.
pub(super) enum Pieces {
    /// All of it.
    One(Bytes),
    /// More than one piece.
    Many(File),
}

impl Pieces {
    pub(super) async fn open(source: &Path, object: &str) -> Result<Self, StorageError> {
        let failed = |error| unreadable(object, error);
        let mut file = File::open(source).await.map_err(failed)?;
        if file.metadata().await.map_err(failed)?.len() > PIECE {
            return Ok(Self::Many(file));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).await.map_err(failed)?;
        Ok(Self::One(bytes.into()))
    }
}

/// Sends `file` in pieces; what was sent is taken back if it does not come to an end.
pub(super) async fn send(
    connection: &Connection,
    bucket: &str,
    key: &str,
    file: File,
) -> Result<(), StorageError> {
    let object = String::from(ItemUri::s3(bucket, key));
    let client = &connection.client;
    // Servers that check refuse pieces with a checksum that was not announced, and the other way round.
    let begun = client.create_multipart_upload().set_checksum_algorithm(connection.piece_checksum.clone());
    let begun = begun.bucket(bucket).key(key).send().await;
    let begun = begun.map_err(|error| fault::new(error, WRITING, &object, &connection.server))?;
    let id = begun.upload_id().unwrap_or_default().to_owned();
    let sent = pieces(connection, bucket, key, &id, file, &object).await;
    if sent.is_err() {
        // The first fault is the one to tell.
        let _ = client.abort_multipart_upload().bucket(bucket).key(key).upload_id(&id).send().await;
    }
    sent
}

async fn pieces(
    connection: &Connection,
    bucket: &str,
    key: &str,
    id: &str,
    mut file: File,
    object: &str,
) -> Result<(), StorageError> {
    let client = &connection.client;
    let time =
        TimeoutConfig::builder().operation_attempt_timeout(PIECE_TIME).operation_timeout(PIECE_TIME).build();
    let mut parts = Vec::new();
    for number in 1.. {
        let mut bytes = Vec::new();
        (&mut file).take(PIECE).read_to_end(&mut bytes).await.map_err(|error| unreadable(object, error))?;
        if bytes.is_empty() {
            break;
        }
        let sent = client
            .upload_part()
            .bucket(bucket)
            .key(key)
            .upload_id(id)
            .part_number(number)
            .set_checksum_algorithm(connection.piece_checksum.clone())
            .body(ByteStream::from(bytes))
            .customize()
            .config_override(aws_sdk_s3::Config::builder().timeout_config(time.clone()))
            .send()
            .await
            .map_err(|error| fault::new(error, WRITING, object, &connection.server))?;
        let part = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag().map(str::to_owned))
            .set_checksum_crc32(sent.checksum_crc32().map(str::to_owned));
        parts.push(part.build());
    }
    let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let done = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id).multipart_upload(all);
    done.send().await.map_err(|error| fault::new(error, WRITING, object, &connection.server))?;
    Ok(())
}

fn unreadable(object: &str, error: std::io::Error) -> StorageError {
    StorageError::new(Kind::Other, WRITING, object, "the file to be sent cannot be read").caused_by(error)
}
