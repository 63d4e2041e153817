//! The suite that every [`captionfleet_proto::storage`] implementation passes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use captionfleet_proto::storage::{CopyError, PutMode, PutOutcome, Storage, StorageErrorKind, copy_to_file};
use sha2::{Digest, Sha256};

/// Larger than anything the suite writes.
const ANY_SIZE: u64 = 1 << 20;
/// Requests at a time, where the suite makes many.
const PARALLEL: usize = 32;

/// What a store promises of [`PutMode::IfAbsent`], and of writers to one key at the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// One of several racing writers wins, and readers see whole versions.
    Exact,
    /// An object that is there stays; a race may have several winners, and break a reader's checksum.
    Settled,
    /// The condition is ignored.
    Ignored,
}

/// Runs the whole suite on an empty store, and leaves it empty.
///
/// # Panics
/// If the store does not behave; the message says in what.
pub async fn storage_suite(store: Arc<dyn Storage>, conditional: Conditional) {
    let store = store.as_ref();
    store.check().await.expect("an empty store can be used");
    assert_eq!(keys(store, "").await, Vec::<String>::new(), "the store is empty at first");
    reads_what_it_wrote(store).await;
    reads_pieces(store).await;
    copies_to_files(store).await;
    takes_files(store).await;
    overwrites(store).await;
    deletes(store).await;
    misses(store).await;
    refuses_what_is_too_large(store).await;
    keeps_odd_keys_apart(store).await;
    lists_by_prefix(store).await;
    lists_thousands(store).await;
    works_concurrently(store).await;
    if conditional == Conditional::Exact {
        shows_whole_versions(store).await;
    }
    keeps_what_is_there(store, conditional).await;
    has_one_winner(store, conditional).await;
    empty(store).await;
    assert_eq!(keys(store, "").await, Vec::<String>::new(), "everything can be deleted");
}

async fn reads_what_it_wrote(store: &dyn Storage) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for (key, bytes) in [("bytes/all", every_byte), ("bytes/one", vec![0]), ("bytes/none", Vec::new())] {
        let outcome = put(store, key, bytes.clone(), PutMode::Overwrite).await;
        assert_eq!(outcome, PutOutcome::Created, "{key} is created");
        let object = store.get(key, ANY_SIZE).await.expect("what was written can be read");
        assert_eq!(object.bytes, bytes, "{key} reads back");
        let head = store.head(key).await.expect("what was written can be looked at");
        assert_eq!((head.key.as_str(), head.size), (key, bytes.len() as u64), "{key} has its size");
        assert!(
            object.etag.is_some() && object.etag == head.etag,
            "reading and looking agree on the version of {key}"
        );
        let listed: Vec<_> = store.list(key).try_collect().await.expect("what was written is listed");
        assert_eq!(listed.len(), 1, "{key} is listed once");
        assert_eq!((&listed[0].key, listed[0].size), (&head.key, head.size), "{key} is listed as it is");
        // s3s-fs lists no versions.
        assert!(
            listed[0].etag.is_none() || listed[0].etag == head.etag,
            "and does not contradict on its version"
        );
        let (listed, looked) = (listed[0].modified, head.modified);
        // HTTP dates have no fractions.
        assert_eq!(
            listed.map(jiff::Timestamp::as_second),
            looked.map(jiff::Timestamp::as_second),
            "and on its time"
        );
    }
}

async fn reads_pieces(store: &dyn Storage) {
    put(store, "pieces", (0..=99).collect::<Vec<u8>>(), PutMode::Overwrite).await;
    let whole = store.get("pieces", ANY_SIZE).await.expect("what was written can be read");
    for (offset, length, expected) in [(0, 10, 0..10), (90, 10, 90..100), (95, 50, 95..100), (99, 1, 99..100)]
    {
        let piece = store.get_range("pieces", offset, length).await.expect("a piece can be read");
        assert_eq!(piece.bytes, expected.collect::<Vec<u8>>(), "{length} bytes from {offset} on");
        assert_eq!(piece.etag, whole.etag, "a piece has the version of the whole");
    }
    for offset in [100, 1000] {
        let beyond = store.get_range("pieces", offset, 10).await.expect("an object may have become shorter");
        assert!(beyond.bytes.is_empty(), "nothing lies at {offset}");
    }
    let absent = store.get_range("no/pieces", 0, 1).await.expect_err("nothing has no pieces");
    assert_eq!(absent.kind(), StorageErrorKind::NotFound);
}

