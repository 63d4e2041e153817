//! What players are told of films, and that rows do not wait for it.

use crate::desk::{Desk, below};
use crate::faltering::Faltering;
use captionfleet_dispatcher::archive;
use captionfleet_dispatcher::conduct::{TrackWriter, Way};
use captionfleet_dispatcher::ledger::Unwatched;
use captionfleet_dispatcher::progress::Display;
use captionfleet_dispatcher::publish::Gate;
use captionfleet_dispatcher::telemetry::Metrics;
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_proto::uri::ArchiveUri;
use captionfleet_worker::telemetry::readiness::Readiness;
use captionfleet_world::film::of_scenes;
use captionfleet_world::{Scene, Split};
use prometheus::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn film(desk: &Desk) {
    let scenes = (0..2).map(|number| Scene::sample(7000 + number, Split::Train));
    of_scenes(scenes, 4, &desk.root().join("frames"), &desk.pictures().join("film.mp4")).unwrap();
}

#[test]
fn captions_that_cannot_be_written_cost_a_run_nothing_and_stay_owed() {
    let desk = Desk::new();
    film(&desk);
    std::fs::create_dir(desk.archive()).unwrap();
    std::fs::write(desk.archive().join("videos"), "in the way").unwrap();
    let ran = desk.caption(&[]);
    assert!(ran.stderr.contains("captions of the videos of run"), "{}", ran.stderr);
    let report = ran.json();
    assert_eq!(report["complete"], true, "{report}");
    assert!(report["ok"].as_u64().unwrap() >= 2 && report["bill"].is_object(), "{report}");
    std::fs::remove_file(desk.archive().join("videos")).unwrap();
    let again = desk.run(["caption", "pictures", "--archive", "archive"]);
    assert!(again.code == 0 && again.stdout.starts_with("nothing to do"), "{}", again.stdout);
    assert!(again.stdout.lines().any(|line| line.starts_with("tracks ")), "{}", again.stdout);
    assert_eq!(below(&desk.archive().join("videos")).len(), 3);
}

#[tokio::test]
async fn who_wants_to_stop_does_not_wait_for_tracks() {
    let desk = Desk::new();
    film(&desk);
    desk.caption(&[]).json();
    std::fs::remove_dir_all(desk.archive().join("videos")).unwrap();
    let uri = ArchiveUri::from_folder(&desk.archive()).unwrap();
    let store = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
    let (manifests, _) = archive::manifests(&*store).await.unwrap();
    // Told to stop at the first write, which never comes to an end.
    let stop = CancellationToken::new();
    let way = Way {
        detach: false,
        by_service: false,
        display: Display::Quiet,
        stop: stop.clone(),
        metrics: Metrics::new(Registry::new()).unwrap(),
        readiness: Readiness::waiting_for(["broker"]),
        gate: Arc::new(Gate::open()),
        watcher: Arc::new(Unwatched),
    };
    let archive = Arc::new(Faltering::hanging(stop, store));
    let writer = TrackWriter { archive, location: uri.to_string(), way: &way };
    let written = tokio::time::timeout(Duration::from_secs(60), writer.write_owed(&manifests)).await;
    assert_eq!(written.expect("it stops"), Vec::<String>::new());
}
