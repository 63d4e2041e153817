//! The store itself.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_checksums::body::validate::Error as Mismatch;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use tracing::{debug, warn};

use super::connect::{ATTEMPT, Connection, OPERATION};
use super::meta::{bare, object_meta};
use super::{fault, list, upload};
use crate::storage::{
    Object, ObjectMeta, PutMode, PutOutcome, Storage, StorageError, StorageErrorKind as Kind,
};
use crate::uri::{ItemUri, MAX_KEY_BYTES};

/// How often a body that broke off is asked for again, and a conflicting write is tried.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);
/// Slowest transfer that is waited for, in bytes per second.
const SLOWEST: u64 = 128 * 1024;

/// A prefix of a bucket as a store.
#[derive(Clone, Debug)]
pub(in crate::storage) struct S3Storage {
    connection: Connection,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
}

impl S3Storage {
    /// `prefix` is without slashes at either end; empty for the whole bucket.
    pub(in crate::storage) fn new(connection: Connection, bucket: &str, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { connection, bucket: bucket.to_owned(), prefix }
    }

    /// The whole key, checked.
    fn full(&self, key: &str, operation: &'static str) -> Result<String, StorageError> {
        let full = format!("{}{key}", self.prefix);
        let problem = if key.is_empty() {
            "the key is empty"
        } else if key.contains('\0') {
            "the key contains a NUL byte"
        } else if full.len() > MAX_KEY_BYTES {
            "the key is longer than 1024 bytes"
        } else {
            return Ok(full);
        };
        Err(StorageError::new(Kind::InvalidUri, operation, self.uri(&full), problem))
    }

    fn knows_no_conditions(&self) -> bool {
        self.connection.knows_no_conditions.load(Ordering::Relaxed)
    }

    /// A write succeeded that was refused with a condition.
    fn note_no_conditions(&self) {
        if !self.connection.knows_no_conditions.swap(true, Ordering::Relaxed) {
            let server = &*self.connection.server;
            warn!(
                server,
                "the server refuses conditional writes: from now on it is asked for the object first"
            );
        }
    }

    /// What stands for the condition where the server knows none: two writers at the same time may both find nothing.
    async fn is_there(&self, key: &str) -> Result<bool, StorageError> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            // S3 answers 403 for a missing object to those who may not list; writing will show what is allowed.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::PermissionDenied) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Why a HEAD request was refused. Its answer has no body and so no code, and credentials that are refused must not pass
    /// for an object that is not there.
    async fn told_by_listing(&self, refused: StorageError) -> StorageError {
        if !matches!(refused.kind(), Kind::PermissionDenied | Kind::Other) {
            return refused;
        }
        match self.check().await {
            Err(error) if matches!(error.kind(), Kind::Unauthenticated | Kind::WrongRegion) => error,
            _ => refused,
        }
    }

    fn uri(&self, full: &str) -> String {
        ItemUri::s3(&self.bucket, full).into()
    }

    /// Reads an object, or the given range of it.
    async fn read(&self, key: &str, range: Option<String>, max_bytes: u64) -> Result<Object, StorageError> {
        let full = self.full(key, "reading")?;
        let object = self.uri(&full);
        let mut attempt = 1;
        let mut mismatch = None;
        loop {
            let request = self.connection.client.get_object().bucket(&self.bucket).key(&full);
            let answer = match request.set_range(range.clone()).send().await {
                // The object ends before the range.
                Err(error) if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 416) => {
                    return Ok(Object { bytes: Bytes::new(), etag: None });
                }
                Err(error) => {
                    return Err(fault::new(error, "reading", &object, &self.connection.server));
                }
                Ok(answer) => answer,
            };
            let etag = answer.e_tag().map(bare);
            match self.body(answer, &object, max_bytes).await? {
                Ok(bytes) => return Ok(Object { bytes, etag }),
                // A network does not damage a body the same way twice: that is how the object lies in the store.
                Err(Broken { checksum: Some(checksum), .. }) if mismatch.as_ref() == Some(&checksum) => {
                    let problem = "the stored bytes do not match their checksum: write the object again";
                    return Err(StorageError::new(Kind::Damaged, "reading", object, problem));
                }
                Err(broken) if attempt >= ATTEMPTS => return Err(broken.error),
                Err(broken) => {
                    let error: &dyn std::error::Error = &broken.error;
                    debug!(%object, attempt, error, "reading again");
                    mismatch = broken.checksum;
                }
            }
            tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
            attempt += 1;
        }
    }

    /// One attempt at a body. The outer error is final, the inner one may pass.
    async fn body(
        &self,
        answer: GetObjectOutput,
        object: &str,
        max_bytes: u64,
    ) -> Result<Result<Bytes, Broken>, StorageError> {
        let size = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if let Some(size) = size.filter(|size| *size > max_bytes) {
            return Err(too_large(object, &format!("has {size} bytes"), max_bytes));
        }
        let time = OPERATION.min(ATTEMPT + Duration::from_secs(size.unwrap_or(max_bytes) / SLOWEST));
        match tokio::time::timeout(time, collect(answer.body, size, max_bytes)).await {
            Err(_) => {
                let error = StorageError::new(Kind::Timeout, "reading", object, "the body came too slowly");
                Ok(Err(Broken { error, checksum: None }))
            }
            Ok(Err(Collecting::TooLarge)) => Err(too_large(object, "is larger than it said", max_bytes)),
            Ok(Err(Collecting::Broken { cause, checksum })) => {
                let problem =
                    "the body broke off, stalled or was damaged, and still did after several attempts";
                let error = StorageError::new(Kind::Unavailable, "reading", object, problem).caused_by(cause);
                Ok(Err(Broken { error, checksum }))
            }
            Ok(Ok(bytes)) => Ok(Ok(bytes)),
        }
    }
}