async fn copies_to_files(store: &dyn Storage) {
    // Three pieces, the last one short; one byte; none.
    for length in [(17 << 20) + 5, 1, 0] {
        let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
        put(store, "copied", bytes.clone(), PutMode::Overwrite).await;
        let head = store.head("copied").await.expect("it is there");
        let file = tempfile::NamedTempFile::new().expect("there is a temporary folder");
        let copied = copy_to_file(store, &head, file.reopen().expect("it is there")).await;
        assert_eq!(copied.expect("it can be copied"), hex::encode(Sha256::digest(&bytes)), "{length} bytes");
        assert!(std::fs::read(file.path()).expect("it was written") == bytes, "{length} bytes");
    }
    put(store, "copied", "first".into(), PutMode::Overwrite).await;
    let head = store.head("copied").await.expect("it is there");
    // Of another size: a file that is written twice within a tick of the clock has one version otherwise.
    put(store, "copied", "second".into(), PutMode::Overwrite).await;
    let file = tempfile::tempfile().expect("there is a temporary folder");
    let changed = copy_to_file(store, &head, file).await.expect_err("it is another one");
    assert!(matches!(&changed, CopyError::Read(error) if error.is_transient()), "{changed}");
}

async fn takes_files(store: &dyn Storage) {
    takes_files_of(store, &[0, 1000]).await;
}

/// Files that are sent in more than one piece, which not every server of the tests can put together: some answer in a
/// form that is not S3's.
pub async fn takes_large_files(store: Arc<dyn Storage>) {
    takes_files_of(store.as_ref(), &[(32 << 20) + 7]).await;
    empty(store.as_ref()).await;
}

async fn takes_files_of(store: &dyn Storage, lengths: &[usize]) {
    let most = lengths.iter().copied().max().unwrap_or(0);
    let bytes: Vec<u8> = (0..=250).cycle().take(most).collect();
    let file = tempfile::NamedTempFile::new().expect("there is a temporary folder");
    for &length in lengths {
        std::fs::write(file.path(), &bytes[..length]).expect("a temporary file can be written");
        store.put_file("file", file.path()).await.expect("a file can be written");
        assert_eq!(store.head("file").await.expect("it is there").size, length as u64);
        let last = (length as u64).saturating_sub(1);
        if length > 0 {
            let end = store.get_range("file", last, 1).await.expect("its end can be read");
            assert_eq!(end.bytes, bytes[length - 1..length]);
        }
    }
}

async fn overwrites(store: &dyn Storage) {
    put(store, "over/a", "first version".into(), PutMode::Overwrite).await;
    let first = store.head("over/a").await.expect("is there");
    assert_eq!(put(store, "over/a", "second".into(), PutMode::Overwrite).await, PutOutcome::Created);
    let second = store.get("over/a", ANY_SIZE).await.expect("is there");
    assert_eq!(second.bytes, "second", "an overwritten object is the new one");
    assert_ne!(first.etag, second.etag, "another content is another version");
    assert_eq!(keys(store, "over/").await, ["over/a"], "overwriting leaves nothing else behind");
}

async fn deletes(store: &dyn Storage) {
    put(store, "gone/a", "x".into(), PutMode::Overwrite).await;
    store.delete("gone/a").await.expect("what is there can be deleted");
    assert_eq!(kind_of(store.get("gone/a", ANY_SIZE).await), StorageErrorKind::NotFound);
    store.delete("gone/a").await.expect("deleting again is fine");
    store.delete("gone/never/was").await.expect("deleting what never was is fine");
    let again = put(store, "gone/a", "y".into(), PutMode::IfAbsent).await;
    assert_eq!(again, PutOutcome::Created, "a deleted key is free");
}

async fn misses(store: &dyn Storage) {
    put(store, "miss/folder/a", "x".into(), PutMode::Overwrite).await;
    // Nor is `miss/folder` an object, but s3s-fs answers an internal error to that.
    for key in ["miss/never", "miss/fold", "no/such/place"] {
        assert_eq!(kind_of(store.get(key, ANY_SIZE).await), StorageErrorKind::NotFound, "reading {key}");
        assert_eq!(kind_of(store.head(key).await), StorageErrorKind::NotFound, "looking at {key}");
    }
    let error = store.get("miss/never", ANY_SIZE).await.expect_err("there is nothing");
    assert!(error.to_string().contains("miss/never"), "the error names the object: {error}");
    assert!(!error.is_transient(), "waiting does not help");
    for key in ["", "nul\0"] {
        assert_eq!(
            kind_of(store.get(key, ANY_SIZE).await),
            StorageErrorKind::InvalidUri,
            "{key:?} is no key"
        );
    }
}

