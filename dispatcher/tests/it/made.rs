//! Archives whose rows no run of the demo model would make.

use captionfleet_dispatcher::config::FleetSettings;
use captionfleet_dispatcher::config::serve_args::SourceRules;
use captionfleet_dispatcher::fleet::Fleet;
use captionfleet_dispatcher::index::{Indexer, Opened, Ready, Shelf};
use captionfleet_dispatcher::serve::Ground;
use captionfleet_proto::job::{JobId, RunId};
use captionfleet_proto::layout;
use captionfleet_proto::rows::{EmbeddingShape, Row, Status, write_part};
use captionfleet_proto::storage::{StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use half::f16;
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Values of an embedding.
const DIM: usize = 8;

/// An archive in a folder.
pub(crate) struct Made {
    folder: tempfile::TempDir,
    shelf: Arc<Shelf>,
}

impl Made {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let uri = ArchiveUri::from_folder(folder.path()).unwrap();
        let archive = Stores::new(StorageOptions::default()).archive(&uri).await.unwrap();
        Self { folder, shelf: Arc::new(Shelf::new(archive, &uri)) }
    }

    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// A part of `run` with these rows.
    pub(crate) fn part(&self, run: &str, job: &str, rows: Vec<Row>) {
        let (run, job) = (RunId::new(run).unwrap(), JobId::new(job).unwrap());
        let of_job = |row| Row { run: run.clone(), job: job.clone(), ..row };
        let rows: Vec<Row> = rows.into_iter().map(of_job).collect();
        let dim = rows.iter().find_map(|row| row.embedding.as_ref()).map_or(DIM, Vec::len);
        let shape = EmbeddingShape { vectors: 1, dim: dim as u32 };
        let path = self.path(&run, &job);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, write_part(&rows, shape).unwrap()).unwrap();
    }

    /// Where that part lies.
    fn path(&self, run: &RunId, job: &JobId) -> PathBuf {
        self.folder.path().join(layout::part(run, job))
    }

    pub(crate) fn remove_part(&self, run: &str, job: &str) {
        let path = self.path(&RunId::new(run).unwrap(), &JobId::new(job).unwrap());
        std::fs::remove_file(path).unwrap();
    }

    /// Takes in all parts.
    pub(crate) async fn index(&self) {
        let mut indexer = Indexer::new(self.shelf.clone());
        let done = indexer.catch_up(CancellationToken::new(), true, Arc::new(|_, _| ())).await.unwrap();
        assert_eq!((done.left, done.damaged), (0, 0));
    }

    /// Takes in parts until one segment is written.
    pub(crate) async fn index_a_little(&self) {
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let progress = move |_, done| {
            if done > 0 {
                stopping.cancel();
            }
        };
        Indexer::new(self.shelf.clone()).catch_up(stop, true, Arc::new(progress)).await.unwrap();
    }

    /// What a service over it stands on.
    pub(crate) async fn ground(&self) -> Ground {
        let uri = ArchiveUri::from_folder(self.folder.path()).unwrap();
        let stores = Arc::new(Stores::new(StorageOptions::default()));
        let settings = FleetSettings {
            broker: Vec::new(),
            queue_prefix: "made".to_owned(),
            storage: StorageOptions::default(),
            model: None,
        };
        Ground {
            archive: stores.archive(&uri).await.unwrap(),
            patient: stores.archive(&uri).await.unwrap(),
            patient_stores: Stores::new(StorageOptions::default()),
            fleet: Fleet::embedded(&settings, stores).await.unwrap(),
            uri,
            settings,
            bundle: None,
            embeds: true,
            is_demo: false,
            shelf: self.shelf.clone(),
            sources: SourceRules::Any,
            price_per_hour: None,
        }
    }

    pub(crate) async fn open(&self, space: Option<&str>) -> Opened {
        Ready::open(&self.shelf, space).await.unwrap()
    }

    pub(crate) async fn ready(&self, space: Option<&str>) -> Arc<Ready> {
        match self.open(space).await {
            Opened::Ready(ready) => ready,
            other => panic!("{other:?}"),
        }
    }
}

/// A captioned picture, embedded in `space`, that was done at a second.
pub(crate) fn row(item: &str, space: &str, second: i64) -> Row {
    let mut embedding = vec![f16::ZERO; DIM];
    embedding[0] = f16::ONE;
    Row {
        item: ItemUri::s3("pictures", item),
        frame_ms: None,
        span_ms: None,
        frames: None,
        sha256: Some("0".repeat(64)),
        etag: None,
        width: Some(640),
        height: Some(480),
        status: Status::Ok,
        error_code: None,
        error_message: None,
        attempts: 1,
        caption: Some(format!("what {space} said at {second}")),
        answers: None,
        fields: None,
        tokens: Some(5),
        mean_logprob: Some(-0.1),
        stop_reason: Some("end_of_text".to_owned()),
        embedding: Some(embedding),
        embedding_space: Some(space.to_owned()),
        bundle: Some(space.to_owned()),
        adapter: None,
        prompt_hash: "0".repeat(16),
        duplicate_of: None,
        run: RunId::new("made").unwrap(),
        job: JobId::new("made").unwrap(),
        trace_id: "made".to_owned(),
        worker: None,
        device_seconds: None,
        device_joules: None,
        started_at: None,
        finished_at: Timestamp::from_second(second).unwrap(),
    }
}
