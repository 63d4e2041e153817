//! Load tests: many items through the real programs, a real broker and an S3 server, with workers that look at nothing.
//!
//! What is left out, and only that: the model (`worker run --engine null --load-test`) and the store of the pictures, which
//! are made up when they are read. Dispatcher, queue, fetching, decoding, rows, parts and outcomes are those of any run.

mod bucket;
mod fairness;
mod peer;
mod run;
mod scaling;
mod simulation;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use captionfleet_proto::broker::rabbitmq::RabbitMq;
use captionfleet_proto::broker::{Broker, Topology};
use serde_json::Value;

pub use fairness::{Fairness, fairness};
pub use run::{Load, Ran, run};
pub use scaling::{Scaling, Step, scaling};
pub use simulation::{Burst, Course, Devices, Simulation, Trouble, simulation};

use self::bucket::MadeBucket;
use crate::faults::{Member, wait_for};
use crate::fleet::{Endpoints, Fleet};
use crate::sandbox::{ACCESS_KEY, BUCKET, RabbitMqNode, S3Server, SECRET_KEY, free_port};

/// How long a worker or a dispatcher may take to start.
const START: Duration = Duration::from_secs(120);
/// How long the largest run may take.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// The services of a load test, its own.
#[derive(Debug)]
pub struct Ground {
    rabbitmq: RabbitMqNode,
    s3: S3Server,
    bucket: PathBuf,
}

impl Ground {
    /// Starts a RabbitMQ node and an S3 server with their data below `root`.
    ///
    /// # Errors
    /// Names the service that did not start.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        let folder = root.join("s3");
        let bucket = folder.join(BUCKET);
        std::fs::create_dir_all(&bucket)?;
        let s3 = S3Server::serve(MadeBucket::over(&folder)?).await?;
        let rabbitmq = RabbitMqNode::start(&root.join("rabbitmq"), "captionfleet-load").await?;
        Ok(Self { rabbitmq, s3, bucket })
    }

    /// Stops them.
    pub async fn stop(self) {
        self.rabbitmq.stop().await;
        self.s3.stop().await;
    }

    /// The folder in which the S3 server keeps what is written.
    #[must_use]
    pub fn bucket_folder(&self) -> &Path {
        &self.bucket
    }

    /// A fleet on these services, with queues of its own.
    fn fleet(&self, name: &str) -> anyhow::Result<Fleet> {
        let endpoints = Endpoints { broker: self.rabbitmq.uri(), s3: self.s3.endpoint() };
        let environment = BTreeMap::from([
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            // A line for every job would be written a million times, and mean nothing.
            ("CAPTIONFLEET_LOG", "warn".to_owned()),
        ]);
        Fleet::at(endpoints, environment, name)
    }
}

/// Starts `dispatcher caption` over `items` made-up pictures, into an archive named `archive`.
fn caption(fleet: &Fleet, items: u64, archive: &str, more: &[&str]) -> anyhow::Result<Member> {
    let port = free_port()?;
    let mut arguments = vec!["caption".to_owned(), bucket::source(items), "--archive".to_owned()];
    arguments.push(fleet.s3_uri(archive));
    arguments.extend(
        ["--no-index", "--json", "--quiet"].into_iter().chain(more.iter().copied()).map(str::to_owned),
    );
    arguments.extend(fleet.service_options());
    let child = fleet.start_dispatcher_at(archive, &format!("127.0.0.1:{port}"), arguments)?;
    Ok(Member::new(child, port))
}

/// Waits for a dispatcher to end well; its report.
async fn report(dispatcher: &mut Member) -> anyhow::Result<Value> {
    let status = dispatcher.child.wait(PATIENCE).await?;
    let output = dispatcher.child.output();
    anyhow::ensure!(status.success(), "the dispatcher ended with {status}:\n{output}");
    // Log lines are JSON, too, but none spans several lines.
    let start = output.find("{\n").with_context(|| format!("no report in:\n{output}"))?;
    let mut documents = serde_json::Deserializer::from_str(&output[start..]).into_iter::<Value>();
    documents.next().context("the report is missing")?.with_context(|| format!("not a report:\n{output}"))
}