async fn refuses_what_is_too_large(store: &dyn Storage) {
    put(store, "large/a", vec![7; 1000], PutMode::Overwrite).await;
    assert_eq!(
        store.get("large/a", 1000).await.expect("is allowed").bytes.len(),
        1000,
        "exactly the limit is fine"
    );
    assert_eq!(kind_of(store.get("large/a", 999).await), StorageErrorKind::TooLarge);
    assert_eq!(kind_of(store.get("large/a", 0).await), StorageErrorKind::TooLarge);
}

async fn keeps_odd_keys_apart(store: &dyn Storage) {
    let odd = [
        "odd/a b  c",
        "odd/a+b",
        "odd/a%20b",
        "odd/a%2Fb",
        "odd/%",
        "odd/#?&=;,:@",
        "odd/ü/ö/ß.jpg",
        "odd/u\u{308}",
        "odd/日本語/写真.png",
        "odd/🦀",
        "odd/quote\"'`<>&amp;",
        "odd/back\\slash",
        "odd/..hidden",
        "odd/...",
        "odd/~",
        "odd/-dash",
        "odd/[1]{2}(3)|*",
        "odd/Case",
        "odd/case",
        "odd/trailing ",
        "odd/ leading",
        "odd/$HOME",
        "odd/!",
    ];
    for key in odd {
        put(store, key, key.into(), PutMode::Overwrite).await;
    }
    for key in odd {
        let object = store.get(key, ANY_SIZE).await.unwrap_or_else(|error| panic!("{key:?}: {error}"));
        assert_eq!(object.bytes, key, "{key:?} keeps its own bytes");
    }
    let mut expected = odd.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(keys(store, "odd/").await, expected, "odd keys are listed as they are");
    assert_eq!(
        keys(store, "odd/a%").await,
        ["odd/a%20b", "odd/a%2Fb"],
        "a prefix is no pattern and not decoded"
    );
    for key in odd {
        store.delete(key).await.unwrap_or_else(|error| panic!("{key:?}: {error}"));
    }
    assert_eq!(keys(store, "odd/").await, Vec::<String>::new(), "odd keys can be deleted");
}

async fn lists_by_prefix(store: &dyn Storage) {
    // Not also `list/a`: a file system cannot have both a file and a folder of one name.
    let all = ["list/a-b/x", "list/a/b/c", "list/a/b/d", "list/ab/x", "list/b"];
    for key in all {
        put(store, key, key.into(), PutMode::Overwrite).await;
    }
    for prefix in [
        "list/",
        "list/a",
        "list/a/",
        "list/a/b",
        "list/a/b/",
        "list/a/b/c",
        "list/a/b/cd",
        "list/c",
        "list/a-",
    ] {
        let expected: Vec<&str> = all.into_iter().filter(|key| key.starts_with(prefix)).collect();
        assert_eq!(keys(store, prefix).await, expected, "what begins with {prefix}");
    }
    assert_eq!(keys(store, "no/such/folder/").await, Vec::<String>::new(), "nothing is not an error");
    assert_eq!(keys(store, "../").await, Vec::<String>::new(), "no key is above the store");
}

/// More than one page, in few and in many folders, and a folder that holds nearly everything.
async fn lists_thousands(store: &dyn Storage) {
    let flat = (0..1100).map(|at| format!("many/flat/{at:05}"));
    let folders = (0..700).map(|at| format!("many/folder-{:03}/{at:05}.jpg", at % 70));
    let deep = (0..700).map(|at| format!("many/deep/er/{}/{at:05}", at % 3));
    let loose = (0..100).map(|at| format!("many/{at:05}"));
    let mut all: Vec<String> = flat.chain(folders).chain(deep).chain(loose).collect();
    all.sort();
    stream::iter(&all)
        .for_each_concurrent(PARALLEL, |key| async move {
            put(store, key, "x".into(), PutMode::Overwrite).await;
        })
        .await;
    for prefix in
        ["many/", "many", "many/flat/", "many/f", "many/deep/er/", "many/folder-00", "many/flat/0009"]
    {
        let expected: Vec<&String> = all.iter().filter(|key| key.starts_with(prefix)).collect();
        let listed = keys(store, prefix).await;
        assert_eq!(listed.len(), expected.len(), "number of objects that begin with {prefix}");
        assert!(listed.iter().eq(expected), "each object that begins with {prefix} once");
    }
    let some: Vec<_> = store.list("many/").take(5).collect().await;
    assert!(some.len() == 5 && some.iter().all(Result::is_ok), "a listing may be left early");
}

