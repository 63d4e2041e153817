//! The object store: one port, a folder and an S3 implementation, and the door to both ([`Stores`]).
//!
//! Keys are `/`-separated UTF-8. A store never reads or writes outside its place; every error names the operation,
//! the object and what to do.

mod copy;
mod error;
mod local;
mod options;
mod s3;
mod stores;

use std::fmt::Debug;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

pub use copy::{CopyError, copy_to_file};
pub use error::{StorageError, StorageErrorKind};
pub use local::{LocalStorage, etag_of_file};
pub use options::{LocalRoots, S3Checksums, S3Patience, StorageOptions};
pub use stores::Stores;

/// The bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// All of them.
    pub bytes: Bytes,
    /// Their version, as the storage tells it.
    pub etag: Option<String>,
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key inside the store.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its version; some servers do not tell it in listings.
    pub etag: Option<String>,
    /// When it was last written.
    pub modified: Option<Timestamp>,
}

/// What [`Storage::put`] does when the key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Replace the object.
    Overwrite,
    /// Leave the object that is there.
    ///
    /// Saves work, is no lock: servers that do not know conditional writes overwrite, those that refuse them are asked for
    /// the object first, and a retry whose first reply was lost finds its own object.
    IfAbsent,
}

/// What [`Storage::put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is there as given.
    Created,
    /// Another one was there and still is ([`PutMode::IfAbsent`] only).
    Exists,
}

/// A place for objects: a folder, or a prefix of a bucket.
///
/// Implementations retry what may pass within seconds; an error whose kind is
/// [transient](StorageErrorKind::is_transient) is for the caller to try again much later. Calls may run concurrently.
#[async_trait]
pub trait Storage: Send + Sync + Debug {
    /// Reads an object of at most `max_bytes`; a larger one is refused before its body is read.
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError>;

    /// Reads `length` bytes (one at least) of an object from `offset` on, fewer where it ends before: none where that is at
    /// `offset` already. Then its version may not be told.
    async fn get_range(&self, key: &str, offset: u64, length: u64) -> Result<Object, StorageError>;

    /// Looks at an object.
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError>;

    /// Writes an object: afterwards it is there whole and durable, or (on error) as it was before.
    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<PutOutcome, StorageError>;

    /// Writes an object from a file of any size, which is never in memory as a whole; replaces what was there.
    async fn put_file(&self, key: &str, source: &Path) -> Result<(), StorageError>;

    /// Removes an object; none is fine.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;

    /// All objects whose keys begin with `prefix` (a string, not necessarily a folder), each once, in any order.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StorageError>>;

    /// Fails if the place cannot be used: no such bucket, refused credentials, a folder that is a file.
    async fn check(&self) -> Result<(), StorageError>;

    /// The place as a URI, without credentials.
    fn location(&self) -> String;
}