/// A number of a report.
fn number(report: &Value, name: &str) -> anyhow::Result<f64> {
    report[name].as_f64().with_context(|| format!("the report has no {name}: {report}"))
}

/// Workers without a model, and the broker's view of them.
struct Workers {
    broker: RabbitMq,
    topology: Topology,
    seconds_per_item: String,
    members: Vec<Member>,
    /// How many there have been.
    started: usize,
    /// Whether they tell their metrics.
    watched: bool,
}

async fn device_seconds(member: &Member) -> f64 {
    member.metric("captionfleet_worker_device_busy_seconds_total ").await
}

impl Workers {
    async fn none(fleet: &Fleet, seconds_per_item: f64) -> anyhow::Result<Self> {
        let (broker, topology) = fleet.connect().await?;
        broker.declare().await?;
        let seconds_per_item = seconds_per_item.to_string();
        Ok(Self { broker, topology, seconds_per_item, members: Vec::new(), started: 0, watched: false })
    }

    /// The same, whose metrics can be read.
    fn watched(self) -> Self {
        Self { watched: true, ..self }
    }

    /// Starts as many as are missing to `count`.
    fn start(&mut self, fleet: &Fleet, count: usize) -> anyhow::Result<()> {
        while self.members.len() < count {
            let options =
                ["--engine", "null", "--load-test", "--null-seconds-per-item", &self.seconds_per_item];
            let name = format!("worker-{}", self.started);
            let admin = if self.watched { free_port()? } else { 0 };
            let address = if self.watched { format!("127.0.0.1:{admin}") } else { "off".to_owned() };
            let child = fleet.start_worker_through(fleet.endpoints(), &name, &address, &options)?;
            self.members.push(Member::new(child, admin));
            self.started += 1;
        }
        Ok(())
    }

    /// Takes one away without a notice; the seconds that its device had computed.
    async fn kill_one(&mut self) -> anyhow::Result<f64> {
        let mut member = self.members.pop().context("there is no worker")?;
        let busy = device_seconds(&member).await;
        member.child.signal("KILL");
        member.child.wait(START).await?;
        Ok(busy)
    }

    /// Seconds that their devices have computed.
    async fn device_seconds(&self) -> f64 {
        let mut seconds = 0.0;
        for member in &self.members {
            seconds += device_seconds(member).await;
        }
        seconds
    }

    /// Waits until all of them consume.
    async fn ready(&mut self) -> anyhow::Result<()> {
        self.some_ready(self.members.len()).await
    }

    /// Waits until so many of them consume.
    async fn some_ready(&mut self, count: usize) -> anyhow::Result<()> {
        let they_consume = || async {
            let depth = captionfleet_proto::broker::lanes::runs_waiting(&self.broker, &self.topology).await;
            depth.is_ok_and(|depth| depth.consumers as usize >= count)
        };
        let waited = wait_for("the workers to consume", START, they_consume).await;
        let mut dead = String::new();
        for member in &mut self.members {
            if !member.child.is_running() {
                dead = member.child.output();
            }
        }
        waited.with_context(|| dead)
    }

    /// Processor time of all of them in seconds.
    fn processor_seconds(&self) -> anyhow::Result<f64> {
        self.members.iter().map(|member| watch::processor_seconds(member.child.pid())).sum()
    }

    /// The largest of them in MiB, now.
    fn largest_mib(&self) -> u64 {
        self.members.iter().map(Member::resident_mib).max().unwrap_or(0)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        for member in &self.members {
            member.child.signal("TERM");
        }
        for member in &mut self.members {
            let status = member.child.wait(START).await?;
            anyhow::ensure!(status.success(), "a worker ended with {status}:\n{}", member.child.output());
        }
        self.broker.close().await;
        Ok(())
    }
}