async fn works_concurrently(store: &dyn Storage) {
    let content = |at: u32| format!("{at}-").repeat(500 + at as usize);
    stream::iter(0..200_u32)
        .for_each_concurrent(PARALLEL, |at| async move {
            let key = format!("together/{}/{at}", at % 7);
            put(store, &key, content(at).into(), PutMode::Overwrite).await;
            assert_eq!(
                store.get(&key, ANY_SIZE).await.expect("is there").bytes,
                content(at),
                "{key} is not mixed up"
            );
        })
        .await;
    assert_eq!(keys(store, "together/").await.len(), 200);
}

/// Whoever reads while others overwrite sees one whole version.
async fn shows_whole_versions(store: &dyn Storage) {
    let versions: Vec<Bytes> = (0..8_u8).map(|at| Bytes::from(vec![at; 50_000 + usize::from(at)])).collect();
    put(store, "together/contested", versions[0].to_vec(), PutMode::Overwrite).await;
    stream::iter(0..64)
        .for_each_concurrent(PARALLEL, |at| {
            let versions = &versions;
            async move {
                put(store, "together/contested", versions[at % 8].to_vec(), PutMode::Overwrite).await;
                let seen = store.get("together/contested", ANY_SIZE).await.expect("is always there").bytes;
                assert!(versions.contains(&seen), "a reader sees one whole version");
            }
        })
        .await;
}

async fn keeps_what_is_there(store: &dyn Storage, conditional: Conditional) {
    assert_eq!(put(store, "once/a", "first".into(), PutMode::IfAbsent).await, PutOutcome::Created);
    let again = put(store, "once/a", "second".into(), PutMode::IfAbsent).await;
    let there = store.get("once/a", ANY_SIZE).await.expect("is there").bytes;
    if conditional == Conditional::Ignored {
        assert_eq!((again, there), (PutOutcome::Created, Bytes::from("second")), "the condition is ignored");
    } else {
        assert_eq!((again, there), (PutOutcome::Exists, Bytes::from("first")), "the first object stays");
    }
    assert_eq!(keys(store, "once/").await, ["once/a"], "a refused write leaves nothing behind");
}

async fn has_one_winner(store: &dyn Storage, conditional: Conditional) {
    for round in 0..20 {
        let key = format!("race/{round}");
        let racers = (0..8).map(|racer| put(store, &key, format!("racer {racer}").into(), PutMode::IfAbsent));
        let outcomes = futures::future::join_all(racers).await;
        let winners: Vec<usize> = (0..8).filter(|racer| outcomes[*racer] == PutOutcome::Created).collect();
        assert!(!winners.is_empty(), "someone wins");
        store.head(&key).await.expect("something is there");
        if conditional == Conditional::Exact {
            assert_eq!(winners.len(), 1, "one of eight racing writers wins");
            let there = store.get(&key, ANY_SIZE).await.expect("is there").bytes;
            assert_eq!(there, format!("racer {}", winners[0]), "what is there is the winner's");
        }
    }
}

async fn empty(store: &dyn Storage) {
    let all = keys(store, "").await;
    stream::iter(all)
        .for_each_concurrent(PARALLEL, |key| async move {
            store.delete(&key).await.unwrap_or_else(|error| panic!("{key:?}: {error}"));
        })
        .await;
}

async fn put(store: &dyn Storage, key: &str, bytes: Vec<u8>, mode: PutMode) -> PutOutcome {
    store.put(key, bytes.into(), mode).await.unwrap_or_else(|error| panic!("{key:?}: {error}"))
}

/// Sorted; fails on an object that is listed twice.
async fn keys(store: &dyn Storage, prefix: &str) -> Vec<String> {
    let listed: Vec<_> =
        store.list(prefix).try_collect().await.unwrap_or_else(|error| panic!("{prefix:?}: {error}"));
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for object in listed {
        *times.entry(object.key).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "listed more than once: {twice:?}");
    times.into_keys().collect()
}

fn kind_of<T: std::fmt::Debug>(
    result: Result<T, captionfleet_proto::storage::StorageError>,
) -> StorageErrorKind {
    result.expect_err("must fail").kind()
}
