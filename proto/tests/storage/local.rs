//! A folder passes the suite, keeps to itself and is never left half-written.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use captionfleet_proto::storage::{
    LocalRoots, LocalStorage, PutMode, Storage, StorageError, StorageErrorKind as Kind, StorageOptions,
    Stores,
};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use futures::TryStreamExt;

use crate::conformance::{Conditional, storage_suite, takes_large_files};

#[tokio::test(flavor = "multi_thread")]
async fn passes_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("not/there/yet");
    let store = Arc::new(LocalStorage::new(root.clone()));
    storage_suite(store.clone(), Conditional::Exact).await;
    takes_large_files(store).await;
    assert_eq!(files(&root), Vec::<PathBuf>::new(), "no stray files are left");
}

#[tokio::test]
async fn opens_as_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    let stores = Stores::new(StorageOptions::default());
    let name = ArchiveUri::from_folder(&folder.path().join("my archive")).unwrap();
    let archive = stores.archive(&name).await.unwrap();
    assert_eq!(archive.location(), name.as_str());
    archive.put("runs/r.json", Bytes::from("{}"), PutMode::Overwrite).await.unwrap();
    assert_eq!(fs::read(folder.path().join("my archive/runs/r.json")).unwrap(), b"{}");
    let mode = fs::metadata(folder.path().join("my archive/runs/r.json")).unwrap().permissions().mode();
    let reference = folder.path().join("reference");
    fs::write(&reference, "").unwrap();
    assert_eq!(
        mode,
        fs::metadata(reference).unwrap().permissions().mode(),
        "files have the user's usual mode"
    );
}

#[tokio::test]
async fn says_what_is_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let inside_file = LocalStorage::new(file.join("archive"));
    for error in [
        inside_file.check().await.unwrap_err(),
        LocalStorage::new(file.clone()).check().await.unwrap_err(),
        inside_file.put("a", Bytes::new(), PutMode::Overwrite).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::InvalidUri, "{error}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
    let store = LocalStorage::new(folder.path().join("archive"));
    store.put("a/b", Bytes::new(), PutMode::Overwrite).await.unwrap();
    for (key, mode) in [("a", PutMode::Overwrite), ("a", PutMode::IfAbsent), ("a/b/c", PutMode::IfAbsent)] {
        assert_eq!(store.put(key, Bytes::new(), mode).await.unwrap_err().kind(), Kind::InvalidUri, "{key}");
    }
    assert_eq!(store.get("a", 1).await.unwrap_err().kind(), Kind::NotFound, "a folder is no object");
    assert_eq!(store.head("a").await.unwrap_err().kind(), Kind::NotFound, "a folder is no object");
    let long = "x".repeat(300);
    assert_eq!(
        store.put(&long, Bytes::new(), PutMode::Overwrite).await.unwrap_err().kind(),
        Kind::InvalidUri
    );
}

#[tokio::test]
async fn leaves_no_trace_of_an_unfinished_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStorage::new(folder.path().to_owned());
    // What a killed process leaves on file systems that know no nameless files.
    fs::write(folder.path().join(".captionfleet-x1y2z3"), "half").unwrap();
    fs::write(folder.path().join("whole"), "whole").unwrap();
    let listed: Vec<_> = store.list("").try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["whole"]);
    assert_eq!(store.get(".captionfleet-x1y2z3", 10).await.unwrap_err().kind(), Kind::InvalidUri);
}

#[tokio::test]
async fn follows_links_to_folders_but_not_in_circles() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("archive/parts")).unwrap();
    fs::create_dir_all(folder.path().join("elsewhere")).unwrap();
    fs::write(folder.path().join("elsewhere/a"), "x").unwrap();
    symlink(folder.path().join("elsewhere"), folder.path().join("archive/parts/linked")).unwrap();
    symlink(folder.path().join("archive"), folder.path().join("archive/parts/circle")).unwrap();
    symlink(folder.path().join("nowhere"), folder.path().join("archive/dangling")).unwrap();
    let store = LocalStorage::new(folder.path().join("archive"));
    let listed: Vec<_> = store.list("").try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["parts/linked/a"]);
}

