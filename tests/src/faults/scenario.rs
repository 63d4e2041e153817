//! One case's fleet: its services, its workers, its run, and the oracle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use captionfleet_proto::broker::rabbitmq::{RabbitMq, RabbitMqOptions};
use captionfleet_proto::broker::{Broker, Message, QueueName, Topology};
use captionfleet_proto::job::{CaptionJob, Job, JobId, JobItem, Lane, RunId};
use captionfleet_proto::rows::{Projection, Row, read_part};
use captionfleet_proto::storage::{Storage, StorageOptions, Stores};
use captionfleet_proto::uri::{ArchiveUri, ItemUri};
use captionfleet_proto::{codec, layout};
use futures::TryStreamExt;
use serde_json::Value;
use tokio::time::timeout;

use super::corpus::{Corpus, file_name};
use super::member::{Member, descriptors, resident_mib, wait_for};
use crate::fleet::{Endpoints, Fleet, dispatcher};
use crate::sandbox::{BUCKET, Child, free_port};

/// The largest object of an archive that is read back.
const MAX_OBJECT: u64 = 256 << 20;

/// How long it takes at most until nothing waits any more after the run.
const QUIET: Duration = Duration::from_secs(60);

/// Descriptors that a worker with nothing to do has at the most: its runtime, its admin port, its connection to the broker.
/// Connections to S3 are closed when they have been idle for a while.
const DESCRIPTORS_AT_REST: usize = 40;

/// Resident memory of a worker with the demo model and few slots that has worked, in MiB.
const MEMORY_AT_REST: u64 = 192;

/// What differs from an undisturbed run.
#[derive(Debug, Default)]
pub struct Expected {
    /// Files that have a failed row, with its code.
    pub failed: BTreeMap<String, &'static str>,
    /// Reasons of dead letters, with how many there are.
    pub dead: BTreeMap<String, usize>,
}

/// The fleet of one case.
pub struct Scenario {
    /// Its share of the services.
    pub fleet: Fleet,
    /// The known pictures.
    pub corpus: Arc<Corpus>,
    /// Names of the pictures of this case.
    pub files: Vec<String>,
    /// A connection of the test's own, past every fault.
    pub broker: Arc<dyn Broker>,
    /// The names of the queues.
    pub topology: Topology,
    stores: Stores,
    /// Every worker that was started.
    workers: Mutex<Vec<u32>>,
}

impl Scenario {
    /// A case with the first `count` pictures of `corpus`, on the test command's services.
    ///
    /// # Errors
    /// When the services are not there.
    pub async fn new(case: &str, corpus: Arc<Corpus>, count: usize) -> anyhow::Result<Self> {
        Self::at(case, corpus, count, Endpoints::from_environment()?).await
    }

    /// The same on other services.
    ///
    /// # Errors
    /// When they are not there.
    pub async fn at(
        case: &str,
        corpus: Arc<Corpus>,
        count: usize,
        endpoints: Endpoints,
    ) -> anyhow::Result<Self> {
        let stores = Stores::new(StorageOptions {
            s3_endpoint: Some(endpoints.s3.clone()),
            ..StorageOptions::default()
        });
        let fleet = Fleet::at(endpoints, BTreeMap::new(), case)?;
        let files = corpus.take(count, &fleet.folder().join("in"))?;
        let topology = Topology::with_prefix(fleet.queue_prefix())?;
        let mut options = RabbitMqOptions::new(RabbitMqOptions::split_uris(fleet.broker()), topology.clone());
        "the test's oracle".clone_into(&mut options.connection_name);
        let broker: Arc<dyn Broker> = Arc::new(RabbitMq::connect(options).await?);
        broker.declare().await?;
        Ok(Self { fleet, corpus, files, broker, topology, stores, workers: Mutex::default() })
    }

    /// The archive of the case.
    #[must_use]
    pub fn archive(&self) -> String {
        self.fleet.s3_uri("archive")
    }

    /// The lane of bulk work.
    #[must_use]
    pub fn lane(&self) -> QueueName {
        self.topology.lane_queue(Lane::Bulk)
    }

