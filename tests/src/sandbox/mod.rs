//! Real services, private to one test command: own ports, own data folders, gone at the end.

mod child;
mod collector;
mod command;
mod moto;
mod ports;
mod prometheus;
mod rabbitmq;
mod s3_server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use child::Child;
pub use collector::{Collector, SentSpan};
pub use command::with_services;
pub use moto::Moto;
pub use ports::free_port;
pub use prometheus::Prometheus;
pub use rabbitmq::RabbitMqNode;
pub use s3_server::S3Server;

/// Access key of every S3 server of the sandbox.
pub const ACCESS_KEY: &str = "captionfleet-test";
/// Secret key of every S3 server of the sandbox.
pub const SECRET_KEY: &str = "captionfleet-test-secret";
/// The bucket that exists on every S3 server of the sandbox; each test takes its own prefix.
pub const BUCKET: &str = "captionfleet-test";

/// The services that the tests share, and the environment that names them.
#[derive(Debug)]
pub struct Services {
    /// Where the S3 server keeps [`BUCKET`].
    bucket: PathBuf,
    /// What a test process shares among its tests to its end is put here: gone with the services.
    shared: PathBuf,
    rabbitmq: RabbitMqNode,
    s3: S3Server,
    conditional_s3: Moto,
}

impl Services {
    /// Starts one `RabbitMQ` node, an S3 server that checks signatures and checksums, and one that honours
    /// conditional writes, with their data below `root`.
    ///
    /// # Errors
    /// Names the service that did not start and what to install.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        let s3_root = root.join("s3");
        std::fs::create_dir_all(s3_root.join(BUCKET))?;
        let shared = root.join("shared");
        std::fs::create_dir_all(&shared)?;
        let s3 = S3Server::start(&s3_root).await?;
        let (broker_root, moto_root) = (root.join("rabbitmq"), root.join("moto"));
        let (rabbitmq, conditional_s3) = tokio::try_join!(
            RabbitMqNode::start_with_management(&broker_root, "captionfleet-test"),
            Moto::start(&moto_root),
        )?;
        conditional_s3.create_bucket(BUCKET).await?;
        Ok(Self { bucket: s3_root.join(BUCKET), shared, rabbitmq, s3, conditional_s3 })
    }

    /// The folder in which the S3 server keeps the objects of [`BUCKET`]: what is put there is in the bucket.
    #[must_use]
    pub fn bucket_folder(&self) -> &Path {
        &self.bucket
    }

    /// What a test process finds in its environment.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("CAPTIONFLEET_TEST_AMQP", self.rabbitmq.uri()),
            ("CAPTIONFLEET_TEST_MANAGEMENT", self.rabbitmq.management()),
            ("CAPTIONFLEET_TEST_S3", self.s3.endpoint()),
            ("CAPTIONFLEET_TEST_BUCKET", self.bucket.display().to_string()),
            ("CAPTIONFLEET_TEST_SHARED", self.shared.display().to_string()),
            ("CAPTIONFLEET_TEST_S3_CONDITIONAL", self.conditional_s3.endpoint()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ])
    }

    /// Stops every service and waits until it is gone.
    pub async fn stop(self) {
        self.rabbitmq.stop().await;
        self.conditional_s3.stop().await;
        self.s3.stop().await;
    }
}