/// Reads `path` under `roots`, and fails if that takes long.
async fn read(path: &Path, max_bytes: u64, roots: LocalRoots) -> Result<Bytes, StorageError> {
    let stores = Stores::new(StorageOptions { local_roots: roots, ..StorageOptions::default() });
    let began = Instant::now();
    let item = ItemUri::from_path(path).unwrap();
    let reading = stores.read_item(&item, max_bytes);
    let object = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("reading must not hang");
    assert!(began.elapsed() < Duration::from_secs(5), "reading must not flood");
    object.map(|object| object.bytes)
}

#[tokio::test]
async fn reads_regular_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ä b%20#?.jpg");
    fs::write(&file, "picture").unwrap();
    assert_eq!(read(&file, 7, LocalRoots::Any).await.unwrap(), "picture");
    assert_eq!(read(&file, 6, LocalRoots::Any).await.unwrap_err().kind(), Kind::TooLarge);
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let socket = folder.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for special in [&pipe, &socket, Path::new("/dev/zero"), Path::new("/dev/null")] {
        for roots in [LocalRoots::Any, LocalRoots::Only(vec![special.parent().unwrap().to_owned()])] {
            assert_eq!(read(special, 1 << 40, roots).await.unwrap_err().kind(), Kind::Refused, "{special:?}");
        }
    }
    assert_eq!(read(folder.path(), 100, LocalRoots::Any).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(read(&file.join("x"), 100, LocalRoots::Any).await.unwrap_err().kind(), Kind::NotFound);
    // A file that says it is empty and is not.
    let endless = Path::new("/proc/self/maps");
    if endless.exists() {
        assert_eq!(read(endless, 10, LocalRoots::Any).await.unwrap_err().kind(), Kind::TooLarge);
        assert!(!read(endless, 1 << 24, LocalRoots::Any).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn reads_below_the_allowed_folders_only() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
    for place in [&inside, &outside] {
        fs::create_dir(place).unwrap();
        fs::write(place.join("a"), place.file_name().unwrap().as_encoded_bytes()).unwrap();
    }
    fs::create_dir(folder.path().join("inside-too")).unwrap();
    fs::write(folder.path().join("inside-too/a"), "x").unwrap();
    symlink(outside.join("a"), inside.join("escape")).unwrap();
    symlink(&outside, inside.join("folder-escape")).unwrap();
    symlink("../out/a", inside.join("relative-escape")).unwrap();
    symlink("a", inside.join("relative")).unwrap();
    symlink(inside.join("a"), inside.join("absolute")).unwrap();
    symlink(inside.join("a"), outside.join("into")).unwrap();
    symlink(&inside, folder.path().join("root-link")).unwrap();
    for root in [inside.clone(), folder.path().join("root-link")] {
        let only = || LocalRoots::Only(vec![folder.path().join("nowhere"), root.clone()]);
        for good in [inside.join("a"), inside.join("relative"), inside.join("absolute"), outside.join("into")]
        {
            assert_eq!(read(&good, 10, only()).await.unwrap(), "in", "{good:?}");
        }
        for bad in [
            outside.join("a"),
            inside.join("escape"),
            inside.join("folder-escape/a"),
            inside.join("relative-escape"),
            folder.path().join("inside-too/a"),
            outside.join("missing"),
        ] {
            assert_eq!(read(&bad, 10, only()).await.unwrap_err().kind(), Kind::Refused, "{bad:?}");
        }
    }
    let only = LocalRoots::Only(vec![inside.clone()]);
    assert_eq!(read(&inside.join("missing"), 10, only).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(read(&inside.join("a"), 10, LocalRoots::None).await.unwrap_err().kind(), Kind::Refused);
    assert_eq!(read(&inside.join("escape"), 10, LocalRoots::Any).await.unwrap(), "out");
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