#[async_trait]
impl Storage for S3Storage {
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        self.read(key, None, max_bytes).await
    }

    async fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Object, StorageError> {
        let last = offset.saturating_add(length.saturating_sub(1));
        self.read(key, Some(format!("bytes={offset}-{last}")), length).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let full = self.full(key, "looking at")?;
        let answer = self.connection.client.head_object().bucket(&self.bucket).key(&full).send().await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let error = fault::new(error, "looking at", &self.uri(&full), &self.connection.server);
                return Err(self.told_by_listing(error).await);
            }
        };
        let (size, etag) = (answer.content_length(), answer.e_tag());
        Ok(object_meta(key.to_owned(), size, etag, answer.last_modified()))
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<PutOutcome, StorageError> {
        let full = self.full(key, "writing")?;
        let time = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT + Duration::from_secs(bytes.len() as u64 / SLOWEST))
            .operation_timeout(OPERATION + Duration::from_secs(bytes.len() as u64 / SLOWEST))
            .build();
        let mut attempt = 1;
        let mut condition_refused = false;
        loop {
            let conditional = mode == PutMode::IfAbsent && !condition_refused && !self.knows_no_conditions();
            if mode == PutMode::IfAbsent && !conditional && self.is_there(key).await? {
                return Ok(PutOutcome::Exists);
            }
            let request = self.connection.client.put_object().bucket(&self.bucket).key(&full);
            let sent = request
                .set_if_none_match(conditional.then(|| "*".to_owned()))
                .body(ByteStream::from(bytes.clone()))
                .customize()
                .config_override(aws_sdk_s3::Config::builder().timeout_config(time.clone()))
                .send()
                .await;
            let Err(error) = sent else {
                if condition_refused {
                    self.note_no_conditions();
                }
                return Ok(PutOutcome::Created);
            };
            let status = error.raw_response().map(|answer| answer.status().as_u16());
            let conflict = matches!(error.code(), Some("ConditionalRequestConflict" | "OperationAborted"));
            if conditional && (status == Some(412) || error.code() == Some("PreconditionFailed")) {
                return Ok(PutOutcome::Exists);
            }
            let error = fault::new(error, "writing", &self.uri(&full), &self.connection.server);
            // What servers say to a condition that they do not know they say to much else, too: it was the condition if the write
            // succeeds without it.
            if conditional && error.kind() == Kind::Other && matches!(status, Some(400 | 405 | 501)) {
                condition_refused = true;
                continue;
            }
            // Someone else is writing or deleting the same key this instant: who wins shows in a moment.
            if !conflict || attempt >= ATTEMPTS {
                return Err(error);
            }
            tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
            attempt += 1;
        }
    }

    async fn put_file(&self, key: &str, source: &Path) -> Result<(), StorageError> {
        let full = self.full(key, "writing")?;
        match upload::Pieces::open(source, &self.uri(&full)).await? {
            upload::Pieces::One(bytes) => self.put(key, bytes, PutMode::Overwrite).await.map(drop),
            upload::Pieces::Many(file) => upload::send(&self.connection, &self.bucket, &full, file).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let full = self.full(key, "deleting")?;
        let sent = self.connection.client.delete_object().bucket(&self.bucket).key(&full).send().await;
        match sent.map_err(|error| fault::new(error, "deleting", &self.uri(&full), &self.connection.server)) {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StorageError>> {
        list::stream(self.connection.clone(), self.bucket.clone(), self.prefix.clone(), prefix)
    }

    async fn check(&self) -> Result<(), StorageError> {
        let request =
            self.connection.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).max_keys(1);
        let retries = aws_sdk_s3::Config::builder().retry_config(self.connection.opening.clone());
        match request.customize().config_override(retries).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(fault::new(error, "opening", &self.location(), &self.connection.server)),
        }
    }

    fn location(&self) -> String {
        self.uri(&self.prefix).trim_end_matches('/').to_owned()
    }
}

/// A body that may come whole the next time.
struct Broken {
    error: StorageError,
    /// That of the bytes that came, where they all came and another was promised.
    checksum: Option<Bytes>,
}

enum Collecting {
    TooLarge,
    Broken { cause: String, checksum: Option<Bytes> },
}

async fn collect(mut body: ByteStream, size: Option<u64>, max_bytes: u64) -> Result<Bytes, Collecting> {
    let mut bytes = BytesMut::with_capacity(size.unwrap_or(0) as usize);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Collecting::Broken {
            cause: fault::root(&error),
            checksum: fault::find::<Mismatch>(&error).and_then(checksum_that_came),
        })?;
        if (bytes.len() + chunk.len()) as u64 > max_bytes {
            return Err(Collecting::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    if size.is_some_and(|size| size != bytes.len() as u64) {
        let cause = format!("{} of {} bytes came", bytes.len(), size.unwrap_or(0));
        return Err(Collecting::Broken { cause, checksum: None });
    }
    Ok(bytes.freeze())
}

fn checksum_that_came(error: &Mismatch) -> Option<Bytes> {
    match error {
        Mismatch::ChecksumMismatch { actual, .. } => Some(actual.clone()),
        _ => None,
    }
}

fn too_large(object: &str, what: &str, limit: u64) -> StorageError {
    StorageError::new(Kind::TooLarge, "reading", object, format!("{what}, at most {limit} are read"))
}
