#![allow(clippy::unwrap_used)]
use captionfleet_proto::storage::StorageOptions;

use super::*;

fn spool(max_bytes: u64) -> Spool {
    Spool::new(SpoolOptions { folder: None, max_bytes })
}

fn film(number: usize) -> ItemUri {
    ItemUri::s3("films", &format!("{number}.mp4"))
}

#[test]
fn a_copy_that_goes_leaves_others_of_the_same_object() {
    let (spool, folder) = (spool(100), tempfile::tempdir().unwrap());
    let copied = || {
        // A store that tells no version: nobody knows whether the two are the same.
        let copy = spool.find_or_add(&film(1), None, 50, folder.path()).unwrap();
        std::fs::write(&copy.path, b"film").unwrap();
        copy
    };
    let (first, second) = (copied(), copied());
    drop(first);
    let _other = spool.find_or_add(&film(2), None, 50, folder.path()).expect("the first one goes");
    assert!(second.path.exists());
    assert!(spool.find_or_add(&film(3), None, 50, folder.path()).is_none(), "both are in use");
}

#[tokio::test]
async fn few_files_are_remembered_that_nobody_uses() {
    let (spool, stores) = (spool(0), Stores::new(StorageOptions::default()));
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for number in 0..MOST_IDLE_FILES + 10 {
        let path = folder.path().join(format!("{number}.mp4"));
        std::fs::write(&path, b"film").unwrap();
        files.push(ItemUri::from_path(&path).unwrap());
    }
    let in_use = spool.open(&stores, &files[0]).await.unwrap();
    for file in &files {
        spool.open(&stores, file).await.unwrap();
    }
    assert_eq!(spool.lock().entries.len(), MOST_IDLE_FILES + 2, "the one in use, and the one just given out");
    assert!(Arc::ptr_eq(&in_use, &spool.open(&stores, &files[0]).await.unwrap()));
    let last = files.last().unwrap();
    let again = spool.open(&stores, last).await.unwrap();
    assert!(Arc::ptr_eq(&again, &spool.open(&stores, last).await.unwrap()), "asked for a moment ago");
    assert!(folder.path().join("0.mp4").exists(), "a file that was here before stays");
}
