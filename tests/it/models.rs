//! Models in a bucket: fetched once, checked on the way, kept by content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use captionfleet_proto::storage::PutMode;
use captionfleet_tests::fleet::{Endpoints, Fleet, Ran, worker};

/// A fleet whose programs keep what they fetch in `cache`.
fn fleet(name: &str, cache: &Path) -> Fleet {
    let environment = BTreeMap::from([("CAPTIONFLEET_CACHE", cache.display().to_string())]);
    Fleet::at(Endpoints::from_environment().unwrap(), environment, name).unwrap()
}

/// What `worker doctor` says about a model.
async fn doctor(fleet: &Fleet, model: &str) -> Ran {
    fleet.worker(["doctor", "--model", model, "--s3-endpoint", fleet.s3_endpoint()]).await.unwrap()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_a_bucket_is_fetched_once_and_checked() {
    let cache = tempfile::tempdir().unwrap();
    let fleet = fleet("models", cache.path());
    let store = fleet.objects("models").await.unwrap();
    let local = fleet.folder().join("local");
    for form in ["folder", "file.tar"] {
        let out = local.join(form);
        worker(["random-bundle", "--small", "--out", out.to_str().unwrap()])
            .await
            .unwrap()
            .success()
            .unwrap();
    }
    let mut keys = vec!["file.tar".to_owned()];
    for path in files_below(&local.join("folder")) {
        keys.push(format!("folder/{}", path.file_name().unwrap().display()));
    }
    for key in &keys {
        store.put_file(key, &local.join(key)).await.unwrap();
    }

    let says_its_tokens = |told: &Ran| told.stdout.contains("says its golden tokens");
    for form in ["folder", "file.tar"] {
        let told = doctor(&fleet, &fleet.s3_uri(&format!("models/{form}"))).await;
        assert!(says_its_tokens(&told), "{form}: {}{}", told.stdout, told.stderr);
    }
    let kept = files_below(cache.path());
    assert_eq!(kept.len(), keys.len(), "{kept:?}");

    // Copies that have rotted are fetched once more, whether it shows when they are opened or when the weights are read.
    let damages: [fn(&mut Vec<u8>); 2] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
    ];
    let weighty = |path: &&PathBuf| path.ends_with("weights.gguf") || path.extension().unwrap() == "tar";
    for copy in kept.iter().filter(weighty) {
        let whole = std::fs::read(copy).unwrap();
        let form = if copy.ends_with("weights.gguf") { "folder" } else { "file.tar" };
        for damage in damages {
            let mut damaged = whole.clone();
            damage(&mut damaged);
            std::fs::write(copy, damaged).unwrap();
            let told = doctor(&fleet, &fleet.s3_uri(&format!("models/{form}"))).await;
            assert!(says_its_tokens(&told), "{form}: {}{}", told.stdout, told.stderr);
            assert!(std::fs::read(copy).unwrap() == whole, "{form}: the copy is whole again");
        }
    }

    // The weights are here: whoever starts again needs the manifest alone.
    let weights = "folder/weights.gguf";
    store.delete(weights).await.unwrap();
    let told = doctor(&fleet, &fleet.s3_uri("models/folder")).await;
    assert!(says_its_tokens(&told), "{}{}", told.stdout, told.stderr);

    // Somebody else, who fetches them when a bit of them has been flipped.
    let mut damaged = std::fs::read(local.join("folder/weights.gguf")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    store.put(weights, Bytes::from(damaged), PutMode::Overwrite).await.unwrap();
    let empty = tempfile::tempdir().unwrap();
    let newcomer = self::fleet("newcomer", empty.path());
    let told = doctor(&newcomer, &fleet.s3_uri("models/folder")).await;
    assert!(told.stdout.contains("weights.gguf is damaged") && told.code == 1, "{}", told.stdout);
    assert!(told.stdout.contains("/models/folder"), "{}", told.stdout);
    // What was right stays, and nothing half written.
    let right = |path: &PathBuf| {
        let name = path.file_name().unwrap();
        name != "weights.gguf" && local.join("folder").join(name).exists()
    };
    let kept = files_below(empty.path());
    assert!(kept.iter().all(right), "{kept:?}");
}