    /// Starts a worker on the case's services.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn worker(&self, name: &str, options: &[&str]) -> anyhow::Result<Member> {
        self.worker_through(self.fleet.endpoints(), name, options)
    }

    /// Starts a worker that reaches the services by other ways.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn worker_through(
        &self,
        services: &Endpoints,
        name: &str,
        options: &[&str],
    ) -> anyhow::Result<Member> {
        let admin = free_port()?;
        let address = format!("127.0.0.1:{admin}");
        let few: &[&str] = if options.contains(&"--slots") { &[] } else { &["--slots", "4"] };
        let options = [few, options].concat();
        let child = self.fleet.start_worker_through(services, name, &address, &options)?;
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(child.pid());
        Ok(Member::new(child, admin))
    }

    /// The arguments of the run over this case's pictures.
    #[must_use]
    pub fn caption_arguments(&self, options: &[&str]) -> Vec<String> {
        self.caption_arguments_at(self.fleet.endpoints(), options)
    }

    fn caption_arguments_at(&self, services: &Endpoints, options: &[&str]) -> Vec<String> {
        let source = self.fleet.folder().join("in").display().to_string();
        let mut arguments = vec!["caption".to_owned(), source, "--archive".to_owned(), self.archive()];
        arguments.push("--json".to_owned());
        arguments.extend(self.fleet.options_at(services));
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        arguments
    }

    /// Starts the run as a process beside the test.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn caption(&self, name: &str, options: &[&str]) -> anyhow::Result<Child> {
        self.fleet.start_dispatcher(name, self.caption_arguments(options))
    }

    /// Starts the run as a process that reaches the services by other ways.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn caption_through(
        &self,
        services: &Endpoints,
        name: &str,
        options: &[&str],
    ) -> anyhow::Result<Child> {
        self.fleet.start_dispatcher(name, self.caption_arguments_at(services, options))
    }

    /// Waits for a run to end well.
    ///
    /// # Errors
    /// Holds what it printed otherwise.
    pub async fn finish(&self, mut run: Child, limit: Duration) -> anyhow::Result<()> {
        let status = run.wait(limit).await?;
        anyhow::ensure!(status.success(), "the dispatcher ended with {status}:\n{}", run.output());
        Ok(())
    }

    /// A job over some of the case's pictures, for cases that publish by themselves. The pictures are put into the
    /// bucket first.
    ///
    /// # Errors
    /// When the bucket cannot be written.
    pub async fn job(&self, id: &str, files: &[String]) -> anyhow::Result<Job> {
        let bucket = self.stores.bucket(BUCKET).await?;
        let mut items = Vec::new();
        for name in files {
            let key = format!("{}/in/{name}", self.fleet.queue_prefix());
            let bytes = std::fs::read(self.fleet.folder().join("in").join(name))?;
            bucket.put(&key, bytes.into(), captionfleet_proto::storage::PutMode::Overwrite).await?;
            items.push(JobItem::new(ItemUri::s3(BUCKET, &key)));
        }
        let archive = ArchiveUri::parse(&self.archive())?;
        Ok(Job::caption(JobId::new(id)?, RunId::new("by-hand")?, archive, CaptionJob::new(items)))
    }

    /// Puts an object into the bucket, below this case's prefix.
    ///
    /// # Errors
    /// When the bucket cannot be written.
    pub async fn put_beside(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<String> {
        let bucket = self.stores.bucket(BUCKET).await?;
        let key = format!("{}/{name}", self.fleet.queue_prefix());
        bucket.put(&key, bytes.into(), captionfleet_proto::storage::PutMode::Overwrite).await?;
        Ok(self.fleet.s3_uri(name))
    }

    /// Publishes a job to the bulk lane.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub async fn publish(&self, job: &Job) -> anyhow::Result<()> {
        self.publish_after(0, job).await
    }

    /// The same for a job that has been tried so often before.
    ///
    /// # Errors
    /// As above.
    pub async fn publish_after(&self, attempts: u32, job: &Job) -> anyhow::Result<()> {
        let mut message = Message::new(job.id.as_str(), codec::encode_job(job)?);
        message.attempts = attempts;
        Ok(self.broker.publish(&self.lane(), message).await?)
    }

    /// The archive, past every fault.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn storage(&self) -> anyhow::Result<Arc<dyn Storage>> {
        Ok(self.stores.archive(&ArchiveUri::parse(&self.archive())?).await?)
    }

    /// Keys of the parts that exist.
    ///
    /// # Errors
    /// When the archive cannot be listed.
    pub async fn parts(&self) -> anyhow::Result<Vec<String>> {
        let storage = self.storage().await?;
        let prefix = layout::parts_prefix(None);
        let parts: Vec<_> = storage.list(&prefix).try_collect().await?;
        Ok(parts.into_iter().map(|part| part.key).collect())
    }

    /// Removes the parts of a run, so that the oracle does not see them.
    ///
    /// # Errors
    /// When the archive cannot be changed.
    pub async fn forget_run(&self, run: &str) -> anyhow::Result<()> {
        let storage = self.storage().await?;
        for key in self.parts().await? {
            if key.contains(&format!("/{run}/")) {
                storage.delete(&key).await?;
            }
        }
        Ok(())
    }

    /// Waits until at least `count` parts exist.
    ///
    /// # Errors
    /// When they do not within two minutes.
    pub async fn wait_for_parts(&self, count: usize) -> anyhow::Result<()> {
        wait_for(&format!("{count} parts"), Duration::from_secs(120), || async {
            self.parts().await.is_ok_and(|parts| parts.len() >= count)
        })
        .await
    }

    /// Every row of the archive.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub async fn rows(&self) -> anyhow::Result<Vec<Row>> {
        Self::rows_of(self.storage().await?.as_ref()).await
    }

    /// Every row of any archive.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub async fn rows_of(archive: &dyn Storage) -> anyhow::Result<Vec<Row>> {
        let parts: Vec<_> = archive.list(&layout::parts_prefix(None)).try_collect().await?;
        let mut rows = Vec::new();
        for part in parts {
            rows.extend(read_part(archive.get(&part.key, MAX_OBJECT).await?.bytes, Projection::All)?);
        }
        Ok(rows)
    }

    /// The oracle: one row for every picture and no other, rows equal to the undisturbed ones except where expected,
    /// queues empty, dead letters exactly the expected ones, no marker and no temporary file left, and the workers that are
    /// alive back to the memory and descriptors of one that has nothing to do.
    ///
    /// # Errors
    /// Says what is not as it must be.
    pub async fn judge(&self, expected: &Expected) -> anyhow::Result<()> {
        self.judge_rows(expected).await?;
        self.judge_queues(expected).await?;
        let storage = self.storage().await?;
        for prefix in ["quarantine/", "unfinished/"] {
            let kept: Vec<_> = storage.list(prefix).try_collect().await?;
            anyhow::ensure!(kept.is_empty(), "{prefix} is not empty: {kept:?}");
        }
        let left: Vec<_> = std::fs::read_dir(self.fleet.temporary())?.flatten().collect();
        anyhow::ensure!(left.is_empty(), "temporary files were left: {left:?}");
        self.judge_processes().await
    }

    async fn judge_processes(&self) -> anyhow::Result<()> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pid in workers {
            wait_for(&format!("worker {pid} to close what it opened"), QUIET, || async {
                descriptors(pid) <= DESCRIPTORS_AT_REST
            })
            .await
            .with_context(|| format!("it has {} descriptors", descriptors(pid)))?;
            let resident = resident_mib(pid);
            anyhow::ensure!(resident <= MEMORY_AT_REST, "worker {pid} holds {resident} MiB");
        }
        Ok(())
    }

    async fn judge_rows(&self, expected: &Expected) -> anyhow::Result<()> {
        let mut seen = BTreeMap::new();
        for row in self.rows().await? {
            let name = file_name(row.item.as_str()).to_owned();
            if let Some(earlier) = seen.insert(name, row) {
                anyhow::bail!("{} has two rows", earlier.item);
            }
        }
        for name in &self.files {
            let row = seen.remove(name).with_context(|| format!("{name} has no row"))?;
            let code = row.error_code.as_deref();
            anyhow::ensure!(
                code == expected.failed.get(name).copied(),
                "{name} is {} {code:?}: {:?}",
                row.status.as_str(),
                row.error_message
            );
            let wanted = &self.corpus.rows()[name];
            if code.is_none() {
                anyhow::ensure!(
                    row.caption == wanted.caption && row.embedding == wanted.embedding,
                    "{name} says {:?}, undisturbed it says {:?} (embeddings equal: {})",
                    row.caption,
                    wanted.caption,
                    row.embedding == wanted.embedding
                );
            }
        }
        anyhow::ensure!(seen.is_empty(), "rows of nothing: {:?}", seen.keys());
        Ok(())
    }

    async fn judge_queues(&self, expected: &Expected) -> anyhow::Result<()> {
        let dead_queue = self.topology.dead_queue();
        let waiting = self.topology.queues().into_iter().map(|queue| queue.name);
        let waiting = waiting.filter(|name| *name != dead_queue && *name != self.topology.results_queue());
        for name in waiting {
            // Jobs that were published twice are found done one after the other.
            wait_for(&format!("{name} to be empty"), QUIET, || async {
                self.broker.depth(&name).await.is_ok_and(|depth| depth.messages == 0)
            })
            .await?;
        }
        let mut dead = BTreeMap::new();
        for message in self.drain(&dead_queue).await? {
            let reason = message.dead.map_or_else(|| "none".to_owned(), |reason| reason.code);
            *dead.entry(reason).or_insert(0) += 1;
        }
        anyhow::ensure!(dead == expected.dead, "dead letters {dead:?}, expected {:?}", expected.dead);
        Ok(())
    }

    /// Takes every message out of a queue that nobody else consumes.
    ///
    /// # Errors
    /// When the queue cannot be consumed.
    pub async fn drain(&self, queue: &QueueName) -> anyhow::Result<Vec<Message>> {
        let waiting = self.broker.depth(queue).await?.messages as usize;
        let mut consumer = self.broker.consume(queue, 50).await?;
        let mut messages = Vec::new();
        loop {
            // What the broker has counted is waited for, however large it is; silence ends only what it has not.
            let silence = if messages.len() < waiting { 60_000 } else { 500 };
            let Ok(delivery) = timeout(Duration::from_millis(silence), consumer.next()).await else { break };
            let Some(delivery) = delivery? else { break };
            messages.push(delivery.message.clone());
            delivery.ack().await?;
        }
        Ok(messages)
    }

    /// What `dispatcher verify` says; it must be content.
    ///
    /// # Errors
    /// When it is not.
    pub async fn verify(&self) -> anyhow::Result<Value> {
        let archive = self.archive();
        let s3 = self.fleet.s3_endpoint();
        dispatcher(["verify", "--archive", &archive, "--s3-endpoint", s3, "--json"]).await?.success()?.json()
    }
}
