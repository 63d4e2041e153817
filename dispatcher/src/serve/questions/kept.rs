//! Embeddings of the queries asked last: asking the same again costs no job.

use crate::search::query::{Embedded, Wanted};
use crate::serve::http::problem::Problem;
use captionfleet_proto::job::Query;
use lru::LruCache;
use prometheus::{IntCounterVec, Opts, Registry};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// Embeddings that are kept: 64 MB where all are pictures of the published size.
const KEPT: NonZeroUsize = NonZeroUsize::new(2000).expect("it is not 0");
/// How long: workers may be given another model.
const FRESH: Duration = Duration::from_mins(10);

/// What tells one query from all others: the bundle that must answer, where one is known and with it the embedding space, the
/// space that is wanted, and the text or the picture's digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    bundle: Option<String>,
    space: Option<String>,
    query: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Text(String),
    Picture(String),
}

impl Key {
    /// `None` for a picture of unknown content.
    pub(super) fn of(wanted: &Wanted, query: &Query) -> Option<Self> {
        let query = match query {
            Query::Text { text } => Name::Text(text.clone()),
            Query::Image { item } => Name::Picture(item.sha256.clone()?),
        };
        Some(Self { bundle: wanted.bundle.clone(), space: wanted.space.clone(), query })
    }
}

#[derive(Debug, Clone)]
struct Entry {
    since: Instant,
    embedded: Arc<OnceCell<Embedded>>,
}

/// The embeddings, the least recently used of which go first.
#[derive(Debug)]
pub(super) struct Kept {
    entries: Mutex<LruCache<Key, Entry>>,
    lookups: IntCounterVec,
}

impl Kept {
    /// Nothing yet; counts hits and misses in `registry`.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let lookups = IntCounterVec::new(
            Opts::new(
                "captionfleet_service_query_embeddings_total",
                "Query embeddings that were needed, by whether they were known (hit) or a worker was asked (miss).",
            ),
            &["cache"],
        )?;
        for outcome in ["hit", "miss"] {
            lookups.with_label_values(&[outcome]);
        }
        registry.register(Box::new(lookups.clone()))?;
        Ok(Self { entries: Mutex::new(LruCache::new(KEPT)), lookups })
    }

    /// What is known, or what `ask` says. Whoever wants the same at the same time waits for one answer; if its asker leaves,
    /// the next one asks.
    pub(super) async fn get_or_ask<F>(&self, key: Key, ask: impl FnOnce() -> F) -> Result<Embedded, Problem>
    where
        F: Future<Output = Result<Embedded, Problem>>,
    {
        let cell = self.cell(key);
        let mut outcome = "hit";
        let embedded = cell
            .get_or_try_init(|| {
                outcome = "miss";
                ask()
            })
            .await
            .cloned();
        self.lookups.with_label_values(&[outcome]).inc();
        embedded
    }

    fn cell(&self, key: Key) -> Arc<OnceCell<Embedded>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&key)
            && entry.since.elapsed() < FRESH
        {
            return entry.embedded.clone();
        }
        let entry = Entry { since: Instant::now(), embedded: Arc::default() };
        entries.put(key, entry.clone());
        entry.embedded
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{KEPT, Kept, Key};
    use crate::search::query::{Embedded, Wanted};
    use crate::serve::http::problem::Problem;
    use captionfleet_proto::job::Query;
    use prometheus::Registry;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn text(text: &str) -> Key {
        Key::of(&Wanted::default(), &Query::Text { text: text.to_owned() }).unwrap()
    }

    /// Counts how often it is asked.
    #[derive(Default)]
    struct Worker(AtomicUsize);

    impl Worker {
        async fn embed(&self) -> Result<Embedded, Problem> {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(Embedded { vectors: vec![vec![asked as f32]], space: "space".to_owned() })
        }

        fn asked(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn the_same_is_asked_once_also_at_the_same_time() {
        let (kept, worker) = (Kept::new(&Registry::new()).unwrap(), Worker::default());
        let get = async |name: &str| kept.get_or_ask(text(name), || worker.embed()).await.unwrap();
        let (one, other) = tokio::join!(get("a boat"), get("a boat"));
        assert_eq!((one.vectors, worker.asked()), (other.vectors, 1));
        assert_eq!(get("a boat").await.vectors, vec![vec![0.0]]);
        assert_eq!(get("two boats").await.vectors, vec![vec![1.0]]);
        let count = |outcome| kept.lookups.with_label_values(&[outcome]).get();
        assert_eq!((count("hit"), count("miss")), (2, 2));
        let boat = Query::Text { text: "a boat".to_owned() };
        let bundle = Wanted { bundle: Some("another".to_owned()), space: None };
        let space = Wanted { bundle: None, space: Some("another".to_owned()) };
        for (wanted, asked) in [(bundle, 3), (space, 4)] {
            kept.get_or_ask(Key::of(&wanted, &boat).unwrap(), || worker.embed()).await.unwrap();
            assert_eq!(worker.asked(), asked, "another bundle may have another space");
        }
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_first_and_faults_are_not_kept() {
        let (kept, worker) = (Kept::new(&Registry::new()).unwrap(), Worker::default());
        let get = async |name: &str| kept.get_or_ask(text(name), || worker.embed()).await.unwrap();
        let failed = kept.get_or_ask(text("often"), || async { Err(Problem::missing("nobody")) }).await;
        assert!(failed.is_err());
        get("often").await;
        get("once").await;
        for number in 0..KEPT.get() - 1 {
            get(&number.to_string()).await;
            get("often").await;
        }
        let asked = worker.asked();
        get("often").await;
        assert_eq!(worker.asked(), asked);
        get("once").await;
        assert_eq!(worker.asked(), asked + 1, "it has made room for others");
    }

    #[tokio::test]
    async fn when_the_one_who_asked_leaves_the_next_one_asks() {
        let (kept, worker) = (Kept::new(&Registry::new()).unwrap(), Worker::default());
        let never = kept.get_or_ask(text("a boat"), std::future::pending);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(5), never).await;
        assert!(waited.is_err());
        kept.get_or_ask(text("a boat"), || worker.embed()).await.unwrap();
        assert_eq!(worker.asked(), 1);
    }
}
